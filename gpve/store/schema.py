"""The schema as SQLAlchemy sees it, made from `gpve.tasks.tables`."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from gpve.tasks.tables import TABLES

_TEXT = Text().with_variant(mysql.MEDIUMTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
_TYPES: dict[str, TypeEngine[Any]] = {
    # Compared byte by byte, and short enough for an index of three.
    "str": String(191).with_variant(mysql.VARCHAR(191, collation="utf8mb4_bin"), "mysql", "mariadb"),
    "text": _TEXT,
    "json": _TEXT,
    "int": BigInteger(),
    "float": Double(),
    "bool": Boolean(create_constraint=False),
}

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables."""

for _name, _table in TABLES.items():
    Table(
        _name,
        METADATA,
        *(
            Column(
                column,
                _TYPES[kind.rstrip("?")],
                primary_key=column in _table.key,
                nullable=kind.endswith("?"),
                autoincrement=False,
            )
            for column, kind in _table.columns.items()
        ),
        *(UniqueConstraint(*columns) for columns in _table.unique),
        *(Index(f"ix_{_name}_{'_'.join(columns)}", *columns) for columns in _table.indexes),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
