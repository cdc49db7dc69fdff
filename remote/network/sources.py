"""A worker's own data sets, loaded from files that its configuration names.

CSV and Parquet (pyarrow), NPZ (numpy, without pickle), IDX and safetensors. Rows are dimension 0 of every tensor. What
a file declares is compared with the limits before memory is taken, and messages name files, columns and counts, never
values.
"""

from __future__ import annotations

import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc.errors import ConfigurationError, DataSourceError
from sharetorch.mpc.policy import PRIVATE, Policy, policy_of
from sharetorch.remote import idx
from sharetorch.remote.node import Limits, Node

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "float64", "int64", "int32", "int16", "uint8", "bool")
}
"""Types of elements a configuration may choose."""

FORMATS = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".safetensors": "safetensors"}
"""Formats by the file's suffix; names of IDX files end in -ubyte or .idx."""

MOST_DIMENSIONS = 8


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set of a configuration.

    Attributes:
        path: of the file.
        name: of the data set; the file's if not given.
        format: "csv", "parquet", "npz", "idx" or "safetensors"; by the path's ending if not given.
        columns: of a table, in this order, the target left out if not given; or the one array of an NPZ or
            safetensors file.
        target: the column or array with what is to be predicted; for IDX the file of labels, relative
            to the folder of the data.
        dtype: of the data.
        target_dtype: of the target; int64 for whole numbers and float32 for others if not given.
        divide: divides the data, as 255 does pixels.
        row: shape of one row of the data, if another than the file's.
        tags: by which both tensors are found, besides #data and #target.
        description: of both.
        policy: to whom results are released; see ``mpc/policy.py``. Nobody, if not given.
        compute: ids of who may compute with it; "*" is everybody.
        parties: ids of workers that may hold all its shares among them, without this one.
    """

    path: str
    name: str = ""
    format: str | None = None
    columns: list[str] | None = None
    target: str | None = None
    dtype: str = "float32"
    target_dtype: str | None = None
    divide: float | None = None
    row: list[int] | None = None
    tags: list[str] = []
    description: str | None = None
    policy: dict[str, Any] | None = None
    compute: tuple[str, ...] = ("*",)
    parties: tuple[str, ...] = ()


def sources_of(entries: Iterable[Any], policy: Any = None) -> list[Source]:
    """Data sets as configuration gives them.

    Args:
        entries: tables with the attributes of ``Source`` as keys, or ``settings.DatasetSettings``.
        policy: for data sets that have none of their own: a table, or ``settings.PolicySettings``.

    Raises:
        ConfigurationError: an unknown or missing key, a value of another kind, or a name twice.
    """
    found: dict[str, Source] = {}
    for entry in entries:
        source = _source(_table_of(entry), None if policy is None else _policy_table(policy))
        if source.name in found:
            raise ConfigurationError(
                f"Two data sets are named {source.name!r}: {found[source.name].path} and {source.path}. Give each a "
                "name of its own."
            )
        found[source.name] = source
    return list(found.values())


def _table_of(entry: Any) -> dict[str, Any]:
    """The keys that are set in an entry of either form."""
    table = msgspec.structs.asdict(entry) if isinstance(entry, msgspec.Struct) else dict(entry)
    if table.get("policy") is not None:
        table["policy"] = _policy_table(table["policy"])
    return {key: value for key, value in table.items() if value is not None}


def _policy_table(policy: Any) -> dict[str, Any]:
    """What concerns the release of results; who may compute is the node's business."""
    table = msgspec.structs.asdict(policy) if isinstance(policy, msgspec.Struct) else dict(policy)
    return {key: value for key, value in table.items() if value is not None}


