"""What Alembic runs: upgrades on the connection that `gpve.store.database.migrate` hands in."""

from alembic import context

from gpve.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
