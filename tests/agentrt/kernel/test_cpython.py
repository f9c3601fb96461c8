"""CPython's own test suite inside L3: nothing that programs need may break."""

from pathlib import Path

import pytest

from tests.agentrt.kernel import cpython

#: A selection: processes, files, sockets, signals, threads, terminals.
SELECTION = [
    "test_os",
    "test_posix",
    "test_subprocess",
    "test_tempfile",
    "test_shutil",
    "test_signal",
    "test_pty",
    "test_mmap",
]


@pytest.fixture
def suite():
    if not list(Path("/usr/lib").glob("python3*/test/test_os.py")) or not Path(cpython.PYTHON).exists():
        pytest.skip("CPython's test suite is not installed (libpython3.N-testsuite)")


def compare(kernel, modules, timeout):
    out, inn = cpython.outside(modules, timeout), cpython.inside(kernel, modules, timeout)
    lost = sorted(out - inn)
    assert len(out) > 400, "too few cases to mean anything"
    assert len(lost) <= len(out) / 100, f"{len(lost)} of {len(out)} cases are lost inside: {lost[:40]}"


def test_a_selection_passes_inside(sandbox, suite):
    compare(sandbox, SELECTION, 300)


@pytest.mark.full
def test_the_whole_suite_passes_inside(sandbox, suite):
    compare(sandbox, [], 3600)
