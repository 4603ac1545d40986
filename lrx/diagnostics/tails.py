"""How a schedule falls in the long run: exactly for the library's families, by a fit for other functions.

A tail is the order of the rate as the step t goes to infinity. The families are of the order of

    0           from some step on
    r^t         with r < 1: also the amplitude of a cycle that shrinks by a factor in each period
    t^-p        p = 0 for what stays between two positive bounds, on average over a cycle

A product of tails has the product of the orders, a warm-up or a join that of its last part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lrx import _checks
from lrx.arguments import as_schedule
from lrx.rates import Schedule, _divide, _multiply

SAME = 1e-9  # powers that differ by less are one: of decimal fractions that no float is
OCTAVES = range(20, 31)  # of the fit: t from 2^20 to 2^31
SAMPLES = 2048  # of each octave
SEED = 0  # of the places of the samples, which are random so that no cycle hides between them


class Tail(NamedTuple):
    """The order of a rate in the long run."""

    kind: str  # "zero", "geometric" or "power"
    power: float  # p of t^-p; infinite unless the kind is "power"
    reason: str
    zeros: float = 0.0  # share of the steps at which a cycle is exactly 0


ZERO = Tail("zero", math.inf, "")
GEOMETRIC = Tail("geometric", math.inf, "")


def tail_of(schedule: Schedule) -> Tail | None:
    """Return the tail of a schedule of the library's families; None if it is not known.

    Raises:
      TypeError: if an argument of the schedule is traced.
    """
    if schedule.factory is None:
        return None
    if schedule.is_traced:
        raise TypeError(
            f"schedule must have concrete arguments, got the traced {schedule!r}: ask outside of the compiled function."
        )
    rule = _RULES.get(schedule.family)
    known = rule is not None and (schedule.factory in (_multiply, _divide) or _is_own(schedule))
    return rule(schedule, schedule.arguments) if rule is not None and known else None


def _is_own(schedule: Schedule) -> bool:
    return str(getattr(schedule.factory, "__module__", "")).startswith(("lrx.schedules.", "lrx.rates"))


def _constant(value: float, what: str) -> Tail:
    return Tail("power", 0.0, f"{what} {value:g}") if value > 0 else ZERO._replace(reason=f"{what} 0")


def _number(value: Any) -> float:
    return float(np.asarray(value))


def _of_constant(schedule: Schedule, given: Any) -> Tail:
    del schedule
    return _constant(_number(given["value"]), "it stays at")


def _of_end(schedule: Schedule, given: Any) -> Tail:
    """Return the tail of a schedule that holds its last value."""
    del given
    return _constant(float(schedule(_checks.INT32_MAX)), f"{schedule.family} ends at")


def _of_geometric(schedule: Schedule, given: Any, ratio: str) -> Tail:
    first, end = _number(given["init_value"]), _number(given.get("end_value", 0.0))
    if first == 0:
        return _constant(0.0, "it stays at")
    if _number(given[ratio]) == 1:
        return _constant(first, "it stays at")
    if end > 0:
        return _constant(end, f"{schedule.family} does not fall below")
    return GEOMETRIC._replace(reason=f"{schedule.family} falls geometrically")


def _of_exponential(schedule: Schedule, given: Any) -> Tail:
    return _of_geometric(schedule, given, "decay_rate")


def _of_steps(schedule: Schedule, given: Any) -> Tail:
    return _of_geometric(schedule, given, "factor")


def _of_inverse_time(schedule: Schedule, given: Any) -> Tail:
    del schedule
    first, power = _number(given["init_value"]), _number(given["power"])
    if first == 0 or _number(given["decay_rate"]) == 0:
        return _constant(first, "it stays at")
    return Tail("power", power, f"inverse_time_decay falls as t^-{power:g}")


def _of_inverse_sqrt(schedule: Schedule, given: Any) -> Tail:
    del schedule
    if _number(given["peak_value"]) == 0:
        return _constant(0.0, "it stays at")
    return Tail("power", 0.5, "inverse_sqrt_decay falls as t^-0.5")


def _of_restarts(schedule: Schedule, given: Any) -> Tail:
    del schedule
    first, end = _number(given["init_value"]), _number(given["end_value"])
    length, longer, lower = (_number(given[name]) for name in ("period_steps", "period_mult", "restart_mult"))
    if first == 0 and (end == 0 or (length == 1 and longer == 1)):
        return _constant(0.0, "it stays at")
    if end > 0:
        zeros = 1 / length if first == 0 and longer == 1 else 0.0
        return Tail("power", 0.0, f"cosine_restarts returns to {max(first, end):g} or stays above 0", zeros)
    if lower == 1:
        return Tail("power", 0.0, f"cosine_restarts returns to {first:g} in each period")
    if longer == 1:
        return GEOMETRIC._replace(reason="the peaks of cosine_restarts fall geometrically")
    power = -math.log(lower) / math.log(longer)  # period i begins at about m^i, with a peak of k^i
    return Tail("power", power, f"the peaks of cosine_restarts fall as t^-{power:.4g}")


def _of_cycles(schedule: Schedule, given: Any) -> Tail:
    del schedule
    low, high = _number(given["min_value"]), _number(given["max_value"])
    if high == 0:
        return _constant(0.0, "it stays at")
    if low > 0:
        return _constant(low, "cyclical does not fall below")
    shrinks = given["mode"] == "triangular2" or (given["mode"] == "exp_range" and _number(given["decay_rate"]) < 1)
    if shrinks:
        return GEOMETRIC._replace(reason="the peaks of cyclical fall geometrically")
    up = _number(given["half_period_steps"])
    down = up if given["down_steps"] is None else _number(given["down_steps"])
    return Tail("power", 0.0, f"cyclical returns to {high:g} in each cycle", 1 / (up + down))


def _of_warmup(schedule: Schedule, given: Any) -> Tail | None:
    del schedule
    return tail_of(as_schedule(given["schedule"], name="schedule"))


def _of_join(schedule: Schedule, given: Any) -> Tail | None:
    del schedule
    return tail_of(as_schedule(given["schedules"][-1], name="schedule"))


def _of_product(schedule: Schedule, given: Any) -> Tail | None:
    del schedule
    left, right = (tail_of(given[side]) for side in ("left", "right"))
    if left is None or right is None:
        return None
    for kind in ("zero", "geometric"):
        for part in (left, right):
            if part.kind == kind:
                return part
    zeros = left.zeros + right.zeros
    if zeros >= 1:  # two cycles may be 0 in turn, so that their product always is
        return None
    if right.power == 0:
        return left._replace(zeros=zeros) if left.power or right.zeros == 0 else right._replace(zeros=zeros)
    if left.power == 0:
        return right._replace(zeros=zeros)
    power = left.power + right.power
    return Tail("power", power, f"{left.reason} and {right.reason}, together as t^-{power:g}", zeros)


def _of_quotient(schedule: Schedule, given: Any) -> Tail | None:
    del schedule
    return tail_of(given["left"])


_ENDS = (
    "cosine_decay",
    "interpolate",
    "linear_decay",
    "one_cycle",
    "one_cycle_momentum",
    "piecewise_constant",
    "polynomial_decay",
    "refined",
    "tabulated",
    "warmup_cosine_decay",
    "warmup_linear_decay",
    "warmup_stable_decay",
)
_RULES: dict[str, Callable[[Schedule, Any], Tail | None]] = {
    **dict.fromkeys(_ENDS, _of_end),
    "constant": _of_constant,
    "cosine_restarts": _of_restarts,
    "cyclical": _of_cycles,
    "exponential_decay": _of_exponential,
    "inverse_sqrt_decay": _of_inverse_sqrt,
    "inverse_time_decay": _of_inverse_time,
    "join": _of_join,
    "step_decay": _of_steps,
    "warmup": _of_warmup,
    _multiply.__name__: _of_product,
    _divide.__name__: _of_quotient,
}


def fitted_powers(schedule: Schedule) -> tuple[float, float]:
    """Return the powers p and q by which a rate and its square fall, as t^-p and t^-q, from a fit over octaves.

    The logarithm of the mean over [2^k, 2^(k+1)), at 2048 random steps, is fitted by a line for k from 20 to 30.
    Infinite if the rate is 0 in the last octave.

    Raises:
      ValueError: if a rate is negative or not finite.
    """
    rng = np.random.default_rng(SEED)
    steps = np.concatenate([rng.integers(2**k, 2 ** (k + 1), SAMPLES) for k in OCTAVES])
    rates = np.asarray(schedule(steps.astype(np.int32)), np.float64)
    wrong = ~((rates >= 0) & np.isfinite(rates))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(
            f"schedule must have finite rates >= 0, got {rates[place]} at step {steps[place]:,}: a rate is a step size."
        )
    means, squares = (each.reshape(len(OCTAVES), SAMPLES).mean(axis=1) for each in (rates, rates**2))
    return _slope(means), _slope(squares)


def _slope(means: np.ndarray) -> float:
    if means[-1] == 0:
        return math.inf
    known = means > 0
    return -float(np.polyfit(np.array(OCTAVES)[known], np.log2(means[known]), 1)[0])
