"""Connections: which database an address names, how it is opened, and that its schema is the newest."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gpve.model.errors import InputError

MIGRATIONS = Path(__file__).parent / "migrations"


def connect(address: str) -> Engine:
    """An engine for ``sqlite:///FILE`` or ``mysql+pymysql://USER:PASSWORD@HOST/DATABASE``. Raises `InputError`."""
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise InputError(f"{address!r} names no database; say sqlite:///gpve.db or mysql+pymysql://...") from error
    match url.get_backend_name():
        case "sqlite":
            engine = create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False})
            event.listen(engine, "connect", _open_sqlite)
            return engine
        case "mysql" | "mariadb":
            # Each way to the server and back counts: a read is one statement, without a transaction around it. And
            # whether a connection of the pool still stands is not asked beforehand: `SqlStore` takes another if not.
            engine = create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
                pool_recycle=1800,
                connect_args={"connect_timeout": 5, "read_timeout": 30, "write_timeout": 30},
            )
            event.listen(engine, "connect", _open_mysql)
            return engine
        case other:
            raise InputError(f"GPVE keeps its data in SQLite or MySQL (MariaDB), not in {other}")


def _open_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    # Transactions are begun by hand, as BEGIN IMMEDIATE: a reader that wants to write must not find out too late.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Each connection would keep 2 MiB of its own; the system keeps the file's pages for all of them.
    connection.execute("PRAGMA cache_size = -512")


def _open_mysql(connection: Any, record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def migrate(engine: Engine) -> None:
    """Bring the schema up to date. Raises `InputError` if the database does not answer or is from a newer version."""
    if up_to_date(engine):
        return
    # Only now: who has nothing to migrate does not wait for these.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as error:
        raise InputError(f"the database at {engine.url.render_as_string()} cannot be used: {error}") from error
    except CommandError as error:
        raise InputError(f"the database at {engine.url.render_as_string()} is from another version: {error}") from error


def up_to_date(engine: Engine) -> bool:
    """Whether there is nothing to migrate. Raises `InputError` if the database does not answer."""
    return _schema(engine) == newest()


def check(engine: Engine) -> None:
    """That the schema is there and of this version; alters nothing. Raises `InputError`."""
    found, wanted = _schema(engine), newest()
    if found != wanted:
        shown = engine.url.render_as_string()
        raise InputError(f"the database at {shown} has schema {found or 'none'}; this version of GPVE reads {wanted}")


def newest() -> str:
    """The schema of this version: the number of the last migration."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _schema(engine: Engine) -> str | None:
    """The schema that the database has; None: none yet. Raises `InputError` if it does not answer."""
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as error:
        raise InputError(f"the database at {engine.url.render_as_string()} cannot be used: {error}") from error
