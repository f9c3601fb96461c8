"""Bad input: one sentence, with the file, the line and the column."""

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
from gpve_sim.catalogue import load
from gpve_sim.readers.kubernetes import quantity
from gpve_sim.readers.nodes import read_nodes
from hypothesis import given, settings
from hypothesis import strategies as st

from gpve.model import InputError

HEADER = "id,kind,arrival_s,departure_s,cpu_milli,memory_mib"
GOOD = "a,vm,0,10,1000,512"


def refused(path: Path, *, nodes: bool = False, **options: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_nodes(path) if nodes else load(path, **options)
    return caught.value


def guests_file(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "guests.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "line", "column", "words"),
    [
        ([GOOD, "b,vm,0,10,-5,512"], 3, "cpu_milli", "-5 is negative"),
        ([GOOD, "b,vm,x,10,5,512"], 3, "arrival_s", "'x' is not a number"),
        ([GOOD, "b,vm,,10,5,512"], 3, "arrival_s", "missing"),
        ([GOOD, "b,vm,nan,10,5,512"], 3, "arrival_s", "not a"),
        ([GOOD, "b,vm,0,inf,5,512"], 3, "departure_s", "not a"),
        ([GOOD, "b,vm,0,1,5,1e999"], 3, "memory_mib", "not a finite"),
        ([GOOD, "b,vm,0,1,5,99999999999999999999"], 3, "memory_mib", "too large"),
        ([GOOD, "b,vm,0,1,5.5,512"], 3, "cpu_milli", "5.5 is not a whole number"),
        ([GOOD, "b,vm,20,10,5,512"], 3, "departure_s", "departs 10, before it arrives at 20"),
        ([GOOD, GOOD], 3, "id", "'a' is there twice, first in line 2"),
        ([GOOD, ",vm,0,1,5,512"], 3, "id", "the name is empty"),
        ([GOOD, "b,pod,0,1,5,512"], 3, "kind", "unknown kind 'pod'; known: vm, vcluster, agent"),
        ([GOOD, "b,,0,1,5,512"], 3, "kind", "missing"),
        (["", GOOD, "", "b,vm,0,1,x,512"], 5, "cpu_milli", "'x' is not a number"),
        (['"a\nb",vm,0,1,5,512', "b,vm,0,1,x,512"], 4, "cpu_milli", "'x' is not a number"),
        ([GOOD, "b,vm,0,1,5"], 3, None, "5 values, but the header has 6"),
        ([], None, None, "has no rows"),
    ],
)
def test_bad_guests(tmp_path: Path, rows: list[str], line: int | None, column: str | None, words: str) -> None:
    error = refused(guests_file(tmp_path, *rows))
    assert (error.line, error.column) == (line, column)
    assert words in error.problem
    assert str(error).startswith(f"{tmp_path / 'guests.csv'}")


@pytest.mark.parametrize(
    ("columns", "values", "column", "words"),
    [
        ("gpu_count,gpu_milli", "1,1001", "gpu_milli", "more than a whole GPU"),
        ("gpu_count,gpu_milli", "1,0", "gpu_milli", "at least 1"),
        ("gpu_count,gpu_milli", "0,500", "gpu_milli", "number of GPUs is 0"),
        ("gpu_count,gpu_models", "1,A||B", "gpu_models", "empty item"),
        ("max_per_node", "2", "max_per_node", "no group"),
        ("selector", "zone", "selector", "not key=value"),
        ("deadline_s", "-1", "deadline_s", "negative"),
        ("priority", "high", "priority", "'high' is not a number"),
    ],
)
def test_bad_optional_columns(tmp_path: Path, columns: str, values: str, column: str, words: str) -> None:
    empty = "," * columns.count(",")
    rows = (f"{GOOD},{empty}", f"b,vm,0,10,1000,512,{values}")
    error = refused(guests_file(tmp_path, *rows, header=f"{HEADER},{columns}"))
    assert (error.line, error.column) == (3, column)
    assert words in error.problem


def test_several_shares_of_gpus_are_fine_in_our_schema(tmp_path: Path) -> None:
    trace = load(guests_file(tmp_path, GOOD + ",2,500", header=f"{HEADER},gpu_count,gpu_milli"))
    assert trace.guests.gpu_milli is not None
    assert trace.guests.gpu_milli.tolist() == [500]


def test_unknown_and_missing_columns(tmp_path: Path) -> None:
    error = refused(guests_file(tmp_path, GOOD + ",1", header=f"{HEADER},gpu_cuont"))
    assert error.column == "gpu_cuont"
    assert "did you mean 'gpu_count'?" in error.problem
    assert "anti_affinity" in error.problem
    error = refused(guests_file(tmp_path, "a,0,1,5,6", header="id,arrival_s,departure_s,cpu_milli,memory_mib"))
    assert (error.line, error.column, error.problem) == (1, "kind", "the column is missing")
    error = refused(guests_file(tmp_path, GOOD + ",vm", header=f"{HEADER},kind"))
    assert (error.column, error.problem) == ("kind", "the column is there twice")


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no file and no trace" in refused(tmp_path / "none.csv").problem
    assert "no such file" in refused(tmp_path / "none.csv", nodes=True).problem
    assert "is a directory" in refused(tmp_path).problem
    assert "is a directory" in refused(tmp_path, reader="schema").problem
    assert "readers: schema, openb" in refused(tmp_path).problem
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    assert refused(empty).problem == "the file is empty"


def test_damaged_gz(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *(f"g{i},vm,0,1,5,6" for i in range(5000))]).encode())
    path = tmp_path / "g.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused(path).problem
    path.write_bytes(whole[:-6])
    assert "truncated" in refused(path).problem
    path.write_bytes(whole[:200] + b"\xff" * 50 + whole[250:])
    assert "damaged" in refused(path).problem
    path.write_bytes(b"id,kind\n")
    assert "not gzip" in refused(path).problem


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + b"caf\xe9,vm,0,1,5,6\n")
    error = refused(path)
    assert (error.line, error.problem) == (3, "byte 0xe9 is not UTF-8")


