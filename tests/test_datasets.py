import gzip
import hashlib
import io
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from sharetorch import datasets
from sharetorch.datasets import DataError, load, load_digits, load_mnist, parse_idx

TRAIN, TEST = 6, 4
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def small_mnist() -> dict[str, bytes]:
    files = {}
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        pixels = np.arange(count * 784).reshape(count, 28, 28) % 256
        files[f"{part}-images-idx3-ubyte"] = idx(pixels)
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def write(folder: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data in the environment, an empty cache, no network, checksums of the small files."""

    def unreachable(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no network")

    monkeypatch.delenv(datasets.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in small_mnist().items()}
    monkeypatch.setattr(datasets, "MNIST_CHECKSUMS", sums)


def serve(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes]) -> list[str]:
    """Answer downloads from a dictionary of URLs; give the list of those asked for."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        if url not in answers:
            raise urllib.error.HTTPError(url, 404, "Not Found", None, None)  # type: ignore[arg-type]
        return io.BytesIO(answers[url])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def mirror(files: dict[str, bytes], number: int = 0) -> dict[str, bytes]:
    return {f"{datasets.MIRRORS[number]}{name}.gz": gzip.compress(content) for name, content in files.items()}


def assert_small_mnist(data: datasets.Dataset) -> None:
    assert data.name == "mnist"
    assert data.train_images.shape == (TRAIN, 1, 28, 28) and data.test_images.shape == (TEST, 1, 28, 28)
    assert data.train_images.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert data.train_labels.tolist() == list(range(TRAIN)) and data.test_labels.tolist() == list(range(TEST))
    assert data.train_images.min() == 0 and data.train_images.max() == 1
    assert data.train_images[0, 0, 0, 3] == torch.tensor(3 / 255)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["", "mnist"])
def test_data_dir_holds_the_files_or_a_folder_of_them(tmp_path: Path, packed: bool, inner: str) -> None:
    write(tmp_path / "data" / inner, small_mnist(), packed)
    data = load("mnist", tmp_path / "data")
    assert_small_mnist(data)
    assert data.notice == ""


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-dir: .*/absent is not a folder"):
        load_mnist(tmp_path / "absent")


def test_missing_file_is_named_with_the_places(tmp_path: Path) -> None:
    files = small_mnist()
    del files[LABELS]
    write(tmp_path / "mnist", files)
    with pytest.raises(DataError, match=rf"not complete in {tmp_path}/mnist nor in {tmp_path}\. .*{LABELS}\[\.gz\]$"):
        load_mnist(tmp_path)


def test_a_given_folder_never_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(write(tmp_path / "good", small_mnist())))
    with pytest.raises(DataError):
        load_mnist(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (b"\0\0\x08\x01\0\0", "truncated: 6 bytes"),
        (b"\0\0\x09\x01" + bytes(4), "starts with 0x00000901"),
        (b"\0\0\x08\x03" + bytes(12), "starts with 0x00000803"),
        (b"\0\0\x08\x01\0\0\0\x02\x07", r"truncated: 9 bytes, sizes \[2\] need 10"),
        (b"\0\0\x08\x01\0\0\0\x01\x07\x07", "bytes after its end"),
        (b"\0\0\x08\x01\xff\xff\xff\xff\x07", r"sizes \[4294967295\]"),
    ],
)
def test_malformed_idx_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, 1)


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 0, 5), (2, 3, 4)])
def test_idx_round_trip(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(parse_idx(idx(array), len(shape)), array)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, idx(np.zeros((TRAIN, 28, 27))), "28x27"),
        (IMAGES, idx(np.zeros((TRAIN - 1, 28, 28))), "5 images but 6 labels"),
        (LABELS, idx(np.full(TRAIN, 10)), r"labels must be digits.*\[10\]"),
        (LABELS, idx(np.zeros((TRAIN, 1))), "starts with 0x00000802"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path, small_mnist() | {name: content})
    with pytest.raises(DataError, match=message):
        load_mnist(tmp_path)


def test_empty_files_are_refused(tmp_path: Path) -> None:
    empty = {IMAGES: idx(np.zeros((0, 28, 28))), LABELS: idx(np.zeros(0))}
    write(tmp_path, small_mnist() | empty)
    with pytest.raises(DataError, match="at least one"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("cut", [4, 40, -9, -1])
def test_broken_gzip_is_named(tmp_path: Path, cut: int) -> None:
    write(tmp_path, small_mnist())
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"{IMAGES}.gz cannot be read"):
        load_mnist(tmp_path)


