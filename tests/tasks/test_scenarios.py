"""Every story of tests/scenarios plays as it is written, to the byte; and what a script gets wrong is said."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpve_sim.world.scenario import folders, play, story, write_log
from gpve_sim.world.scenario_cluster import read_cluster
from gpve_sim.world.scenario_phrases import PATTERNS, Sentence
from gpve_sim.world.scenario_script import read_script

from gpve.model.errors import InputError

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
STORIES = folders(SCENARIOS)
SAMPLE = "target-dies-after-the-commit"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.name)
def test_story(path):
    """All expectations hold, and the log is the one that was written down."""
    played = play(path)
    assert played.failures == []
    assert played.difference == []
    assert story(path).endswith(".")


def test_there_are_many_and_they_use_every_sentence():
    assert len(STORIES) >= 40
    said = set()
    for path in STORIES:
        script = read_script(path / "script", read_cluster(path / "world.toml"))
        said |= {line.said.act for line in script if isinstance(line.said, Sentence)}
    assert [pattern for pattern, act in PATTERNS.items() if act not in said] == []


def test_the_page_names_every_sentence():
    page = (SCENARIOS.parents[1] / "docs" / "how-to" / "scenarios.md").read_text()
    assert [pattern for pattern in PATTERNS if f"{pattern}\n" not in page] == []
    for name in ("script", "world.toml", "expect.log"):
        assert (SCENARIOS / SAMPLE / name).read_text() in page


def test_the_same_bytes_in_two_processes():
    """Whatever order sets and dictionaries of strings have."""
    program = (
        "import sys; from pathlib import Path; from gpve_sim.world.scenario import folders, play\n"
        "for path in folders(Path(sys.argv[1]))[::4]: print(path.name, play(path).log)"
    )
    told = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(SCENARIOS)]
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert told[0] == told[1]
    assert told[0].count("expect audit clean: yes") == len(STORIES[::4])


@pytest.fixture
def copy(tmp_path):
    """A copy of a scenario that may be spoiled."""
    return Path(shutil.copytree(SCENARIOS / SAMPLE, tmp_path / SAMPLE))


def script(folder: Path, *lines: str) -> None:
    (folder / "script").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("t=50 expect task 1 undone", "it is done"),
        ("t=50 expect task 7 done", "there is no task 7"),
        ("t=50 expect 2 tasks", "there are 1"),
        ("t=50 expect guest 100 running on a once", "it is running on b"),
        ("t=50 expect guest 100 running on b without power", "it is running on b"),
        ("t=2.5 expect guest 100 running", "it is migrating on a"),
        ("t=50 expect guest 100 gone", "it is running"),
        ("t=50 expect guest 101 running", "it is gone"),
        ("t=50 expect node b holds nothing", "volumes 100-0"),
        ("t=50 expect node b claims 0", "2000 cpu_milli are claimed"),
        ("t=50 expect node a closed", "it is open"),
        ("t=50 expect network lan gone", "it is there"),
        ("t=50 expect volume data free", "it is gone"),
        ("t=50 expect volume 100-0 free", "it is of 100"),
        ("t=50 expect snapshot old of 100 current", "it is not there"),
        ("t=50 expect vcluster 100 is v1.30.1", "it is on no node"),
        ("on task(1).switch.undoing: node a power off", "its moment never came"),
        ("t=0 refuse vm.stop on a", "no vm.stop came to node a for 'refuse' to befall"),
    ],
)
def test_a_wrong_expectation_fails(copy, gpve, line, says):
    script(copy, "t=0 vm migrate 100 --to b", line, "t=100 expect audit clean")
    played = play(copy)
    assert len(played.failures) == 1
    assert says in played.failures[0]
    assert not write_log(copy, played)
    told = gpve("scenario", "run", copy, "--update")
    assert told.code == 1
    assert says in told.out
    assert (copy / "expect.log").read_text() == (SCENARIOS / SAMPLE / "expect.log").read_text()


def test_the_audit_of_a_story_can_fail(copy, monkeypatch):
    """A node that makes an effect twice, and a guest that runs twice, are found."""
    from gpve_sim.world import nodes

    monkeypatch.setattr(nodes.MemoryJournal, "done", lambda self, key: None)
    script(copy, "t=0 repeat vm.reboot on a after 30", "t=0 vm reboot 100", "t=100 expect audit clean")
    assert play(copy).failures == []  # a second time it finds everything as it should be
    monkeypatch.setitem(nodes.VERBS, "vm.reboot", lambda hardware, arguments: True)
    assert "had 2 effects" in play(copy).failures[0]
    monkeypatch.setitem(nodes.VERBS, "vm.transfer", lambda hardware, arguments: False)
    script(copy, "t=0 vm migrate 100 --to b", "t=100 expect audit clean")
    assert "guest 100 ran on a and b" in play(copy).failures[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("vm stop 100", "line 1: a line begins with t=SECONDS or with on task"),
        ("t=0 node c power off", "line 1: no node 'c'; there are a, b"),
        ("t=0 node a powr off", "line 1: 'node a powr off' is no sentence; the nearest is 'node NODE power off'"),
        ("t=0 engine three crash", "line 1: no engine 'three'; there are one, two"),
        ("t=0 clock jump soon", "line 1: 'soon' is no number of seconds"),
        ("t=0 expect task one done", "line 1: 'one' is no whole number"),
        ("t=0 expect task 1 finished", "line 1: no status 'finished'; there are queued"),
        ("t=0 expect guest 100 runing", "line 1: no phase 'runing'; there are r"),
        ("t=0 refuse vm.strat on a", "line 1: no verb 'vm.strat'; there are vm.start"),
        ("on task(1).switch.dnoe: engine one crash", "line 1: no event 'dnoe'"),
        ("t=0 vm create web --cpu 1000", "line 1: vm_create: memory_mib: Field required"),
        ("t=0 vm create web --cpu", "line 1: after what vm_create is about come pairs"),
        ("t=0 vm crate web --cpu 1000", "line 1: 'vm crate web --cpu 1000' is no sentence"),
        ("t=0 vm stop 100 --engine four", "line 1: no engine 'four'"),
        ("t=0 vm stop '100", "line 1: No closing quotation"),
        ("t=200 vm stop 100", "line 2: the last line, and the latest, must be: t=SECONDS expect audit clean"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(copy, gpve, line, says):
    script(copy, line, "t=100 expect audit clean")
    with pytest.raises(InputError, match=r"script, line \d: ") as told:
        play(copy)
    assert says in str(told.value)
    assert gpve("scenario", "run", copy).code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[nodes", "is not TOML"),
        ("engines = {}", "nodes: Field required"),
        ("[nodes]\na = {cores = 0}", "nodes.a.cores: Input should be greater than"),
        ("[nodes]\na = {}\n[[guests]]\nname = 'x'\nnode = 'z'", "guests: no node 'z'; there are a"),
        ("[nodes]\na = {}\n[[guests]]\nname = 'x'\nnode = 'a'\nphase = 'starting'", "never 'starting' at rest"),
        ("[nodes]\na = {}\n[rules]\nlease_s = 1", "rules: Extra inputs are not permitted"),
    ],
)
def test_worlds_that_make_no_sense(copy, text, says):
    (copy / "world.toml").write_text(text)
    with pytest.raises(InputError) as told:
        play(copy)
    assert says in str(told.value).replace(", column ", " ")


def test_commands(copy, gpve):
    told = gpve("scenario", "list", "--folder", SCENARIOS, "--json")
    assert told.code == 0
    assert told.out.count('"name"') == len(STORIES)
    assert SAMPLE in gpve("scenario", "list", "--folder", SCENARIOS).out
    told = gpve("scenario", "run", SAMPLE, "--folder", SCENARIOS)
    assert (told.code, told.out) == (0, (SCENARIOS / SAMPLE / "expect.log").read_text())
    (copy / "expect.log").unlink()
    told = gpve("scenario", "run", copy, "--json")
    assert told.code == 1
    assert '"good": false' in told.out
    assert gpve("scenario", "run", copy, "--update").code == 0
    assert (copy / "expect.log").read_text() == (SCENARIOS / SAMPLE / "expect.log").read_text()
    told = gpve("scenario", "run", "target-dies", "--folder", SCENARIOS)
    assert told.code == 2
    assert "the nearest are target-dies" in told.err
    assert "no scenario (a folder with a world.toml) is in it" in gpve("scenario", "list", "--folder", copy).err
