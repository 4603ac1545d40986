"""The conditions of Robbins and Monro: rates whose sum diverges and whose squares have a finite sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.arguments import as_schedule
from lrx.diagnostics.tails import SAME, fitted_powers, tail_of
from lrx.figures import BLUE, VERMILION, panels
from lrx.rates import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A fitted power decides if it is clear of 1: 1 / t has 1, 1 / (t log t) has 1.06, and 1 / (t log(t)^2) has 1.11.
DIVERGES, CONVERGES = 1.01, 1.2


@dataclasses.dataclass(frozen=True, eq=False)
class RobbinsMonro:
    """Whether a schedule satisfies the conditions, and why.

    Attributes:
      sum_diverges: whether the sum of the rates is infinite; None if a numerical test cannot decide.
      squares_converge: whether the sum of the squared rates is finite; likewise.
      exact: whether this follows from the formulas of the library's families; otherwise a numerical test decided.
      reason: what decided, in words.
      schedule: the schedule.
    """

    sum_diverges: bool | None
    squares_converge: bool | None
    exact: bool
    reason: str
    schedule: Schedule

    @property
    def satisfied(self) -> bool | None:
        """True if both conditions hold, False if one does not, None if that is not decided."""
        answers = (self.sum_diverges, self.squares_converge)
        return False if False in answers else None if None in answers else True

    def __repr__(self) -> str:
        verdict = {True: "satisfied", False: "not satisfied", None: "not decided"}[self.satisfied]
        verbs = {True: "diverges", False: "converges", None: "is not decided"}
        converges = None if self.squares_converge is None else not self.squares_converge
        sums = f"the sum of the rates {verbs[self.sum_diverges]}, that of their squares {verbs[converges]}"
        return f"RobbinsMonro({verdict}: {sums}, because {self.reason})"

    def plot(self, *, num_steps: int = 100_000) -> Figure:
        """Draw the sums of the rates and of their squares over the steps; needs matplotlib.

        Args:
          num_steps: number of steps, >= 2.

        Raises:
          ValueError: if `num_steps` is not a whole number >= 2.
          ImportError: if matplotlib is not installed.
        """
        _checks.steps("num_steps", num_steps, at_least=2)
        rates = np.asarray(self.schedule(np.arange(num_steps)), np.float64)
        figure, axes = panels(2, sharex=True)
        shown = np.unique(np.geomspace(1, num_steps, 600).astype(int)) - 1
        names = (("sum of the rates", BLUE, rates), ("sum of their squares", VERMILION, rates**2))
        for axis, (name, color, terms) in zip(axes, names, strict=True):
            axis.plot(shown + 1, np.cumsum(terms)[shown], color=color, lw=1.8)
            axis.set(xscale="log", xlabel="steps", ylabel=name)
            axis.set_ylim(bottom=0)
        words = {True: "diverges", False: "converges", None: "not decided"}
        axes[0].set_title(words[self.sum_diverges], loc="left", fontsize=10)
        converges = None if self.squares_converge is None else not self.squares_converge
        axes[1].set_title(words[converges], loc="left", fontsize=10)
        return figure


def robbins_monro(schedule: Schedule | ArrayLike | Callable[[jax.Array], Any]) -> RobbinsMonro:
    """Decide whether a schedule satisfies the conditions under which stochastic approximation converges.

    With rates a_t the conditions are `sum_t a_t = infinity`, so that every distance can be covered, and
    `sum_t a_t^2 < infinity`, so that the noise averages out. A rate that falls as t^-p satisfies both for p in
    (1/2, 1]. Most schedules of deep learning do not: they end, or stay above 0.

    For the library's families, their products, warm-ups and joins this follows from their formulas, taken as functions
    of an unbounded step. For any other function of the step it is a numerical test: the means of a_t and of a_t^2 over
    the octaves from 2^20 to 2^31 are fitted by powers t^-p and t^-q. The sum diverges if its power is at most 1.01, and
    converges if it is at least 1.2; in between, where logarithms decide, the answer is None.

    Args:
      schedule: a `Schedule`, a number, or a function of the step.

    Returns:
      A `RobbinsMonro`: `satisfied`, both sums, and the reason.

    Raises:
      TypeError: if it is a rate that follows feedback, or its arguments are traced.
      ValueError: if a function returns a negative rate, or one that is not finite.

    Source: H. Robbins, S. Monro, "A Stochastic Approximation Method", Ann. Math. Stat. 22(3), 1951, conditions (6) and
    (27).

    Example:
      >>> import lrx
      >>> print(lrx.robbins_monro(lrx.inverse_time_decay(0.1, 0.01, power=0.75)).satisfied)
      True
      >>> print(lrx.robbins_monro(lrx.cosine_decay(0.1, 1000)).reason)
      cosine_decay ends at 0
      >>> lrx.robbins_monro(lrx.step_decay(0.1, 9))
      RobbinsMonro(not satisfied: the sum of the rates converges, that of their squares converges, because step_decay
      falls geometrically)
    """
    made = as_schedule(schedule, name="schedule")
    tail = tail_of(made)
    if tail is not None:
        return RobbinsMonro(tail.power <= 1 + SAME, 2 * tail.power > 1 + SAME, True, tail.reason, made)
    power, square = fitted_powers(made)
    if math.isinf(power):
        reason = "it is 0 at steps from 2^30 on, by a numerical test"
    else:
        reason = f"it falls as t^-{power:.3f} between 2^20 and 2^31 steps, by a numerical test"
    finite = _converges(power)
    return RobbinsMonro(None if finite is None else not finite, _converges(square), False, reason, made)


def _converges(power: float) -> bool | None:
    """Return whether the sum of t^-power is finite, None if the fit is too close to 1."""
    return False if power <= DIVERGES else True if power >= CONVERGES else None
