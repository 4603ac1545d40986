"""The rates between an incoming gradient and the update, one after the other, in each group of parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx._foreign import adapt
from lrx._walk import join_labels, nodes_on_path, refuse_abstract
from lrx.states import RateState, array, has_method


class NoRateError(ValueError):
    """The state holds no learning rate that could be read."""


class UnknownPairsError(NoRateError):
    """The state holds two sets of groups, but not which groups of the two share parameters."""


@dataclasses.dataclass
class RatePath:
    """The rates between an incoming gradient and the update, one after the other."""

    signed: list[jax.Array] = dataclasses.field(default_factory=list)
    factors: list[jax.Array] = dataclasses.field(default_factory=list)
    rate_ahead: list[jax.Array] = dataclasses.field(default_factory=list)  # `signed` under the scales set now
    ahead: list[jax.Array] = dataclasses.field(default_factory=list)  # `factors` under the scales set now
    by_hand: list[jax.Array] = dataclasses.field(default_factory=list)  # factors set by hand
    unread: list[str] = dataclasses.field(default_factory=list)  # optimizers with a rate that is not in their state
    groups: dict[str, RatePath] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.signed or self.factors or self.unread or self.groups)

    def extend(self, other: RatePath) -> None:
        self._append(other)
        if self.groups and other.groups and self.groups.keys() != other.groups.keys():
            raise UnknownPairsError(
                f"the state must hold one set of groups on a path, got {sorted(self.groups)} and then "
                f"{sorted(other.groups)}: which meet at a parameter is not in the state. Use the same labels for both "
                "to read their rates."
            )
        for label, path in other.groups.items():
            self.groups.setdefault(label, RatePath()).extend(path)

    def _append(self, other: RatePath) -> None:
        self.signed += other.signed
        self.factors += other.factors
        self.rate_ahead += other.rate_ahead
        self.ahead += other.ahead
        self.by_hand += other.by_hand
        self.unread += other.unread

    def by_group(self, label: str = "") -> Iterator[tuple[str, RatePath]]:
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


def product_of(factors: list[jax.Array]) -> jax.Array:
    """Return the product of factors, () float32; 1 if there are none."""
    one = jnp.ones([], jnp.float32)
    return functools.reduce(
        lambda product, factor: product * jnp.asarray(refuse_abstract(factor), jnp.float32), factors, one
    )


def collect_path(node: Any) -> RatePath:
    """Return the rates and factors of a state, in the order in which a gradient meets them."""
    view = adapt(node)
    if has_method(view, "rate"):
        rate = refuse_abstract(array(view.rate()))
        return RatePath(signed=[rate], rate_ahead=[_ahead(view, rate)], by_hand=set_by_hand(view))
    if has_method(view, "groups"):
        groups = {label: collect_path(inner) for label, inner in view.groups().items()}
        # Groups that hold nothing, as those of a weight decay, do not divide the rate.
        return RatePath(groups=groups if any(groups.values()) else {})
    path = RatePath()
    for child in nodes_on_path(view, node):
        path.extend(collect_path(child))
    if has_method(view, "factor"):
        path = _times(path, _of_factor(view), view.pairs() if has_method(view, "pairs") else {})
    if has_method(view, "applies_sign") and not path.holds_rate():
        path.unread.append(view.applies_sign())
    if has_method(view, "injected_rate") and not path.holds_rate() and (rate := view.injected_rate()) is not None:
        path.unread.clear()
        rate = array(rate)
        path.extend(RatePath(signed=[rate], rate_ahead=[_ahead(view, rate)], by_hand=set_by_hand(view)))
    return path


def _times(path: RatePath, factor: RatePath, pairs: Mapping[str, list[str]]) -> RatePath:
    """Multiply the rates on a path by the factors around it, group by group."""
    if not pairs:
        path.extend(factor)
        return path
    met = RatePath()
    for label, inner in path.by_group():
        for own in pairs.get(label, ()):
            pair = met.groups[pair_name(label, own)] = dataclasses.replace(inner, groups={})
            for name in ("signed", "factors", "rate_ahead", "ahead", "by_hand", "unread"):
                setattr(pair, name, [*getattr(inner, name), *getattr(factor.groups[own], name)])
    return met


def pair_name(label: str, own: str) -> str:
    """Return the name of the group of the leaves that are in both of two groups."""
    return own if label in ("", own) else join_labels(label, own)


def _of_factor(view: Any) -> RatePath:
    factor = view.factor()
    if not isinstance(factor, Mapping):
        number = refuse_abstract(array(factor))
        return RatePath(factors=[number], ahead=[_ahead(view, number)], by_hand=set_by_hand(view))
    factors = {label: refuse_abstract(array(number)) for label, number in factor.items()}
    ahead = view.ahead() if has_method(view, "ahead") else factors
    scales = view.scale_by_hand() if has_method(view, "scale_by_hand") else {}
    by_hand = {label: [array(scale)] for label, scale in scales.items()}
    groups = {
        str(label): RatePath(factors=[number], ahead=[ahead[label]], by_hand=by_hand.get(label, []))
        for label, number in factors.items()
    }
    return RatePath(groups=groups)


def _ahead(view: Any, latest: jax.Array) -> jax.Array:
    return view.ahead() if has_method(view, "ahead") else latest


def set_by_hand(view: Any) -> list[jax.Array]:
    """Return the factor that was set by hand, in a list that is empty if none can be."""
    scale = view.scale_by_hand() if has_method(view, "scale_by_hand") else None
    return [] if scale is None else [array(scale)]


def groups_of_leaves(state: Any, starts: Sequence[tuple[jax.Array, Mapping[Any, str]]]) -> dict[str, set[Any] | None]:
    """Return the leaves of each group within a state, as far as its rates and factors have noted them.

    Args:
      state: the state returned by an `init`.
      starts: the list that `collect_starts` has filled during that `init`.

    Returns:
      Label to paths; None for a foreign rate, whose leaves are not known. Empty if there is at most one group.
    """
    known = {id(count): groups for count, groups in starts}
    found: dict[str, set[Any] | None] = {}

    def look(node: Any, label: str) -> None:
        view = adapt(node)
        noted = known.get(id(getattr(node, "count", None)))
        if noted is not None:
            for own in set(noted.values()) or {""}:
                paths = found.setdefault(join_labels(label, own) if own else label, set())
                if paths is not None:
                    paths.update(path for path, name in noted.items() if name == own)
            return
        names = view.groups() if has_method(view, "groups") else {}
        below = names.items() if names else (("", child) for child in nodes_on_path(view, node))
        before = set(found)
        for name, inner in below:
            look(inner, join_labels(label, name) if name else label)
        if has_method(view, "injected_rate") and label not in found:
            found[label] = None
        if found.keys() - before:
            found.update(
                {join_labels(label, name): set() for name in names if not _is_in(found, join_labels(label, name))}
            )

    look(state, "")
    return {label: paths for label, paths in found.items() if label} if any(found) else {}


def _is_in(found: Mapping[str, Any], label: str) -> bool:
    return any(name == label or name.startswith(f"{label}/") for name in found)


def paths_of(state: Any) -> dict[str, RatePath]:
    """Return the path of each group that has a rate."""
    paths = {}
    for label, path in collect_path(state).by_group():
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
        raise NoRateError(no_rate(state))
    return paths


def no_rate(state: Any) -> str:
    """Write why no rate can be read from a state, and the way out."""
    if is_restored(state):
        return (
            "the state holds no learning rate that could be read, but dicts and lists, got what was restored without "
            "its types: give it to lrx.carry_over(restored, tx.init(params)).state, or restore it with tx.init(params) "
            "as the target."
        )
    if holds_only_arrays(state):
        return (
            f"the state holds no learning rate, but arrays only, got a {type(state).__name__} as parameters are: give "
            "the optimizer's state, which tx.init(params) and tx.update(...) return."
        )
    scheduled = counts_on_path(state)[3]
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


_RESTORED = frozenset(RateState._fields)


def is_restored(tree: Any) -> bool:
    """Return whether a tree holds a rate as a dict, as Orbax restores it without a target."""
    found = False

    def look(node: Any) -> bool:
        nonlocal found
        found = found or (isinstance(node, dict) and node.keys() >= _RESTORED)
        return found

    jax.tree.leaves(tree, is_leaf=look)
    return found


def holds_only_arrays(tree: Any) -> bool:
    """Return whether a tree holds arrays and no state, as parameters do."""
    if isinstance(tree, tuple):
        return False
    states = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, tuple) and hasattr(node, "_fields"))
    return bool(states) and all(isinstance(leaf, jax.Array | np.ndarray | int | float) for leaf in states)


def counts_on_path(node: Any) -> tuple[list[jax.Array], ...]:
    """Return the counts of the states on the path: of rates, of factors, of other states, and of mere schedules."""
    view = adapt(node)
    found: tuple[list[jax.Array], ...] = ([], [], [], [])
    if not has_method(view, "rate"):
        below = view.groups().values() if has_method(view, "groups") else nodes_on_path(view, node)
        for counts, more in zip(found, zip(*map(counts_on_path, below), strict=True), strict=False):
            counts.extend(count for part in more for count in part)
    if has_method(view, "completed_updates"):
        is_rate = has_method(view, "rate") or (has_method(view, "injected_rate") and not found[0])
        kind = 0 if is_rate else 1 if has_method(view, "factor") else 3 if has_method(view, "restart") else 2
        found[kind].append(array(view.completed_updates()))
    return found
