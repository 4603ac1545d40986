"""The runs of `lrx bench diagnose`: what a fault may change, and how healthy ones are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import lrx
from lrx.benchmarks.diagnose_kinds import BATCH, KINDS, STEPS, MeanLoss
from lrx.training import Batches, Workload

FAMILIES = ("adamw", "sgd")


@dataclasses.dataclass(frozen=True)
class Case:
    """A run to be diagnosed; faults change its fields.

    Attributes:
      kind: name of the kind of workload.
      family: "adamw" or "sgd" (with momentum).
      rate: the peak of the rate.
      schedule: maps the peak to the schedule, of unit peak.
      weight_decay: of adamw.
      eps: of adamw; None for its default.
      every: minibatches of an update.
      frozen: path of a frozen leaf, or None.
      batch_size: examples in a minibatch.
      summed: whether the loss is a sum.
      stopped: whether the first leaf is behind stop_gradient.
      change_arrays: changes the data.
      change_params: changes the initial parameters.
      ascends: whether the gradient has the wrong sign.
      history: whether the run is diagnosed when it is over.
      alone: last steps in which a second device computes with minibatches of its own and shares no gradient.
      examples: number of training examples; None for all.
      severity: how far the fault goes, in its own unit.
    """

    kind: str
    family: str
    rate: float
    schedule: Callable[[float], Any]
    weight_decay: float = 0.0
    eps: float | None = None
    every: int = 1
    frozen: bool = False
    batch_size: int = BATCH
    summed: bool = False
    stopped: bool = False
    change_arrays: Callable[[Any], Any] | None = None
    change_params: Callable[[Any], Any] | None = None
    ascends: bool = False
    history: bool = False
    alone: int = 0
    examples: int | None = None
    severity: float = 0.0

    def tx(self) -> Any:
        """Return the optimizer."""
        rate = self.schedule(self.rate)
        if self.family == "sgd":
            tx: Any = lrx.sgd(rate, momentum=0.9)
        else:
            tx = lrx.adamw(rate, weight_decay=self.weight_decay, eps=1e-8 if self.eps is None else self.eps)
        if self.frozen:
            tx = lrx.group_rates(tx, _label_frozen, {"frozen": 0.0, "rest": 1.0})
        return lrx.accumulate(tx, self.every) if self.every > 1 else tx

    def workload(self) -> Workload:
        """Return the workload."""
        kind = KINDS[self.kind]
        arrays = kind.data()
        if self.examples is not None:
            arrays = tuple(x[: self.examples] for x in arrays)  # type: ignore[assignment]
        if self.change_arrays is not None:
            arrays = self.change_arrays(arrays)
        loss: Any = MeanLoss(kind.loss, self.summed)
        if self.stopped:
            loss = _Stopped(loss)
        if self.ascends:
            loss = _Ascending(loss)
        init = _Init(kind.init, self.change_params)
        return Workload(self.kind, init, loss, Batches(arrays, self.batch_size))


def _label_frozen(path: str, leaf: Any) -> str:
    """Label the kernel of the second layer as frozen."""
    del leaf
    return "frozen" if path == "1/kernel" else "rest"


@dataclasses.dataclass(frozen=True)
class _Stopped:
    loss: Any

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten(params)
        largest = max(range(len(leaves)), key=lambda place: leaves[place].size)
        leaves[largest] = jax.lax.stop_gradient(leaves[largest])
        return self.loss(jax.tree.unflatten(structure, leaves), model_state, batch, key)


@dataclasses.dataclass(frozen=True)
class _Ascending:
    loss: Any

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        value, model_state = self.loss(params, model_state, batch, key)
        return 2 * jax.lax.stop_gradient(value) - value, model_state


@dataclasses.dataclass(frozen=True)
class _Init:
    init: Callable[[jax.Array], Any]
    change: Callable[[Any], Any] | None

    def __call__(self, key: jax.Array) -> Any:
        params = self.init(key)
        return (params if self.change is None else self.change(params)), ()


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def healthy(kind: str, family: str, best: float, rng: np.random.Generator) -> Case:
    """Draw a healthy case: a usual schedule, and a rate around the best of a grid."""
    warm = int(rng.integers(5, STEPS // 10 + 1))
    choices: list[tuple[Callable[[float], Any], float]] = [
        (lambda peak: lrx.cosine_decay(peak, STEPS), 1.0),
        (lambda peak: lrx.linear_decay(peak, STEPS), 1.0),
        (lambda peak: lrx.warmup_cosine_decay(peak, warm, STEPS), 1.0),
        (lambda peak: lrx.warmup_linear_decay(peak, warm, STEPS), 1.0),
        (
            lambda peak: lrx.warmup_stable_decay(
                peak, warmup_steps=warm, stable_steps=4 * STEPS // 5 - warm, decay_steps=STEPS // 5
            ),
            0.7,
        ),
        (lambda peak: lrx.one_cycle(peak, STEPS), 1.0),
        (lambda peak: lrx.cosine_restarts(peak, STEPS // 4), 1.0),
        (lambda peak: peak, 0.4),
    ]
    schedule, usual = choices[int(rng.integers(len(choices)))]
    rate = float(f"{best * usual * log_uniform(rng, 0.5, 1.5):.4g}")
    case = Case(kind, family, rate, schedule)
    if family == "adamw" and rng.random() < 0.5:
        case = dataclasses.replace(
            case, weight_decay=float(f"{log_uniform(rng, 0.03, 1.0) / (0.5 * rate * STEPS):.4g}")
        )
    return case
