"""Rates by group: a factor for each group of parameters, applied where the rate acts."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._leaf_factors import LeafFactors, Reached, collect_starts, note_start
from lrx._leaves import has_no_gradient, scale_leaf, zeros_like
from lrx._numbers import ArrayLike
from lrx._paths import Path, hides_leaves, is_placeholder, is_tree_of, named_leaves, spread, write_path
from lrx.arguments import as_schedule
from lrx.rate_paths import groups_of_leaves, pair_name
from lrx.rates import Controller, Rate, Schedule
from lrx.states import array, change, shows
from lrx.transformations import factory

LABELS = (str, int, np.generic, enum.Enum)  # kinds of labels, which distinguish a callable tree from a function


@shows()
class GroupFactor(NamedTuple):
    """The factor of one group of `group_rates`."""

    latest: jax.Array  # () float32: the factor of the group's latest update
    unscaled: jax.Array  # () float32: the same without `scale`
    scale: jax.Array  # () float32: set by hand, multiplies it
    meets: dict[str, tuple[()]]  # labels of the groups within (of an optax.partition) that share leaves with it

    def with_scale(self, scale: jax.Array, *, first: jax.Array) -> GroupFactor:
        """Set the scale; before the first update, also the factor that is shown."""
        scale = change(self.scale, lambda x: jnp.broadcast_to(scale, x.shape))
        ahead = array(self.unscaled) * array(scale)
        return self._replace(scale=scale, latest=change(self.latest, lambda x: jnp.where(first, ahead, x)))


@shows()
class GroupState(NamedTuple):
    """State of `group_rates`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; saturates at 2^31 - 1
    step: jax.Array  # () int32: step of the factors' schedules in the next update: see `RateState`
    factors: dict[str, GroupFactor]
    inner: Any  # of the transformation whose rate is multiplied

    def within(self) -> tuple[Any, ...]:
        """Return the state of the transformation."""
        return (self.inner,)

    def factor(self) -> dict[str, Any]:
        """Return the factor of each group."""
        return {label: factor.latest for label, factor in self.factors.items()}

    def ahead(self) -> dict[str, Any]:
        """Return the latest factors under the scales that are set now."""
        return {label: array(factor.unscaled) * array(factor.scale) for label, factor in self.factors.items()}

    def pairs(self) -> dict[str, list[str]]:
        """Return, for each group within, the groups that share leaves with it."""
        within = dict.fromkeys(label for factor in self.factors.values() for label in factor.meets)
        return {inner: [label for label, factor in self.factors.items() if inner in factor.meets] for inner in within}

    def scale_by_hand(self) -> dict[str, Any]:
        """Return the factor set by hand for each group."""
        return {label: factor.scale for label, factor in self.factors.items()}

    def with_scale(self, scale: jax.Array, group: str) -> GroupState:
        """Set the factor that multiplies a group's factor."""
        changed = self.factors[group].with_scale(scale, first=array(self.count) == 0)
        return self._replace(factors={**self.factors, group: changed})

    def restart(self, step: jax.Array) -> GroupState:
        """Set the step of the factors' schedules."""
        return self._replace(step=change(self.step, lambda x: jnp.broadcast_to(step, x.shape)))


