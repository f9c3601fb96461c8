"""What works say that they will look at is read in a statement a table, however many they are."""

from pathlib import Path

import pytest
from sqlalchemy import event

from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Looks, Tx, Work


@pytest.mark.parametrize(("told", "reads"), [(False, 60), (True, 3)])
def test_reads_of_a_transaction_are_shared(tmp_path: Path, told: bool, reads: int) -> None:
    address, said = f"sqlite:///{tmp_path / 'gpve.db'}", []
    migrate(connect(address))
    engine = connect(address)
    event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(said.append))
    store = SqlStore(engine)

    def work(at: int) -> Work:
        def run(tx: Tx) -> None:
            assert tx.get("network", f"n{at}") is None
            assert tx.where("network", kind=f"k{at}") == []
            assert tx.where("network", kind=f"k{at}", task=at) == []

        ranges = [("network", {"kind": f"k{at}"}), ("network", {"kind": f"k{at}", "task": at})]
        looks = Looks([("network", (f"n{at}",))], ranges)
        return Work(run, lambda: looks) if told else Work(run)

    assert store.transact([work(at) for at in range(20)]) == [None] * 20
    assert sum("network" in sql and sql.startswith("SELECT") for sql in said) == reads
