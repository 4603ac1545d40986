"""What a state says about its rate.

All functions are pure, so they work on traced states, under `jax.vmap`, and on states restored from a checkpoint. They
find rates wherever they are: in a chain, inside an optimizer, and inside optax's and flax's wrappers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._foreign import speaker
from lrx.states import Observation, RateState, array, method_name, tells


class NoRateError(ValueError):
    """The state holds no learning rate that could be read."""


class UnknownPairsError(NoRateError):
    """The state holds two sets of groups, and not which of the one meets which of the other."""


@dataclasses.dataclass
class _Path:
    """The rates between an incoming gradient and the update, one after the other."""

    signed: list[jax.Array] = dataclasses.field(default_factory=list)
    factors: list[jax.Array] = dataclasses.field(default_factory=list)
    rate_ahead: list[jax.Array] = dataclasses.field(default_factory=list)  # `signed` under the scales set by now
    ahead: list[jax.Array] = dataclasses.field(default_factory=list)  # `factors` under the scales set by now
    by_hand: list[jax.Array] = dataclasses.field(default_factory=list)  # what of it was set by hand
    unread: list[str] = dataclasses.field(default_factory=list)  # optimizers with a rate that is not in their state
    groups: dict[str, _Path] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.signed or self.factors or self.unread or self.groups)

    def extend(self, other: _Path) -> None:
        self._append(other)
        if self.groups and other.groups and self.groups.keys() != other.groups.keys():
            raise UnknownPairsError(
                f"the state must hold one set of groups on a path, got {sorted(self.groups)} and then "
                f"{sorted(other.groups)}: which meet at a parameter is not in the state. Use the same labels for both "
                "to read their rates."
            )
        for label, path in other.groups.items():
            self.groups.setdefault(label, _Path()).extend(path)

    def _append(self, other: _Path) -> None:
        self.signed += other.signed
        self.factors += other.factors
        self.rate_ahead += other.rate_ahead
        self.ahead += other.ahead
        self.by_hand += other.by_hand
        self.unread += other.unread

    def by_group(self, label: str = "") -> Iterator[tuple[str, _Path]]:
        if not self.groups:
            yield label, self
        for name, path in self.groups.items():
            inner = dataclasses.replace(self, groups=path.groups)
            inner.signed, inner.factors = self.signed + path.signed, self.factors + path.factors
            inner.rate_ahead, inner.ahead = self.rate_ahead + path.rate_ahead, self.ahead + path.ahead
            inner.by_hand, inner.unread = self.by_hand + path.by_hand, self.unread + path.unread
            yield from inner.by_group(join_labels(label, name))

    def holds_rate(self) -> bool:
        return bool(self.signed) or any(inner.holds_rate() for inner in self.groups.values())

    def rate(self) -> jax.Array:
        return product_of([self.signed[0], *self.factors])


def join_labels(label: str, name: str) -> str:
    """Return the label of a group within a group: "outer/inner"."""
    return f"{label}/{name}" if label else name


def product_of(factors: list[jax.Array]) -> jax.Array:
    """Return the product, () float32; 1 for none."""
    one = jnp.ones([], jnp.float32)
    return functools.reduce(
        lambda product, factor: product * jnp.asarray(refuse_abstract(factor), jnp.float32), factors, one
    )


def refuse_abstract(value: Any) -> Any:
    """Return a number of a state, which is an array unless the state was made by `jax.eval_shape`."""
    if isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            "the state must hold numbers, got an abstract one, as jax.eval_shape makes: read within it, "
            "jax.eval_shape(lambda params: lrx.learning_rate(tx.init(params)), params)."
        )
    return value


def nodes_below(node: Any) -> tuple[Any, ...]:
    """The nodes one level below, but for arrays: of thousands of leaves none has anything to say."""
    flat = jax.tree_util.default_registry.flatten_one_level(node)
    return () if flat is None else tuple(child for child in flat[0] if not isinstance(child, jax.Array | np.ndarray))


def _within(said: Any, node: Any) -> tuple[Any, ...]:
    return said.within() if tells(said, "within") else nodes_below(node)


def nodes_on_path(said: Any, node: Any) -> tuple[Any, ...]:
    """Return the states below through which a gradient goes on its way to the update."""
    return said.on_path() if tells(said, "on_path") else _within(said, node)


def state_of(function: str, state: Any) -> Any:
    """Return the optimizer state, also of an object that carries one, as nnx.Optimizer and TrainState."""
    if isinstance(state, optax.GradientTransformation):
        raise TypeError(
            f"{function} reads the state of a transformation, got the transformation {state!r}: give what "
            "tx.init(params) has returned, or the last tx.update(...)."
        )
    alone = type(state) in (bool, int, float, complex, str, bytes)
    if state is None or alone or isinstance(state, type) or inspect.isroutine(state):
        raise TypeError(
            f"{function} reads an optimizer state, got {state!r}: give what tx.init(params) has returned, or the last "
            "tx.update(...)."
        )
    if isinstance(state, tuple):  # also a state of optax's with a field of that name
        return state
    carried = getattr(state, "opt_state", state)
    if carried is state and not isinstance(state, np.ndarray | jax.Array) and jax.tree_util.all_leaves([state]):
        raise TypeError(
            f"{function} reads an optimizer state, or an object that carries one as `opt_state`, got {state!r}: give "
            "what tx.init(params) has returned, or the last tx.update(...)."
        )
    return carried


def collect(node: Any) -> _Path:
    """Return the rates and factors of a state, in the order in which a gradient meets them."""
    said = speaker(node)
    if tells(said, "rate"):
        rate = refuse_abstract(array(said.rate()))
        return _Path(signed=[rate], rate_ahead=[_ahead(said, rate)], by_hand=set_by_hand(said))
    if tells(said, "groups"):
        groups = {label: collect(inner) for label, inner in said.groups().items()}
        # Groups that hold nothing, as those of a weight decay, do not divide the rate.
        return _Path(groups=groups if any(groups.values()) else {})
    path = _Path()
    for child in nodes_on_path(said, node):
        path.extend(collect(child))
    if tells(said, "factor"):
        path = _times(path, _of_factor(said), said.pairs() if tells(said, "pairs") else {})
    if tells(said, "applies_sign") and not path.holds_rate():
        path.unread.append(said.applies_sign())
    if tells(said, "injected_rate") and not path.holds_rate() and (rate := said.injected_rate()) is not None:
        path.unread.clear()
        rate = array(rate)
        path.extend(_Path(signed=[rate], rate_ahead=[_ahead(said, rate)], by_hand=set_by_hand(said)))
    return path


def _times(path: _Path, factor: _Path, pairs: Mapping[str, list[str]]) -> _Path:
    """Multiply what lies on a path by the factors around it, group by group."""
    if not pairs:
        path.extend(factor)
        return path
    met = _Path()
    for label, inner in path.by_group():
        for own in pairs.get(label, ()):
            pair = met.groups[pair_name(label, own)] = dataclasses.replace(inner, groups={})
            for name in ("signed", "factors", "rate_ahead", "ahead", "by_hand", "unread"):
                setattr(pair, name, [*getattr(inner, name), *getattr(factor.groups[own], name)])
    return met


def pair_name(label: str, own: str) -> str:
    """Name the group of what is in both of two."""
    return own if label in ("", own) else join_labels(label, own)


def groups_of_leaves(state: Any, starts: Sequence[tuple[jax.Array, Mapping[Any, str]]]) -> dict[str, set[Any] | None]:
    """Return the leaves of each group within a state, as far as rates and factors have said which they are for.

    Args:
      state: what an `init` has returned.
      starts: what `collect_starts` has collected meanwhile.

    Returns:
      Label to paths; None where a rate is foreign and says nothing. Empty where there is no more than one group.
    """
    known = {id(count): groups for count, groups in starts}
    found: dict[str, set[Any] | None] = {}

    def look(node: Any, label: str) -> None:
        said = speaker(node)
        noted = known.get(id(getattr(node, "count", None)))
        if noted is not None:
            for own in set(noted.values()) or {""}:
                paths = found.setdefault(join_labels(label, own) if own else label, set())
                if paths is not None:
                    paths.update(path for path, name in noted.items() if name == own)
            return
        names = said.groups() if tells(said, "groups") else {}
        below = names.items() if names else (("", child) for child in nodes_on_path(said, node))
        before = set(found)
        for name, inner in below:
            look(inner, join_labels(label, name) if name else label)
        if tells(said, "injected_rate") and label not in found:
            found[label] = None
        if found.keys() - before:
            found.update(
                {join_labels(label, name): set() for name in names if not _is_in(found, join_labels(label, name))}
            )

    look(state, "")
    return {label: paths for label, paths in found.items() if label} if any(found) else {}


def _is_in(found: Mapping[str, Any], label: str) -> bool:
    return any(name == label or name.startswith(f"{label}/") for name in found)


def _of_factor(said: Any) -> _Path:
    factor = said.factor()
    if not isinstance(factor, Mapping):
        number = refuse_abstract(array(factor))
        return _Path(factors=[number], ahead=[_ahead(said, number)], by_hand=set_by_hand(said))
    factors = {label: refuse_abstract(array(number)) for label, number in factor.items()}
    ahead = said.ahead() if tells(said, "ahead") else factors
    scales = said.scale_by_hand() if tells(said, "scale_by_hand") else {}
    by_hand = {label: [array(scale)] for label, scale in scales.items()}
    groups = {
        str(label): _Path(factors=[number], ahead=[ahead[label]], by_hand=by_hand.get(label, []))
        for label, number in factors.items()
    }
    return _Path(groups=groups)


def _ahead(said: Any, latest: jax.Array) -> jax.Array:
    return said.ahead() if tells(said, "ahead") else latest


def set_by_hand(said: Any) -> list[jax.Array]:
    """Return what of a rate was set by hand, in a list that is empty where nothing can be."""
    scale = said.scale_by_hand() if tells(said, "scale_by_hand") else None
    return [] if scale is None else [array(scale)]


def paths_of(state: Any) -> dict[str, _Path]:
    """The path of each group that has a rate."""
    paths = {}
    for label, path in collect(state).by_group():
        where = f" of group {label!r}" if label else ""
        if path.signed and path.unread:
            raise ValueError(
                f"the state holds a learning rate on the path{where} beside {path.unread[0]}, which applies a rate and "
                "the sign itself, so that together they would ascend: leave one of them out, or let the other be "
                "schedule.multiplier()."
            )
        if len(path.signed) > 1:
            raise ValueError(
                f"the state holds {len(path.signed)} learning rates on the path{where}, and each applies the sign, so "
                "that an even number of them would ascend: make one rate of them, rate = schedule * other, or let one "
                "be schedule.multiplier(). For different parameters use optax.partition."
            )
        if path.signed:
            paths[label] = path
    if not paths:
        raise NoRateError(_no_rate(state))
    return paths


_RESTORED = frozenset(RateState._fields)


def _is_restored(tree: Any) -> bool:
    """Whether a tree holds a rate as Orbax restores it without a target: as a dict."""
    found = False

    def look(node: Any) -> bool:
        nonlocal found
        found = found or (isinstance(node, dict) and node.keys() >= _RESTORED)
        return found

    jax.tree.leaves(tree, is_leaf=look)
    return found


def _no_rate(state: Any) -> str:
    if _is_restored(state):
        return (
            "the state holds no learning rate that could be read, but dicts and lists, got what was restored without "
            "its types: give it to lrx.carry_over(restored, tx.init(params)).state, or restore it with tx.init(params) "
            "as the target."
        )
    if _only_arrays(state):
        return (
            f"the state holds no learning rate, but arrays only, got a {type(state).__name__} as parameters are: give "
            "the optimizer's state, which tx.init(params) and tx.update(...) return."
        )
    scheduled = _counts(state)[3]
    known = (
        ", so that the latest update has used schedule(lrx.update_count(state) - 1) of the schedule that you gave it"
        if scheduled
        else ""
    )
    given = "" if jax.tree.leaves(state) else f", got {state!r}"
    return (
        f"the state holds no learning rate{given}: optax keeps only a count of its schedules{known}. Build the "
        "optimizer with lrx (lrx.adam(schedule)), end the chain with an lrx schedule, or wrap the optax optimizer as "
        "optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)."
    )


def _only_arrays(tree: Any) -> bool:
    """Whether a tree is what parameters are: arrays, and nothing between that is a state."""
    if isinstance(tree, tuple):
        return False
    states = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, tuple) and hasattr(node, "_fields"))
    return bool(states) and all(isinstance(leaf, jax.Array | np.ndarray | int | float) for leaf in states)


def _rates(function: str, state: Any) -> dict[str, jax.Array]:
    return {label: path.rate() for label, path in paths_of(state_of(function, state)).items()}


def learning_rates(state: Any) -> dict[str, jax.Array]:
    """Read the learning rate of every parameter group.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      Group label to rate, () float32, with what lies outside the groups multiplied into each. Groups nested in groups
      are named `outer/inner`, groups without a rate (frozen ones) are left out, and a state without groups has the
      one label `""`. What counts as the rate is said in `learning_rate`.

    Raises:
      NoRateError: a ValueError, if the state holds no rate, or holds two sets of groups (`group_rates` around an
        `optax.partition` by other labels), of which it does not say which meet.
      ValueError: if there are two rates on one path.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, optax, jax.numpy as jnp
      >>> tx = optax.partition({"body": lrx.sgd(0.1), "head": lrx.sgd(1.0)}, {"w": "body", "b": "head"})
      >>> state = tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)})
      >>> {label: float(rate) for label, rate in lrx.learning_rates(state).items()}
      {'body': 0.10000000149011612, 'head': 1.0}
    """
    return _rates("learning_rates", state)


def learning_rate(state: Any, group: Hashable | None = None) -> jax.Array:
    """Read the learning rate that the latest update used.

    It is the product of the rates on the path: before the first update schedule(0), after an accumulating or skipped
    call the last applied one, and 0 once a controller has stopped the run. It is read through `optax.chain`,
    `partition`, `masked`, `MultiSteps`, `apply_if_finite`, `inject_hyperparams`, `contrib.sam` (whose adversary is not
    on the path) and flax's optimizers.

    Factors of optax's own links are included if their state holds the number: a number or schedule of
    `inject_hyperparams`, the scale of `contrib.reduce_on_plateau` and of `contrib.mechanize`, the step of a line
    search, and the estimate of `contrib.prodigy` and `contrib.dadapt_adamw` under `inject_hyperparams` (the estimate
    for the next update, without the bias correction). Factors that are not in a state cannot be read and are left out:
    `optax.scale`, `optax.scale_by_schedule`, and the rate of a whole optimizer such as `optax.adam(0.1)`. An optimizer
    with a rate of its own before an lrx rate makes the chain ascend, because both apply the sign. `inject_hyperparams`
    and most of `optax.contrib` show that in their state, and raise an error here; `optax.adam` does not, so `lrx.train`
    tests the direction of an update. A direction that is added outside of the rate, such as a weight decay, is not seen
    either.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).
      group: which group's, where the state has several: its label, or its label as text.

    Returns:
      () float32.

    Raises:
      NoRateError: a ValueError, if the state holds no rate, as that of `optax.adamw(schedule)`.
      ValueError: if there are two rates on one path, or several groups of which none is named.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.linear_decay(0.1, decay_steps=8))
      >>> state = tx.init(jnp.zeros(3))
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.ones(3), state)
      >>> print(lrx.learning_rate(state))
      0.075
    """
    rates = _rates("learning_rate", state)
    return rates[group_of(rates, group, "learning_rate")]


def group_of(rates: Mapping[str, Any], group: Hashable | None, function: str) -> str:
    """Return the label of the group asked for; the only one where none is."""
    if group is not None:
        if str(group) not in rates:
            raise ValueError(
                f"group must be one of {sorted(rates)}, got group={group!r}: take all with learning_rates(state)."
                if rates.keys() != {""}
                else f"group must be left out, got group={group!r}: the state has no groups, but one rate for all."
            )
        return str(group)
    if len(rates) > 1:
        value = "" if function == "learning_rate" else "value, "
        raise ValueError(
            f"group must be one of {sorted(rates)} for this state, got group=None: give {function}(state, {value}"
            f"group={next(iter(rates))!r}), or take all with learning_rates(state)."
        )
    return next(iter(rates))


class _Entry(NamedTuple):
    """One thing that a state shows."""

    owner: str  # the method that shows it, behind the groups that it is in; "" for what has no method's name
    node: Any  # of the state; two of one name are told apart by it
    field: str
    value: Any  # an array, or the `Observation` of what waits for one


def _entries(node: Any, group: str = "", owner: Any = None) -> Iterator[_Entry]:
    """What the states have to show, those of a group under its label, as the owner's where that is known."""
    said = speaker(node)
    named = tells(said, "belongs_to")
    owner = said.belongs_to() if named else node if owner is None else owner
    for name, value in said.shown().items() if tells(said, "shown") else ():
        method, _, field = name.rpartition("/")
        yield _Entry(join_labels(group, method) if method else group, owner, field, array(value))
    if tells(said, "groups"):
        for label, inner in said.groups().items():
            yield from _entries(inner, join_labels(group, label))
        return
    for child in _within(said, node):
        if isinstance(child, Observation):
            yield _Entry(join_labels(group, method_name(owner)), owner, "observations", child)
        else:
            yield from _entries(child, group, owner if named and type(child) is type(owner) else None)


