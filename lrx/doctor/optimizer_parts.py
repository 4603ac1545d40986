"""What can be read from an optimizer without training: its schedule, its weight decay, and how to build it again.

What lrx's factories build remembers its arguments, and is built again with others. From other transformations, such as
those of `optax.chain`, the schedule is read from what their functions hold; they are scaled, not rebuilt.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks, controllers, optimizers, schedules
from lrx.doctor.finding import Change
from lrx.rates import Rate, Schedule, constant
from lrx.reading import monitor
from lrx.run_state import minibatches
from lrx.transformations import Built, rebuild

DEEPEST = 24  # of functions that hold functions
# Arguments of schedules that are durations in updates.
DURATIONS = (
    *("decay_steps", "total_steps", "period_steps", "warmup_steps", "stable_steps", "transition_steps"),
    *("step_size", "half_period_steps", "down_steps", "boundaries"),
)
TUNED = ("weight_decay", "eps")  # hyperparameters that a diagnosis may change, and that probes take as arguments


@dataclasses.dataclass(frozen=True)
class OptimizerParts:
    """The parts of an optimizer.

    Attributes:
      tx: the optimizer.
      schedule: the part of its rate that follows the step alone; None if it has none that can be read.
      every: minibatches of one update.
      counts_minibatches: whether the schedule counts minibatches although an update takes several.
      weight_decay: None if there is none.
      decays_with_schedule: whether the weight decay is multiplied by the schedule's shape in place of its rate.
      eps: None if the method has none that can be read.
      rebuilt: whether the optimizer can be built again with other arguments.
    """

    tx: optax.GradientTransformation
    schedule: Schedule | None
    every: int
    counts_minibatches: bool
    weight_decay: float | None
    decays_with_schedule: bool
    eps: float | None
    rebuilt: bool

    def rates(self, counts: np.ndarray) -> np.ndarray:
        """Return the rate at each count, float64.

        Raises:
          ValueError: if there is no schedule that can be read.
        """
        if self.schedule is None:
            raise ValueError("the optimizer must have a schedule that can be read, got none.")
        return np.asarray(self.schedule(np.asarray(counts, np.int64)), np.float64)

    def with_rate(self, rate: Any, hyper: Mapping[str, Any]) -> optax.GradientTransformation:
        """Build the optimizer with another rate, which may be traced; it must be `rebuilt`."""
        return _rebuilt(self.tx, {"learning_rate": rate, **hyper})

    @property
    def hyper(self) -> dict[str, float]:
        """The numbers among `TUNED` that probes take as arguments, by name."""
        if not self.rebuilt:
            return {}
        arguments = _core(self.tx).arguments
        return {
            name: float(arguments[name])
            for name in TUNED
            if name in arguments and isinstance(arguments[name], int | float)
        }


def read_optimizer(tx: optax.GradientTransformation, params: Any) -> OptimizerParts:
    """Read an optimizer.

    Args:
      tx: any optax transformation.
      params: the parameters that it is for, or their shapes.
    """
    state = jax.eval_shape(tx.init, params)
    core = _core(tx)
    rebuilt = core is not None and "learning_rate" in core.arguments
    every, inside = _rounds(tx, state, params)
    if rebuilt:
        schedule = _schedule_part(core.arguments["learning_rate"])
    else:
        found = list(_held_schedules(tx, False, DEEPEST))
        schedule = found[0][0] if len({id(each) for each, _ in found}) == 1 else None
        inside = inside and (not found or found[0][1])
    decay = core.arguments.get("weight_decay") if core is not None else None
    if not isinstance(decay, int | float):
        shown = {} if rebuilt and decay is None else _shown(tx, params)
        decay = next((value for name, value in shown.items() if name.rpartition("/")[2] == "weight_decay"), None)
    eps = core.arguments.get("eps") if core is not None else None
    return OptimizerParts(
        tx=tx,
        schedule=schedule,
        every=every,
        counts_minibatches=every > 1 and not inside,
        weight_decay=None if decay is None else float(decay),
        decays_with_schedule=core is not None and core.arguments.get("decoupling") == "schedule",
        eps=float(eps) if isinstance(eps, int | float) else None,
        rebuilt=rebuilt,
    )


def _core(tx: Any) -> Any:
    """Return the factory's result with a `learning_rate`, within wrappers that have a `tx`; None if there is none."""
    if not isinstance(tx, Built) or tx.factory is None:
        return None
    if "learning_rate" in tx.arguments:
        return tx
    inner = tx.arguments.get("tx")
    return _core(inner)


