"""A worker's own data sets from files: what is loaded, and what is refused with which message."""

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from sharetorch.mpc.errors import ConfigurationError, DataSourceError
from sharetorch.mpc.policy import OPEN, PRIVATE, Policy
from sharetorch.remote.network.sources import Loaded, load, put, sources_of
from sharetorch.remote.node import Limits, Node

ROWS = [(1, 2.5, 0), (2, -3.0, 1), (3, 4.25, 0)]
CANARY = "918273645"
"""A value that no message may show."""


def write(folder: Path, kind: str) -> Path:
    """The same table in a format."""
    age, dose, label = (np.array(column) for column in zip(*ROWS, strict=True))
    path = folder / f"patients.{kind}"
    if kind == "csv":
        path.write_text("age,dose,label\n" + "".join(f"{a},{d},{n}\n" for a, d, n in ROWS))
    elif kind == "parquet":
        pq.write_table(pa.table({"age": age, "dose": dose, "label": label}), path)
    elif kind == "npz":
        np.savez_compressed(path, x=np.stack([age, dose], 1), y=label)
    else:
        save_file({"x": torch.tensor(np.stack([age, dose], 1)), "y": torch.tensor(label)}, path)
    return path


def read(path: Path, limits: Limits | None = None, **options: Any) -> Loaded:
    (source,) = sources_of([{"path": str(path), **options}])
    return load(source, limits)


def idx(values: np.ndarray, path: Path) -> Path:
    content = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    content += values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "safetensors"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    target = "label" if kind in ("csv", "parquet") else "y"
    loaded = read(write(tmp_path, kind), target=target)
    assert torch.equal(loaded.data, torch.tensor([[1, 2.5], [2, -3.0], [3, 4.25]]))
    assert loaded.target is not None
    assert torch.equal(loaded.target, torch.tensor([0, 1, 0]))
    assert (loaded.data.dtype, loaded.target.dtype) == (torch.float32, torch.int64)
    assert loaded.policy == PRIVATE


@pytest.mark.parametrize("ending", ["-ubyte", "-ubyte.gz", ".idx"])
def test_idx_files_as_mnist_has_them(tmp_path: Path, ending: str) -> None:
    pixels = np.arange(24).reshape(2, 3, 4)
    path = idx(pixels, tmp_path / f"images-idx3{ending}")
    idx(np.array([7, 9]), tmp_path / "labels-idx1-ubyte")
    loaded = read(path, target="labels-idx1-ubyte", divide=255, row=[1, 3, 4])
    assert torch.equal(loaded.data, torch.from_numpy((pixels / 255).astype(np.float32)).reshape(2, 1, 3, 4))
    assert loaded.target is not None
    assert loaded.target.tolist() == [7, 9]


def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    loaded = read(write(tmp_path, "csv"), columns=["dose", "age"], dtype="float64")
    assert torch.equal(loaded.data, torch.tensor([[2.5, 1], [-3, 2], [4.25, 3]], dtype=torch.float64))
    assert loaded.target is None


