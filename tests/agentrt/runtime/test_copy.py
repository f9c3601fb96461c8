"""CopyIn and CopyOut."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import grpc

from tests.agentrt.runtime.daemon import SLEEP, Daemon, new_id, pb
from tests.agentrt.runtime.test_verbs import refused


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def copy_in(daemon: Daemon, id: str, data: bytes, path: str = "", request_id: str = "", replace: bool = False) -> Any:
    def messages() -> Iterator[Any]:
        begin = pb.CopyInRequest.Begin(id=id, path=path, request_id=request_id, replace=replace)
        yield pb.CopyInRequest(begin=begin)
        for at in range(0, len(data), 50_000):
            yield pb.CopyInRequest(tar=data[at : at + 50_000])

    return daemon.call.CopyIn(messages(), timeout=30)


def copy_out(daemon: Daemon, id: str, path: str = "") -> dict[str, bytes]:
    data = b"".join(c.tar for c in daemon.call.CopyOut(pb.CopyOutRequest(id=id, path=path), timeout=30))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]


def test_before_it_runs_while_it_runs_and_after(daemon: Daemon) -> None:
    id = daemon.create("/bin/sh", "-c", "cat sub/a; exec sleep 1000")
    big = bytes(range(256)) * 4000
    reply = copy_in(daemon, id, archive({"a": b"first\n", "big": big}), "sub")
    assert (reply.files, reply.bytes) == (2, len(big) + 6)
    daemon.start_agent(id)
    assert daemon.exec(id, "/bin/sh", "-c", "id -u; stat -c %u sub/a")[1].split() == [b"1000", b"1000"]
    copy_in(daemon, id, archive({"b": b"second"}))
    assert daemon.exec(id, "/bin/cat", "b")[1] == b"second"
    found = copy_out(daemon, id, "sub")
    assert sorted(v[:6] for v in found.values()) == sorted([b"first\n", big[:6]])
    daemon.kill()
    daemon.start()
    assert b"second" in copy_out(daemon, id).values()
    daemon.call.Stop(pb.StopRequest(id=id))
    assert b"second" in copy_out(daemon, id, "b").values()
    assert daemon.logs(id) == b"first\n"


def test_what_is_copied_in_replaces_a_directory(daemon: Daemon) -> None:
    """All of that directory and nothing beside it; a link in its place leads nowhere else."""
    id = daemon.run("/bin/sh", "-c", "mkdir -p a/b other; ln -s other link; ln -s ../other a/b/out; exec sleep 1000")
    copy_in(daemon, id, archive({"x": b"1", "b/y": b"2", "b/.hidden": b"3"}), path="a")
    copy_in(daemon, id, archive({"kept": b"4"}), path="other")
    copy_in(daemon, id, archive({"z": b"5"}), path="a", replace=True)
    assert copy_out(daemon, id) == {"a/z": b"5", "other/kept": b"4"}
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "a link is in its way"):
        copy_in(daemon, id, archive({}), path="link", replace=True)
    assert copy_out(daemon, id) == {"a/z": b"5", "other/kept": b"4"}
    daemon.call.Kill(pb.KillRequest(id=id))
    copy_in(daemon, id, archive({"only": b"6"}), replace=True)
    assert copy_out(daemon, id) == {"only": b"6"}


def test_a_request_id_copies_once(daemon: Daemon) -> None:
    id, key = daemon.run(*SLEEP), new_id()
    first = copy_in(daemon, id, archive({"a": b"1"}), request_id=key)
    daemon.exec(id, "/bin/rm", "a")
    daemon.kill()
    daemon.start()
    assert copy_in(daemon, id, archive({"a": b"1"}), request_id=key) == first
    assert daemon.exec(id, "/bin/cat", "a")[0] != 0


def test_what_is_refused(daemon: Daemon) -> None:
    id = daemon.run(*SLEEP)
    for path in ["/etc", "../x", "a/../../b"]:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "path"):
            copy_in(daemon, id, b"", path)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "copy-in"):
        copy_in(daemon, id, archive({"../../outside": b"x"}))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "nothing"):
        copy_out(daemon, id, "nothing")
    daemon.exec(id, "/bin/ln", "-s", "/etc", "link")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id):
        copy_in(daemon, id, archive({"x": b"x"}), "link")
