"""Faults that `lrx bench diagnose` plants: each changes a healthy case by a severity drawn from a range."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import lrx
from lrx.benchmarks.diagnose_cases import Case, log_uniform
from lrx.benchmarks.diagnose_kinds import BATCH, KINDS, STEPS


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a fault is drawn with.

    Attributes:
      best: the best rate of the kind.
      rng: a generator.
      largest_stable: returns the largest constant rate at which a run on large batches does not end above its
        beginning.
    """

    best: float
    rng: np.random.Generator
    largest_stable: Callable[[], float] = lambda: np.nan


def _with_schedule(case: Case, schedule: Callable[[float], Any], severity: float) -> Case:
    return dataclasses.replace(case, schedule=schedule, severity=severity)


def _decaying(case: Case, best: float) -> Case:
    return dataclasses.replace(case, schedule=lambda peak: lrx.cosine_decay(peak, STEPS), rate=float(f"{best:.4g}"))


def _too_high(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 8, 60)
    return dataclasses.replace(case, rate=float(f"{draw.best * factor:.4g}"), severity=factor)


def _too_low(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 20, 300)
    return dataclasses.replace(case, rate=float(f"{draw.best / factor:.4g}"), severity=factor)


def _diverges(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 30, 3000)
    return dataclasses.replace(case, rate=float(f"{draw.best * factor:.4g}"), severity=factor)


def _warmup_missing(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 1.5, 12)
    case = _decaying(case, draw.best)
    return dataclasses.replace(case, rate=float(f"{draw.best * factor:.4g}"), severity=factor)


def _warmup_long(case: Case, draw: Draw) -> Case:
    steps = round(STEPS * draw.rng.uniform(0.5, 3.0))
    if steps < STEPS and draw.rng.random() < 0.5:
        return _with_schedule(case, lambda peak: lrx.warmup_cosine_decay(peak, steps, STEPS), steps / STEPS)
    return _with_schedule(case, lambda peak: lrx.warmup(lrx.cosine_decay(peak, STEPS), steps), steps / STEPS)


def _ends_early(case: Case, draw: Draw) -> Case:
    steps = round(STEPS * draw.rng.uniform(0.15, 0.7))
    decay = (lrx.cosine_decay, lrx.linear_decay)[int(draw.rng.integers(2))]
    return _with_schedule(case, lambda peak: decay(peak, steps), steps / STEPS)


def _never_ends(case: Case, draw: Draw) -> Case:
    steps = round(STEPS * log_uniform(draw.rng, 2, 10))
    decay = (lrx.cosine_decay, lrx.linear_decay)[int(draw.rng.integers(2))]
    return _with_schedule(case, lambda peak: decay(peak, steps), steps / STEPS)


def _restart_cut(case: Case, draw: Draw) -> Case:
    cycles = int(draw.rng.integers(1, 4)) + draw.rng.uniform(0.1, 0.6)
    return _with_schedule(case, lambda peak: lrx.cosine_restarts(peak, round(STEPS / cycles)), cycles % 1)


def _counts_minibatches(case: Case, draw: Draw) -> Case:
    decay = (lrx.cosine_decay, lrx.linear_decay)[int(draw.rng.integers(2))]
    return dataclasses.replace(case, schedule=lambda peak: decay(peak, STEPS), every=4, severity=4)


def _decay_strong(case: Case, draw: Draw) -> Case:
    exponent = log_uniform(draw.rng, 20, 200)
    case = _decaying(case, draw.best)
    return dataclasses.replace(
        case, weight_decay=float(f"{exponent / (0.5 * case.rate * STEPS):.4g}"), severity=exponent
    )


def _decay_weak(case: Case, draw: Draw) -> Case:
    exponent = log_uniform(draw.rng, 1e-6, 5e-4)
    case = _decaying(case, draw.best)
    return dataclasses.replace(
        case, weight_decay=float(f"{exponent / (0.5 * case.rate * STEPS):.4g}"), severity=exponent
    )