def test_a_column_beyond_the_first_block_may_turn_to_reals(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("x\n" + "1\n" * 1_000_000 + "0.5\n")
    assert read(path).data[-1].item() == 0.5


def test_one_column_is_still_rows_by_columns(tmp_path: Path) -> None:
    assert read(write(tmp_path, "parquet"), columns=["age"], dtype="int64").data.tolist() == [[1], [2], [3]]


def test_the_policy_is_read_and_private_by_default(tmp_path: Path) -> None:
    path = write(tmp_path, "csv")
    table = {"release_to": ["alice"], "min_rows": 2, "outputs": ["mean"]}
    assert read(path, policy=table).policy == Policy(frozenset({"alice"}), frozenset({"mean"}), 2)
    assert read(path, policy={"release_to": ["*"], "outputs": ["*"], "min_rows": 0}).policy == OPEN
    (source,) = sources_of([{"path": str(path)}], policy={"release_to": ["carol"]})
    assert load(source).policy == Policy(frozenset({"carol"}))


def test_a_node_holds_them_tagged_and_described(tmp_path: Path) -> None:
    write(tmp_path, "npz")
    entry = {"path": str(tmp_path / "patients.npz"), "target": "y", "tags": ["#clinic", "#train"], "description": "two"}
    node = Node("bob", private=True)
    shelf = put(node, sources_of([entry]))
    found = {shelved.part: (shelved, node.objects[number]) for number, shelved in shelf.items()}
    assert {part: record.tags for part, (_, record) in found.items()} == {
        "data": ("#clinic", "#train", "#data"),
        "target": ("#clinic", "#train", "#target"),
    }
    shelved, record = found["data"]
    assert (shelved.dataset, shelved.rows, shelved.policy) == ("patients", 3, PRIVATE)
    assert (record.description, record.owner, record.readers.names) == ("two", "bob", frozenset({"bob"}))


def test_one_broken_file_and_none_is_held(tmp_path: Path) -> None:
    node = Node("bob", private=True)
    good, missing = str(write(tmp_path, "csv")), str(tmp_path / "gone.csv")
    with pytest.raises(DataSourceError, match="gone.csv cannot be read: No such file"):
        put(node, sources_of([{"path": good}, {"path": missing}]))
    assert not node.objects


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "idx", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 300, b"PK\x03\x04" + bytes(90), b"PAR1" + bytes(90)])
def test_bytes_of_another_kind_are_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataSourceError, match="'file'.*file"):
        read(path, format=kind)


@pytest.mark.parametrize("kind", ["parquet", "npz", "safetensors", "idx"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path = idx(np.arange(24).reshape(2, 12), tmp_path / "a.idx") if kind == "idx" else write(tmp_path, kind)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataSourceError):
            read(path, target=None if kind in ("idx", "parquet") else "y")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n", {}, "has 0 rows"),
        ("a,b\n1,2\n3\n", {}, "1 columns in line 3, and 2 before"),
        (f"a,b\n1,x{CANARY}\n", {}, "string in column 'b', not numbers"),
        ("a,b\n1,\n2,3\n", {}, "lacks 1 of 2 entries of column 'b'"),
        ("a,b\n1,nan\n2,3\n", {}, "lacks 1 of 2 entries of column 'b'|1 entries that are NaN"),
        ("a,b\n1,inf\n2,3\n", {}, "1 entries that are NaN or infinite"),
        ("a,a\n1,2\n", {}, "'a' twice"),
        ("a,b\n1,2\n", {"columns": ["a", "a"]}, "'a' twice"),
        ("a,b\n1,2\n", {"columns": ["c"]}, "has no 'c'; it has 'a', 'b'"),
        ("a,b\n1,2\n", {"target": "c"}, "has no 'c'"),
        ("a\n1\n", {"target": "a"}, "no column besides the target"),
        ("a,b\n1,2.5\n", {"dtype": "int64"}, "that int64 cannot"),
        (f"a,b\n1,{CANARY}\n", {"dtype": "uint8"}, "that uint8 cannot"),
        ("a,b\n1,2\n", {"dtype": "bool"}, "that bool cannot"),
        ("a,b\n1,1e300\n", {}, "that float32 cannot"),
        ("a,b\n1,2\n", {"row": [3]}, r"rows of shape \[2\], not \[3\]"),
        ("a,b\n1,2\n", {"row": [-1, -2]}, "rows of shape"),
        (f"a,b\n1,2\n3,{CANARY},5\n", {}, "3 columns in line 3"),
        (f"1,{CANARY}\n2,3\n", {"columns": ["a"]}, "begins with numbers in place of names"),
        (f'a,b\n1,"{CANARY}\n', {}, "column 'b'|no CSV|columns in line"),
    ],
)
def test_tables_that_do_not_fit_are_refused_without_their_values(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataSourceError, match=message) as caught:
        read(path, **options)
    assert CANARY not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["x", "y"]), "string in column 'c'"),
        (pa.array([[1], [2]]), "list.* in column 'c'"),
        (pa.array([1, None]), "lacks 1 of 2"),
        (pa.array([1, 2], pa.timestamp("s")), "timestamp.* in column 'c'"),
        (pa.array([None, None], pa.int64()), "nothing in column"),
    ],
)
def test_columns_of_a_parquet_file_that_are_no_numbers(tmp_path: Path, column: Any, message: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2], "c": column}), path)
    with pytest.raises(DataSourceError, match=message):
        read(path)
    assert read(path, columns=["a"]).data.tolist() == [[1], [2]]


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataSourceError, match="Python objects in array 'x'"):
        read(path)


