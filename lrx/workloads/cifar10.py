"""CIFAR-10: 60,000 colour images of 32x32 pixels in ten classes, from the official binary files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from lrx.workloads._dataset import Dataset, make_dataset
from lrx.workloads._files import Files, extract, find, retrieve

FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue plane


def load_cifar10(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load CIFAR-10, 60,000 photographs of 32x32 pixels.

    `lrx.workloads.datasets.load` says where the files are searched for.
    """
    folder = find(FILES, data_dir)
    parts = [read(folder / file) for file in TRAIN]
    train = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    return make_dataset("cifar10", train, read(folder / TEST), augment=True)


def read(path: Path, records: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Read a binary file.

    Args:
      path: the file.
      records: how many images it must hold.

    Returns:
      (records, 32, 32, 3) uint8 images and (records,) int32 labels.

    Raises:
      ValueError: if the file is truncated or corrupted.
    """
    content = np.fromfile(path, np.uint8)
    if content.size != records * RECORD:
        raise ValueError(
            f"{path} must have {records * RECORD:,} bytes, got {content.size:,}: it is truncated or not "
            "CIFAR-10's binary version; remove it and get it again."
        )
    content = content.reshape(records, RECORD)
    labels = content[:, 0].astype(np.int32)
    if labels.max() > 9:
        row = int(np.argmax(labels > 9))
        raise ValueError(
            f"{path} must have labels of 0 to 9, got {labels[row]} in record {row}: it is corrupted; remove it and "
            "get it again."
        )
    # From planes of channels to channels last.
    return np.ascontiguousarray(content[:, 1:].reshape(records, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def download(folder: Path) -> None:
    """Download the archive and put its files into `folder`, all of them at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archive = retrieve(URL, MD5, Path(work))
        extract(archive, Path(work) / "out", {f"{FOLDER}/{file}" for file in (*TRAIN, TEST)})
        shutil.rmtree(folder, ignore_errors=True)
        # A single rename: another process sees all of the files or none.
        os.replace(Path(work) / "out" / FOLDER, folder)


FILES = Files("cifar10", FOLDER, (*TRAIN, TEST), "data_batch_1.bin ... test_batch.bin", URL, download)