def named_entries(state: Any) -> Iterator[tuple[str, _Entry]]:
    """Every entry with the name of its owner, in which those that repeat have a number."""
    nodes: dict[str, list[int]] = {}
    for entry in _entries(state):
        same = nodes.setdefault(entry.owner, [])
        if id(entry.node) not in same:
            same.append(id(entry.node))
        number = same.index(id(entry.node)) + 1
        yield (entry.owner if number == 1 or not entry.owner else f"{entry.owner}_{number}"), entry


def monitor(state: Any, *, scalars: bool = False) -> dict[str, Any]:
    """Collect every rate, factor, estimate and momentum of a state in a flat dict, for a logger.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).
      scalars: whether to return plain Python numbers, as loggers and `json.dumps` want them, in place of arrays. They
        are fetched from the device together; within a compiled function there are none yet.

    Returns:
      Name to scalar. The rate is `learning_rate`, or `learning_rate/<group>` where there are groups; what
      `scale_learning_rate` and `set_learning_rate` have set is `scale`, or `scale/<group>`. What a controller or
      optimizer keeps, but for counts, is `<method>/<field>`, within a group `<group>/<method>/<field>`; what an
      unsigned link multiplies by is `factor`, and of two methods of one name the second is `<method>_2/<field>`. What
      takes its loss from `observe` shows `<method>/observations`: how many there have been. What `optax.snapshot`
      measures has its own name, so `optax.chain(optax.snapshot("gradient_norm", optax.tree.norm), lrx.sgd(0.1))`
      records norms. Empty where there is nothing. A state of your own adds what its method `shown()` returns.

    Raises:
      ValueError: if two rates lie on one path, or with `scalars` if the state is that of several vmapped members.
      TypeError: if `state` is a transformation or None, or if the state is traced and `scalars` is True.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(patience=5))
      >>> state = tx.init(jnp.zeros(3))
      >>> updates, state = tx.update(jnp.ones(3), state, value=2.0)
      >>> report = lrx.monitor(state)
      >>> print(report["learning_rate"], report["reduce_on_plateau/best_value"])
      0.1 2.0
      >>> lrx.monitor(lrx.sgd(0.25, momentum=0.5).init(jnp.zeros(3)), scalars=True)
      {'learning_rate': 0.25, 'scale': 1.0, 'momentum/momentum': 0.5}
    """
    state = state_of("monitor", state)
    report: dict[str, Any] = {}
    try:
        paths = paths_of(state)
    except NoRateError:
        paths = {}
    for label, path in paths.items():
        report[f"learning_rate/{label}" if label else "learning_rate"] = path.rate()
    for label, path in paths.items():
        if path.by_hand:
            report[f"scale/{label}" if label else "scale"] = product_of(path.by_hand)
    for name, entry in named_entries(state):
        value = array(entry.value.total) if isinstance(entry.value, Observation) else entry.value
        key = unique = f"{name}/{entry.field}" if name else entry.field
        copy = 2
        while unique in report:
            unique, copy = f"{key}_{copy}", copy + 1
        report[unique] = value
    return _as_scalars(report) if scalars else {name: _copy(value) for name, value in report.items()}


