"""Scenarios: folders with a story (README.md), a cluster (world.toml), a script, and the log that it must give."""

import difflib
from dataclasses import dataclass
from pathlib import Path

import gpve_sim.world.scenario_expect  # noqa: F401  (its sentences are registered)
from gpve.model.errors import InputError
from gpve_sim.world.scenario_cluster import build, read_cluster
from gpve_sim.world.scenario_phrases import PATTERNS
from gpve_sim.world.scenario_script import read_script
from gpve_sim.world.scenario_stage import Stage

__all__ = ["PATTERNS", "Played", "find", "folders", "play", "story", "write_log"]
LOG = "expect.log"
SHOWN = 40
"""Lines of a difference that are shown."""


@dataclass(frozen=True)
class Played:
    """What came of a scenario."""

    name: str
    log: str
    failures: list[str]
    """Expectations that do not hold."""
    difference: list[str]
    """Between the log that is and the log that should be; empty if there is none."""

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return not self.failures and not self.difference


def folders(folder: Path) -> list[Path]:
    """All scenarios of a folder, by name. Raises `InputError` if there is none."""
    found = sorted(path.parent for path in folder.glob("*/world.toml"))
    if not found:
        raise InputError("no scenario (a folder with a world.toml) is in it", folder)
    return found


def find(name: str, folder: Path) -> Path:
    """A scenario by name, or by the path of its folder. Raises `InputError`."""
    for path in (folder / name, Path(name)):
        if (path / "world.toml").is_file():
            return path
    near = difflib.get_close_matches(name, [path.name for path in folders(folder)], n=3, cutoff=0.0)
    raise InputError(f"no scenario {name!r}; the nearest are {', '.join(near)}", folder)


def story(path: Path) -> str:
    """The story of a scenario in its README's first sentence."""
    try:
        text = (path / "README.md").read_text()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path / "README.md") from None
    told = " ".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return told.split(". ")[0].rstrip(".") + "."


def play(path: Path) -> Played:
    """Play a scenario. Raises `InputError` for files that cannot be understood."""
    cluster = read_cluster(path / "world.toml")
    script = read_script(path / "script", cluster)
    stage = Stage(build(cluster), script)
    stage.play()
    log = "".join(f"{line}\n" for line in stage.log)
    there = path / LOG
    wanted = there.read_text() if there.is_file() else ""
    difference = list(difflib.unified_diff(wanted.splitlines(), log.splitlines(), LOG, "now", lineterm="", n=1))
    return Played(path.name, log, stage.failures, difference[:SHOWN])


def write_log(path: Path, played: Played) -> bool:
    """Make the log that is the log that should be, unless an expectation failed; whether anything changed."""
    if played.failures or not played.difference:
        return False
    (path / LOG).write_text(played.log)
    return True
