"""Many simulated nodes in one process, each with a certificate and a stream of its own, over one journal.

To see what a cluster of a thousand nodes does, on a laptop. Lines on standard input cut nodes off: ``cut FIRST COUNT
SECONDS``.
"""

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gpve.model.kinds import KINDS
from gpve.node import identity
from gpve.node.facts import Facts
from gpve.node.identity import Identity
from gpve.node.journal import Disk, Journal
from gpve.node.node import Node
from gpve.node.session import Link
from gpve.node.simulated import Simulated

LOG = logging.getLogger(__name__)
AT_ONCE = 16
"""Nodes that join side by side."""


def name_of(number: int) -> str:
    """Of a simulated node."""
    return f"sim-{number:04d}"


def serve(
    directory: Path,
    count: int,
    join: Callable[[str], Identity],
    *,
    cpu_milli: int = 32_000,
    memory_mib: int = 131_072,
    work_s: float = 0.0,
    durable: bool = True,
) -> None:
    """Join what has not joined yet (``join``: by name), and serve until a signal asks for the end.

    ``durable``: keep the journal on disk, so that the nodes outlive this process.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    told = {"executors": {"": "simulated"}}
    facts = Facts(cpu_milli, memory_mib, labels={"gpve.simulated": "yes"}, simulated=KINDS, told=told)
    asyncio.run(_serve(directory, count, join, facts, work_s, durable))


async def _serve(
    directory: Path, count: int, join: Callable[[str], Identity], facts: Facts, work_s: float, durable: bool
) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    kept = directory / "identities.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    names = [name_of(number) for number in range(count)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def identify(name: str) -> Identity:
        if name in known:
            return identity.from_json(known[name])
        async with gate:
            return await loop.run_in_executor(None, join, name)

    identities = await asyncio.gather(*(identify(name) for name in names))
    told = {one.name: identity.to_json(one) for one in identities}
    identity.replace(kept, json.dumps(told).encode())
    disk = Disk(directory / "journal.db" if durable else ":memory:")
    links = []
    for one in identities:
        journal = Journal(disk, one.name)
        node = Node(one.name, journal, {"": Simulated(journal, work_s)})
        links.append(Link(node, one, f"boot-of-{one.name}", facts))
    tasks = [asyncio.create_task(link.run()) for link in links]
    for link in links:
        await link.connected.wait()
    print("ready", flush=True)
    reading = asyncio.create_task(_obey(links))
    # A node whose task ended would be missing without a word.
    done, _ = await asyncio.wait([*tasks, asyncio.create_task(over.wait())], return_when=asyncio.FIRST_COMPLETED)
    for task in [*tasks, reading]:
        task.cancel()
    disk.close()
    for ended in done:
        ended.result()


async def _obey(links: Sequence[Link]) -> None:
    """Lines of standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        words = line.decode().split()
        if len(words) == 4 and words[0] == "cut":
            first, many, for_s = int(words[1]), int(words[2]), float(words[3])
            for link in links[first : first + many]:
                link.cut(for_s)
