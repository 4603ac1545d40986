"""What a state says about its rate, and what it takes from outside.

All functions are pure: they read an optimizer state, or give back a new one of the same structure, so they work on
traced states, under `jax.vmap`, and on states restored from a checkpoint. They find rates wherever they are: in a
chain, inside an optimizer, and inside optax's and flax's wrappers.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax import SnapshotState, safe_increment
from optax.schedules import InjectStatefulHyperparamsState
from optax.transforms import PartitionState

from lrx import _checks
from lrx.feedback import check_loss
from lrx.states import ComputedRate, ControllerState, FactorState, GroupState, Observation, RateState, Snapshot


class NoRateError(ValueError):
    """The state holds no learning rate that could be read."""


@dataclasses.dataclass
class _Path:
    """The rates between an incoming gradient and the update, one after the other."""

    signed: list[jax.Array] = dataclasses.field(default_factory=list)
    factors: list[jax.Array] = dataclasses.field(default_factory=list)
    groups: dict[str, _Path] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.signed or self.factors or self.groups)

    def extend(self, other: _Path) -> None:
        self.signed += other.signed
        self.factors += other.factors
        if self.groups and other.groups and self.groups.keys() != other.groups.keys():
            raise ValueError(
                f"the state must hold one set of groups on a path, got {sorted(self.groups)} and then "
                f"{sorted(other.groups)}: which meet at a parameter is not in the state. Use the same labels in both "
                "optax.partition."
            )
        for label, path in other.groups.items():
            self.groups.setdefault(label, _Path()).extend(path)

    def by_group(self, label: str = "") -> Iterator[tuple[str, list[jax.Array], list[jax.Array]]]:
        if not self.groups:
            yield label, self.signed, self.factors
        for name, path in self.groups.items():
            inner = _Path(self.signed + path.signed, self.factors + path.factors, path.groups)
            yield from inner.by_group(f"{label}/{name}" if label else name)


def _children(node: Any) -> tuple[Any, ...]:
    """The nodes one level below; none below an array, nor in what is only kept for later."""
    if isinstance(node, Snapshot):
        return ()
    flat = jax.tree_util.default_registry.flatten_one_level(node)
    return () if flat is None else tuple(flat[0])


def _array(leaf: Any) -> jax.Array:
    """A field's value, where flax has wrapped it in a variable too."""
    return jax.tree.leaves(leaf)[0]


def _opt_state(state: Any) -> Any:
    """The optimizer state of an object that carries one, as nnx.Optimizer and TrainState."""
    return getattr(state, "opt_state", state)


def _collect(node: Any) -> _Path:
    if isinstance(node, RateState | ComputedRate):
        return _Path(signed=[_array(node.rate)])
    if isinstance(node, FactorState):
        return _Path(factors=[_array(node.factor)])
    if isinstance(node, PartitionState):
        groups = {str(label): _collect(inner) for label, inner in node.inner_states.items()}
        # Groups that hold nothing, as those of a weight decay, do not divide the rate.
        return _Path(groups=groups if any(groups.values()) else {})
    path = _Path()
    if isinstance(node, GroupState):
        path.extend(_collect(node.inner))
        path.extend(_Path(groups={label: _Path(factors=[_array(factor)]) for label, factor in node.factors.items()}))
        return path
    if isinstance(node, InjectStatefulHyperparamsState):
        path.extend(_collect(node.inner_state))
        if not _holds_signed(path) and "learning_rate" in node.hyperparams:
            path.signed.append(_array(node.hyperparams["learning_rate"]))
        return path
    for child in _children(node):
        path.extend(_collect(child))
    return path


def _holds_signed(path: _Path) -> bool:
    return bool(path.signed) or any(_holds_signed(inner) for inner in path.groups.values())


def _product(signed: list[jax.Array], factors: list[jax.Array]) -> jax.Array:
    rate = jnp.asarray(signed[0], jnp.float32)
    for factor in factors:
        rate = rate * factor
    return rate