def _dead(case: Case, draw: Draw) -> Case:
    share, depth = draw.rng.uniform(0.9, 1.0), -log_uniform(draw.rng, 30, 1000)

    place = KINDS[case.kind].silenced or 0

    def silence(params: Any) -> Any:
        size = params[place]["bias"].size
        bias = jnp.where(jnp.arange(size) < np.ceil(share * size), depth, 0.0)
        return [*params[:place], params[place] | {"bias": bias}, *params[place + 1 :]]

    return dataclasses.replace(case, change_params=silence, severity=share)


def _scaled(params: Any, factor: float) -> Any:
    return [layer | {"kernel": factor * layer["kernel"]} for layer in params]


def _vanishing(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 0.003, 0.03)
    return dataclasses.replace(case, change_params=lambda params: _scaled(params, factor), severity=factor)


def _exploding(case: Case, draw: Draw) -> Case:
    if KINDS[case.kind].is_deep:
        factor = log_uniform(draw.rng, 4, 12)
        return dataclasses.replace(case, change_params=lambda params: _scaled(params, factor), severity=factor)
    factor, chosen = log_uniform(draw.rng, 50, 500), draw.rng.random(10_000) < 0.02

    def spike(arrays: Any) -> Any:
        rows = chosen[: len(arrays[0])]
        factors = np.where(rows, factor, 1.0).astype(np.float32)
        return arrays[0] * factors.reshape(-1, *[1] * (arrays[0].ndim - 1)), arrays[1]

    return dataclasses.replace(case, change_arrays=spike, severity=factor)


def _not_finite(case: Case, draw: Draw) -> Case:
    share, seed = log_uniform(draw.rng, 1e-4, 1e-2), int(draw.rng.integers(1 << 30))

    def spoil(arrays: Any) -> Any:
        place = 0 if arrays[0].dtype.kind == "f" else 1
        changed = arrays[place].copy()
        spoiled = np.random.default_rng(seed).random(changed.shape) < share
        spoiled.flat[0] = True
        changed[spoiled] = np.nan
        return tuple(changed if each == place else x for each, x in enumerate(arrays))

    return dataclasses.replace(case, change_arrays=spoil, severity=share)


def _summed(case: Case, draw: Draw) -> Case:
    del draw
    return dataclasses.replace(case, summed=True, severity=case.batch_size)


def _batch_small(case: Case, draw: Draw) -> Case:
    del draw
    return dataclasses.replace(case, batch_size=1, severity=1 / BATCH)


def _batch_large(case: Case, draw: Draw) -> Case:
    del draw
    return dataclasses.replace(case, batch_size=512, severity=512 / BATCH)


def _labels(case: Case, draw: Draw) -> Case:
    share, seed = draw.rng.uniform(0.95, 1.0), int(draw.rng.integers(1 << 30))

    def mix(arrays: Any) -> Any:
        drawn = np.random.default_rng(seed)
        chosen = np.flatnonzero(drawn.random(len(arrays[1])) < share)
        labels = arrays[1].copy()
        labels[chosen] = labels[drawn.permutation(chosen)]
        return arrays[0], labels

    return dataclasses.replace(case, change_arrays=mix, severity=share)


def _frozen(case: Case, draw: Draw) -> Case:
    if draw.rng.random() < 0.5:
        return dataclasses.replace(case, stopped=True, severity=1)
    return dataclasses.replace(case, frozen=True, severity=1)


def _eps(case: Case, draw: Draw) -> Case:
    # The gradients of these kinds have entries of about 1e-3 to 1.
    eps = log_uniform(draw.rng, 5, 500)
    return dataclasses.replace(case, eps=float(f"{eps:.3g}"), severity=eps)


def _overfits(case: Case, draw: Draw) -> Case:
    examples = int(draw.rng.integers(33, 65))
    return dataclasses.replace(case, examples=examples, history=True, severity=examples)


def _noise_floor(case: Case, draw: Draw) -> Case:
    factor = log_uniform(draw.rng, 0.7, 2.5)
    case = dataclasses.replace(case, schedule=lambda peak: peak, weight_decay=0.0, history=True)
    return dataclasses.replace(case, rate=float(f"{draw.best * factor:.4g}"), severity=factor)


