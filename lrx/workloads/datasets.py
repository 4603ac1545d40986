"""Image data sets as uint8 arrays: bundled, from files, or downloaded once.

Only binary formats are read, nothing is unpickled, and every file is checked before it is used. Files are looked for
in the folder that the user names (`data_dir`, or the environment variable LRX_DATA_DIR), else in the user's cache,
which the first use fills by download.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrx import _checks

_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_CIFAR_TEST = "test_batch.bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue plane
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

_MNIST_FOLDER = "mnist"
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_TIMEOUT = 20  # seconds without an answer


class Dataset(NamedTuple):
    """Images and labels, for training and for testing."""

    name: str
    train_images: np.ndarray  # (n, height, width, channels) uint8
    train_labels: np.ndarray  # (n,) int32
    test_images: np.ndarray  # (m, height, width, channels) uint8
    test_labels: np.ndarray  # (m,) int32
    num_classes: int
    mean: np.ndarray  # (channels,) float64: of the training pixels, of 1
    std: np.ndarray  # (channels,) float64: of the training pixels, of 1


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    Args:
      name: "digits" (1,797 images of 8x8, bundled with scikit-learn: no files), "mnist" or "cifar10".
      data_dir: folder with the official files, `cifar-10-batches-bin/*.bin` or `mnist/*.gz`, or that folder itself.
        Without, LRX_DATA_DIR, else the user's cache, which is filled by download.

    Returns:
      The `Dataset`. Of the digits every fifth image is a test image.

    Raises:
      ValueError: if the name is unknown, or a file is truncated or corrupted; names the file.
      FileNotFoundError: if the files are neither there nor to be had; says what was tried and where to put them.

    Example:
      >>> from lrx.workloads.datasets import load
      >>> digits = load("digits")
      >>> digits.train_images.shape, digits.test_images.shape, digits.train_images.dtype
      ((1437, 8, 8, 1), (360, 8, 8, 1), dtype('uint8'))
    """
    _checks.known("name", name, _LOADERS)
    return _LOADERS[name](data_dir)


