"""MNIST and the digits of scikit-learn, as plain tensors for the examples, tests and benchmarks.

MNIST comes as four files in IDX format [LeCun98]; see ``remote/idx.py``.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc.errors import DataSourceError, ShareTorchError
from sharetorch.remote import idx
from sharetorch.remote.idx import Array

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
DATA_VARIABLE = "SHARETORCH_DATA"
CONNECT_SECONDS = 10.0
DOWNLOAD_SECONDS = 120.0
LARGEST_FILE = 1 << 28
"""Largest size of an uncompressed data file, in bytes."""

MNIST_CHECKSUMS: Mapping[str, str] = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the uncompressed content of each file of MNIST."""

_CHUNK = 1 << 16


class DataError(ShareTorchError):
    """A data set is missing or broken; the message says where it was looked for."""


class Dataset(NamedTuple):
    """Images and their labels, in the clear.

    Attributes:
        train_images: float32 in [0, 1], shape (n, 1, height, width).
        train_labels: int64 in 0..9, shape (n,).
        test_images: like ``train_images``.
        test_labels: like ``train_labels``.
        name: ``"mnist"`` or ``"digits"``.
        notice: what the user should know about where the data came from, or "".
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    name: str
    notice: str = ""


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
        name: ``"mnist"`` or ``"digits"``.
        data_dir: see ``load_mnist``; unused by ``"digits"``, which come with scikit-learn.

    Raises:
        DataError: the name is unknown, or the data is missing or broken.
    """
    if name == "mnist":
        return load_mnist(data_dir)
    if name == "digits":
        return load_digits()
    raise DataError(f"There is no data set {name!r}. Choose 'mnist' or 'digits'.")


def load_digits() -> Dataset:
    """Load the 1,797 digits of 8x8 pixels that come with scikit-learn, always split in the same way, 80 to 20.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError("The digits come with scikit-learn: pip install 'sharetorch[examples]'.") from error
    pixels, digits = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(digits).to(torch.int64)
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))  # NumPy promises this never changes
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    return Dataset(images[train], labels[train], images[test], labels[test], "digits")


def load_mnist(data_dir: Path | None = None) -> Dataset:
    """Load MNIST from where it is found first; the digits of scikit-learn stand in if it is nowhere.

    Without ``data_dir`` the places are: the folder named by SHARETORCH_DATA, the user's cache, the mirrors. What is
    downloaded has its checksum verified and is kept in the cache.

    Args:
        data_dir: folder that holds the four files, plain or ``.gz``, or holds them in ``mnist/``. No other place is
            tried if it is given.

    Raises:
        DataError: a file in ``data_dir`` is missing, or one there or in SHARETORCH_DATA is broken.
    """
    if data_dir is not None:
        return _read_folder(_mnist_folder(data_dir, "--data-dir"))
    failures: list[str] = []
    for place in (_from_variable, _from_cache, _from_mirrors):
        try:
            return place()
        except _NotHereError as failure:
            failures.append(str(failure))
    notice = "MNIST was not found; using the 8x8 digits of scikit-learn instead. Looked in:\n  " + "\n  ".join(failures)
    return load_digits()._replace(notice=notice)


def parse_idx(content: bytes, dimensions: int, source: str = "data") -> Array:
    """Read an array of unsigned bytes in IDX format.

    Args:
        content: the uncompressed file.
        dimensions: number of dimensions it must have.
        source: what to call it in errors.

    Raises:
        DataError: magic number, sizes and length do not fit each other.
    """
    try:
        return idx.parse(content, dimensions, source)
    except DataSourceError as error:
        raise DataError(str(error)) from error


def cache_folder() -> Path:
    """Give the folder in which downloaded files of MNIST are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "sharetorch" / "mnist"


class _NotHereError(Exception):
    """A place without the data; the next one is tried."""


def _from_variable() -> Dataset:
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise _NotHereError(f"{DATA_VARIABLE}: not set")
    try:
        folder = _mnist_folder(Path(value), DATA_VARIABLE)
    except DataError as error:
        raise _NotHereError(str(error)) from error
    return _read_folder(folder)


