"""The rungs of successive halving and of Hyperband's brackets: how many members each has, and how long they train."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lrx import _checks


class Rung(NamedTuple):
    """A part of a bracket."""

    bracket: int
    start: int  # the step at which it begins
    stop: int  # the step at which it ends
    size: int  # members
    is_first: bool  # of its bracket
    is_last: bool  # of its bracket


def plan_rungs(members: int, num_steps: int, min_steps: Any, eta: int, brackets: int) -> list[Rung]:
    """Return the rungs of all brackets, in the order in which they are trained.

    Args:
      members: number of members of the first bracket.
      num_steps: where the last rung of each bracket ends.
      min_steps: length of the first rung; None for the one that leaves one member for the last rung.
      eta: factor between the rungs.
      brackets: number of brackets.

    Raises:
      ValueError: if there are too few steps for one rung, or too few rungs for the brackets.
    """
    number = 1 + math.floor(math.log(members, eta) + 1e-9)
    if min_steps is None:
        number = min(number, 1 + math.floor(math.log(num_steps, eta) + 1e-9))
        min_steps = max(1, num_steps // eta ** (number - 1))
    else:
        _checks.steps("min_steps", min_steps)
        if min_steps > num_steps:
            raise ValueError(
                f"min_steps must be <= num_steps, got min_steps={min_steps}, num_steps={num_steps}: there would be no "
                "rung."
            )
        number = min(number, 1 + math.floor(math.log(num_steps / min_steps, eta) + 1e-9))
    if brackets > number:
        raise ValueError(
            f"brackets must be at most the number of rungs, {number}, got brackets={brackets}: give more members or "
            "fewer min_steps."
        )
    rungs: list[Rung] = []
    for bracket in range(brackets):
        size = math.ceil(members * eta**-bracket * number / (number - bracket) - 1e-9)
        for rung in range(number - bracket):
            is_last = rung == number - bracket - 1
            stop = num_steps if is_last else min_steps * eta ** (bracket + rung)
            start = 0 if rung == 0 else rungs[-1].stop
            rungs.append(Rung(bracket, start, stop, math.ceil(size / eta**rung - 1e-9), rung == 0, is_last))
    return rungs