def _source(table: dict[str, Any], policy: dict[str, Any] | None) -> Source:
    where = f"Data set {table.get('name') or table.get('path', '?')!r}"
    if policy is not None:
        table.setdefault("policy", policy)
    if table.get("policy") is not None:
        release = dict(table["policy"])
        table |= {key: tuple(release.pop(key)) for key in ("compute", "parties") if key in release}
        table["policy"] = release
    try:
        source = msgspec.convert(table, Source)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}. Its keys are {', '.join(Source.__struct_fields__)}.") from error
    for key, dtype in (("dtype", source.dtype), ("target_dtype", source.target_dtype)):
        if dtype is not None and dtype not in DTYPES:
            raise ConfigurationError(f"{where}: {key} = {dtype!r}; choose among {', '.join(DTYPES)}.")
    if source.divide is not None and not (np.isfinite(source.divide) and source.divide):
        raise ConfigurationError(f"{where}: divide = {source.divide}; it is a number other than 0.")
    _format(source)
    return source if source.name else msgspec.structs.replace(source, name=Path(source.path).stem)


class Loaded(NamedTuple):
    """A data set in memory.

    Attributes:
        data: rows along dimension 0.
        target: one entry or row for each row of data; None if the configuration names none.
        policy: to whom results are released.
    """

    data: Tensor
    target: Tensor | None
    policy: Policy


def load(source: Source, limits: Limits | None = None) -> Loaded:
    """Read one data set.

    Args:
        source: what to read.
        limits: of the worker; ``object_bytes`` bounds the file and each tensor.

    Raises:
        DataSourceError: the file is missing, broken, too large or of another form than declared, or holds values no
            tensor of numbers can: texts, missing entries, NaN or infinity.
        ConfigurationError: the policy is wrong.
    """
    reader = _Reader(source, (limits or Limits()).object_bytes)
    data, target = _READERS[_format(source)](reader)
    return Loaded(
        reader.finish(data),
        None if target is None else reader.finish_target(target, len(data)),
        PRIVATE if source.policy is None else policy_of(source.policy, f"data set {source.name!r}"),
    )


class Shelved(NamedTuple):
    """What a worker knows of an object that is a part of its own data.

    Attributes:
        dataset: its name.
        part: "data" or "target".
        rows: how many.
        policy: to whom results are released.
        compute: ids of who may compute with it; "*" is everybody.
        parties: ids of workers that may hold all its shares among them, without this one.
    """

    dataset: str
    part: str
    rows: int
    policy: Policy
    compute: frozenset[str] = frozenset({"*"})
    parties: frozenset[str] = frozenset()

    def usable_by(self, name: str) -> bool:
        """Whether somebody may compute with it."""
        return "*" in self.compute or name in self.compute


def put(node: Node, sources: Iterable[Source]) -> dict[int, Shelved]:
    """Load data sets and let a node hold them, tagged and described: all of them, or none.

    Returns:
        What is known of each object, by its number.

    Raises:
        DataSourceError: as ``load``.
    """
    loaded = [(source, load(source, node.limits)) for source in sources]
    shelf: dict[int, Shelved] = {}
    for source, (data, target, policy) in loaded:
        for part, tensor in (("data", data), ("target", target)):
            if tensor is not None:
                tags = tuple(dict.fromkeys([*source.tags, f"#{part}"]))
                record = node.load(tensor, tags=tags, description=source.description)
                shelf[record.number] = Shelved(
                    source.name, part, len(tensor), policy, frozenset(source.compute), frozenset(source.parties)
                )
    return shelf


def _format(source: Source) -> str:
    """The format that is declared or that the path's ending tells.

    Raises:
        ConfigurationError: neither does.
    """
    path = Path(source.path)
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    idx = "idx" if plain.name.endswith("-ubyte") or plain.suffix == ".idx" else None
    found = source.format or FORMATS.get(path.suffix) or idx
    if found not in _READERS:
        raise ConfigurationError(
            f"Data set {source.name!r}: the format of {path} is {found or 'not to be told from its name'}. Set format "
            f"to one of {', '.join(_READERS)}."
        )
    return found


Parts = tuple[Any, Any]
"""Arrays of data and target; the latter may be None."""


