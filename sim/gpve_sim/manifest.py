"""The manifest of public traces (traces/manifest.toml): repository, commit, path, licence and SHA-256 of each file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpve_sim.committed import data_file, read_toml


@dataclass(frozen=True)
class File:
    """One file of a data set."""

    place: str
    """Path under the folder of traces."""
    url_path: str
    """repository/commit/path."""
    size: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """One data set of the manifest."""

    name: str
    licence: str
    notes: tuple[str, ...]
    """What cannot be pulled, and why."""
    files: tuple[File, ...]


def manifest(path: Path | None = None) -> dict[str, Dataset]:
    """Data sets by name, from the committed manifest or the one at ``path``."""
    return {name: _dataset(name, entry) for name, entry in read_toml(path or data_file("manifest.toml")).items()}


def whole(dataset: str, folder: Path) -> bool:
    """Whether ``folder`` holds all of a data set: its bundle, or each of its files."""
    if any((folder / dataset).glob("*.tar.gz")):
        return True
    places = (folder / file.place for file in manifest()[dataset].files)
    return all(place.exists() or place.with_name(place.name + ".gz").exists() for place in places)


def _dataset(name: str, entry: dict[str, Any]) -> Dataset:
    prefix = entry["prefix"]
    files = tuple(
        File(f"{name}/{here or path}", f"{entry['repository']}/{entry['commit']}/{prefix}{path}", size, digest)
        for here, path, size, digest in entry["files"]
    )
    return Dataset(name, entry["licence"], tuple(entry["notes"]), files)
