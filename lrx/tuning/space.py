"""The hyperparameters that a search tries: a grid of values, or a random sample of ranges."""

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
    """An interval from which values of a hyperparameter are drawn.

    Attributes:
      low: the smallest value.
      high: the largest value.
      log: whether the logarithm is uniform, and not the value.
    """

    low: float
    high: float
    log: bool

    def at(self, place: Any) -> Any:
        """Return the value at a place from 0, for `low`, to 1, for `high`."""
        if self.log:
            return np.exp(math.log(self.low) + (math.log(self.high) - math.log(self.low)) * place)
        return self.low + (self.high - self.low) * place


def uniform(low: float, high: float) -> Range:
    """Build a range whose values are uniform between two bounds.

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
    """Build a range whose logarithms are uniform between two bounds, as is usual for a learning rate.

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
class Random:
    """A random sample of hyperparameters: the space of a `sweep` or a search in place of a grid.

    Attributes:
      ranges: hyperparameter to a range, `lrx.tuning.log_uniform(1e-4, 1.0)` or `lrx.tuning.uniform(0.0, 1.0)`.
      num_samples: number of members drawn; equal seeds draw the same ones.

    Raises:
      ValueError: if `num_samples` is not a whole number of members >= 1.
      TypeError: if `ranges` is not a dict of ranges.

    Example:
      >>> from lrx.tuning import Random, log_uniform
      >>> space = Random({"lr": log_uniform(1e-4, 1.0)}, num_samples=27)
    """

    ranges: Mapping[str, Range]
    num_samples: int

    def __post_init__(self) -> None:
        _require_names("ranges", self.ranges)
        for key, interval in self.ranges.items():
            if not isinstance(interval, Range):
                raise TypeError(
                    f"ranges[{key!r}] must be a range, got {interval!r}: give lrx.tuning.log_uniform(1e-4, 1.0) or "
                    "lrx.tuning.uniform(0.0, 1.0)."
                )
        _checks.steps("num_samples", self.num_samples, unit="members")


def _require_names(name: str, given: Any) -> None:
    if not isinstance(given, Mapping) or not given or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{name} must be a dict from names of hyperparameters, got {name}={given!r}.")


@dataclasses.dataclass(frozen=True)
class Space:
    """The members of a search: their hyperparameters, and how they are arranged."""

    axes: dict[str, np.ndarray]  # hyperparameter to its values: along its own axis of a grid, or one for each sample
    shape: tuple[int, ...]  # of the members
    members: dict[str, np.ndarray]  # hyperparameter to its value for each member, flat
    is_grid: bool

    @property
    def first(self) -> dict[str, float]:
        """The hyperparameters of the first member."""
        return {name: float(values[0]) for name, values in self.members.items()}

    @property
    def size(self) -> int:
        """The number of members."""
        return math.prod(self.shape)


def make_space(space: Any, seed: int) -> Space:
    """Arrange the members of a search.

    Args:
      space: a dict from hyperparameters to lists of values, which is a grid, or a `Random`.
      seed: seed of the random sample.

    Raises:
      ValueError: if a list of values is empty or not of finite numbers.
      TypeError: if `space` is of the wrong type.
    """
    if isinstance(space, Random):
        places = np.random.default_rng(seed).random((len(space.ranges), space.num_samples))
        drawn = {key: interval.at(place) for (key, interval), place in zip(space.ranges.items(), places, strict=True)}
        return Space(drawn, (space.num_samples,), drawn, False)
    if isinstance(space, Mapping) and any(isinstance(values, Range) for values in space.values()):
        raise TypeError(
            "space must be a dict of lists, got ranges, of which a number of samples is drawn: give "
            "lrx.tuning.Random(space, num_samples=27)."
        )
    _require_names("space", space)
    axes = {key: _axis(f"space[{key!r}]", values) for key, values in space.items()}
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return Space(axes, mesh[0].shape, {key: x.ravel() for key, x in zip(axes, mesh, strict=True)}, True)


def _axis(name: str, values: Any) -> np.ndarray:
    try:
        axis = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a list of numbers, got {values!r}.") from None
    if axis.ndim != 1 or not len(axis) or not np.all(np.isfinite(axis)):
        raise ValueError(f"{name} must be a list of at least one finite number, got {values!r}.")
    return axis


def try_out(tx: Callable[..., Any], space: Space) -> None:
    """Build the transformation for every value of every hyperparameter, so that a wrong one is refused now.

    Raises:
      TypeError: if `tx` does not take the names, or does not return a transformation.
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
    """Build the transformation at a few rates, so that a wrong `tx` is refused now.

    Raises:
      TypeError: if `tx` is not a function of a rate, or does not return a transformation.
    """
    if not callable(tx) or isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be a function of a rate, got tx={tx!r}: give lrx.adam, without its argument.")
    for rate in rates:
        _checks.transformation(tx(float(rate)))


@dataclasses.dataclass(frozen=True)
class FromHyperparameters:
    """The factory of runs from hyperparameters by name; equal for equal functions, so that it compiles once."""

    tx: Callable[..., optax.GradientTransformation]

    def __call__(self, hyper: Mapping[str, Any], count: Any) -> optax.GradientTransformation:
        del count
        return self.tx(**hyper)


@dataclasses.dataclass(frozen=True)
class FromRate:
    """The factory of runs from the hyperparameter "rate"; equal for equal functions, so that it compiles once."""

    tx: Callable[[Any], optax.GradientTransformation]

    def __call__(self, hyper: Mapping[str, Any], count: Any) -> optax.GradientTransformation:
        del count
        return self.tx(hyper["rate"])
