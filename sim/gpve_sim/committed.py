"""Files that come with the package: found in a source checkout (traces/) and in an installed wheel (data/)."""

import tomllib
from pathlib import Path
from typing import Any

from gpve.model import InputError

_HERE = Path(__file__).resolve().parent


def data_file(name: str) -> Path:
    """The path of a committed file of the folder traces/."""
    for folder in (_HERE / "data", _HERE.parents[1] / "traces"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{name} is missing from this installation")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises `InputError` with the line where it is not one."""
    from gpve_sim.readers.content import text

    try:
        return tomllib.loads(text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", path) from None