class _Reader:
    """One file while it is read.

    Args:
        source: what to read.
        limit: largest size of the file, and of each tensor, in bytes.
    """

    def __init__(self, source: Source, limit: int) -> None:
        self.source = source
        self.limit = limit
        self.path = Path(source.path)

    def error(self, reason: str, remedy: str, path: Path | None = None) -> DataSourceError:
        """The error for this file."""
        return DataSourceError(f"Data set {self.source.name!r}: {path or self.path} {reason}. {remedy}")

    def broken(self, kind: str, path: Path | None = None) -> DataSourceError:
        """The error for a file that is not what it is said to be; a parser's own text might hold values."""
        return self.error(
            f"is no {kind} file, or is damaged", "Set format if it is another kind; else restore it.", path
        )

    def file(self, path: Path | None = None) -> Path:
        """The path of a file that is there and not too large."""
        path = path or self.path
        try:
            size = path.stat().st_size
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise self.error(f"cannot be read: {reason}", "Correct path, or its permissions.", path) from error
        if not path.is_file():
            raise self.error("is no file", "Correct path.", path)
        self.require(size, "has", path)
        return path

    def require(self, size: int, verb: str, path: Path | None = None) -> None:
        """Refuse what is too large."""
        if size > self.limit:
            raise self.error(
                f"{verb} {size} bytes; one object of this worker may have {self.limit}",
                "Raise the limit object_bytes, choose fewer columns, or split the file.",
                path,
            )

    def shape(self, name: str, shape: Sequence[int], width: int) -> None:
        """Refuse an array by what its header declares."""
        if not 1 <= len(shape) <= MOST_DIMENSIONS:
            raise self.error(
                f"has an array {name!r} of {len(shape)} dimensions", f"It must have 1 to {MOST_DIMENSIONS}; rows first."
            )
        wide = max(width, *(DTYPES[d].itemsize for d in (self.source.dtype, self.source.target_dtype or "int64")))
        self.require(prod(shape) * wide, f"needs, for its array {name!r} of shape {list(shape)},")

    def columns(self, names: Sequence[str]) -> tuple[list[str], str | None]:
        """The columns or arrays chosen among those there, and the target's."""
        target, chosen = self.source.target, self.source.columns
        chosen = [name for name in names if name != target] if chosen is None else chosen
        wanted = [*chosen, *([] if target is None else [target])]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise self.error(
                f"has no {', '.join(map(repr, missing))}; it has {_listed(names)}", "Correct columns and target."
            )
        double = sorted({name for name in wanted if names.count(name) > 1 or wanted.count(name) > 1})
        if double:
            raise self.error(f"has, or is asked for, {', '.join(map(repr, double))} twice", "Rename or choose once.")
        if not chosen:
            raise self.error(f"has no column besides the target {target!r}", "Name columns.")
        return chosen, target

    def finish(self, data: Any) -> Tensor:
        """The data as a tensor: divided, in its dtype and shape."""
        source = self.source
        if not len(data):
            raise self.error("has 0 rows", "Remove the data set, or fill the file.")
        if source.divide is not None:
            data = np.asarray(data, np.float64) / source.divide
        row = data.shape[1:] if source.row is None else tuple(source.row)
        if any(size < 0 for size in row) or prod(row) != prod(data.shape[1:]):
            raise self.error(f"has rows of shape {list(data.shape[1:])}, not {list(row)}", "Correct row.")
        return self.tensor(data, source.dtype, "data").reshape(len(data), *row)

    def finish_target(self, target: Any, rows: int) -> Tensor:
        """The target as a tensor."""
        if len(target) != rows:
            raise self.error(
                f"has {rows} rows of data and {len(target)} of target {self.source.target!r}", "Name files that belong "
                "together."
            )  # fmt: skip
        whole = target.dtype.kind in "biu"
        return self.tensor(target, self.source.target_dtype or ("int64" if whole else "float32"), "target")

    def tensor(self, values: Any, dtype: str, what: str) -> Tensor:
        """Numbers in a dtype, refused if it cannot hold them."""
        array = np.ascontiguousarray(values)
        if array.dtype.kind not in "biuf":
            raise self.error(f"holds elements of type {array.dtype} in its {what}", "Only numbers can be loaded.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise self.error(f"holds {count} entries that are NaN or infinite in its {what}", "Fill or remove them.")
        kind = np.dtype(dtype)
        if kind.kind == "f":
            with np.errstate(over="ignore"):
                made = array.astype(kind)
            fits = bool(np.isfinite(made).all())
        else:
            fits = _whole_between(array, kind)
            made = array.astype(kind) if fits else array
        if not fits:
            raise self.error(f"holds numbers in its {what} that {dtype} cannot", "Choose another dtype.")
        return torch.from_numpy(made)


def _whole_between(array: Any, kind: Any) -> bool:
    """Whether an array holds whole numbers only, within the range of an integer type."""
    if array.dtype.kind == "f" and bool((array != np.floor(array)).any()):
        return False
    if kind.kind == "b":
        low, high = 0, 1
    else:
        low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if not array.size or array.dtype.kind == "b":
        return True
    return low <= int(array.min()) and int(array.max()) <= high


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


# -------------------------------------------------------------------------------------------------------------- tables


def _arrow(reader: _Reader) -> Any:
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.csv  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise reader.error("needs pyarrow", "Install it: pip install 'sharetorch[data]'.") from error
    return pyarrow


def _csv(reader: _Reader) -> Parts:
    """A table as text; the first line names the columns."""
    arrow = _arrow(reader)
    path = reader.file()
    chosen, target = reader.columns(_header(reader, path))
    wanted = [*chosen, *([] if target is None else [target])]
    try:
        table = arrow.csv.read_csv(
            path,
            convert_options=arrow.csv.ConvertOptions(include_columns=wanted, strings_can_be_null=True),
            read_options=arrow.csv.ReadOptions(use_threads=False),
        )
    except arrow.ArrowInvalid as error:
        row = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error))
        if row:
            raise reader.error(
                f"has {row[3]} columns in line {row[1]}, and {row[2]} before", "Correct the line."
            ) from None
        raise reader.broken("CSV") from None
    return _table(reader, table, chosen, target)