def test_an_array_that_claims_another_size_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "lie.npz"
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": (1 << 20,), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue() + bytes(16))
    with pytest.raises(DataSourceError, match="no NPZ file"):
        read(path)


SMALL = Limits(object_bytes=2000)


def test_a_table_too_large_is_refused_by_its_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"a": np.zeros(10_000)}), path, compression="zstd")
    assert path.stat().st_size < 2000
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    with pytest.raises(DataSourceError, match="for 10000 rows, 80000 bytes; one object of this worker may have 2000"):
        read(path, SMALL)


def test_an_array_too_large_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.npz"
    np.savez_compressed(path, x=np.zeros((1000, 10)))
    assert path.stat().st_size < 2000
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(DataSourceError, match=r"array 'x' of shape \[1000, 10\], 80000 bytes"):
        read(path, SMALL)


def test_idx_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = idx(np.zeros((100, 100)), tmp_path / "bomb-ubyte.gz")
    assert path.stat().st_size < 2000
    with pytest.raises(DataSourceError, match="at least 2001 bytes"):
        read(path, SMALL)


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "safetensors"])
def test_a_file_too_large_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    with pytest.raises(DataSourceError, match=f"has {path.stat().st_size} bytes"):
        read(path, Limits(object_bytes=path.stat().st_size - 1))


def test_data_and_target_of_different_lengths(tmp_path: Path) -> None:
    path = idx(np.zeros((4, 2)), tmp_path / "a.idx")
    idx(np.zeros(3), tmp_path / "b.idx")
    with pytest.raises(DataSourceError, match="4 rows of data and 3 of target"):
        read(path, target="b.idx")


def test_several_arrays_need_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, "npz")
    with pytest.raises(DataSourceError, match="several arrays: 'x', 'y'"):
        read(path)
    assert read(path, columns=["y"]).data.tolist() == [0, 1, 0]


@pytest.mark.parametrize("what", ["folder", "device"])
def test_only_files_are_read(tmp_path: Path, what: str) -> None:
    path = tmp_path if what == "folder" else Path("/dev/zero")
    with pytest.raises(DataSourceError, match="is no file"):
        read(path, format="csv")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "a.csv", "colums": ["x"]}, "'a.csv'.*colums"),
        ({}, "path"),
        ({"path": "a.csv", "columns": "x"}, "at `..columns`"),
        ({"path": "a.csv", "dtype": "complex64"}, "dtype = 'complex64'; choose among"),
        ({"path": "a.csv", "divide": 0.0}, "divide = 0.0"),
        ({"path": "a.xls"}, "Set format to one of csv"),
        ({"path": "a.csv", "format": "pickle"}, "Set format to one of csv"),
    ],
)
def test_wrong_settings_name_data_set_and_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sources_of([entry])


def test_two_data_sets_need_two_names() -> None:
    with pytest.raises(ConfigurationError, match="Two data sets are named 'a'"):
        sources_of([{"path": "x/a.csv"}, {"path": "y/a.csv"}])
    assert [s.name for s in sources_of([{"path": "x/a.csv"}, {"path": "y/a.csv", "name": "b"}])] == ["a", "b"]


def test_a_wrong_policy_names_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="policy of data set 'patients'.*'min_row'"):
        read(write(tmp_path, "csv"), policy={"min_row": 3})
