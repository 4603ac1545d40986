"""`lrx.diagnose`: what is wrong with a run that is planned, or with one that is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, overload

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.doctor import (
    batch_checks,
    data_checks,
    decay_checks,
    device_checks,
    gradient_checks,
    heart_checks,
    history_checks,
    rate_checks,
    schedule_checks,
    stability_checks,
)
from lrx.doctor.batch_checks import check_batch
from lrx.doctor.data_checks import check_data
from lrx.doctor.decay_checks import DecayEvidence, check_decay, measure_decay
from lrx.doctor.device_checks import check_devices, measure_devices
from lrx.doctor.diagnosis import Diagnosis
from lrx.doctor.finding import CODES, Finding, Remedy, in_order
from lrx.doctor.gradient_checks import check_gradients
from lrx.doctor.heart_checks import check_heart
from lrx.doctor.history_checks import check_history, measure_history
from lrx.doctor.measure_run import measure_run, plan_probes
from lrx.doctor.optimizer_changes import apply_change
from lrx.doctor.optimizer_parts import OptimizerParts, read_optimizer
from lrx.doctor.rate_checks import check_rates
from lrx.doctor.schedule_checks import ScheduleEvidence, check_schedule, measure_schedule
from lrx.doctor.stability_checks import check_stability, measure_stability
from lrx.doctor.thresholds import THRESHOLDS, Thresholds
from lrx.records import stopwatch
from lrx.training.checks import initial_shapes
from lrx.training.history import History
from lrx.training.stream import Stream
from lrx.training.workload import Workload, require_workload

BUDGET = 0.3  # of a run
_CHECKS: dict[str, Any] = {
    "schedule": check_schedule,
    "decay": check_decay,
    "data": check_data,
    "gradients": check_gradients,
    "rates": check_rates,
    "batch": check_batch,
    "heart": check_heart,
    "history": check_history,
    "stability": check_stability,
    "devices": check_devices,
}
_CHECKED: dict[str, dict[str, str]] = {
    "schedule": schedule_checks.CHECKED,
    "decay": decay_checks.CHECKED,
    "data": data_checks.CHECKED,
    "gradients": gradient_checks.CHECKED,
    "rates": rate_checks.CHECKED,
    "batch": batch_checks.CHECKED,
    "heart": heart_checks.CHECKED,
    "history": history_checks.CHECKED,
    "stability": stability_checks.CHECKED,
    "devices": device_checks.CHECKED,
}


def find(evidence: Mapping[str, Any], limits: Thresholds = THRESHOLDS) -> tuple[Finding, ...]:
    """Return the findings that follow from evidence, in order, without the code of their remedies.

    Args:
      evidence: group of checks to its evidence; None if it could not be measured.
      limits: the numbers that decide.
    """
    found = [
        finding for group, seen in evidence.items() if seen is not None for finding in _CHECKS[group](seen, limits)
    ]
    return in_order(found)


@overload
def diagnose(
    subject: Workload, tx: optax.GradientTransformation, /, *, steps: int, budget: float = ..., seed: int = ...
) -> Diagnosis:
    """Find out what is wrong with a run that is planned."""


@overload
def diagnose(
    subject: History,
    workload: Workload | None = None,
    tx: optax.GradientTransformation | None = None,
    /,
    *,
    seed: int = ...,
) -> Diagnosis:
    """Find out what is wrong with a run that is over."""


def diagnose(
    subject: Any, *arguments: Any, steps: int | None = None, budget: float = BUDGET, seed: int = 0
) -> Diagnosis:
    """Find out what is wrong with a run that is planned, or with one that is over.

    `diagnose(workload, tx, steps=1000)` reads what can be known without training (the schedule against the length of
    the run, the time scale of the weight decay, the data), and trains for at most `budget` of the run: gradients at
    the initial parameters, and pilot runs at several rates, each of which goes through the whole schedule in a few
    steps. If the budget suffices, which it does for 400 steps, one more of them tries to overfit a single minibatch,
    and the sharpness after one is compared with the limit of the largest rate. `diagnose(history)` looks at the curves
    of a run, and at its learning rate as a schedule; with its workload and its optimizer it also checks the schedule
    that was meant, the weight decay and the sharpness at the end.

    Args:
      subject: what is to be trained, an `lrx.Workload`; or the `History` of a run.
      *arguments: `tx`, any optax transformation; after a `History` the workload and `tx`, both optional.
      steps: length of the run, in minibatches; required with a workload.
      budget: part of the run that the probes may take, in (0, 1].
      seed: seed of the initial parameters and of the minibatches.

    Returns:
      A `Diagnosis`, whose findings are ordered by how sure and how costly they are.

    Raises:
      ValueError: if `steps` is missing or not a whole number above 0, or the budget is too small for a probe.
      TypeError: if an argument is of the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jax.random.normal(jax.random.key(0), (256, 8))
      >>> workload = lrx.Workload.from_functions(
      ...     lambda w, batch, key: jnp.mean((batch[0] @ w - batch[1]) ** 2),
      ...     lambda key: jnp.zeros(8),
      ...     lrx.Batches((x, x.sum(axis=1)), batch_size=16),
      ... )
      >>> found = lrx.diagnose(workload, lrx.sgd(lrx.cosine_decay(0.05, 100)), steps=400)
      >>> found.codes
      ['schedule-ends-early']
      >>> found.findings[0].remedy.code
      'lrx.sgd(lrx.cosine_decay(0.05, 400))'
    """
    _checks.seed(seed)
    if isinstance(subject, History):
        if len(arguments) > 2:
            raise TypeError(f"after a History at most workload and tx may be given, got {len(arguments)} arguments.")
        if steps is not None:
            raise ValueError(f"steps must be left out for a History, got steps={steps}: it has its own length.")
        return _diagnose_history(subject, *arguments)
    require_workload(subject)
    if len(arguments) != 1:
        raise TypeError(f"tx must be given after the workload, and alone, got {len(arguments)} arguments.")
    if steps is None:
        raise ValueError("steps must be given, got steps=None: a schedule is compared with the length of the run.")
    _checks.steps("steps", steps)
    return _diagnose_workload(subject, arguments[0], int(steps), budget, int(seed))


def _diagnose_workload(
    workload: Workload, tx: optax.GradientTransformation, steps: int, budget: float, seed: int
) -> Diagnosis:
    elapsed = stopwatch()
    _checks.transformation(tx)
    plan_probes(steps, budget)
    if isinstance(workload.batches, Stream):
        workload = dataclasses.replace(workload, batches=workload.batches.take(max(8, int(budget * steps))))
    parts = read_optimizer(tx, initial_shapes(workload)[0])
    schedule, decay = _read(parts, steps, workload)
    measured = measure_run(workload, parts, steps=steps, budget=budget, seed=seed)
    evidence = {
        "schedule": schedule,
        "decay": decay,
        "data": measured.data,
        "gradients": measured.gradients,
        "rates": measured.rates,
        "batch": measured.batch,
        "heart": measured.heart,
        "stability": measured.stability,
    }
    subject = f"{workload.name}: {_name(tx)}, {steps:,} steps"
    return _result(evidence, parts, subject, steps, measured.steps_used, elapsed())


def _read(
    parts: OptimizerParts, steps: int, workload: Workload
) -> tuple[ScheduleEvidence | None, DecayEvidence | None]:
    """Return what can be known without training."""
    schedule = measure_schedule(parts, steps)
    updates = schedule.updates if schedule is not None else steps
    return schedule, measure_decay(parts, updates, workload.batches.steps_per_epoch * updates / steps)


def _diagnose_history(
    history: History, workload: Workload | None = None, tx: optax.GradientTransformation | None = None
) -> Diagnosis:
    elapsed = stopwatch()
    if workload is not None:
        require_workload(workload)
    if tx is not None:
        _checks.transformation(tx)
    steps = len(history.loss)
    state = {"params": history.params, "opt_state": history.opt_state}
    evidence: dict[str, Any] = {"history": measure_history(history), "devices": measure_devices(state)}
    parts, used = None, 0
    if tx is not None:
        parts = read_optimizer(tx, history.params)
        evidence["schedule"] = measure_schedule(parts, steps)
        if workload is not None:
            evidence["decay"] = _read(parts, steps, workload)[1]
    elif np.isfinite(history.rate).all() and steps:
        rates = np.asarray(history.rate, np.float64)
        evidence["schedule"] = schedule_checks.measure_curve(
            lambda counts: rates[np.minimum(counts, steps - 1)], steps, steps
        )
    if workload is not None and jax.tree.leaves(history.opt_state):
        seen = evidence["stability"] = measure_stability(history, workload)
        used = 0 if seen is None else 2 * seen.products
    named = "run" if workload is None else workload.name
    subject = f"{named}: {steps:,} steps" + ("" if tx is None else f" of {_name(tx)}")
    return _result(evidence, parts, subject, steps, used, elapsed())


def _name(tx: Any) -> str:
    text = repr(tx)
    return "a transformation" if "<" in text else text


def _result(
    evidence: dict[str, Any], parts: OptimizerParts | None, subject: str, steps: int, used: int, seconds: float
) -> Diagnosis:
    known = {group: seen for group, seen in evidence.items() if seen is not None}
    updates = known["schedule"].updates if "schedule" in known else steps
    findings = tuple(_with_code(finding, parts, updates) for finding in find(known))
    checked = {code: text for group in known for code, text in _CHECKED[group].items()}
    skipped = {}
    for code in CODES:
        if code not in checked:
            skipped[code] = next(_WHY[group] for group, texts in _CHECKED.items() if code in texts)
    plain = {group: dataclasses.asdict(seen) for group, seen in known.items()}
    return Diagnosis(findings, checked, skipped, subject, steps, used, seconds, plain)


_PLANNED = "a run that is planned, diagnose(workload, tx, steps=...)"
_WHY = {
    "schedule": "since no schedule can be read",
    "decay": "since there is no weight decay",
    **dict.fromkeys(("data", "gradients", "rates", "batch"), f"since this needs {_PLANNED}"),
    "history": "since this needs the history of a run",
    "heart": f"since this needs {_PLANNED}, and a budget for one more pilot run",
    "stability": "since this needs a workload, a method whose stability is known, and a budget for it",
    "devices": "since no device holds a copy of another's values",
}


def _with_code(finding: Finding, parts: OptimizerParts | None, updates: int) -> Finding:
    """Return a finding whose remedy has the optimizer that mends it, and its code."""
    change = finding.remedy.change
    if change is None or parts is None:
        return finding
    made = apply_change(parts, change, updates)
    tx, code = made if made is not None else (None, None)
    if code is None and change.batch_size is not None:
        code = f"lrx.Batches(arrays, batch_size={change.batch_size})"
    if code is None and change.steps is not None:
        code = f"lrx.train(workload, tx, steps={change.steps})"
    return dataclasses.replace(finding, remedy=Remedy(finding.remedy.words, change, code, tx))
