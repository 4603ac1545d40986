"""What can be read from an optimizer without training: its schedule, its weight decay, and its eps.

What lrx's factories build remembers its arguments, and is built again with others. From other transformations, such as
those of `optax.chain`, the schedule is read from what their functions hold; they are scaled, not rebuilt.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.rates import Rate, Schedule, constant
from lrx.reading import monitor
from lrx.run_state import minibatches
from lrx.transformations import Built, rebuild

DEEPEST = 24  # of functions that hold functions
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
        return rebuild_core(self.tx, {"learning_rate": rate, **hyper})

    @property
    def hyper(self) -> dict[str, float]:
        """The numbers among `TUNED` that probes take as arguments, by name."""
        if not self.rebuilt:
            return {}
        arguments = core_of(self.tx).arguments
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
    core = core_of(tx)
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


def core_of(tx: Any) -> Any:
    """Return the factory's result with a `learning_rate`, within wrappers that have a `tx`; None if there is none."""
    if not isinstance(tx, Built) or tx.factory is None:
        return None
    if "learning_rate" in tx.arguments:
        return tx
    inner = tx.arguments.get("tx")
    return core_of(inner)


def rebuild_core(tx: Any, changes: Mapping[str, Any]) -> Any:
    """Build an optimizer again with other arguments of its core; a None stays."""
    arguments = dict(tx.arguments)
    if "learning_rate" in arguments:
        given = {name: value for name, value in changes.items() if value is not None}
        return rebuild(tx.factory, arguments | given)
    return rebuild(tx.factory, arguments | {"tx": rebuild_core(arguments["tx"], changes)})


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