def _rates(state: Any) -> dict[str, jax.Array]:
    rates = {}
    for label, signed, factors in _collect(_opt_state(state)).by_group():
        if len(signed) > 1:
            where = f" of group {label!r}" if label else ""
            raise ValueError(
                f"the state holds {len(signed)} learning rates on the path{where}, and each applies the sign, so that "
                "an even number of them would ascend: make one rate of them, rate = schedule * other, or let one be "
                "schedule.multiplier(). For different parameters use optax.partition."
            )
        if signed:
            rates[label] = _product(signed, factors)
    if not rates:
        raise NoRateError(
            "the state holds no learning rate: optax keeps only a count of its schedules. Build the optimizer with "
            "lrx (lrx.adam(schedule)), end the chain with an lrx schedule, or wrap the optax optimizer as "
            "optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)."
        )
    return rates


def learning_rates(state: Any) -> dict[str, jax.Array]:
    """Read the learning rate of every parameter group.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      Group label to rate, () float32, with what lies outside the groups multiplied into each. Groups nested in groups
      are named `outer/inner`, groups without a rate (frozen ones) are left out, and a state without groups has the
      one label `""`.

    Raises:
      ValueError: if the state holds no rate, or two on one path.

    Example:
      >>> import lrx, optax, jax.numpy as jnp
      >>> tx = optax.partition({"body": lrx.sgd(0.1), "head": lrx.sgd(1.0)}, {"w": "body", "b": "head"})
      >>> state = tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)})
      >>> {label: float(rate) for label, rate in lrx.learning_rates(state).items()}
      {'body': 0.10000000149011612, 'head': 1.0}
    """
    return _rates(state)


def learning_rate(state: Any, group: str | None = None) -> jax.Array:
    """Read the learning rate that the latest update used.

    It is the product of the rates on the path: before the first update schedule(0), after an accumulating or skipped
    call the last applied one, and 0 once a controller has stopped the run.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).
      group: which group's, where the state has several.

    Returns:
      () float32.

    Raises:
      ValueError: if the state holds no rate, two on one path, or several groups of which none is named.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.linear_decay(0.1, decay_steps=8))
      >>> state = tx.init(jnp.zeros(3))
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.ones(3), state)
      >>> print(lrx.learning_rate(state))
      0.075
    """
    rates = _rates(state)
    if group is not None:
        if group not in rates:
            raise ValueError(
                f"group must be one of {sorted(rates)}, got group={group!r}: take all with learning_rates(state)."
                if rates.keys() != {""}
                else f"group must be left out, got group={group!r}: the state has no groups, but one rate for all."
            )
        return rates[group]
    if len(rates) > 1:
        raise ValueError(
            f"group must be one of {sorted(rates)} for this state, got group=None: give learning_rate(state, "
            f"group={next(iter(rates))!r}), or take all with learning_rates(state)."
        )
    return next(iter(rates.values()))