@factory
def group_rates(
    tx: optax.GradientTransformation,
    labels: Any | Callable[[str, Any], Hashable],
    factors: Mapping[Any, ArrayLike | Schedule] | Callable[[Any], ArrayLike | Schedule],
) -> optax.GradientTransformationExtraArgs:
    """Multiply the learning rate by a factor for each group of parameters.

    In group i the rate is `alpha_t m_i`, wherever the method uses it: within the velocity of `heavy_ball` and
    `nesterov`, with `adamw` on the weight decay too, unless that follows the schedule alone (`decoupling="schedule"`).
    If `tx` holds no lrx rate, its finished updates are multiplied. All leaves go through `tx` in one call, as without
    groups; `optax.partition`, which is for different *methods*, makes one call for each. Layer-wise decay in one line,
    for layers named "layer_0" to "layer_11":

        group_rates(tx, lambda path, leaf: int(path.split("/")[0][6:]), lambda depth: 0.8 ** (11 - depth))

    For layers that are stacked in one array, use a factor that broadcasts against it,
    `(0.8 ** jnp.arange(11, -1, -1.0))[:, None, None]`.

    A factor of 0 freezes a group and takes it out of every statistic over all parameters, such as the distance in
    `dog`. If the factor is the number 0, `tx` does not see the group at all: it keeps no moments for it, as with
    `optax.set_to_zero`, and shows no rate. A traced number or a schedule may be 0 at times: then the moments are still
    updated, and the statistics of lrx's methods leave the group out, while optax's, such as the norm in
    `clip_by_global_norm`, include it. Other factors do not affect statistics.

    Put `accumulate`, `averaged` and `master_weights` inside, `group_rates(accumulate(tx, 4), ...)`: outside, they keep
    an array for each frozen parameter too. The exception is a factor that is a schedule: then put `group_rates` inside
    `accumulate`, so that it counts applied updates. `optax.tree.map_params` needs
    `is_leaf=lambda node: isinstance(node, optax.MaskedNode)` if a group is frozen, as with `optax.partition` and
    `optax.set_to_zero`.

    Args:
      tx: the transformation whose rate is multiplied.
      labels: a tree of labels (the parameters' tree, or a prefix of it), or a function `(path, leaf) -> label`. The
        path is "layer_0/kernel" for dicts, Equinox modules and flax's states alike, in `init` and in `update`; trees
        are compared by these paths. A module of labels counts as a tree, even if it is callable.
      factors: `{label: m}` or a function from a label to m; m >= 0, dimensionless: a float, a `Schedule`, or an array
        that broadcasts against each leaf of the group; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs what `tx` needs. `learning_rates` shows
      the rate of every group that is not frozen; for an array of factors, the largest. Around an `optax.partition` with
      other labels, for example of weight decays, it shows the rate of every pair of groups that share parameters,
      under "label within/label here".

    Raises:
      ValueError: if a factor is negative, not finite or of a shape that does not fit, a label has no factor, a factor
        has no leaf, or the labels' tree does not fit; in `update`, if a factor was 0 in `init` and is not now, or the
        other way round.
      TypeError: if `tx` is not a gradient transformation, or `factors` is neither a mapping nor a function.

    Source:
      J. Howard, S. Ruder, "ULMFiT", ACL 2018, arXiv:1801.06146, section 3.2 (discriminative fine-tuning, a factor of
      1 / 2.6 from layer to layer).

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> params = {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(1)}}
      >>> tx = lrx.group_rates(lrx.sgd(0.5), {"body": "slow", "head": "fast"}, {"slow": 0.1, "fast": 1.0})
      >>> updates, state = tx.update(params, tx.init(params))
      >>> print(updates["body"]["w"], updates["head"]["w"], lrx.learning_rate(state, "slow"))
      [-0.05 -0.05] [-0.5] 0.05
    """
    _checks.transformation(tx)
    if not isinstance(factors, Mapping) and not callable(factors):
        raise TypeError(f"factors must be a dict or a function of the label, got factors={factors!r}.")
    by_tree = is_tree_of(labels, LABELS)
    if by_tree and not jax.tree.leaves(labels):
        raise TypeError(f"labels must be a tree of labels or a function of path and leaf, got labels={labels!r}.")
    inner = optax.with_extra_args_support(tx)
    reached: dict[Any, frozenset[Path]] = {}  # by the structure of the arguments of an update

    def factor_of(label: Any) -> ArrayLike | Schedule:
        if not isinstance(factors, Mapping):
            return _factor(label, factors(label))
        if label not in factors:
            raise ValueError(f"factors must have one for each label, got none for {label!r}: known are {[*factors]}.")
        return known[label]

    known = {label: _factor(label, factor) for label, factor in factors.items()} if isinstance(factors, Mapping) else {}

    def labels_of(tree: Any) -> dict[Path, Any]:
        if by_tree:
            return spread("labels", labels, tree)
        return {path: labels(write_path(path), leaf) for path, leaf in named_leaves(tree)}

    def factors_of(by_path: dict[Path, Any], tree: Any) -> dict[Any, ArrayLike | Schedule]:
        """Return the factors of the existing groups, each checked against the leaves of its group."""
        found = {label: factor_of(label) for label in sorted(set(by_path.values()), key=str)}
        for path, leaf in named_leaves(tree):
            _check_shape(by_path[path], found[by_path[path]], path, jnp.shape(leaf))
        return found

    def init(params: Any) -> GroupState:
        count = jnp.zeros([], jnp.int32)
        if is_placeholder(params):
            # A placeholder does not show which groups there are: one entry stands for all.
            one = jnp.zeros([], jnp.float32)
            return GroupState(count, jnp.array(count), one, inner.init(params))  # type: ignore[arg-type]
        by_path = labels_of(params)
        found = factors_of(by_path, params)
        if isinstance(factors, Mapping):
            unused = [label for label in factors if label not in found]
            # Within a mask, the leaves of the other groups are hidden.
            if unused and not hides_leaves(params) and found:
                raise ValueError(
                    f"factors must belong to a leaf each, got no leaf labelled {unused}: {[*found]} are there."
                )
        frozen = {path for path, label in by_path.items() if _freezes(found[label])}
        with collect_starts() as starts:
            inner_state = inner.init(_hide(params, frozen))
        moving = {path: str(label) for path, label in by_path.items() if path not in frozen}
        within = groups_of_leaves(inner_state, starts)
        meets = _shared_groups(moving, within)
        shown = {
            str(label): _group_factor(_value_at(factor, count), jnp.ones([], jnp.float32), meets.get(str(label), []))
            for label, factor in found.items()
            if not _freezes(factor)
        }
        state = GroupState(count, jnp.array(count), shown, inner_state)
        note_start(count, lambda: moving if not any(meets.values()) else _pairs_of_leaves(moving, within))
        return state

    def leaves_reached(
        updates: Any, state: Any, params: Any, extra_args: dict[str, Any], carried: LeafFactors
    ) -> frozenset[Path]:
        """Return the leaves that a rate within `tx` multiplies by their factors."""
        structure = jax.tree.structure((updates, state, params, extra_args))
        if structure not in reached:
            notes = Reached()
            noting = {**extra_args, "leaf_factors": dataclasses.replace(carried, reached=notes)}
            jax.eval_shape(lambda: inner.update(updates, state, params, **noting))
            reached[structure] = frozenset(notes.paths)
        return reached[structure]

    def update(updates: Any, state: GroupState, params: Any = None, **extra_args: Any) -> tuple[Any, GroupState]:
        outer = extra_args.pop("leaf_factors", None)
        by_path = labels_of(updates)
        found = factors_of(by_path, updates)
        for label, factor in found.items():
            if _freezes(factor) == (str(label) in state.factors):
                raise ValueError(
                    f"factors[{label!r}] must be 0 for as long as a state lives or never, got {factor!r}: a state that "
                    "was made with 0 keeps no statistics of the group. Make a new state, or give a factor that is 0 at "
                    "times as a schedule or as a traced number."
                )
        frozen = {path for path, label in by_path.items() if _freezes(found[label])}
        given = {label: _value_at(factor, state.step) for label, factor in found.items() if not _freezes(factor)}
        scales = {label: state.factors[str(label)].scale for label in given}
        current = {label: factor * scales[label] for label, factor in given.items()}
        moving = {path: label for path, label in by_path.items() if path not in frozen}
        carried = LeafFactors.of(moving, current).times(outer)
        inner_args = _hide_in(extra_args, updates, params, frozen)
        unmoved = frozen
        if frozen and any(path not in by_path for path, _ in named_leaves(params)):  # without a gradient this time
            unmoved = {path for path, label in labels_of(params).items() if _freezes(factor_of(label))}
        hidden = _hide(updates, frozen), state.inner, _hide(params, unmoved)
        within = leaves_reached(*hidden, inner_args, carried)
        moved, inner_state = inner.update(*hidden, **inner_args, leaf_factors=carried)
        # A finished update that no rate within has multiplied is multiplied here; an outer `group_rates` does its own.
        leaves = {
            path: leaf if path in within else scale_leaf(leaf, current[moving[path]])
            for path, leaf in named_leaves(moved)
        }
        # A group whose leaves have no gradient this time stays in the state.
        shown = dict(state.factors) | {
            str(label): _group_factor(given[label], scales[label], state.factors[str(label)].meets) for label in given
        }
        moved = [leaves[path] if path in leaves else _zero_update(leaf) for path, leaf in named_leaves(updates)]
        updates = jax.tree.unflatten(jax.tree.structure(updates), moved)
        count, step = optax.safe_increment(state.count), optax.safe_increment(state.step)
        return updates, GroupState(count, step, shown, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _factor(label: Any, factor: Any) -> ArrayLike | Schedule:
    """Check a factor, and convert a function of the step to a schedule."""
    name = f"factors[{label!r}]"
    if isinstance(factor, Rate | Controller) and not isinstance(factor, Schedule):
        raise TypeError(
            f"{name} must be a number or a Schedule, got {factor!r}, which follows feedback: only a learning rate can, "
            "as 1e-3 * controller."
        )
    if callable(factor):
        return as_schedule(factor, name=name)
    _checks.non_negative_array(name, factor, "a negative factor would ascend")
    return factor


def _value_at(factor: ArrayLike | Schedule, count: jax.Array) -> jax.Array:
    return jnp.asarray(factor.function(count) if isinstance(factor, Schedule) else factor, jnp.float32)


def _group_factor(factor: jax.Array, scale: jax.Array, meets: Iterable[str]) -> GroupFactor:
    largest = jnp.array(jnp.max(factor))
    return GroupFactor(largest * scale, largest, scale, {label: () for label in meets})


def _shared_groups(own: Mapping[Path, str], within: Mapping[str, set[Path] | None]) -> dict[str, list[str]]:
    """Return, for each group, the groups within that it shares leaves with; nothing if there are none or they agree.

    Args:
      own: the label of each leaf.
      within: the leaves of each group within; None if they are not known.
    """
    labels = sorted(set(own.values()))
    pairs = {
        inner: labels if paths is None else sorted({own[path] for path in paths if path in own})
        for inner, paths in within.items()
    }
    if pairs == {label: [label] for label in labels}:
        return {}
    return {label: sorted(inner for inner, meeting in pairs.items() if label in meeting) for label in labels}


def _pairs_of_leaves(own: Mapping[Path, str], within: Mapping[str, set[Path] | None]) -> dict[Path, str]:
    """Return the name of the pair of groups that each leaf is in."""
    inner = {path: label for label, paths in within.items() for path in paths or ()}
    return {path: pair_name(inner.get(path, ""), label) for path, label in own.items()}


def _zero_update(gradient: Any) -> Any:
    return gradient if has_no_gradient(gradient) else zeros_like(gradient)


def _freezes(factor: ArrayLike | Schedule) -> bool:
    """Return whether a factor is known to be 0, everywhere and always."""
    largest = factor.peak if isinstance(factor, Schedule) else factor
    return largest is not None and _checks.is_concrete(largest) and not np.any(np.asarray(largest))


def _check_shape(label: Any, factor: ArrayLike | Schedule, path: Path, shape: tuple[int, ...]) -> None:
    own = () if isinstance(factor, Schedule) else jnp.shape(factor)
    try:
        fits = own == () or np.broadcast_shapes(own, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"factors[{label!r}] must broadcast against each leaf of its group, got shape {own} for "
            f"{write_path(path)!r} of shape {shape}: for one factor for each of n layers that are stacked along the "
            f"first axis, give shape {(shape[0], *(1 for _ in shape[1:])) if shape else ()}."
        )


def _hide(tree: Any, paths: set[Path]) -> Any:
    """Replace leaves by empty nodes, as `optax.masked` does."""
    if not paths or tree is None:
        return tree
    leaves = [optax.MaskedNode() if path in paths else leaf for path, leaf in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _hide_in(extra_args: dict[str, Any], updates: Any, params: Any, paths: set[Path]) -> dict[str, Any]:
    """Hide leaves in trees of the updates' structure; a loss function still gets the whole parameters."""
    if not paths:
        return extra_args
    shapes = [jax.tree.structure(tree) for tree in (updates, params)]
    shapes = [shape for shape in shapes if not jax.tree_util.treedef_is_leaf(shape)]  # a loss is a single leaf too

    def hide(name: str, value: Any) -> Any:
        if name in ("value_fn", "grad_fn") and callable(value) and params is not None:

            def of_all(trial: Any, *args: Any, **kwargs: Any) -> Any:
                moved = dict(named_leaves(trial))
                leaves = [moved.get(path, leaf) for path, leaf in named_leaves(params)]
                result = value(jax.tree.unflatten(jax.tree.structure(params), leaves), *args, **kwargs)
                return result if name == "value_fn" else _hide(result, paths)

            return of_all
        return _hide(value, paths) if jax.tree.structure(value) in shapes else value

    return {name: hide(name, value) for name, value in extra_args.items()}
