"""MNIST: 70,000 grey images of 28x28 pixels of handwritten digits, from the official IDX files."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from lrx.workloads._dataset import Dataset, make_dataset
from lrx.workloads._files import Files, find, retrieve

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load MNIST, 70,000 digits of 28x28 pixels.

    `lrx.workloads.datasets.load` says where the files are searched for.
    """
    folder = find(FILES, data_dir)
    halves = []
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", (number, 28, 28))
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (number,))
        if labels.max() > 9:
            raise ValueError(f"{folder / part}-labels-idx1-ubyte.gz must have labels of 0 to 9, got {labels.max()}.")
        halves.append((images[..., None], labels.astype(np.int32)))
    return make_dataset("mnist", *halves)


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
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


def download(folder: Path) -> None:
    """Download the four files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, md5 in MD5.items():
        retrieve(URL + file, md5, folder)


FILES = Files("mnist", "mnist", tuple(MD5), "the four *-ubyte.gz files", URL, download)