def test_flipped_bits_in_gzip_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, small_mnist())
    path = tmp_path / f"{IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=IMAGES):
        load_mnist(tmp_path)


def test_oversized_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "LARGEST_FILE", 1000)
    write(tmp_path, small_mnist())
    with pytest.raises(DataError, match="more than 1000 bytes"):
        load_mnist(tmp_path)


def test_variable_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data" / "mnist", small_mnist())
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path / "data"))
    assert_small_mnist(load_mnist())


def test_broken_file_in_the_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", small_mnist() | {IMAGES: b"nonsense"})
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path / "data"))
    with pytest.raises(DataError, match=IMAGES):
        load_mnist()


def test_fallback_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(tmp_path / "absent"))
    data = load_mnist()
    assert data.name == "digits" and data.train_images.shape[1:] == (1, 8, 8)
    for place in (f"{tmp_path}/absent is not a folder", f"cache: {tmp_path}/cache/sharetorch/mnist", *datasets.MIRRORS):
        assert place in data.notice
    assert "no network" in data.notice


def test_download_fills_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, mirror(small_mnist()))
    assert_small_mnist(load_mnist())
    assert len(asked) == 4
    kept = {path.name: path.read_bytes() for path in datasets.cache_folder().iterdir()}
    assert kept == small_mnist()
    assert_small_mnist(load_mnist())
    assert len(asked) == 4, "the second time it comes from the cache"


def test_second_mirror_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, mirror(small_mnist(), 1))
    assert_small_mnist(load_mnist())


def test_wrong_checksum_is_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = small_mnist() | {LABELS: idx(np.zeros(TRAIN))}
    serve(monkeypatch, mirror(forged, 0) | mirror(forged, 1))
    data = load_mnist()
    assert data.name == "digits" and data.notice.count("wrong checksum") == 2
    assert not datasets.cache_folder().exists()


def test_forged_mirror_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, mirror(small_mnist() | {LABELS: idx(np.zeros(TRAIN))}, 0) | mirror(small_mnist(), 1))
    assert_small_mnist(load_mnist())


@pytest.mark.parametrize("answer", [b"", b"<html>hello</html>", gzip.compress(b"x", mtime=0)[:-2]])
def test_answers_that_are_no_gzip_are_passed_over(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    serve(monkeypatch, dict.fromkeys(mirror(small_mnist(), 0), answer) | mirror(small_mnist(), 1))
    assert_small_mnist(load_mnist())


def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, dict.fromkeys(mirror(small_mnist(), 0), bytes((1 << 24) + 1)) | mirror(small_mnist(), 1))
    assert_small_mnist(load_mnist())


def test_slow_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DOWNLOAD_SECONDS", -1.0)
    serve(monkeypatch, mirror(small_mnist()))
    assert "not complete after" in load_mnist().notice


def test_broken_cache_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    write(datasets.cache_folder(), small_mnist() | {LABELS: b"garbage"}, packed=False)
    serve(monkeypatch, mirror(small_mnist()))
    assert_small_mnist(load_mnist())
    assert (datasets.cache_folder() / LABELS).read_bytes() == small_mnist()[LABELS]


def test_unwritable_cache_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    serve(monkeypatch, mirror(small_mnist()))
    data = load_mnist()
    assert_small_mnist(data)
    assert "could not be kept" in data.notice


def test_relative_cache_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert datasets.cache_folder() == Path.home() / ".cache" / "sharetorch" / "mnist"


def test_digits_are_scaled_and_split_the_same_way_each_time() -> None:
    data, again = load_digits(), load("digits")
    assert data.train_images.shape == (1437, 1, 8, 8) and data.test_images.shape == (360, 1, 8, 8)
    assert data.train_images.min() == 0 and data.train_images.max() == 1
    assert torch.equal(data.train_images, again.train_images) and torch.equal(data.test_labels, again.test_labels)
    assert torch.bincount(data.test_labels, minlength=10).min() > 20


def test_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(DataError, match="scikit-learn"):
        load_digits()


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(DataError, match="'cifar'.*'mnist' or 'digits'"):
        load("cifar")