def _rebuilt(tx: Any, changes: Mapping[str, Any]) -> Any:
    """Build an optimizer again with other arguments of its core; a None stays."""
    arguments = dict(tx.arguments)
    if "learning_rate" in arguments:
        given = {name: value for name, value in changes.items() if value is not None}
        return rebuild(tx.factory, arguments | given)
    return rebuild(tx.factory, arguments | {"tx": _rebuilt(arguments["tx"], changes)})


def _schedule_part(rate: Any) -> Schedule | None:
    """Return the factors of a rate that follow the step alone."""
    if type(rate) is Schedule:
        return rate
    if isinstance(rate, int | float | np.number | np.ndarray | jax.Array):
        return constant(rate) if _checks.is_concrete(rate) else None
    if isinstance(rate, Built) and set(rate.arguments or ()) == {"left", "right"}:
        parts = [_schedule_part(part) for part in rate.arguments.values()]
        known = [part for part in parts if part is not None]
        if rate.factory is not None and rate.factory.__name__ == "_divide":
            return known[0] / rate.arguments["right"] if known else None
        return functools.reduce(lambda left, right: left * right, known) if known else None
    if callable(rate) and not issubclass(type(rate), Rate) and not isinstance(rate, Built):
        return Schedule(rate)
    return None


def _rounds(tx: Any, state: Any, params: Any) -> tuple[int, bool]:
    """Return the minibatches of an update, and whether all rates are known to count updates."""
    if not minibatches(_zeros(state)):
        return 1, True
    if isinstance(tx, Built) and tx.factory is not None and "every" in tx.arguments:
        every = tx.arguments["every"]
        return (int(every) if isinstance(every, int | np.integer) else 1), True
    started = tx.init(_zeros(params))
    (_, every), *_ = minibatches(started)
    if every is not None:
        return int(every), True
    for held in _held(tx, DEEPEST):
        if isinstance(held, optax.MultiSteps):
            return int(held._every_k_schedule(jnp.int32(0))), True
    return 1, True


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype) if hasattr(x, "shape") else x, tree)


def _shown(tx: optax.GradientTransformation, params: Any) -> dict[str, Any]:
    """Return what the initial state shows; numbers only."""
    try:
        return monitor(tx.init(_zeros(params)), scalars=True)
    except (TypeError, ValueError):
        return {}


def _parts(value: Any) -> Iterator[Any]:
    """Return what a function or a container holds."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif inspect.ismethod(value):
        yield from (value.__func__, value.__self__)
    elif inspect.isfunction(value):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # empty still
                continue
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, optax.MultiSteps):
        yield value._opt


def _held(value: Any, depth: int, seen: set[int] | None = None) -> Iterator[Any]:
    """Return all values that a transformation's functions hold."""
    seen = set() if seen is None else seen
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    yield value
    for part in _parts(value):
        yield from _held(part, depth - 1, seen)


def _held_schedules(value: Any, inside: bool, depth: int) -> Iterator[tuple[Schedule, bool]]:
    """Return the schedules that a transformation's functions hold, and whether each is within an accumulation."""
    if depth == 0:
        return
    if type(value) is Schedule:
        yield value, inside
        return
    if issubclass(type(value), Rate):
        schedule = _schedule_part(value)
        if schedule is not None:
            yield schedule, inside
        return
    if inspect.isfunction(value) and value.__closure__:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__, strict=True):
            if name == "step_size_fn" and value.__module__.startswith("optax"):
                yield _magnitude(cell.cell_contents), inside
                return
    accumulates = isinstance(value, optax.MultiSteps) or (
        inspect.isfunction(value) and value.__module__ == "lrx.optimizers.accumulation"
    )
    if isinstance(value, list | tuple) and not isinstance(value, optax.GradientTransformation):
        parts: Any = value
    elif isinstance(value, optax.GradientTransformation):
        parts = (value.update,)
    else:
        parts = _parts(value)
    for part in parts:
        yield from _held_schedules(part, inside or accumulates, depth - 1)


@functools.lru_cache(maxsize=64)
def _magnitude(step_size: Callable[[Any], Any]) -> Schedule:
    """Return the schedule of an optax link that multiplies by minus the rate."""
    return Schedule(lambda count: jnp.abs(jnp.asarray(step_size(count), jnp.float32)))


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
    rate = changed_rate(_core(parts.tx).arguments["learning_rate"], change, steps)
    if rate is None:
        return None
    tx = _rebuilt(parts.tx, changes | {"learning_rate": rate})
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
