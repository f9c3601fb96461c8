"""Bytes of an input file: whole, checked, and decompressed where they are gzipped."""

import gzip
import hashlib
import zlib
from pathlib import Path

from gpve.model import InputError

_GZIP = b"\x1f\x8b"
_STEP = 1 << 20


def check_file(path: Path) -> None:
    """Raise `InputError` unless ``path`` is a file."""
    if not path.exists():
        raise InputError("no such file", path)
    if path.is_dir():
        raise InputError("is a directory, not a file", path)


def content(path: Path) -> bytes:
    """The bytes of ``path``, decompressed if it is gzip (told by its first bytes, not by its name)."""
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    if not data.startswith(_GZIP):
        if path.suffix == ".gz":
            raise InputError("is named .gz, but is not gzip" if data else "the file is empty", path)
        return data
    try:
        return gzip.decompress(data)
    except EOFError:
        raise InputError("the gzip data ends too early: the file is truncated", path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"the gzip data is damaged: {error}", path) from None


def text(path: Path) -> str:
    """The content of ``path`` as UTF-8; a byte that is not gets its line named."""
    return decoded(content(path), path)


def decoded(data: bytes, path: Path) -> str:
    """``data`` as UTF-8 text without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"byte 0x{data[error.start]:02x} is not UTF-8", path, line) from None


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file as it lies on the disk, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_STEP):
            digest.update(piece)
    return digest.hexdigest()