def _header(reader: _Reader, path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            names = next(csv.reader([stream.readline(1 << 20)]), [])
    except (UnicodeDecodeError, csv.Error):
        raise reader.broken("CSV") from None
    if names and all(_is_number(name) for name in names):
        raise reader.error("begins with numbers in place of names of columns", "Write the names into its first line.")
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(reader: _Reader) -> Parts:
    """A table in columns; its footer tells rows and columns before anything is read."""
    arrow = _arrow(reader)
    path = reader.file()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            chosen, target = reader.columns(list(file.schema_arrow.names))
            wanted = [*chosen, *([] if target is None else [target])]
            reader.require(file.metadata.num_rows * len(wanted) * 8, f"needs, for {file.metadata.num_rows} rows,")
            for name in wanted:
                _require_numbers(reader, name, file.schema_arrow.field(name).type)
            table = file.read(columns=wanted, use_threads=False)
    except (arrow.ArrowException, OSError):
        raise reader.broken("Parquet") from None
    return _table(reader, table, chosen, target)


def _require_numbers(reader: _Reader, name: str, kind: Any) -> None:
    types = _arrow(reader).types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise reader.error(
            f"holds {kind} in column {name!r}, not numbers", "Encode it as numbers, or leave it out of columns."
        )


def _table(reader: _Reader, table: Any, chosen: Sequence[str], target: str | None) -> Parts:
    if not table.num_rows:
        raise reader.error("has 0 rows", "Remove the data set, or fill the file.")
    arrays = {
        name: _column(reader, name, table.column(name))
        for name in dict.fromkeys([*chosen, *([target] if target else [])])
    }
    width = np.result_type(*(arrays[name] for name in chosen))
    reader.require(len(chosen) * table.num_rows * max(width.itemsize, DTYPES[reader.source.dtype].itemsize), "needs")
    data = np.empty((table.num_rows, len(chosen)), width)
    for place, name in enumerate(chosen):
        data[:, place] = arrays[name]
    return data, None if target is None else arrays[target]


def _column(reader: _Reader, name: str, column: Any) -> Any:
    if column.null_count and column.null_count == len(column):
        raise reader.error(f"has nothing in column {name!r}", "Fill it, or leave it out of columns.")
    _require_numbers(reader, name, column.type)
    if column.null_count:
        raise reader.error(
            f"lacks {column.null_count} of {len(column)} entries of column {name!r}", "Fill or remove those rows."
        )
    return column.to_numpy()


# -------------------------------------------------------------------------------------------------------------- arrays


def _pair(reader: _Reader, names: Sequence[str], read: Callable[[str], Any]) -> Parts:
    """Data and target among named arrays."""
    chosen, target = reader.columns(names)
    if len(chosen) != 1:
        raise reader.error(f"holds several arrays: {_listed(chosen)}", "Name the one with the data: columns = [...].")
    return read(chosen[0]), None if target is None else read(target)


def _npz(reader: _Reader) -> Parts:
    path = reader.file()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            return _pair(reader, names, lambda name: _npy(reader, archive, name))
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, DataSourceError):
            raise
        raise reader.broken("NPZ") from None


