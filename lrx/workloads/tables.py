"""Tables of features and targets: those that come with scikit-learn, and Friedman's generated one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrx import _checks
from lrx.workloads.supervised import Examples

SKLEARN = {"breast_cancer": np.int32, "diabetes": np.float32, "wine": np.int32}  # type of the targets


class Table(NamedTuple):
    """A table: rows of numbers and a target for each; every fifth row is a test row."""

    name: str
    train: Examples  # (n, features) float32, (n,) float32 or int32
    test: Examples


def load_table(name: str) -> Table:
    """Load a table that comes with scikit-learn, as it is.

    Args:
      name: "breast_cancer" (569 rows of 30 features, two classes), "diabetes" (442 rows of 10 features in the units in
        which they were measured, the target is the progression of the disease after a year, 25 to 346) or "wine" (178
        rows of 13 features, three classes; the rows are shuffled with a fixed seed, since they are sorted by class).

    Raises:
      ValueError: if the name is unknown.
      ImportError: if scikit-learn is not installed.

    Example:
      >>> from lrx.workloads.tables import load_table
      >>> table = load_table("wine")
      >>> table.train[0].shape, table.test[0].shape, sorted(set(table.train[1].tolist()))
      ((142, 13), (36, 13), [0, 1, 2])
    """
    _checks.known("name", name, SKLEARN)
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError('the tables come with scikit-learn: pip install "lrx[papers]".') from error
    bundle = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    order = np.random.default_rng(0).permutation(len(bundle.data)) if name == "wine" else np.arange(len(bundle.data))
    return _split(name, bundle.data[order], bundle.target[order].astype(SKLEARN[name]))


def make_friedman_table(*, num_rows: int = 2000, noise: float = 1.0, seed: int = 0) -> Table:
    """Generate y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 + noise, x ~ U(0, 1)^10.

    Args:
      num_rows: number of rows.
      noise: standard deviation of the normal noise, >= 0.
      seed: seed of the numbers.

    Source: J. H. Friedman, "Multivariate adaptive regression splines", Annals of Statistics 19, 1991, equation 61.
    """
    rng = np.random.default_rng(seed)
    x = rng.random((num_rows, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return _split("friedman", x, (y + noise * rng.normal(size=num_rows)).astype(np.float32))


def standardize(table: Table, *, targets: bool = False) -> Table:
    """Return a table with features of zero mean and unit variance on the training rows.

    Args:
      table: the table.
      targets: whether to do the same with the targets.
    """
    (x, y), (test_x, test_y) = table.train, table.test
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    middle, spread = (y.mean(dtype=np.float64), y.std(dtype=np.float64)) if targets else (0, 1)

    def scale(x: np.ndarray, y: np.ndarray) -> Examples:
        return ((x - mean) / deviation).astype(np.float32), ((y - middle) / spread).astype(y.dtype)

    return Table(table.name, scale(x, y), scale(test_x, test_y))


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Table:
    is_test = np.arange(len(x)) % 5 == 0
    x = x.astype(np.float32)
    return Table(name, (x[~is_test], y[~is_test]), (x[is_test], y[is_test]))
