"""Exact arithmetic on integer step counts, used by every schedule.

In float32, schedules are right to 1e-6 relative at every step up to 2^31 - 1. Four habits make that possible. Time is
counted in int32 and converted to a fraction once. The remaining steps are counted as well as the completed ones, so
nothing cancels near an end. Powers of a known base come from a table in float64. And if steps are multiplied by a
number that is not whole, the product is computed digit by digit in integers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike


def as_steps(steps: ArrayLike) -> jax.Array:
    """Convert a duration to int32. A duration that is not traced has been checked to be a whole number."""
    return jnp.asarray(int(steps) if _checks.is_concrete(steps) and jnp.ndim(steps) == 0 else steps).astype(jnp.int32)


def sum_of_steps(first: ArrayLike, second: ArrayLike) -> jax.Array:
    """Add two durations; the sum is at most 2^31 - 1."""
    a, b = as_steps(first), as_steps(second)
    return jnp.minimum(a, _checks.INT32_MAX - b) + b


def time_fractions(count: jax.Array, steps: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the fractions t/T and 1 - t/T, each right to rounding, both within [0, 1]."""
    total = as_steps(steps)
    passed = jnp.clip(count, 0, total)
    # A traced T of 0 is over at once; the maximum avoids 0/0.
    length = jnp.maximum(total, 1).astype(jnp.float32)
    left = jnp.where(total > 0, (total - passed).astype(jnp.float32) / length, 0.0)
    return jnp.where(total > 0, passed.astype(jnp.float32) / length, 1.0), left


def power(base: ArrayLike, exponent: jax.Array) -> jax.Array:
    """Return base^exponent for 0 <= base and a whole exponent >= 0, right to 5e-6 relative.

    A known base is raised bit by bit from float64 powers base^(2^j): in float32, rounding the base alone would cost a
    relative error of exponent * 3e-8.
    """
    if not _checks.is_concrete(base) or jnp.ndim(base) != 0:
        return jnp.power(jnp.asarray(base, jnp.float32), exponent.astype(jnp.float32))
    result = jnp.ones(jnp.shape(exponent), jnp.float32)
    factor = float(base)
    for bit in range(31):
        if factor == 1.0:
            break
        # Beyond the range of float32 the product is 0 (or infinite), whatever the other bits are.
        rounded = factor if factor > 1e-37 else 0.0
        rounded = rounded if rounded < 3e38 else math.inf
        result = jnp.where((exponent >> bit) & 1 == 1, result * jnp.float32(rounded), result)
        factor = factor * factor if factor < 1e150 else math.inf
    return result


def segment_of(count: jax.Array, begins: ArrayLike) -> jax.Array:
    """Return for each count how many of the sorted steps `begins`, (n,) int32, are not later."""
    # A single count, as in training, is compared with all steps at once; many counts are found by binary search.
    method = "compare_all" if jnp.ndim(count) == 0 or jnp.shape(begins)[0] <= 16 else "scan"
    return jnp.searchsorted(jnp.asarray(begins), count, side="right", method=method).astype(jnp.int32)


def steps_table(steps: Sequence[ArrayLike]) -> ArrayLike:
    """Return steps as one array, (n,) int32; if all are known it is a constant, which compiles fast."""
    if all(_checks.is_concrete(step) for step in steps):
        return np.array([int(step) for step in steps], np.int32)
    return jnp.stack([as_steps(step) for step in steps])


# Numbers >= 0 in base 2^16, least digit first, as uint32 so that two digits multiply without loss. FRACTION of the
# digits stand behind the point.
Digits: TypeAlias = Sequence[jax.Array]
FRACTION = 4
_BASE = 2**16


def digits_of(value: ArrayLike) -> Digits:
    """Return the digits of a number >= 0, down to 2^-64. Numbers above 2^47, which no count reaches, are cut to it."""
    places = range(-FRACTION, 3)
    if _checks.is_concrete(value):
        scaled = int(min(float(value), 2.0**47) * 2.0 ** (16 * FRACTION))  # a float64 times a power of two is exact
        return [jnp.uint32(scaled >> 16 * (place + FRACTION) & (_BASE - 1)) for place in places]
    if jnp.issubdtype(jnp.result_type(value), jnp.integer):
        whole, zero = jnp.asarray(value).astype(jnp.uint32), jnp.zeros(jnp.shape(value), jnp.uint32)
        return [*[zero] * FRACTION, whole & (_BASE - 1), whole >> 16, zero]
    rest, digits = jnp.minimum(jnp.asarray(value, jnp.float32), 2.0**47), list[jax.Array]()
    for place in reversed(places):  # all of these are exact in floating point
        digit = jnp.floor(rest * 2.0 ** (-16 * place))
        rest = rest - digit * 2.0 ** (16 * place)
        digits.insert(0, digit.astype(jnp.uint32))
    return digits


def multiply(left: Digits, right: Digits) -> Digits:
    """Return the product, cut off after the last digit behind the radix point. Its whole part must be below 2^96."""
    columns = [jnp.uint32(0)] * (len(left) + len(right))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product = a * b
            columns[i + j] = columns[i + j] + (product & (_BASE - 1))
            columns[i + j + 1] = columns[i + j + 1] + (product >> 16)
    carry, digits = jnp.uint32(0), []
    for column in columns:
        total = column + carry
        digits.append(total & (_BASE - 1))
        carry = total >> 16
    return digits[FRACTION : 2 * FRACTION + 6]


