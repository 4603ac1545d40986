"""Rounds of accumulation, in which a run may end."""

from __future__ import annotations

from typing import Any

import jax

from lrx.run_state import minibatches


def has_rounds(opt_state: Any) -> bool:
    """Return whether an optimizer gathers gradients in rounds whose length its state holds; shapes suffice."""
    lengths: list[Any] = []
    jax.eval_shape(lambda state: lengths.extend(every for _, every in minibatches(state)), opt_state)
    return any(every is not None for every in lengths)


def is_within_round(opt_state: Any) -> bool:
    """Return whether the next step would leave a round that is not full."""
    rounds = minibatches(opt_state)
    return any(every is not None and int(gathered) + 1 < int(every) for gathered, every in rounds)


def describe_rest(opt_state: Any, step: int) -> list[str]:
    """Write how many gradients have been gathered for updates that have not been made, after so many steps."""
    texts = []
    for gathered, every in minibatches(opt_state):
        if left := int(gathered):
            whole = "" if every is None else f" for whole updates give steps={step - left + int(every)}, or"
            gone = f"the gradients of the last {left} of {step:,} steps are gathered and not applied"
            texts.append(f"{gone}:{whole} go on from here")
    return texts