def _dataset(name: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Dataset:
    """Put the parts together and compute the statistics, from a histogram: exact, and fast on 150 million pixels."""
    mean, std = [], []
    for channel in range(train[0].shape[-1]):
        counts = np.bincount(train[0][..., channel].ravel(), minlength=256)
        levels = np.arange(256) / 255
        average = counts @ levels / counts.sum()
        mean.append(average)
        std.append(np.sqrt(counts @ (levels - average) ** 2 / counts.sum()))
    return Dataset(name, *train, *test, 10, np.asarray(mean), np.asarray(std))


def _digits(data_dir: str | os.PathLike[str] | None) -> Dataset:
    del data_dir  # bundled
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits come with scikit-learn: pip install "lrx[papers]".') from error
    bundle = load_digits()
    # 0..16 in steps of 1 becomes 0..255, as every other data set here.
    images = np.round(bundle.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bundle.target.astype(np.int32)
    test = np.arange(len(images)) % 5 == 0
    return _dataset("digits", (images[~test], labels[~test]), (images[test], labels[test]))


def _cifar10(data_dir: str | os.PathLike[str] | None) -> Dataset:
    files = (*_CIFAR_TRAIN, _CIFAR_TEST)
    folder = _folder("cifar10", data_dir, _CIFAR_FOLDER, files, _download_cifar10)
    parts = [_read_cifar10(folder / file) for file in _CIFAR_TRAIN]
    train = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    return _dataset("cifar10", train, _read_cifar10(folder / _CIFAR_TEST))


def _read_cifar10(path: Path, records: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    if content.size != records * _CIFAR_RECORD:
        raise ValueError(
            f"{path} must have {records * _CIFAR_RECORD:,} bytes, got {content.size:,}: it is truncated or not "
            "CIFAR-10's binary version; remove it and get it again."
        )
    content = content.reshape(records, _CIFAR_RECORD)
    labels = content[:, 0].astype(np.int32)
    if labels.max() > 9:
        row = int(np.argmax(labels > 9))
        raise ValueError(
            f"{path} must have labels of 0 to 9, got {labels[row]} in record {row}: it is corrupted; remove it and "
            "get it again."
        )
    # Planes of channels to channels last.
    return np.ascontiguousarray(content[:, 1:].reshape(records, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _mnist(data_dir: str | os.PathLike[str] | None) -> Dataset:
    folder = _folder("mnist", data_dir, _MNIST_FOLDER, tuple(_MNIST_MD5), _download_mnist)
    halves = []
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", (number, 28, 28))
        labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (number,))
        if labels.max() > 9:
            raise ValueError(f"{folder / part}-labels-idx1-ubyte.gz must have labels of 0 to 9, got {labels.max()}.")
        halves.append((images[..., None], labels.astype(np.int32)))
    return _dataset("mnist", *halves)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an IDX file: two zero bytes, the type (8: uint8), the number of axes, their lengths, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file ({error}): it is corrupted; get it again.") from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    expected = len(header) + int(np.prod(shape))
    if content[: len(header)] != header or len(content) != expected:
        raise ValueError(
            f"{path} must hold uint8 values of shape {shape} in {expected:,} bytes, got {len(content):,} bytes that "
            f"begin with {content[:16].hex()}: it is truncated or another file; get it again."
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _folder(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    subfolder: str,
    files: tuple[str, ...],
    download: Callable[[Path], None],
) -> Path:
    """Find the folder that holds all of `files`: the user's if one is named, else the cache, filled if need be."""
    origin = "data_dir" if data_dir is not None else "LRX_DATA_DIR"
    named = data_dir if data_dir is not None else os.environ.get("LRX_DATA_DIR")
    if named:
        root = Path(named).expanduser()
        for folder in (root / subfolder, root):
            missing = [file for file in files if not (folder / file).is_file()]
            if not missing:
                return folder
            if len(missing) < len(files):
                raise FileNotFoundError(_absent(name, f"{origin}, where {folder} lacks {', '.join(missing)}", folder))
        raise FileNotFoundError(_absent(name, f"{origin}={str(named)!r}", root / subfolder))
    folder = cache_folder() / subfolder
    if not all((folder / file).is_file() for file in files):
        try:
            download(folder)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            reason = reason if len(reason) < 160 else type(error).__name__
            tried = f"the cache {folder} and a download ({reason})"
            raise FileNotFoundError(_absent(name, tried, folder)) from error
    return folder


def _absent(name: str, tried: str, folder: Path) -> str:
    what = "data_batch_1.bin ... test_batch.bin" if name == "cifar10" else "the four *-ubyte.gz files"
    source = _CIFAR_URL if name == "cifar10" else _MNIST_URL
    return (
        f"{name} was not found: tried {tried}.\n"
        f"Put {what} from {source} into {folder}, or name their folder with --data-dir or LRX_DATA_DIR.\n"
        "Without any files, `--data digits` works."
    )


def cache_folder() -> Path:
    """Give the folder that keeps downloaded data."""
    return Path(_pooch().os_cache("lrx"))


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise ImportError('downloads need pooch: pip install "lrx[papers]".') from error
    return pooch


def _retrieve(url: str, md5: str, folder: Path) -> Path:
    """Download a file, with a bar, into `folder`: it is there whole and checked, or not at all."""
    pooch = _pooch()
    downloader = pooch.HTTPDownloader(progressbar=_Bar(url.rsplit("/", 1)[-1]), timeout=_TIMEOUT)
    name = url.rsplit("/", 1)[-1]
    pooch.get_logger().setLevel("WARNING")
    return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, downloader=downloader))


def _download_cifar10(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archive = _retrieve(_CIFAR_URL, _CIFAR_MD5, Path(work))
        extract(archive, Path(work) / "out", {f"{_CIFAR_FOLDER}/{file}" for file in (*_CIFAR_TRAIN, _CIFAR_TEST)})
        shutil.rmtree(folder, ignore_errors=True)
        # One rename: whoever looks sees all of the files or none.
        os.replace(Path(work) / "out" / _CIFAR_FOLDER, folder)


def extract(archive: Path, target: Path, members: set[str]) -> None:
    """Extract the named regular files of a tar archive and nothing else.

    Raises:
      ValueError: if one of them is not in the archive.
    """
    with tarfile.open(archive) as tar:
        found = [member for member in tar.getmembers() if member.name in members and member.isfile()]
        lacking = members - {member.name for member in found}
        if lacking:
            raise ValueError(f"{archive.name} must hold {sorted(lacking)[0]}, which is not in it.")
        tar.extractall(target, members=found, filter="data")


def _download_mnist(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, md5 in _MNIST_MD5.items():
        _retrieve(_MNIST_URL + file, md5, folder)


class _Bar:
    """What pooch reports a download to, shown by rich."""

    def __init__(self, name: str) -> None:
        self.total, self._name = 0, name
        self._progress: Any = None
        self._task: Any = None

    def update(self, size: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=self.total)
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        if self._progress is not None:
            self._progress.reset(self._task)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


_LOADERS: dict[str, Callable[[str | os.PathLike[str] | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
}
