"""Sessions of nodes, and what dead nodes still have of guests that are elsewhere."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = sa.String(191).with_variant(mysql.VARCHAR(191, collation="utf8mb4_bin"), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _column(name: str, kind: Any, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "session",
        _column("node", NAME),
        _column("boot", NAME),
        _column("engine", NAME),
        _column("beat", sa.BigInteger()),
        _column("dead_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("node", name="pk_session"),
        **MYSQL,
    )
    op.create_table(
        "debris",
        _column("node", NAME),
        _column("guest", sa.BigInteger()),
        sa.PrimaryKeyConstraint("node", "guest", name="pk_debris"),
        **MYSQL,
    )