def _copy(value: Any) -> Any:
    """A value that outlives its state, which may be donated to the next step."""
    return jnp.array(value) if isinstance(value, jax.Array) and _checks.is_concrete(value) else value


def _as_scalars(report: Mapping[str, Any]) -> dict[str, Any]:
    if not all(map(_checks.is_concrete, report.values())):
        raise TypeError(
            "scalars must be False within a compiled function, got scalars=True: the numbers are not known yet. Return "
            "monitor(state), and take scalars outside."
        )
    values = jax.device_get(list(report.values()))
    known = {name: np.asarray(value) for name, value in zip(report, values, strict=True)}
    for name, value in known.items():
        if value.ndim:
            raise ValueError(
                f"scalars must be False for the state of several members, got {name} of shape {value.shape}: take one, "
                "monitor(jax.tree.map(lambda leaf: leaf[0], state), scalars=True)."
            )
    return {name: value.item() if value.dtype.kind in "biuf" else float(value) for name, value in known.items()}


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
    flags = [jnp.asarray(refuse_abstract(flag), bool) for flag in stop_flags(state_of("stopped", state))]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def can_stop(state: Any) -> bool:
    """Whether something in a state can end a run."""
    return bool(stop_flags(state_of("can_stop", state)))


def stop_flags(node: Any) -> list[jax.Array]:
    """Return what each state that can end a run says about it."""
    said = speaker(node)
    found = [array(said.stops())] if tells(said, "stops") else []
    return [*found, *(flag for child in _within(said, node) for flag in stop_flags(child))]