def whole_and_fraction(digits: Digits) -> tuple[jax.Array, jax.Array]:
    """Return the whole part, at most 2^31 - 1, as int32, and the rest as float32."""
    fraction = jnp.float32(0)
    for digit in digits[:FRACTION]:
        fraction = (fraction + digit.astype(jnp.float32)) / _BASE
    low, high, *beyond = digits[FRACTION:]
    whole = low | (high << 16)
    too_large = (whole > _checks.INT32_MAX) | (sum(beyond, jnp.uint32(0)) > 0)
    return jnp.where(too_large, _checks.INT32_MAX, whole).astype(jnp.int32), fraction


def nearest_whole(digits: Digits) -> tuple[jax.Array, jax.Array]:
    """Round to the nearest whole number, halves to even: as uint32, and as float32.

    The uint32 is 2^32 - 1 if the number is larger.
    """
    *lower, first = digits[:FRACTION]
    above_half = (first > _BASE // 2) | ((first == _BASE // 2) & (sum(lower, jnp.uint32(0)) > 0))
    is_half = (first == _BASE // 2) & ~above_half
    low, high, *beyond = digits[FRACTION:]
    whole = low | (high << 16)
    up = (above_half | (is_half & (whole % 2 == 1))) & (whole < jnp.uint32(2**32 - 1))
    whole = whole + up.astype(jnp.uint32)
    size = whole.astype(jnp.float32)
    for place, digit in enumerate(beyond, 2):
        size = size + digit.astype(jnp.float32) * 2.0 ** (16 * place)
    return jnp.where(sum(beyond, jnp.uint32(0)) > 0, jnp.uint32(2**32 - 1), whole), size


@functools.lru_cache(maxsize=32)
def growing_periods(first_length: int, growth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where periods of round(P m^i) steps begin, up to 2^31 - 1, as a table of runs of equal periods.

    Returns:
      The first step of each run, the length of its periods, and the index of its first period, all int64. There are at
      most 65,536 runs, because so many different whole numbers add up to 2^31.
    """
    if growth == 1.0:
        return np.zeros(1, np.int64), np.full(1, first_length), np.zeros(1, np.int64)

    def length_of(index: int) -> int:
        # A period of 2^60 steps is the last one, whatever its length.
        exponent = index * math.log2(growth) + math.log2(first_length)
        return 2**60 if exponent >= 60 else round(first_length * growth**index)

    begins, lengths, indices = [0], [first_length], [0]
    while True:
        index, length, begin = indices[-1], lengths[-1], begins[-1]
        if length > _checks.INT32_MAX:
            return np.array(begins), np.array(lengths), np.array(indices)
        # Find the first longer period by doubling the step, then by bisection.
        step = 1
        while length_of(index + step) == length:
            step *= 2
        low, high = index + step // 2, index + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if length_of(middle) == length else (low, middle)
        begin += (high - index) * length
        if begin > _checks.INT32_MAX:
            return np.array(begins), np.array(lengths), np.array(indices)
        begins.append(begin)
        lengths.append(length_of(high))
        indices.append(high)


def period_at(
    count: jax.Array, period_steps: ArrayLike, period_mult: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the index of the period of round(P m^i) steps around a count, and its fractions passed and left."""
    if _checks.is_concrete(period_steps) and _checks.is_concrete(period_mult):
        begins, lengths, indices = growing_periods(int(period_steps), float(period_mult))
        run = jnp.zeros_like(count) if len(begins) == 1 else segment_of(count, begins.astype(np.int32)) - 1
        index, begin = jnp.asarray(indices.astype(np.int32))[run], jnp.asarray(begins.astype(np.int32))[run]
        length = jnp.asarray(np.minimum(lengths, 2**32 - 1).astype(np.uint32))[run]
        size = jnp.asarray(lengths.astype(np.float32))[run]
    else:
        index, begin, length, size = _period_by_search(count, period_steps, period_mult)
    since = (count - begin).astype(jnp.uint32)
    index, passed = index + (since // length).astype(jnp.int32), since % length
    elapsed = passed.astype(jnp.float32) / size
    # The last period may end beyond 2^32, where nothing can cancel.
    return index, elapsed, jnp.where(size < 2.0**32, (length - passed).astype(jnp.float32) / size, 1.0 - elapsed)


def _period_by_search(
    count: jax.Array, period_steps: ArrayLike, period_mult: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Step through the periods up to the latest count, and keep for every count the last period that it has reached."""
    growth, last = digits_of(period_mult), jnp.max(count, initial=0)
    grows = jnp.asarray(period_mult, jnp.float32) > 1
    first = jnp.maximum(as_steps(period_steps), 1)
    exact = [*digits_of(first), *[jnp.uint32(0)] * 3]

    def more(carry: Any) -> jax.Array:
        (_, begin, length, _), _, _ = carry
        # Periods of equal length are counted by a division instead.
        return grows & ((last - begin).astype(jnp.uint32) >= length)

    def advance(carry: Any) -> Any:
        (index, begin, length, _), exact, reached = carry
        exact = multiply(exact, growth)
        current = (index + 1, begin + length.astype(jnp.int32), *nearest_whole(exact))
        here = count >= current[1]
        return current, exact, tuple(jnp.where(here, new, old) for new, old in zip(current, reached, strict=True))

    start = (jnp.int32(0), jnp.int32(0), first.astype(jnp.uint32), first.astype(jnp.float32))
    reached = tuple(jnp.broadcast_to(value, jnp.shape(count)) for value in start)
    _, _, (index, begin, length, size) = jax.lax.while_loop(more, advance, (start, exact, reached))
    return index, begin, length, size
