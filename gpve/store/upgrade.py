"""``python -m gpve.store.upgrade``: bring up to date the schema of the database whose address stands on standard input.

A process of its own: a server would keep Alembic and the two hundred modules that come with it, 12 MiB, for weeks. The
address may have a password in it, and arguments are there for all to read.
"""

import subprocess
import sys

from gpve.model.errors import InputError
from gpve.store.database import connect, migrate, up_to_date


def upgrade(address: str) -> None:
    """Run this module if the database needs it. Raises `InputError` as `gpve.store.database.migrate` does."""
    engine = connect(address)
    try:
        if up_to_date(engine):
            return
    finally:
        engine.dispose()
    done = subprocess.run([sys.executable, "-m", __name__], input=address, stderr=subprocess.PIPE, text=True)
    if done.returncode == 2:
        raise InputError(done.stderr.strip())
    if done.returncode != 0:
        raise RuntimeError(f"the schema could not be brought up to date:\n{done.stderr}")


if __name__ == "__main__":
    try:
        migrate(connect(sys.stdin.read()))
    except InputError as wrong:
        print(wrong, file=sys.stderr)
        sys.exit(2)