def _snake_case(node: Any) -> str:
    name = re.sub(r"State$", "", type(node).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class _Entry(NamedTuple):
    """One thing that a state shows."""

    owner: str  # the method that shows it, behind the groups that it is in; "" for what has no method's name
    node: Any  # of the state; two of one name are told apart by it
    field: str
    value: Any  # an array, or the `Observation` of what waits for one


def _entries(node: Any, prefix: str) -> Iterator[_Entry]:
    """Every scalar of the states that are lrx's own, optax's measurements and the hyperparameters of its injection."""
    group = prefix.rstrip("/")
    if isinstance(node, RateState | FactorState):
        if isinstance(node, FactorState):
            yield _Entry(group, node, "factor", _array(node.factor))
        for memory in node.memories:
            yield from _entries(memory, prefix)
    elif isinstance(node, ControllerState):
        owner = f"{prefix}{_snake_case(node.memory)}"
        yield _Entry(owner, node.memory, "factor", _array(node.factor))
        if isinstance(node.observation, Observation):
            yield _Entry(owner, node.memory, "observations", node.observation)
        yield from _own_entries(node.memory, prefix)
    elif isinstance(node, GroupState):
        yield from _entries(node.inner, prefix)
    elif isinstance(node, PartitionState):
        for label, inner in node.inner_states.items():
            yield from _entries(inner, f"{prefix}{label}/")
    elif isinstance(node, InjectStatefulHyperparamsState):
        for key, value in node.hyperparams.items():
            if key != "learning_rate":
                yield _Entry(group, node, key, _array(value))
        yield from _entries(node.inner_state, prefix)
    elif isinstance(node, SnapshotState):
        for key, value in node.measurement.items():
            if len(leaves := jax.tree.leaves(value)) == 1 and jnp.ndim(leaves[0]) == 0:
                yield _Entry(group, node, key, leaves[0])
    elif isinstance(node, Snapshot | ComputedRate):
        return
    elif type(node).__module__.split(".")[0] == "lrx" and hasattr(node, "_fields"):
        yield from _own_entries(node, prefix)
    else:
        for child in _children(node):
            if isinstance(child, Observation):
                yield _Entry(f"{prefix}{_snake_case(node)}", node, "observations", child)
            else:
                yield from _entries(child, prefix)


def _own_entries(node: Any, prefix: str) -> Iterator[_Entry]:
    """The scalars of a method's state, and what the states within it say."""
    if not hasattr(node, "_fields"):
        yield from _entries(node, prefix)
        return
    owner = f"{prefix}{_snake_case(node)}"
    # A method's own numbers are fields of type jax.Array; what has the parameters' structure may be scalar too.
    kinds = {field: getattr(kind, "__forward_arg__", kind) for field, kind in type(node).__annotations__.items()}
    own = {field for field, kind in kinds.items() if kind in (jax.Array, "jax.Array")}
    for field, child in zip(node._fields, node, strict=True):
        if isinstance(child, Observation):
            yield _Entry(owner, node, "observations", child)
        elif field not in own:
            yield from _entries(child, prefix)
        elif jnp.ndim(_array(child)) == 0 and field != "count":
            yield _Entry(owner, node, field, _array(child))


def _named(state: Any) -> Iterator[tuple[str, _Entry]]:
    """Every entry with the name of its owner, in which those that repeat have a number."""
    nodes: dict[str, list[int]] = {}
    for entry in _entries(_opt_state(state), ""):
        same = nodes.setdefault(entry.owner, [])
        if id(entry.node) not in same:
            same.append(id(entry.node))
        number = same.index(id(entry.node)) + 1
        yield (entry.owner if number == 1 or not entry.owner else f"{entry.owner}_{number}"), entry


def monitor(state: Any) -> dict[str, jax.Array]:
    """Collect every rate, factor, estimate and momentum of a state in a flat dict, for a logger.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      Name to scalar. The rate is `learning_rate`, or `learning_rate/<group>` where there are groups; what a controller
      or optimizer keeps, but for counts, is `<method>/<field>`, within a group `<group>/<method>/<field>`; what an
      unsigned link multiplies by is `factor`, and of two methods of one name the second is `<method>_2/<field>`. What
      takes its loss from `observe` shows `<method>/observations`: how many there have been. What `optax.snapshot`
      measures has its own name, so `optax.chain(optax.snapshot("gradient_norm", optax.tree.norm), lrx.sgd(0.1))`
      records norms. Empty where there is nothing.

    Raises:
      ValueError: if two rates lie on one path.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(patience=5))
      >>> state = tx.init(jnp.zeros(3))
      >>> updates, state = tx.update(jnp.ones(3), state, value=2.0)
      >>> report = lrx.monitor(state)
      >>> print(report["learning_rate"], report["reduce_on_plateau/best_value"])
      0.1 2.0
    """
    report: dict[str, jax.Array] = {}
    try:
        for label, rate in _rates(state).items():
            report[f"learning_rate/{label}" if label else "learning_rate"] = rate
    except NoRateError:
        pass
    for name, entry in _named(state):
        value = _array(entry.value.total) if isinstance(entry.value, Observation) else entry.value
        key = unique = f"{name}/{entry.field}" if name else entry.field
        copy = 2
        while unique in report:
            unique, copy = f"{key}_{copy}", copy + 1
        report[unique] = value
    return report


def stopped(state: Any) -> jax.Array:
    """Say whether a controller has ended the run.

    `early_stopping` ends it when the loss has not improved for a while, `rollback_on_divergence` when it has taken the
    run back as often as it may. The rate is 0 from then on, so a run that goes on moves nothing; `lrx.train` ends.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      () bool, False where nothing in the state can end a run.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.early_stopping(patience=0))
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 1.0):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      ...     print(lrx.stopped(state))
      False
      True
    """
    flags = [jnp.asarray(flag, bool) for flag in _stop_flags(_opt_state(state))]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def can_stop(state: Any) -> bool:
    """Whether something in a state can end a run."""
    return bool(_stop_flags(_opt_state(state)))


def _stop_flags(node: Any) -> list[jax.Array]:
    """The field `stopped` of lrx's own states."""
    own = type(node).__module__.split(".")[0] == "lrx" and "stopped" in getattr(node, "_fields", ())
    found = [_array(node.stopped)] if own else []
    return [*found, *(flag for child in _children(node) for flag in _stop_flags(child))]


def _refuse_objects(function: str, state: Any) -> None:
    # Some of optax's own states have a field of that name; they are tuples.
    if hasattr(state, "opt_state") and not isinstance(state, tuple):
        raise TypeError(
            f"{function} takes an optimizer state and gives back a new one, got a {type(state).__name__}: give it "
            f"x.opt_state, and put the result back (nnx: x.opt_state = ..., TrainState: x.replace(opt_state=...))."
        )


def _rewrite(state: Any, kind: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, kind) else node,
        state,
        is_leaf=lambda node: isinstance(node, kind),
    )


