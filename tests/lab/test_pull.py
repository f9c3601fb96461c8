"""`gpve traces pull` against a server on this machine."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gpve_sim.catalogue import load
from gpve_sim.manifest import Dataset, File, manifest
from gpve_sim.pull import pull

from gpve.model import InputError
from tests.lab.traces_here import need

CONTENT = {"/owner/repo/c0ffee/data/a.csv": b"a" * 300_000, "/owner/repo/c0ffee/data/b.csv": b"b,c\n1,2\n"}


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` names a path whose body ends too early."""

    content: dict[str, bytes]
    cut: str | None = None
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.content.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path == self.server.cut else data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.content, running.asked = dict(CONTENT), []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def known() -> dict[str, Dataset]:
    files = tuple(
        File(f"set/{path.rsplit('/', 1)[1]}", path[1:], len(data), hashlib.sha256(data).hexdigest())
        for path, data in CONTENT.items()
    )
    return {"set": Dataset("set", "MIT", ("fgd/ cannot be pulled.",), files)}


def test_pull_and_resume(tmp_path: Path, server: Server) -> None:
    seen: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    pulled = pull("set", into=tmp_path, base_url=address(server), known=known(), progress=report)
    assert (pulled.fetched, pulled.kept, pulled.licence) == (2, 0, "set: MIT")
    assert pulled.notes == ("set: fgd/ cannot be pulled.",)
    assert (tmp_path / "set" / "a.csv").read_bytes() == b"a" * 300_000
    assert seen == sorted(seen)
    assert seen[-1] == (300_008, 300_008)
    # What is right stays, what was damaged is fetched again.
    (tmp_path / "set" / "b.csv").write_bytes(b"damaged")
    server.asked.clear()
    again = pull("set", into=tmp_path, base_url=address(server), known=known())
    assert (again.fetched, again.kept) == (1, 1)
    assert server.asked == ["/owner/repo/c0ffee/data/b.csv"]


def test_a_wrong_hash_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.content["/owner/repo/c0ffee/data/a.csv"] = b"z" * 300_000
    with pytest.raises(InputError, match="the manifest says"):
        pull("set", into=tmp_path, base_url=address(server), known=known())
    assert list((tmp_path / "set").iterdir()) == []


def test_a_longer_file_is_refused(tmp_path: Path, server: Server) -> None:
    server.content["/owner/repo/c0ffee/data/a.csv"] = b"a" * 3_000_000
    with pytest.raises(InputError, match="the manifest says"):
        pull("set", into=tmp_path, base_url=address(server), known=known())


def test_a_missing_file_and_a_cut_one(tmp_path: Path, server: Server) -> None:
    server.cut = "/owner/repo/c0ffee/data/b.csv"
    with pytest.raises(InputError, match="ended after 4 of 8 bytes"):
        pull("set", into=tmp_path, base_url=address(server), known=known())
    # The first file is complete, and nothing is left of the second; the next pull goes on there.
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["a.csv"]
    server.cut = None
    assert pull("set", into=tmp_path, base_url=address(server), known=known()).fetched == 1
    del server.content["/owner/repo/c0ffee/data/a.csv"]
    with pytest.raises(InputError, match="answers 404"):
        pull("set", into=tmp_path / "other", base_url=address(server), known=known())


def test_no_server_no_folder_no_name(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        pull("set", into=tmp_path, base_url="http://127.0.0.1:1", known=known())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        pull("set", into=tmp_path / "file", base_url=address(server), known=known())
    with pytest.raises(InputError, match="known: openb, "):
        pull("nothing", into=tmp_path)
    with pytest.raises(InputError, match="nothing to pull"):
        pull("generated/peers", into=tmp_path)
    with pytest.raises(InputError, match="not an address"):
        pull("set", into=tmp_path, base_url="file:///etc", known=known())


def test_the_manifest_is_that_of_the_real_traces(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = need("openb/default").parent
    openb = manifest()["openb"]
    for file in openb.files:
        packed = here / f"{Path(file.place).name}.gz"
        server.content[f"/{file.url_path}"] = gzip.decompress(packed.read_bytes())
    pulled = pull("openb/cpu100", into=tmp_path, base_url=address(server))
    assert (pulled.fetched, len(manifest())) == (7, 9)
    monkeypatch.setenv("GPVE_TRACES", str(tmp_path))
    assert len(load("openb/cpu100").guests) == 7853


def test_the_manifest_names_all_sources() -> None:
    for dataset in manifest().values():
        assert dataset.licence
        assert len({file.place for file in dataset.files}) == len(dataset.files)
        for file in dataset.files:
            assert len(file.sha256) == 64
            assert file.size > 0
            assert len(file.url_path.split("/")[2]) == 40
