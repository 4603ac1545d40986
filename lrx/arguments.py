"""Convert arguments: to a rate, to a schedule, and to a hyperparameter that may follow the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike, is_number
from lrx.rates import Controller, Rate, Schedule, constant


def as_rate(learning_rate: Any, *, name: str = "learning_rate") -> Rate:
    """Convert a learning rate to a `Rate`: a number, a rate, or a function of the step.

    Raises:
      TypeError: for anything else, also for a `Controller` alone, which is a factor without a rate to multiply.
    """
    if isinstance(learning_rate, Rate):
        return learning_rate
    if isinstance(learning_rate, Controller):
        raise TypeError(
            f"{name} must be a rate, got the factor {learning_rate!r}, which starts at 1 and multiplies a rate: "
            f"write 1e-3 * {learning_rate!r}."
        )
    if is_number(learning_rate):
        _checks.non_negative(name, learning_rate, "the sign is applied where the chain ends")
        return constant(learning_rate)
    if callable(learning_rate) and not isinstance(learning_rate, type | optax.GradientTransformation):
        return Schedule(learning_rate)
    raise TypeError(
        f"{name} must be a number, a Rate or a function of the step, got {name}={learning_rate!r}: give 1e-3, or a "
        "schedule such as lrx.cosine_decay(0.1, 1000)."
    )


def as_schedule(schedule: Any, *, name: str) -> Schedule:
    """Convert a number, a schedule or a function of the step to a `Schedule`.

    Raises:
      TypeError: for a rate that follows feedback, which has no value at a step.
    """
    rate = as_rate(schedule, name=name)
    if isinstance(rate, Schedule):
        return rate
    raise TypeError(
        f"{name} must be a Schedule, got the feedback-driven {rate!r}: shape the schedule first and multiply "
        "afterwards, as warmup(schedule, 500) * reduce_on_plateau(start_after=500), where start_after keeps the "
        "controller from judging the warm-up."
    )


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """A hyperparameter that may follow the step, such as a momentum; called with a count, it returns the value there.

    Nothing is computed before `init` or `update` asks, so an optimizer may be built before JAX has chosen its devices,
    and inside a program that is being traced.
    """

    value_at: Callable[[jax.Array], ArrayLike]  # a field, by which `lrx.training.equality` compares optimizers

    def __call__(self, count: jax.Array) -> ArrayLike:
        """Return the value at a count; a Python number stays one, so that Python computes with it."""
        return self.value_at(count)

    def first(self) -> jax.Array:
        """Return the value at count 0, () float32, in a buffer of its own."""
        return jnp.array(self(jnp.zeros([], jnp.int32)), jnp.float32)


def as_scheduled(name: str, value: Any, check: Callable[[str, Any], None]) -> Scheduled:
    """Convert a hyperparameter that may follow the step to a `Scheduled`.

    Args:
      name: the argument, for errors.
      value: a number, a `Schedule`, or a function of the step.
      check: takes the name and a number, and raises if the number is not allowed. A schedule is checked at its peak, if
        that is known.
    """
    if isinstance(value, Rate | Controller) and not isinstance(value, Schedule):
        raise TypeError(
            f"{name} must be a number or a Schedule, got {value!r}, which follows feedback: only a learning rate can, "
            "as 1e-3 * controller."
        )
    if callable(value) and not isinstance(value, type):
        schedule = as_schedule(value, name=name)
        if schedule.peak is not None:
            check(name, schedule.peak)
        return Scheduled(schedule.function)
    check(name, value)
    return Scheduled(lambda _count: value)