def scale_learning_rate(state: Any, factor: jax.typing.ArrayLike) -> Any:
    """Multiply the learning rate by hand, in the middle of a run.

    The factor is kept in the state: it acts on every later step of a schedule too, survives a checkpoint, needs no
    recompilation, and repeated calls multiply. Where the state has groups, all are scaled.

    Args:
      state: an optimizer state.
      factor: >= 0, () float; may be traced. For one each of the members of a vmapped state put `jax.vmap` around this.

    Returns:
      The new state, of the same structure. `learning_rate` shows the change with the next update; a number in
      `optax.inject_hyperparams` at once, where what is shown is what is kept.

    Raises:
      ValueError: if `factor` is negative, not finite or not a scalar, if the state holds no rate that can be scaled, or
        two rates on one path.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1)
      >>> state = lrx.scale_learning_rate(tx.init(jnp.zeros(2)), 0.5)
      >>> print(tx.update(jnp.ones(2), state)[0])
      [-0.05 -0.05]
    """
    _refuse_objects("scale_learning_rate", state)
    _checks.non_negative("factor", factor, "a negative rate would ascend")
    _rates(state)

    def scaled(leaf: Any, where: Any = True) -> Any:
        return jax.tree.map(lambda x: jnp.where(where, x * factor, x).astype(jnp.result_type(x)), leaf)

    def change(node: Any) -> Any:
        # Before the first update the rate on show is the one that the first update will use.
        first = _array(node.count) == 0
        if isinstance(node, RateState):
            return node._replace(scale=scaled(node.scale), rate=scaled(node.rate, where=first))
        if _holds_signed(_collect(node.inner_state)) or "learning_rate" not in node.hyperparams:
            return node._replace(inner_state=_rewrite(node.inner_state, kinds, change))
        # Injected: optax keeps a number as it is, and computes a schedule's anew from the schedule's own state.
        value, memory = node.hyperparams["learning_rate"], node.hyperparams_states.get("learning_rate")
        if memory is None:
            return node._replace(hyperparams={**node.hyperparams, "learning_rate": scaled(value)})
        if not isinstance(memory, RateState):
            raise ValueError(
                "learning_rate must be a number or an lrx schedule in optax.inject_hyperparams to be scaled, got a "
                f"{type(memory).__name__}, which counts steps and keeps no factor: give lrx.Schedule(function)."
            )
        return node._replace(
            hyperparams={**node.hyperparams, "learning_rate": scaled(value, where=first)},
            hyperparams_states={**node.hyperparams_states, "learning_rate": change(memory)},
        )

    kinds = (RateState, InjectStatefulHyperparamsState)
    if not any(
        isinstance(node, kinds) for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    ):
        raise ValueError(
            "the state holds no learning rate that could be scaled: its method, as cocob, takes none and computes its "
            "own. Use a method that takes a rate."
        )
    return _rewrite(state, kinds, change)


