"""The documentation builds, its links lead somewhere, and its code and commands run as they are written."""

import contextlib
import csv
import importlib.util
import json
import linecache
import os
import re
import shlex
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy
from tests.agentrt.runtime.daemon import programs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ABSENT = "is not on this machine"
"""What the lab says of a real trace that is not there."""
SLOW = {"seeds = 10": "seeds = 1", "--guests 1000000": "--guests 20000", "--hosts 10000": "--hosts 200"}
"""Cut down when it is run here; all else runs as it is written."""
NETWORK = ("gpve traces pull", "gpve server", "gpve node-agent", "gpve context add")
"""Commands that are parsed, not run."""
AGENTS = ("gpve agent logs", "gpve agent exec")
"""Commands that need an agent that runs for real."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, first line in the page, and text."""

    language: str
    line: int
    text: str


def blocks(page):
    """The fenced blocks of a page, in order."""
    found, opened = [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if opened is None:
                opened = (line[3:].strip(), number + 1, [])
            else:
                found.append(Block(opened[0], opened[1], "\n".join(opened[2]) + "\n"))
                opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"{page.name}: a block is not closed"
    return found


def commands(page, program):
    """The lines of a page's blocks that call ``program``, without comments."""
    plain = [block for block in blocks(page) if block.language == ""]
    lines = [line for block in plain for line in block.text.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.startswith(program + " ")]


def having(what):
    """Parameters for the pages of which ``what`` finds anything."""
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if what(page)]


def test_site_builds(tmp_path):
    """mkdocs with --strict, links and anchors checked, without a warning."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "reference" / "traces.html").exists()


@pytest.mark.parametrize(("page", "function"), [("policies.md", "policies"), ("cli.md", "commands"), ("api.md", "api")])
def test_reference_is_that_of_the_code(page, function):
    """docs/generate.py writes what stands there."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reference" / page).read_text() == getattr(module, function)()


def test_links_outside_the_site():
    """README, GLOSSARY and the notebooks link to what exists."""
    texts = {path: path.read_text() for path in (ROOT / "README.md", ROOT / "GLOSSARY.md", ROOT / "traces/README.md")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in texts.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_make_targets():
    """Every `make` command of the pages has its target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = {line.split()[1] for page in PAGES for line in commands(page, "make")}
    assert {"lab", "test"} <= asked <= targets


@pytest.mark.parametrize("page", having(lambda page: any(b.language == "python" for b in blocks(page))))
def test_python(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.language != "python":
            continue
        name = f"<{page.name} from line {block.line}>"
        linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)
        try:
            exec(compile(block.text, name, "exec"), vars(module))
        except InputError as error:
            if ABSENT not in str(error):
                raise
            pytest.skip(f"{page.name} from line {block.line}: {error}")
    for value in vars(module).values():
        if isinstance(value, Policy):
            assert value.compiled  # a policy that is only shown compiles too


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A directory with the files that the pages speak of: those that they show, and small ones for the rest."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for block in blocks(page):
            named = re.match(r"# (\w+\.(?:py|toml))\n", block.text)
            if named:
                assert not Path(named[1]).exists(), f"{named[1]} is shown twice"
                Path(named[1]).write_text(_cut(block.text))
            elif block.text.startswith("id,kind,"):
                Path("mine.csv").write_text(block.text)
    Path("nodes.csv").write_text(
        "name,cpu_milli,memory_mib,gpu_count,gpu_model\na,64000,262144,0,\nb,64000,262144,2,T4\n"
    )
    Path("vms.csv").write_text("vm,start,end,life,cores,gb,gib\nx,0,60,50,2,4,4\ny,10,,90,0.5,1,1\n")
    amounts = {"cpu": "4", "memory": "16Gi"}
    node = {"kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": amounts}}
    container = {"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n", "containers": [container]},
        "status": {"phase": "Running"},
    }
    Path("snapshot.json").write_text(json.dumps({"kind": "List", "items": [node, pod]}))
    return tmp_path


def _cut(text):
    for long, short in SLOW.items():
        text = text.replace(long, short)
    return text


@pytest.fixture
def short():
    """A directory with a short name: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gpve-") as name:
        yield name


@pytest.mark.parametrize("page", having(lambda page: commands(page, "gpve")))
def test_commands(page, room, gpve, monkeypatch, short):
    """Every gpve command of a page runs, in order, in one directory."""
    absent = []
    # A cluster that a page starts is its own, and agents run for real where that is possible.
    monkeypatch.setenv("XDG_DATA_HOME", short)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(room / "config"))
    real = _real_agents(monkeypatch)
    for line in commands(page, "gpve"):
        words = shlex.split(_cut(line))[1:]
        if line.startswith(NETWORK) or (line.startswith(AGENTS) and not real):
            parse(words)
            continue
        if words[0] == "explain" and len(words) > 2:
            assert words[2] in ("GUEST", "NAME")
            words[2] = _not_placed(Path(words[1]))
        told = gpve(*words)
        if told.code == 2 and ABSENT in told.err:
            parse(words)
            absent.append(line)
            continue
        assert told.code == 0, f"{line}\n{told.out}{told.err}"
    if absent:
        pytest.skip(f"real traces are not on this machine for: {'; '.join(absent)}")


def _real_agents(monkeypatch):
    """Whether agents can run for real here; then the runtime's program is found."""
    try:
        monkeypatch.setenv("PATH", f"{programs()}:{os.environ['PATH']}")
    except FileNotFoundError:
        return False
    return os.geteuid() == 0


def _not_placed(directory):
    with (directory / "placements.csv").open() as file:
        return next(row["guest"] for row in csv.DictReader(file) if not row["node"])


def parse(words):
    """Parse a command without running it: its options exist and its arguments are all there."""
    command, rest = resolve(words)
    with command.make_context(command.name, list(rest)):
        pass


def resolve(words):
    """(command, what is left of ``words``); a name that no command has is an error."""
    import typer.main

    from gpve.cli.main import app

    command, rest = typer.main.get_command(app), list(words)
    while getattr(command, "commands", None) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    return command, rest


def test_commands_in_sentences():
    """`gpve ...` in running text names commands and options that exist."""
    seen = 0
    for page in [*PAGES, ROOT / "GLOSSARY.md", ROOT / "traces" / "README.md"]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`gpve ([^`]+)`", text):
            words = shlex.split(span)
            with contextlib.suppress(ValueError):
                words = words[: words.index("...")]
            command, rest = resolve(words)
            assert not getattr(command, "commands", None), f"{page.name}: no command `gpve {span}`"
            options = {o for parameter in command.params for o in [*parameter.opts, *parameter.secondary_opts]}
            for word in rest:
                assert not word.startswith("--") or word in options, f"{page.name}: `gpve {span}` has no {word}"
            seen += 1
    assert seen >= 5
