"""The hyperparameters that a search goes through: a grid of values, or a random sample of ranges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import optax

from lrx import _checks


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of a hyperparameter, from which values are drawn.

    Attributes:
      low: the smallest value.
      high: the largest value.
      log: whether the logarithm is drawn uniformly, and not the value.
    """

    low: float
    high: float
    log: bool

    def at(self, place: Any) -> Any:
        """Give the value at a place from 0, for `low`, to 1, for `high`."""
        if self.log:
            return np.exp(math.log(self.low) + (math.log(self.high) - math.log(self.low)) * place)
        return self.low + (self.high - self.low) * place


def uniform(low: float, high: float) -> Range:
    """Draw values between two bounds, all alike.

    Raises:
      ValueError: if a bound is not finite, or `high` is not above `low`.

    Example:
      >>> from lrx.tuning import uniform
      >>> uniform(0.8, 0.99)
      Range(low=0.8, high=0.99, log=False)
    """
    for name, value in (("low", low), ("high", high)):
        _checks.finite(name, value)
    _checks.above("high", high, low)
    return Range(float(low), float(high), log=False)


def log_uniform(low: float, high: float) -> Range:
    """Draw values between two bounds, each factor alike: what a learning rate wants.

    Raises:
      ValueError: if a bound is not finite, `low` is not positive, or `high` is not above `low`.

    Example:
      >>> from lrx.tuning import log_uniform
      >>> log_uniform(1e-5, 1.0)
      Range(low=1e-05, high=1.0, log=True)
    """
    _checks.positive("low", low, "its logarithm is taken")
    _checks.finite("high", high)
    _checks.above("high", high, low)
    return Range(float(low), float(high), log=True)


@dataclasses.dataclass(frozen=True)
class Space:
    """The members of a search: their hyperparameters, and how they are arranged."""

    axes: dict[str, np.ndarray]  # hyperparameter to its values: along its own axis of a grid, or one for each sample
    shape: tuple[int, ...]  # of the members
    members: dict[str, np.ndarray]  # hyperparameter to its value for each member, flat

    @property
    def first(self) -> dict[str, float]:
        """The hyperparameters of the first member."""
        return {name: float(values[0]) for name, values in self.members.items()}

    @property
    def size(self) -> int:
        """How many members there are."""
        return math.prod(self.shape)


def make_space(grid: Any, sample: Any, num_samples: Any, seed: int) -> Space:
    """Arrange the members of a search.

    Raises:
      ValueError: if not exactly one of `grid` and `sample` is given, or one is empty or not of finite numbers.
      TypeError: if one is of another kind.
    """
    if (grid is None) == (sample is None):
        raise ValueError(
            'exactly one of grid and sample must be given: grid={"lr": [0.01, 0.1]}, or '
            'sample={"lr": lrx.tuning.log_uniform(1e-4, 1.0)} with num_samples.'
        )
    name, given = ("grid", grid) if sample is None else ("sample", sample)
    if not isinstance(given, Mapping) or not given or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{name} must be a dict from names of hyperparameters, got {name}={given!r}.")
    if sample is None:
        if num_samples is not None:
            raise ValueError(f"num_samples belongs to sample, got num_samples={num_samples} with a grid: leave it out.")
        axes = {key: _axis(f"grid[{key!r}]", values) for key, values in given.items()}
        mesh = np.meshgrid(*axes.values(), indexing="ij")
        return Space(axes, mesh[0].shape, {key: x.ravel() for key, x in zip(axes, mesh, strict=True)})
    for key, interval in given.items():
        if not isinstance(interval, Range):
            raise TypeError(
                f"sample[{key!r}] must be a range, got {interval!r}: give lrx.tuning.log_uniform(1e-4, 1.0) or "
                "lrx.tuning.uniform(0.0, 1.0)."
            )
    if num_samples is None:
        raise ValueError("num_samples must be given with sample: how many members are drawn.")
    _checks.steps("num_samples", num_samples, unit="members")
    places = np.random.default_rng(seed).random((len(given), num_samples))
    drawn = {key: given[key].at(place) for key, place in zip(given, places, strict=True)}
    return Space(drawn, (num_samples,), drawn)


def _axis(name: str, values: Any) -> np.ndarray:
    try:
        axis = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a list of numbers, got {values!r}.") from None
    if axis.ndim != 1 or not len(axis) or not np.all(np.isfinite(axis)):
        raise ValueError(f"{name} must be a list of at least one finite number, got {values!r}.")
    return axis


def try_out(tx: Callable[..., Any], space: Space) -> None:
    """Make the transformation for every value of every hyperparameter, so that a wrong one is refused now.

    Raises:
      TypeError: if `tx` does not take the names, or gives no transformation.
      ValueError: if it refuses a value.
    """
    if not callable(tx):
        raise TypeError(f"tx must be a function of {', '.join(space.axes)}, got tx={tx!r}.")
    for name, values in space.axes.items():
        for value in np.unique(values):
            arguments = space.first | {name: float(value)}
            try:
                _checks.transformation(tx(**arguments))
            except TypeError as error:
                shown = ", ".join(f"{key}={number:g}" for key, number in arguments.items())
                raise TypeError(
                    f"tx must be a function of {', '.join(space.axes)}, but tx({shown}) failed: {error}"
                ) from error


def try_out_rates(tx: Callable[[Any], Any], rates: Iterable[float]) -> None:
    """Make the transformation at a few rates.

    Raises:
      TypeError: if `tx` is not a function of a rate, or gives no transformation.
    """
    if not callable(tx) or isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be a function of a rate, got tx={tx!r}: give lrx.adam, without its argument.")
    for rate in rates:
        _checks.transformation(tx(float(rate)))