def update_count(state: Any) -> jax.Array:
    """Return the number of updates that have been applied.

    Calls that only gather a gradient (`accumulate`, `optax.MultiSteps`) or that are skipped (`optax.apply_if_finite`)
    are not counted: it is the time of schedules and bias corrections, from which a cool-down branches off. Where
    `rollback_on_divergence` takes the run back, the count goes back with it.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`). That of
        an optax optimizer will do, where it counts.

    Returns:
      () int32, which stays at 2^31 - 1 once there.

    Raises:
      ValueError: if nothing in the state counts updates, or groups of parameters have had different numbers of them.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.accumulate(lrx.adam(1e-3), every=2)
      >>> state = tx.init(jnp.zeros(3))
      >>> for _ in range(5):
      ...     updates, state = tx.update(jnp.ones(3), state)
      >>> print(lrx.update_count(state))
      2
    """
    found = _counts(state_of("update_count", state))
    # A link outside of a wrapper counts calls: the rates come first, and what only counts comes last.
    counts = next((counts for counts in found if counts), [])
    if not counts:
        raise ValueError(
            _no_rate(state_of("update_count", state))
            if _is_restored(state) or _only_arrays(state)
            else "the state counts no updates: build the optimizer with lrx (lrx.sgd(0.1)), or count them yourself."
        )
    counts = [refuse_abstract(count) for count in counts]
    known = jax.device_get(counts) if all(map(_checks.is_concrete, counts)) else []
    if any(np.any(count != known[0]) for count in known):
        numbers = sorted({int(number) for count in known for number in np.ravel(count)})
        raise ValueError(
            f"the state must hold one number of updates, got {numbers}: its groups have been updated at different "
            "times. Give the state of one group."
        )
    return _copy(counts[0])


