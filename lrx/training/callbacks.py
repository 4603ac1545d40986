"""Callbacks of `train`: their argument and their answers."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx.training.identity import describe


class Stop(enum.Enum):
    """The answer of a callback that ends the run."""

    STOP = "stop"

    def __repr__(self) -> str:
        return "lrx.STOP"


STOP = Stop.STOP


class Moment:
    """The state of a run between two steps, the argument of a callback.

    Attributes:
      step: completed steps.
      total: steps of the whole run.
      loss: the mean training loss of the steps since the last call.
      rate: the learning rate of the latest update; NaN if the state holds none, or several.
      metrics: name to number, what `lrx.monitor` found after the latest update.
      evaluations: name to number, the results of an evaluation at this very step; empty if there was none.
      losses: (n,) float32, the training loss of each step since the last call.
      rates: (n,) float32, likewise the learning rates.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> loss_fn = lambda w, x, key: jnp.mean((w - x) ** 2)
      >>> batches = lrx.Batches(jnp.zeros(8), batch_size=4)
      >>> workload = lrx.Workload.from_functions(loss_fn, lambda key: jnp.ones(()), batches, name="bowl")
      >>> def lower_then_stop(moment):
      ...     print(moment)
      ...     if moment.step == 2:
      ...         return lrx.set_learning_rate(moment.opt_state, 0.125)
      ...     if moment.loss < 0.05:
      ...         return lrx.STOP
      >>> history = lrx.train(workload, lrx.sgd(0.25), steps=20, callback=lower_then_stop, callback_every=2)
      Moment(step 2 of 20, loss 0.625, rate 0.25)
      Moment(step 4 of 20, loss 0.04883, rate 0.125)
    """

    def __init__(
        self,
        step: int,
        total: int,
        curves: dict[str, np.ndarray],
        evaluations: dict[str, float],
        state: Any,
        device: jax.Device | None,
    ) -> None:
        self.step, self.total, self.evaluations = step, total, evaluations
        nothing = np.zeros(0, np.float32)
        self.losses, self.rates = curves.get("loss", nothing), curves.get("rate", nothing)
        self.loss = float(np.mean(self.losses)) if len(self.losses) else math.nan
        self.rate = float(self.rates[-1]) if len(self.rates) else math.nan
        self.metrics = {
            name.removeprefix("metrics/"): values[-1].item()
            for name, values in curves.items()
            if name.startswith("metrics/") and len(values)
        }
        self._state, self._device = state, device

    def __repr__(self) -> str:
        shown = {"loss": self.loss, "rate": self.rate, **self.evaluations}
        return f"Moment(step {self.step:,} of {self.total:,}, {', '.join(f'{k} {v:.4g}' for k, v in shown.items())})"

    def scalars(self) -> dict[str, float]:
        """Return loss, rate, metrics and evaluations as one dict, the last as "evaluation/name"."""
        known = {"loss": self.loss, "rate": self.rate, **self.metrics}
        return {**known, **{f"evaluation/{name}": value for name, value in self.evaluations.items()}}

    @property
    def params(self) -> Any:
        """Return a copy of the parameters, on the first device, or on the mesh that `train` was given."""
        return self._copy("params")

    @property
    def model_state(self) -> Any:
        """Return a copy of the model state, likewise."""
        return self._copy("model_state")

    @property
    def opt_state(self) -> Any:
        """Return a copy of the optimizer state, likewise."""
        return self._copy("opt_state")

    def _copy(self, name: str) -> Any:
        if self._state is None:
            raise RuntimeError(
                f"moment.{name} must be read while the callback runs: afterwards the run has taken its memory over. "
                "Keep what you need of it, not the moment."
            )
        copied = jax.tree.map(jnp.copy, getattr(self._state, name))
        return copied if self._device is None else jax.device_put(copied, self._device)

    def close(self) -> None:
        """Drop the state, whose buffers the next step takes over."""
        self._state = None


Callback = Callable[[Moment], Any]


def as_callbacks(callback: Any) -> tuple[Callback, ...]:
    """Return the callbacks of `train(callback=...)`: none, one or several.

    Raises:
      TypeError: if one is not a function.
      ValueError: if the `every` of one is not a whole number of steps.
    """
    if callback is None:
        return ()
    listed = tuple(callback) if isinstance(callback, Iterable) and not callable(callback) else (callback,)
    for one in listed:
        if not callable(one):
            raise TypeError(f"callback must be a function of a moment, or a list of them, got {one!r}.")
        interval_of(one)
    return listed


def interval_of(callback: Callback) -> int | None:
    """Return the interval that a callback asks for by its attribute `every`, in steps; None if it has none."""
    every = getattr(callback, "every", None)
    if every is not None:
        _checks.steps("callback.every", every)
    return every


def answer_of(callback: Callback, moment: Moment, opt_state: Any) -> tuple[Any, bool]:
    """Call a callback; return the optimizer's state to continue with, and whether to stop.

    Raises:
      TypeError: if the answer is not None, `lrx.STOP` or an optimizer state of the same structure, shapes and types.
    """
    answer = callback(moment)
    if answer is None or answer is STOP:
        return opt_state, answer is STOP
    before = describe(opt_state)
    try:
        after = describe(answer)
    except (AttributeError, TypeError):
        after = {}
    structure: Any = jax.tree.structure(answer)
    if structure != jax.tree.structure(opt_state) or after != before:
        unlike = [
            f"{leaf} is {after.get(leaf, 'absent')} and must be {before.get(leaf, 'absent')}"
            for leaf in {**before, **after}
            if after.get(leaf) != before.get(leaf)
        ]
        raise TypeError(
            "callback must return None, lrx.STOP or the optimizer's state with other numbers, as "
            f"lrx.set_learning_rate(moment.opt_state, 1e-3), got a {type(answer).__name__}"
            + (f" in which {unlike[0]}." if after and unlike else ".")
        )
    return jax.tree.map(jnp.copy, answer), False