def test_unrecognised_columns_list_the_readers(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("vm,cores\na,1\n")
    error = refused(path)
    assert "readers: schema, openb, alibaba-dlrm, azure-vm, opendc, agents, kubernetes" in error.problem
    assert "vm, cores" in error.problem
    assert "unknown reader 'x'" in refused(path, reader="x").problem


def test_bad_parquet_names_the_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "g.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    assert "not readable as Parquet" in refused(path).problem
    columns = {
        "id": ["a", "b"], "kind": ["vm", "vm"], "arrival_s": [0.0, float("nan")], "departure_s": [1.0, None],
        "cpu_milli": [1, 2], "memory_mib": [1, 2],
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)
    error = refused(path)
    assert (error.line, error.column, error.problem) == (None, "arrival_s", "row 2: nan is not a finite number")
    pq.write_table(pa.table(columns | {"arrival_s": [0.0, 1.0], "cpu_milli": [True, False]}), path)
    assert "numbers are expected, found bool" in refused(path).problem


@pytest.mark.parametrize(
    ("header", "row", "column", "words"),
    [
        ("name,cpu_milli,memory_mib", "b,-1,5", "cpu_milli", "negative"),
        ("name,cpu_milli,memory_mib", "a,1,5", "name", "twice"),
        ("name,cpu_milli,memory_mib,gpu_count,gpu_model", "b,1,5,0,T4", "gpu_model", "no GPU"),
        ("name,cpu_milli,memory_mib,overcommit", "b,1,5,0", "overcommit", "ratio above 0"),
        ("name,cpu_milli,memory_mib,overcommit", "b,1,5,disk=2", "overcommit", "cpu and memory"),
        ("name,cpu_milli,memory_mib,power", "b,1,5,100", "power", "two points"),
        ("name,cpu_milli,memory_mib,labels", "b,1,5,zone", "labels", "not key=value"),
        ("name,cpu_milli,memory_mib,drain_s,add_s", "b,1,5,3,4", "drain_s", "before it is added"),
        ("sn,cpu_milli,memory_mib,gpu,model", "b,1,5,-1,", "gpu", "negative"),
    ],
)
def test_bad_nodes(tmp_path: Path, header: str, row: str, column: str, words: str) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text("\n".join([header, "a,1,5" + "," * (header.count(",") - 2), row]) + "\n")
    if header.startswith("sn"):
        path.write_text("\n".join([header, "a,1,5,0,", row]) + "\n")
    error = refused(path, nodes=True)
    assert (error.line, error.column) == (3, column)
    assert words in error.problem


def test_bad_usage(tmp_path: Path) -> None:
    path = guests_file(tmp_path, GOOD)
    usage = tmp_path / "guests.usage.csv"
    usage.write_text("id,start_s,end_s,cpu_milli,memory_mib\na,0,1,5,5\nz,0,1,5,5\n")
    error = refused(path)
    assert (error.file, error.line, error.column) == (usage, 3, "id")
    assert "no guest is called 'z'" in error.problem
    usage.write_text("id,start_s,end_s,cpu_milli,memory_mib\na,5,1,5,5\n")
    assert "ends 1, before it starts at 5" in refused(path).problem


def test_bad_azure(tmp_path: Path) -> None:
    (tmp_path / "v1.dev.txt").write_text("0 a,|,\n300 z,|,\n")
    assert "needs" in refused(tmp_path).problem
    (tmp_path / "v1.dev.c600.txt").write_text("0 U0,|,\n300 C1,|,\n")
    (tmp_path / "flav_map.txt").write_text("1,1.75 a\n")
    (tmp_path / "v1.interval_map.txt").write_text("0 0\n300 1\n")
    error = refused(tmp_path)
    assert (error.line, error.problem) == (2, "unknown flavour 'z'")
    (tmp_path / "v1.dev.txt").write_text("0 a,|,\n300 a,a,|,\n")
    assert refused(tmp_path).line == 2


def test_bad_kubernetes(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text('{"items": [\n')
    assert refused(path).line == 2
    node = {"kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "x"}}}
    path.write_text(json.dumps({"items": [node]}))
    error = refused(path)
    assert error.column == "cpu"
    assert "'x' is not a quantity" in error.problem
    for bad in ("-1", "1.2.3", "5Q", "1e400"):
        with pytest.raises((ValueError, OverflowError)):
            quantity(bad)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.csv"
        for head in (b"", HEADER.encode() + b"\n"):
            path.write_bytes(head + data)
            # Anything but an InputError fails the test.
            with suppress(InputError):
                load(path)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 6), st.sampled_from(HEADER.split(",")[2:]),
    st.sampled_from(["-1", "x", "nan", "inf", "-inf", "1e400", "0x1", "1_0", "--1", "1e"]), st.booleans(),
)  # fmt: skip
def test_a_bad_number_is_found_in_its_line(row: int, column: str, value: str, packed: bool) -> None:
    import tempfile

    rows = [[f"g{i}", "vm", "0", "10", "5", "6"] for i in range(8)]
    rows[row][HEADER.split(",").index(column)] = value
    data = "\n".join([HEADER, *(",".join(r) for r in rows)]).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("g.csv.gz" if packed else "g.csv")
        path.write_bytes(gzip.compress(data) if packed else data)
        error = refused(path)
    assert (error.line, error.column) == (row + 2, column)
