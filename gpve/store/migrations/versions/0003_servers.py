"""Servers, their certificate authority, tokens, what nodes say of themselves, and the calls of the scheduler."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = sa.String(191).with_variant(mysql.VARCHAR(191, collation="utf8mb4_bin"), "mysql", "mariadb")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _column(name: str, kind: Any, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "server",
        _column("name", NAME),
        _column("api", NAME),
        _column("peers", NAME),
        _column("version", NAME),
        _column("started", sa.Double()),
        sa.PrimaryKeyConstraint("name", name="pk_server"),
        **MYSQL,
    )
    op.create_table(
        "authority",
        _column("name", NAME),
        _column("certificate", TEXT),
        _column("private_key", TEXT),
        sa.PrimaryKeyConstraint("name", name="pk_authority"),
        **MYSQL,
    )
    op.create_table(
        "token",
        _column("digest", NAME),
        _column("name", NAME),
        _column("purpose", NAME),
        _column("created_at", sa.Double()),
        _column("expires_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name="pk_token"),
        **MYSQL,
    )
    op.create_table(
        "fact",
        _column("node", NAME),
        _column("certificates", TEXT),
        _column("facts", TEXT),
        sa.PrimaryKeyConstraint("node", name="pk_fact"),
        **MYSQL,
    )
    op.create_table(
        "decision",
        _column("engine", NAME),
        _column("number", sa.BigInteger()),
        _column("policy", NAME),
        _column("drawn", sa.BigInteger()),
        _column("seen", sa.BigInteger()),
        _column("answers", TEXT),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("engine", "number", name="pk_decision"),
        **MYSQL,
    )
    op.create_index("ix_decision_revision", "decision", ["revision"])
    op.create_index("ix_node_revision", "node", ["revision"])
