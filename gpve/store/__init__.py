"""The one schema over SQLite (embedded) and MySQL or MariaDB (production): transactions, queries, migrations."""
