"""The first schema: counters, engines, tasks with their events, locks and outbox, guests, nodes, claims, quota."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String(191).with_variant(mysql.VARCHAR(191, collation="utf8mb4_bin"), "mysql", "mariadb")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def _column(name: str, kind: Any, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)


def upgrade() -> None:
    """Make the tables, and set the counters to one before their first numbers."""
    op.create_table(
        "alarm",
        _column("task", sa.BigInteger()),
        _column("at", sa.Double()),
        _column("text", TEXT),
        sa.PrimaryKeyConstraint("task", name="pk_alarm"),
        **MYSQL,
    )
    op.create_table(
        "change",
        _column("revision", sa.BigInteger()),
        _column("position", sa.BigInteger()),
        _column("table_name", NAME),
        _column("row_key", NAME),
        _column("data", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("revision", "position", name="pk_change"),
        **MYSQL,
    )
    op.create_table(
        "claim",
        _column("guest", sa.BigInteger()),
        _column("node", NAME),
        _column("role", NAME),
        _column("task", sa.BigInteger(), nullable=True),
        _column("cpu_milli", sa.BigInteger()),
        _column("memory_mib", sa.BigInteger()),
        _column("gpu_milli", sa.BigInteger()),
        _column("devices", TEXT),
        sa.PrimaryKeyConstraint("guest", "node", name="pk_claim"),
        **MYSQL,
    )
    op.create_index("ix_claim_node", "claim", ["node"], unique=False)
    op.create_table(
        "counter",
        _column("name", NAME),
        _column("value", sa.BigInteger()),
        sa.PrimaryKeyConstraint("name", name="pk_counter"),
        **MYSQL,
    )
    op.create_table(
        "engine",
        _column("incarnation", NAME),
        _column("name", NAME),
        _column("started", sa.Double()),
        _column("lease_until", sa.Double()),
        sa.PrimaryKeyConstraint("incarnation", name="pk_engine"),
        **MYSQL,
    )
    op.create_table(
        "event",
        _column("task", sa.BigInteger()),
        _column("seq", sa.BigInteger()),
        _column("kind", NAME),
        _column("step", NAME),
        _column("at", sa.Double()),
        _column("epoch", sa.BigInteger()),
        _column("data", TEXT),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("task", "seq", name="pk_event"),
        **MYSQL,
    )
    op.create_index("ix_event_revision", "event", ["revision"], unique=False)
    op.create_table(
        "guest",
        _column("id", sa.BigInteger()),
        _column("kind", NAME),
        _column("name", NAME),
        _column("project", NAME),
        _column("phase", NAME),
        _column("phase_before", NAME, nullable=True),
        _column("task", sa.BigInteger(), nullable=True),
        _column("node", NAME, nullable=True),
        _column("spec", TEXT),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_guest"),
        sa.UniqueConstraint("project", "name", name="uq_guest_project_name"),
        **MYSQL,
    )
    op.create_index("ix_guest_node", "guest", ["node"], unique=False)
    op.create_index("ix_guest_task", "guest", ["task"], unique=False)
    op.create_table(
        "idempotency",
        _column("project", NAME),
        _column("key", NAME),
        _column("task", sa.BigInteger()),
        _column("digest", NAME),
        sa.PrimaryKeyConstraint("project", "key", name="pk_idempotency"),
        **MYSQL,
    )
    op.create_index("ix_idempotency_task", "idempotency", ["task"], unique=False)
    op.create_table(
        "lock",
        _column("resource", NAME),
        _column("task", sa.BigInteger()),
        _column("shared", sa.Boolean()),
        sa.PrimaryKeyConstraint("resource", "task", name="pk_lock"),
        **MYSQL,
    )
    op.create_index("ix_lock_resource_shared", "lock", ["resource", "shared"], unique=False)
    op.create_index("ix_lock_task", "lock", ["task"], unique=False)
    op.create_table(
        "network",
        _column("name", NAME),
        _column("kind", NAME),
        _column("task", sa.BigInteger(), nullable=True),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("name", name="pk_network"),
        **MYSQL,
    )
    op.create_table(
        "node",
        _column("name", NAME),
        _column("open", sa.Boolean()),
        _column("alive", sa.Boolean()),
        _column("cpu_milli", sa.BigInteger()),
        _column("memory_mib", sa.BigInteger()),
        _column("gpus", TEXT),
        _column("gpu_model", NAME),
        _column("labels", TEXT),
        _column("taints", TEXT),
        _column("used_cpu_milli", sa.BigInteger()),
        _column("used_memory_mib", sa.BigInteger()),
        _column("used_gpu_milli", TEXT),
        _column("version", sa.BigInteger()),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("name", name="pk_node"),
        **MYSQL,
    )
    op.create_table(
        "outbox",
        _column("task", sa.BigInteger()),
        _column("step", NAME),
        _column("direction", NAME),
        _column("node", NAME),
        _column("resource", NAME),
        _column("epoch", sa.BigInteger()),
        _column("verb", NAME),
        _column("arguments", TEXT),
        _column("at", sa.Double()),
        _column("relay", sa.Boolean()),
        _column("outcome", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("task", "step", "direction", name="pk_outbox"),
        **MYSQL,
    )
    op.create_index("ix_outbox_node", "outbox", ["node"], unique=False)
    op.create_table(
        "port",
        _column("guest", sa.BigInteger()),
        _column("network", NAME),
        _column("mac", NAME),
        sa.PrimaryKeyConstraint("guest", "network", name="pk_port"),
        **MYSQL,
    )
    op.create_index("ix_port_network", "port", ["network"], unique=False)
    op.create_table(
        "quota",
        _column("project", NAME),
        _column("guests", sa.BigInteger()),
        _column("cpu_milli", sa.BigInteger()),
        _column("memory_mib", sa.BigInteger()),
        _column("guests_limit", sa.BigInteger(), nullable=True),
        _column("cpu_milli_limit", sa.BigInteger(), nullable=True),
        _column("memory_mib_limit", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("project", name="pk_quota"),
        **MYSQL,
    )
    op.create_table(
        "task",
        _column("id", sa.BigInteger()),
        _column("project", NAME),
        _column("actor", NAME),
        _column("flow", NAME),
        _column("version", sa.BigInteger()),
        _column("table_hash", NAME),
        _column("status", NAME),
        _column("target", NAME, nullable=True),
        _column("body", TEXT),
        _column("seq", sa.BigInteger()),
        _column("submitted_at", sa.Double()),
        _column("closed_at", sa.Double(), nullable=True),
        _column("owner", NAME, nullable=True),
        _column("epoch", sa.BigInteger()),
        _column("cancel", NAME, nullable=True),
        _column("committed", sa.Boolean()),
        _column("step", NAME, nullable=True),
        _column("progress", sa.Double()),
        _column("reason", TEXT, nullable=True),
        _column("poison", TEXT, nullable=True),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        **MYSQL,
    )
    op.create_index("ix_task_owner", "task", ["owner"], unique=False)
    op.create_index("ix_task_status_closed_at", "task", ["status", "closed_at"], unique=False)
    op.create_index("ix_task_target", "task", ["target"], unique=False)
    op.create_table(
        "volume",
        _column("id", NAME),
        _column("guest", sa.BigInteger(), nullable=True),
        _column("pool", NAME),
        _column("node", NAME, nullable=True),
        _column("size_gib", sa.BigInteger()),
        _column("task", sa.BigInteger(), nullable=True),
        _column("revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_volume"),
        **MYSQL,
    )
    op.create_index("ix_volume_guest", "volume", ["guest"], unique=False)
    counter = sa.table("counter", sa.column("name"), sa.column("value"))
    first = (("task", 0), ("guest", 99), ("epoch", 0), ("revision", 0), ("compacted", 0))
    op.bulk_insert(counter, [{"name": name, "value": value} for name, value in first])


def downgrade() -> None:
    """Remove everything."""
    op.drop_index("ix_volume_guest", table_name="volume")
    op.drop_table("volume")
    op.drop_index("ix_task_target", table_name="task")
    op.drop_index("ix_task_status_closed_at", table_name="task")
    op.drop_index("ix_task_owner", table_name="task")
    op.drop_table("task")
    op.drop_table("quota")
    op.drop_index("ix_port_network", table_name="port")
    op.drop_table("port")
    op.drop_index("ix_outbox_node", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("node")
    op.drop_table("network")
    op.drop_index("ix_lock_task", table_name="lock")
    op.drop_index("ix_lock_resource_shared", table_name="lock")
    op.drop_table("lock")
    op.drop_index("ix_idempotency_task", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index("ix_guest_task", table_name="guest")
    op.drop_index("ix_guest_node", table_name="guest")
    op.drop_table("guest")
    op.drop_index("ix_event_revision", table_name="event")
    op.drop_table("event")
    op.drop_table("engine")
    op.drop_table("counter")
    op.drop_index("ix_claim_node", table_name="claim")
    op.drop_table("claim")
    op.drop_table("change")
    op.drop_table("alarm")
