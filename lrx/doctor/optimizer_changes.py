"""How an optimizer is built again after a change that a remedy consists of, and the Python that builds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import optax

from lrx import controllers, optimizers, schedules
from lrx.doctor.finding import Change
from lrx.doctor.optimizer_parts import TUNED, OptimizerParts, core_of, rebuild_core
from lrx.rates import Schedule, constant
from lrx.transformations import Built, rebuild

# Arguments of schedules that are durations in updates.
DURATIONS = (
    *("decay_steps", "total_steps", "period_steps", "warmup_steps", "stable_steps", "transition_steps"),
    *("step_size", "half_period_steps", "down_steps", "boundaries"),
)


def apply_change(
    parts: OptimizerParts, change: Change, steps: int
) -> tuple[optax.GradientTransformation | None, str] | None:
    """Return the optimizer after a change, and the Python that makes it; None if it cannot be made so.

    If only the schedule of an optimizer can be built again, the Python is that of the schedule, and the optimizer None.

    Args:
      parts: the optimizer.
      change: what to change.
      steps: length of the run in updates.
    """
    given = change.given()
    if set(given) <= {"batch_size", "steps"}:
        return None
    if change.max_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(change.max_norm), parts.tx)
        return tx, f"optax.chain(optax.clip_by_global_norm({change.max_norm:.3g}), {_written(parts.tx)})"
    if not parts.rebuilt:
        if set(given) == {"rate_factor"}:
            factor = change.rate_factor
            return optax.chain(parts.tx, optax.scale(factor)), f"optax.chain(tx, optax.scale({factor:.3g}))"
        schedule = None if parts.schedule is None else changed_rate(parts.schedule, change, steps)
        return None if schedule is None or schedule == parts.schedule else (None, _written(schedule))
    changes: dict[str, Any] = {name: given[name] for name in TUNED if name in given}
    rate = changed_rate(core_of(parts.tx).arguments["learning_rate"], change, steps)
    if rate is None:
        return None
    tx = rebuild_core(parts.tx, changes | {"learning_rate": rate})
    return tx, _written(tx)


def _written(tx: Any) -> str:
    """Write an optimizer or a schedule as Python; what has no such form is called tx."""
    text = repr(tx)
    if " at 0x" in text or "<" in text or not isinstance(tx, Built):
        return "tx"
    names = sorted({name for package in (controllers, optimizers, schedules) for name in package.__all__}, key=len)
    return re.sub(rf"\b({'|'.join(reversed(names))})\(", r"lrx.\1(", text)


def changed_rate(rate: Any, change: Change, steps: int) -> Any:
    """Return a rate after a change; None if it cannot be changed so."""
    if change.time_factor is not None:
        rate = _stretched(rate, change.time_factor)
    if change.warmup_steps is not None:
        rate = _with_warmup(rate, change.warmup_steps, steps)
    if change.cycles is not None:
        rate = _with_cycles(rate, change.cycles, steps)
    if change.decay_to_zero is not None and rate is not None:
        rate = _with_decay(rate, change.decay_to_zero, steps)
    if change.rate_factor is not None and rate is not None:
        factor = float(f"{change.rate_factor:.3g}")
        rate = float(f"{rate * factor:.3g}") if isinstance(rate, int | float) else rate * factor
    return rate


def _map_rate(rate: Any, change: Callable[[Any], Any]) -> Any:
    """Change the schedules of a rate within products, joins and warm-ups, from the inside."""
    if not isinstance(rate, Built) or rate.factory is None:
        return rate
    arguments = {}
    for name, value in rate.arguments.items():
        if isinstance(value, Built):
            value = _map_rate(value, change)
        elif isinstance(value, list | tuple) and any(isinstance(part, Built) for part in value):
            value = type(value)(_map_rate(part, change) for part in value)
        arguments[name] = value
    return change(rebuild(rate.factory, arguments) if arguments != dict(rate.arguments) else rate)


def _stretched(rate: Any, factor: float) -> Any:
    """Multiply every duration; None if the rate has none."""
    stretched = 0

    def of_duration(value: Any) -> Any:
        nonlocal stretched
        stretched += 1
        if isinstance(value, dict):
            return {max(1, round(step * factor)): part for step, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(
                (max(1, round(step[0] * factor)), step[1]) if isinstance(step, tuple) else max(1, round(step * factor))
                for step in value
            )
        if isinstance(value, float):  # a warm-up that is a fraction of the whole
            return value
        return max(1, round(int(value) * factor))

    def change(schedule: Built) -> Any:
        if schedule.factory is None:
            return schedule
        durations = {
            name: of_duration(value)
            for name, value in schedule.arguments.items()
            if value is not None and (name in DURATIONS or name == "boundaries_and_factors")
        }
        return rebuild(schedule.factory, dict(schedule.arguments) | durations) if durations else schedule

    changed = _map_rate(rate, change)
    return changed if stretched else None


def _with_warmup(rate: Any, warmup_steps: int, steps: int) -> Any:
    """Give a rate another warm-up within a run of the same length; None if it cannot have one."""
    found = 0

    def change(schedule: Built) -> Any:
        nonlocal found
        if schedule.factory is None or "warmup_steps" not in schedule.arguments:
            return schedule
        found += 1
        arguments = dict(schedule.arguments)
        before = int(arguments["warmup_steps"]) if arguments["warmup_steps"] >= 1 else 0
        arguments["warmup_steps"] = warmup_steps
        if "schedule" in arguments and isinstance(arguments["schedule"], Built):
            inner = dict(arguments["schedule"].arguments)
            if "decay_steps" in inner and before:  # so that the whole ends with the run
                inner["decay_steps"] = max(1, steps - warmup_steps)
                arguments["schedule"] = rebuild(arguments["schedule"].factory, inner)  # type: ignore[arg-type]
        return rebuild(schedule.factory, arguments)

    changed = _map_rate(rate, change)
    if found:
        return changed
    from lrx.schedules import warmup

    schedule = constant(rate) if isinstance(rate, int | float) else rate
    if type(schedule) is not Schedule:
        return None
    arguments = schedule.arguments if schedule.factory is not None else {}
    if schedule.factory is not None and "decay_steps" in arguments and int(arguments["decay_steps"]) > warmup_steps:
        shorter = dict(arguments) | {"decay_steps": int(arguments["decay_steps"]) - warmup_steps}
        schedule = rebuild(schedule.factory, shorter)
    return warmup(schedule, warmup_steps)


def _with_cycles(rate: Any, cycles: int, steps: int) -> Any:
    """Fit whole cycles into a run; None if the rate has no cycles."""
    found = 0

    def change(schedule: Built) -> Any:
        nonlocal found
        if schedule.factory is None:
            return schedule
        arguments = dict(schedule.arguments)
        if "period_steps" in arguments:
            found += 1
            growth = float(arguments.get("period_mult") or 1)
            units = sum(growth**index for index in range(cycles))
            return rebuild(schedule.factory, arguments | {"period_steps": max(1, round(steps / units))})
        if "half_period_steps" in arguments:
            found += 1
            half = max(1, round(steps / cycles / 2))
            down = None if arguments.get("down_steps") is None else half
            return rebuild(schedule.factory, arguments | {"half_period_steps": half, "down_steps": down})
        return schedule

    changed = _map_rate(rate, change)
    return changed if found else None


def _with_decay(rate: Any, start: int, steps: int) -> Any:
    """Let a constant rate fall linearly to zero from a step on; None if it is not constant."""
    from lrx.schedules import join, linear_decay

    value = rate if isinstance(rate, int | float) else None
    if isinstance(rate, Built) and rate.factory is constant:
        value = rate.arguments["value"]
    if value is None:
        return None
    decay = linear_decay(value, max(1, steps - start))
    return decay if start == 0 else join([value, decay], [start])
