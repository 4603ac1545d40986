"""Image data sets as uint8 arrays: bundled, from files, or downloaded once.

Only binary formats are read, nothing is unpickled, and every file is checked before it is used. Files are searched for
in the folder that the user names (`data_dir`, or the environment variable LRX_DATA_DIR), else in the user's cache,
which the first use fills by download.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lrx import _checks
from lrx.workloads._dataset import Dataset
from lrx.workloads.cifar10 import load_cifar10
from lrx.workloads.digits import load_digits
from lrx.workloads.mnist import load_mnist

DATASETS: dict[str, Callable[[str | os.PathLike[str] | None], Dataset]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
}


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    Args:
      name: a name in `DATASETS`, such as "digits", which is bundled with scikit-learn and needs no files; `lrx names`
        lists them.
      data_dir: folder that holds the data set's folder of official files, such as `mnist/*.gz`, or that folder itself.
        By default LRX_DATA_DIR, else the user's cache, which is filled by download.

    Returns:
      The `Dataset`.

    Raises:
      ValueError: if the name is unknown, or if a file is truncated or corrupted; names the file.
      FileNotFoundError: if a file is missing and cannot be downloaded; says what was tried and where to put it.

    Example:
      >>> from lrx.workloads.datasets import load
      >>> digits = load("digits")
      >>> digits.train_images.shape, digits.test_images.shape, digits.train_images.dtype
      ((1437, 8, 8, 1), (360, 8, 8, 1), dtype('uint8'))
    """
    _checks.known("name", name, DATASETS)
    return DATASETS[name](data_dir)