def _edge(case: Case, draw: Draw) -> Case:
    factor = draw.rng.uniform(0.75, 1.0)
    case = at_constant_rate(case)
    return dataclasses.replace(case, rate=float(f"{draw.largest_stable() * factor:.4g}"), severity=factor)


def at_constant_rate(case: Case) -> Case:
    """Return a case with large batches and a constant rate, on which the sharpness can grow up to its limit."""
    return dataclasses.replace(case, schedule=lambda peak: peak, weight_decay=0.0, batch_size=512)


def _ascending(case: Case, draw: Draw) -> Case:
    del draw
    return dataclasses.replace(case, ascends=True, severity=1)


def _alone(case: Case, draw: Draw) -> Case:
    steps = int(draw.rng.integers(1, 26))
    return dataclasses.replace(case, history=True, alone=steps, severity=steps)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
      plant: `(healthy case, draw) -> case`.
      suits: `(kind, family) -> bool`.
      harms: whether a case counts only if its final loss is more than 5 % above the healthy one's.
    """

    plant: Callable[[Case, Draw], Case]
    suits: Callable[[str, str], bool] = lambda kind, family: True  # noqa: ARG005
    harms: bool = False


def _deep(kind: str, family: str) -> bool:
    del family
    return KINDS[kind].is_deep


def _adaptive(kind: str, family: str) -> bool:
    del kind
    return family == "adamw"


def _rectified(kind: str, family: str) -> bool:
    del family
    return KINDS[kind].silenced is not None


def _labelled(kind: str, family: str) -> bool:
    del family
    return KINDS[kind].has_labels


def _has_floats(kind: str, family: str) -> bool:
    del family
    return any(array.dtype.kind == "f" for array in KINDS[kind].data())


def _can_explode(kind: str, family: str) -> bool:
    del family
    return KINDS[kind].is_deep or KINDS[kind].data()[0].dtype.kind == "f"


def _descent(kind: str, family: str) -> bool:
    del kind
    return family == "sgd"  # for it the sharpness itself counts, without a preconditioner


FAULTS: Mapping[str, Fault] = {
    "rate-too-high": Fault(_too_high, harms=True),
    "rate-too-low": Fault(_too_low, harms=True),
    "diverges": Fault(_diverges),
    "warmup-missing": Fault(_warmup_missing, harms=True),
    "warmup-too-long": Fault(_warmup_long),
    "schedule-ends-early": Fault(_ends_early),
    "schedule-never-ends": Fault(_never_ends),
    "restart-cut": Fault(_restart_cut),
    "schedule-counts-minibatches": Fault(_counts_minibatches),
    "weight-decay-too-strong": Fault(_decay_strong, _adaptive, harms=True),
    "weight-decay-without-effect": Fault(_decay_weak, _adaptive),
    "dead-layer": Fault(_dead, _rectified),
    "vanishing-gradients": Fault(_vanishing, _deep),
    "exploding-gradients": Fault(_exploding, _can_explode),
    "not-finite-input": Fault(_not_finite, _has_floats),
    "loss-is-summed": Fault(_summed),
    "batch-too-small": Fault(_batch_small),
    "batch-too-large": Fault(_batch_large),
    "labels-are-noise": Fault(_labels, _labelled),
    "frozen-by-mistake": Fault(_frozen, _deep),
    "eps-too-large": Fault(_eps, _adaptive, harms=True),
    "overfits": Fault(_overfits, harms=True),
    "noise-floor": Fault(_noise_floor, harms=True),
    "batch-not-learnt": Fault(_ascending),
    "edge-of-stability": Fault(_edge, _descent),
    "devices-disagree": Fault(_alone),
}

# Pairs of faults that one case in ten has.
PAIRS = (
    ("schedule-ends-early", "rate-too-low"),
    ("schedule-never-ends", "loss-is-summed"),
    ("restart-cut", "labels-are-noise"),
    ("schedule-ends-early", "frozen-by-mistake"),
    ("schedule-never-ends", "dead-layer"),
    ("warmup-too-long", "not-finite-input"),
    ("restart-cut", "eps-too-large"),
)
