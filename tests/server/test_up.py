"""`gpve up` and `gpve down`, the contexts that they keep, and what a machine is fit for."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from gpve.client.contexts import Context, Contexts, add, find, keep, load, own
from gpve.model.errors import InputError
from tests.server.cluster import free_ports, until

OTHER = Context(("https://10.0.0.1:7460",), "gpve_token")
"""A context of a user's own."""


@pytest.fixture(autouse=True)
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPVE_CONFIG", str(tmp_path / "contexts.yaml"))


def killed(directory: Path, name: str) -> None:
    """kill -9."""
    began = json.loads((directory / "up.json").read_text())["began"]
    os.kill(began[name][0], 9)
    until(lambda: _over(began[name][0]))


def _over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_up_starts_what_died_and_leaves_other_contexts_alone(gpve, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    keep(Contexts("local", {"local": OTHER}))
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="gpve-") as name:
        directory = Path(name) / "p"
        up = ("up", "--dir", str(directory))
        refused = gpve(*up, "--api-port", str(port), "--context", "local")
        assert refused.code == 2
        assert "context 'local' is of another cluster" in refused.err
        assert not (directory / "up.json").exists()
        try:
            assert gpve(*up, "--api-port", str(port)).code == 0
            assert (load().current, sorted(load().named)) == ("local-2", ["local", "local-2"])
            assert load().named["local"] == OTHER
            assert "it runs already" in gpve(*up).out
            killed(directory, "server")
            said = gpve(*up)
            assert "started: server; what ran already: node" in said.out, said
            killed(directory, "node")
            assert "started: node; what ran already: server" in gpve(*up).out
            assert gpve("vm", "create", "web", "--wait").code == 0
            assert find().servers == (f"https://127.0.0.1:{port}",)
            assert sorted(load().named) == ["local", "local-2"]
            assert gpve(*up, "--api-port", str(port + 9)).code == 2
        finally:
            said = gpve("down", "--dir", str(directory), "--purge")
        assert said.code == 0, said
        assert "context local-2" in said.out
        assert (load().current, [*load().named]) == (None, ["local"])
        assert "no cluster is meant" in gpve("vm", "list").err


def test_up_does_not_simulate_what_was_to_be_real(gpve, tmp_path: Path) -> None:
    said = gpve("up", "--dir", str(tmp_path / "x"), "--runtime", "/nosuch")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "no program /nosuch" in said.err
    assert not (tmp_path / "x").exists()


def test_a_cluster_keeps_its_context_and_never_takes_anothers() -> None:
    keep(Contexts("mine", {"mine": Context(OTHER.servers, OTHER.token, "its authority"), "local": OTHER}))
    assert own("its authority") == "mine"
    assert own("another") == "local-2"
    with pytest.raises(InputError, match="another cluster"):
        own("its authority", "local")
    for server, token, ca in (("nonsense", "t", None), ("https://x:1", "a b", None), ("https://x:1", "t", "no PEM")):
        with pytest.raises(InputError):
            add("new", Context((server,), token, ca))


def test_a_machine_is_checked(gpve, tmp_path: Path) -> None:
    check = ("node-agent", "--check", "--dir", str(tmp_path), "--socket", str(tmp_path / "none"))
    said = gpve(*check)
    assert said.code == 1
    assert "GiB free of" in said.out
    assert "no Agent Runtime answers" in " ".join(said.out.split())
    told = json.loads(gpve(*check, "-o", "json").out)
    assert {"name", "addresses"} == set(told["networks"][0])
    assert told["storage"][0]["total_mib"] > 0