def _counts(node: Any) -> tuple[list[jax.Array], ...]:
    """The counts of the states on the path: of rates, of factors, of others, and of what counts for a schedule only."""
    said = speaker(node)
    found: tuple[list[jax.Array], ...] = ([], [], [], [])
    if not tells(said, "rate"):
        below = said.groups().values() if tells(said, "groups") else nodes_on_path(said, node)
        for counts, more in zip(found, zip(*map(_counts, below), strict=True), strict=False):
            counts.extend(count for part in more for count in part)
    if tells(said, "completed_updates"):
        is_rate = tells(said, "rate") or (tells(said, "injected_rate") and not found[0])
        kind = 0 if is_rate else 1 if tells(said, "factor") else 3 if tells(said, "restart") else 2
        found[kind].append(array(said.completed_updates()))
    return found


def minibatches(state: Any) -> list[tuple[jax.Array, jax.Array | None]]:
    """Return how many minibatches are gathered for the next update, and how many make one.

    What has been gathered when a run ends has not been applied.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state`.

    Returns:
      A pair for each accumulation that is not within another, in calls of `update`, each () int32; None for the second
      where the state does not say it, as that of `optax.MultiSteps`. Empty where nothing accumulates.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> from lrx.reading import minibatches
      >>> tx = lrx.accumulate(lrx.sgd(0.1), every=4)
      >>> _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
      >>> [(int(gathered), int(every)) for gathered, every in minibatches(state)]
      [(1, 4)]
    """
    return _gathering(state_of("minibatches", state))


def _gathering(node: Any) -> list[tuple[jax.Array, jax.Array | None]]:
    said = speaker(node)
    below = said.groups().values() if tells(said, "groups") else nodes_on_path(said, node)
    found = [pair for inner in below for pair in _gathering(inner)]
    if not tells(said, "gathering"):
        return found
    gathered, every = said.gathering()
    gathered, every = array(gathered), None if every is None else array(every)
    if every is None or not found:
        return [(gathered, every)]
    return [(inner * every + gathered, None if length is None else length * every) for inner, length in found]


def listeners(state: Any) -> tuple[str, ...]:
    """Name what takes its loss from `observe`, as `monitor` and `observe(..., to=...)` do.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      The names of all that was built with `feedback="observed"`; the empty tuple where nothing was.
    """
    return tuple(
        name for name, entry in named_entries(state_of("listeners", state)) if isinstance(entry.value, Observation)
    )
