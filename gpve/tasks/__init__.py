"""The task engine, pure: flows, the log and its fold, the machine that says what is next, leases, locks, submission.

Nothing here does I/O, reads a clock, draws randomness or awaits. What must be written is written through a `Tx`
(`ledger`), a view of the store inside one transaction; so the same code runs over SQLite, MySQL and a simulated store.
"""
