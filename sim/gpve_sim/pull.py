"""`gpve traces pull`: fetch public traces into the folder of traces, and check every byte.

A file appears under its name when its content has the hash that the manifest gives; what is there already and right is
not fetched again, so an interrupted pull goes on where it stopped.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpve.model import InputError
from gpve_sim.catalogue import ENTRIES, GENERATED, cache_folder
from gpve_sim.manifest import Dataset, File, manifest
from gpve_sim.readers.content import sha256_of_file

PUBLIC = "https://raw.githubusercontent.com"
TIMEOUT_S = 30
_STEP = 1 << 16

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    folder: Path
    fetched: int
    kept: int
    licence: str
    notes: tuple[str, ...]


def pull(
    name: str,
    *,
    into: Path | None = None,
    base_url: str = PUBLIC,
    progress: Progress | None = None,
    known: dict[str, Dataset] | None = None,
) -> Pulled:
    """Fetch the data sets that ``name`` needs: a data set, or a name of the catalogue. Raises `InputError`."""
    known = manifest() if known is None else known
    chosen = [known[dataset] for dataset in _needed(name, known)]
    folder = cache_folder() if into is None else into
    files = [file for dataset in chosen for file in dataset.files]
    total = sum(file.size for file in files)
    done = fetched = 0
    for file in files:
        target = folder / file.place
        if not (target.is_file() and sha256_of_file(target) == file.sha256):
            _fetch(file, target, base_url, partial(_report, progress, done, total) if progress else None)
            fetched += 1
        done += file.size
        if progress:
            progress(done, total)
    licence = "; ".join(f"{dataset.name}: {dataset.licence}" for dataset in chosen)
    notes = tuple(f"{dataset.name}: {note}" for dataset in chosen for note in dataset.notes)
    return Pulled(folder, fetched, len(files) - fetched, licence, notes)


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _needed(name: str, known: dict[str, Dataset]) -> list[str]:
    if name in known:
        return [name]
    if name in ENTRIES:
        entry = ENTRIES[name]
        return list(entry.needs) or [entry.dataset]
    if name in GENERATED or name.startswith("generated/"):
        raise InputError(f"{name} is generated on the spot: nothing to pull")
    raise InputError(f"unknown data set {name!r}; known: {', '.join(known)}")


def _fetch(file: File, target: Path, base_url: str, step: Callable[[int], None] | None) -> None:
    """One file into a temporary name, and under its own when the hash is right."""
    url = f"{base_url.rstrip('/')}/{urllib.parse.quote(file.url_path)}"
    if not url.startswith(("https://", "http://")):
        raise InputError(f"{base_url!r} is not an address of http or https")
    part = target.with_name(f".{target.name}.part{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = _download(url, part, file.size, step)
        if size < file.size:
            raise InputError(f"{url}: the transfer ended after {size:,} of {file.size:,} bytes; pull again to go on")
        if digest != file.sha256:
            raise InputError(
                f"{url}: the content has SHA-256 {digest}, the manifest says {file.sha256}; nothing was kept"
            )
        part.replace(target)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise InputError(f"{url}: cannot be fetched: {getattr(error, 'reason', None) or error}") from None
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", target) from None
    finally:
        # Where even this fails, the folder was never there.
        with suppress(OSError):
            part.unlink()


def _download(url: str, part: Path, expected: int, step: Callable[[int], None] | None) -> tuple[str, int]:
    """SHA-256 and size of what came; never more than one step beyond the expected size."""
    digest = hashlib.sha256()
    size = 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
        while size <= expected and (piece := answer.read(_STEP)):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            if step:
                step(min(size, expected))
    return digest.hexdigest(), size