def _from_cache() -> Dataset:
    folder = cache_folder()
    for name, checksum in MNIST_CHECKSUMS.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise _NotHereError(f"cache: {folder / name}: {_reason(error)}") from error
        if hashlib.sha256(content).hexdigest() != checksum:
            raise _NotHereError(f"cache: {folder / name}: wrong checksum")
    return _read_folder(folder)


def _from_mirrors() -> Dataset:
    contents = {name: _download(name) for name in MNIST_CHECKSUMS}
    dataset = _assemble(lambda name, dimensions: parse_idx(contents[name], dimensions, name))
    try:
        for name, content in contents.items():
            _store(cache_folder() / name, content)
    except OSError as error:
        return dataset._replace(notice=f"MNIST was downloaded but could not be kept in {cache_folder()}: {error}")
    return dataset


def _mnist_folder(data_dir: Path, origin: str) -> Path:
    """Find the folder with all four files: ``data_dir`` or its ``mnist/``."""
    missing = {}
    for folder in (data_dir / "mnist", data_dir):
        missing[folder] = [name for name in MNIST_CHECKSUMS if _find(folder, name) is None]
        if not missing[folder]:
            return folder
    folder = min(missing, key=lambda folder: len(missing[folder]))
    if not data_dir.is_dir():
        raise DataError(f"{origin}: {data_dir} is not a folder.")
    raise DataError(
        f"{origin}: MNIST is not complete in {data_dir / 'mnist'} nor in {data_dir}. Missing in {folder}: "
        + ", ".join(f"{name}[.gz]" for name in missing[folder])
    )


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read_folder(folder: Path) -> Dataset:
    return _assemble(lambda name, dimensions: _read_file(folder, name, dimensions))


def _read_file(folder: Path, name: str, dimensions: int) -> Array:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name}[.gz] is missing.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"{path} holds more than {LARGEST_FILE} bytes; no file of MNIST does.")
    return parse_idx(content, dimensions, str(path))


def _assemble(read: Callable[[str, int], Array]) -> Dataset:
    """Build the data set from its four files, given a way to read one by name and number of dimensions."""
    parts = []
    for part in ("train", "t10k"):
        images, labels = read(f"{part}-images-idx3-ubyte", 3), read(f"{part}-labels-idx1-ubyte", 1)
        if images.shape[1:] != (28, 28):
            raise DataError(f"{part} images are {images.shape[1]}x{images.shape[2]}; those of MNIST are 28x28.")
        if len(images) != len(labels):
            raise DataError(f"{part}: {len(images)} images but {len(labels)} labels.")
        if len(labels) == 0 or labels.max() > 9:
            raise DataError(f"{part}: labels must be digits, at least one; found {sorted(set(labels.tolist()))[-3:]}.")
        pixels = torch.from_numpy(images.copy()).to(torch.float32).div_(255).unsqueeze(1)
        parts += [pixels, torch.from_numpy(labels.astype(np.int64))]
    return Dataset(parts[0], parts[1], parts[2], parts[3], "mnist")


def _download(name: str) -> bytes:
    """Fetch one file from the first mirror that has it, and verify its checksum."""
    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response:
                packed = io.BytesIO(_read_limited(response))
            with gzip.open(packed) as stream:
                content = stream.read(LARGEST_FILE)
        except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            failures.append(f"{url}: {_reason(error)}")
            continue
        if hashlib.sha256(content).hexdigest() == MNIST_CHECKSUMS[name]:
            return content
        failures.append(f"{url}: wrong checksum")
    raise _NotHereError("\n  ".join(failures))


def _read_limited(response: BinaryIO, largest: int = 1 << 24) -> bytes:
    """Read a whole response, unless it is too long or too slow."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    chunks, size = [], 0
    while chunk := response.read(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > largest:
            raise OSError(f"more than {largest} bytes")
        if time.monotonic() > deadline:
            raise OSError(f"not complete after {DOWNLOAD_SECONDS:.0f} seconds")
    return b"".join(chunks)


def _store(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