def _npy(reader: _Reader, archive: zipfile.ZipFile, name: str) -> Any:
    """One array; its header is compared with the limits and with the size of its member first."""
    form = np.lib.format
    with archive.open(f"{name}.npy") as stream:
        version = form.read_magic(stream)
        read_header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}.get(version)
        if read_header is None:
            raise reader.broken("NPZ")
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise reader.error(f"holds Python objects in array {name!r}", "Save numbers; pickles are never read.")
        reader.shape(name, shape, dtype.itemsize)
        declared = archive.getinfo(f"{name}.npy").file_size - stream.tell()
        if prod(shape) * dtype.itemsize != declared:
            raise reader.broken("NPZ")
    with archive.open(f"{name}.npy") as stream:
        return form.read_array(stream, allow_pickle=False)


def _safetensors(reader: _Reader) -> Parts:
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415
    except ImportError as error:
        raise reader.error("needs safetensors", "Install it: pip install 'sharetorch[data]'.") from error
    path = reader.file()

    def read(name: str) -> Any:
        part = file.get_slice(name)
        reader.shape(name, part.get_shape(), 8)
        tensor: Tensor = file.get_tensor(name)
        return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()

    try:
        with safe_open(str(path), framework="pt") as file:
            return _pair(reader, list(file.keys()), read)
    except (SafetensorError, OSError, TypeError):
        raise reader.broken("safetensors") from None


def _idx(reader: _Reader) -> Parts:
    """Unsigned bytes, as MNIST comes; may be compressed with gzip."""
    target = reader.source.target
    return _one_idx(reader, reader.path), None if target is None else _one_idx(reader, reader.path.parent / target)


def _one_idx(reader: _Reader, path: Path) -> Any:
    reader.file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(reader.limit + 1)
    except (OSError, EOFError, zlib.error):
        raise reader.broken("IDX", path) from None
    if len(content) > reader.limit:
        reader.require(len(content), "has at least", path)
    dimensions = content[3] if len(content) > 3 else 0
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise reader.broken("IDX", path)
    try:
        array = idx.parse(content, dimensions, str(path))
    except DataSourceError as error:
        raise reader.error(f"is damaged: {error}", "Restore it.", path) from error
    reader.shape(path.name, array.shape, 1)
    return array


_READERS: dict[str, Callable[[_Reader], Parts]] = {
    "csv": _csv,
    "parquet": _parquet,
    "npz": _npz,
    "idx": _idx,
    "safetensors": _safetensors,
}
