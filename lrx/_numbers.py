"""Recognise numbers, steps and functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._leaves import at_least_float32

ArrayLike: TypeAlias = float | jax.Array | np.ndarray | np.number


def is_number(value: Any) -> bool:
    """Return whether a value is a number or an array of numbers; bools do not count."""
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | float | np.number | np.ndarray | jax.Array)


def as_count(count: ArrayLike | Sequence[Any]) -> jax.Array:
    """Convert step counts of any integer type to int32, clipped to 0 to 2^31 - 1.

    Counts below 0 are taken as 0, because `optax.join_schedules` asks each of its schedules at every step, counted from
    the schedule's own beginning.

    Raises:
      TypeError: for a count that is not an integer.
    """
    counts: Any = count
    if isinstance(count, list | tuple | range):
        try:
            counts = np.asarray(count)
        except ValueError:  # rows of several lengths
            counts = None
        if np.size(counts) == 0:
            counts = counts.astype(np.int32)  # of no steps NumPy makes no integers
    if not is_number(counts) or not _holds_integers(counts):
        raise TypeError(
            f"count must be an integer or an array of integers, got count={count!r}: steps are counted, so take "
            "jnp.arange(n) for a curve and int(step) for a step in a float."
        )
    if isinstance(counts, jax.Array):
        if jnp.iinfo(counts.dtype).max > _checks.INT32_MAX:
            counts = jnp.minimum(counts, jnp.asarray(_checks.INT32_MAX, counts.dtype))
        return jnp.maximum(counts.astype(jnp.int32), 0)
    known = np.maximum(np.asarray(counts), 0)
    # The limit does not fit into the narrow types, nor a longer Python integer into NumPy's.
    known = known if known.dtype == object else known.astype(np.uint64)
    return jnp.asarray(np.asarray(np.minimum(known, _checks.INT32_MAX)).astype(np.int32))


def _holds_integers(numbers: Any) -> bool:
    """Return whether there are integers only."""
    if isinstance(numbers, np.ndarray) and numbers.dtype == object:
        return all(isinstance(number, int) and not isinstance(number, bool) for number in numbers.flat)
    return isinstance(numbers, int) or (hasattr(numbers, "dtype") and jnp.issubdtype(numbers.dtype, jnp.integer))


def vectorize(function: Any) -> Callable[[jax.Array], jax.Array]:
    """Check that a user's function takes a step to a rate, and vectorize it over arrays of steps."""
    try:
        result = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.int32))
        number = result.shape == () and jnp.issubdtype(at_least_float32(result.dtype), jnp.floating)
    except Exception as error:
        raise TypeError(
            f"function must take a step, () int32, to a rate with JAX operations only, got function={function!r}, "
            f"which raises {type(error).__name__}: call a factory, lrx.cosine_decay(0.1, 1000), for a schedule; write "
            "jnp.where in place of if."
        ) from error
    if not number:
        raise TypeError(
            f"function must take a step, () int32, to one real number, got function={function!r}, which gives "
            f"{result}: sum or select what it returns."
        )
    return jnp.vectorize(function)
