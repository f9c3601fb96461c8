"""Who belongs to the cluster, as servers and nodes hear of it."""

from pathlib import Path

from gpve.store.database import connect
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Work
from tests.server.cluster import Cluster, until


def test_a_node_that_another_server_removed_is_sent_away_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/gpve.db"
    server = cluster.server("s", address)
    node = cluster.node("a")
    database = connect(address)

    def removed(tx) -> None:
        """What another server writes."""
        for table in ("node", "fact", "session"):
            tx.delete(table, "a")

    assert SqlStore(database).transact([Work(removed)]) == [None]
    database.dispose()
    until(lambda: "node a was removed from the cluster" in node.said(), 20.0)
    until(lambda: "a node has gone" in server.said(), 10.0)
    until(lambda: "node a is not of this cluster" in node.said(), 20.0, "nor is it let in again")
    assert list(cluster.client().nodes()) == []
