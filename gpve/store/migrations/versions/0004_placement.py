"""The policies of projects and of the cluster."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = sa.String(191).with_variant(mysql.VARCHAR(191, collation="utf8mb4_bin"), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "placement",
        sa.Column("project", NAME, nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_placement"),
        **MYSQL,
    )
