"""Addresses, migrations, and that the migrations make the very schema that the code expects."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gpve.model.errors import InputError
from gpve.store.database import connect, migrate
from gpve.store.schema import METADATA
from gpve.store.upgrade import upgrade

WAYS = pytest.mark.parametrize("way", [lambda address: migrate(connect(address)), upgrade], ids=["here", "apart"])
"""In this process, and in one of its own."""


@WAYS
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("mariadb", marks=pytest.mark.xdist_group("mariadb"))])
def test_the_migrations_make_the_schema(kind, way, tmp_path, request):
    if kind == "sqlite":
        address = f"sqlite:///{tmp_path}/gpve.db"
    else:
        address = request.getfixturevalue("mariadb").database(f"migrated_{way.__name__.strip('<>')}")
    way(address)
    way(address)
    database = connect(address)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.dispose()


@WAYS
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "names no database"),
        ("postgresql://localhost/x", "not in postgresql"),
        ("mysql+pymysql://root@127.0.0.1:1/gpve", "cannot be used"),
        ("sqlite:////nowhere/at/all/gpve.db", "cannot be used"),
    ],
)
def test_a_bad_address_gets_one_sentence(address, says, way):
    with pytest.raises(InputError, match=says):
        way(address)


@WAYS
def test_a_schema_from_a_newer_version_is_left_alone(way, tmp_path):
    address = f"sqlite:///{tmp_path}/gpve.db"
    way(address)
    database = connect(address)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="from another version"):
        way(address)
    database.dispose()