def listeners(state: Any) -> tuple[str, ...]:
    """Name what takes its loss from `observe`, as `monitor` and `observe(..., to=...)` do.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      The names of all that was built with `feedback="observed"`; the empty tuple where nothing was.
    """
    return tuple(name for name, entry in _named(state) if isinstance(entry.value, Observation))


def observe(state: Any, *, value: jax.typing.ArrayLike, to: str | Sequence[str] | None = None) -> Any:
    """Give controllers a loss that does not pass through `update`.

    For feedback that is not there at every step, as a validation loss, and for wrappers that drop extra arguments
    (flax's `TrainState.apply_gradients`, `optax.MultiSteps` inside a chain). It reaches what was built with
    `feedback="observed"` and nothing else. The next update takes it, once; a second observation before that update
    replaces the first. The state keeps a copy of the value in a buffer of its own.

    Args:
      state: an optimizer state.
      value: the loss, or what else is followed, () float of any type; may be traced.
      to: the name of the one that it is for, or several names, where more than one takes observations; by default all.
        Names are those of `monitor`: "early_stopping", "body/reduce_on_plateau" within a group, "reduce_on_plateau_2"
        for the second of one name.

    Returns:
      The new state, of the same structure.

    Raises:
      ValueError: if nothing in the state takes observations, `to` names something else, or `value` is not a scalar.
      TypeError: if `value` is not a number, or `state` is not an optimizer state.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed"))
      >>> state = tx.init(jnp.zeros(2))
      >>> for validation_loss in (1.0, 1.0):
      ...     state = lrx.observe(state, value=validation_loss)
      ...     updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state))
      0.05
    """
    _refuse_objects("observe", state)
    check_loss(value)
    found = {name: entry.value for name, entry in _named(state) if isinstance(entry.value, Observation)}
    chosen = None if to is None else {id(found[name]) for name in _recipients(to, found)}
    written = 0

    def write(node: Any) -> Any:
        nonlocal written
        if isinstance(node, Snapshot) or (chosen is not None and id(node) not in chosen):
            return node
        written += 1
        # Copies: neither two controllers nor a state and its caller share a buffer, so that each can be donated.
        return Observation(
            value=jax.tree.map(lambda x: jnp.array(jnp.full_like(x, value), copy=True), node.value),
            pending=jax.tree.map(jnp.ones_like, node.pending),
            total=jax.tree.map(safe_increment, node.total),
        )

    changed = _rewrite(state, (Observation, Snapshot), write)
    if not written:
        raise ValueError(
            "the state holds no controller that takes observations: build it for them, as "
            'lrx.adam(1e-3 * lrx.reduce_on_plateau(feedback="observed")), or pass the loss as '
            "tx.update(grads, state, params, value=loss) to one that is built without."
        )
    return changed


def _recipients(to: Any, found: Collection[str]) -> tuple[str, ...]:
    names = (to,) if isinstance(to, str) else tuple(to)
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise ValueError(
            f"to must name what takes observations, {sorted(found)} in this state, got to={to!r}: build a controller "
            'with feedback="observed" for it to be one of them.'
        )
    return names
