"""Rates by group: a factor for each group of parameters, brought to where the rate acts."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._leaves import (
    LeafFactors,
    Path,
    Reached,
    hides_leaves,
    is_placeholder,
    is_tree_of,
    named_leaves,
    scale_leaf,
    spread,
    written,
)
from lrx.rates import ArrayLike, Controller, Rate, Schedule, as_schedule
from lrx.states import GroupState
from lrx.transformations import factory

LABELS = (str, int, np.generic, enum.Enum)  # what tells a callable tree of labels from a function


@factory
def group_rates(
    tx: optax.GradientTransformation,
    labels: Any | Callable[[str, Any], Hashable],
    factors: Mapping[Any, ArrayLike | Schedule] | Callable[[Any], ArrayLike | Schedule],
) -> optax.GradientTransformationExtraArgs:
    """Give each group of parameters a factor of its own on the learning rate.

    In group i the rate is `alpha_t m_i`, wherever the method has it: within the velocity of `heavy_ball` and
    `nesterov`, with `adamw` on the weight decay too. Where `tx` holds no lrx rate its finished updates are multiplied.
    All leaves go through `tx` once, as without groups; `optax.partition`, which is for different *methods*, goes
    through once for each. A factor of 0 freezes a group. Layer-wise decay in one line, for layers named "layer_0" to
    "layer_11":

        group_rates(tx, lambda path, leaf: int(path.split("/")[0][6:]), lambda depth: 0.8 ** (11 - depth))

    Args:
      tx: the transformation whose rate is multiplied.
      labels: a tree of labels (the parameters' tree, or a prefix of it), or a function of a leaf's path and of the
        leaf, to its label. The path is "layer_0/kernel" for dicts, Equinox modules and flax's states alike, in `init`
        and in `update`; trees are compared by such paths, and a module of labels is a tree though it can be called.
      factors: `{label: m}` or a function from a label to m; m >= 0, dimensionless: a float or a `Schedule`; may be
        traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs what `tx` needs. `learning_rates` shows
      every group's rate.

    Raises:
      ValueError: if a factor is negative or not finite, a label has no factor, a factor no leaf, or the labels' tree
        does not fit.
      TypeError: if `tx` is no gradient transformation, or `factors` is neither a mapping nor a function.

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
    if is_tree_of(labels, LABELS) and not jax.tree.leaves(labels):
        raise TypeError(f"labels must be a tree of labels or a function of path and leaf, got labels={labels!r}.")
    inner = optax.with_extra_args_support(tx)
    reached: dict[Any, frozenset[Path]] = {}  # by the structure of an update

    def factor_of(label: Any) -> ArrayLike | Schedule:
        if not isinstance(factors, Mapping):
            return _factor(label, factors(label))
        if label not in factors:
            raise ValueError(f"factors must have one for each label, got none for {label!r}: known are {[*factors]}.")
        return known[label]

    known = {label: _factor(label, factor) for label, factor in factors.items()} if isinstance(factors, Mapping) else {}

    def labels_of(tree: Any) -> dict[Path, Any]:
        if is_tree_of(labels, LABELS):
            return spread("labels", labels, tree)
        return {path: labels(written(path), leaf) for path, leaf in named_leaves(tree)}

    def at(count: jax.Array, found: Iterable[Any]) -> dict[Any, jax.Array]:
        return {label: _value_at(factor_of(label), count) for label in sorted(found, key=str)}

    def init(params: Any) -> GroupState:
        count = jnp.zeros([], jnp.int32)
        if is_placeholder(params):
            # Which groups there are is said by parameters only: one entry stands for all of them.
            return GroupState(count, jnp.zeros([], jnp.float32), inner.init(params))  # type: ignore[arg-type]
        found = set(labels_of(params).values())
        if isinstance(factors, Mapping):
            unused = [label for label in factors if label not in found]
            # Within a mask the other groups' leaves are hidden.
            if unused and not hides_leaves(params) and found:
                raise ValueError(
                    f"factors must belong to a leaf each, got no leaf labelled {unused}: {found} are there."
                )
        shown = {str(label): jnp.array(factor) for label, factor in at(count, found).items()}
        return GroupState(count, shown, inner.init(params))

    def leaves_reached(
        updates: Any, state: Any, params: Any, extra_args: dict[str, Any], carried: LeafFactors
    ) -> frozenset[Path]:
        """The leaves that a rate within `tx` multiplies by their factors."""
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
        current = at(state.count, set(by_path.values()))
        own = LeafFactors.of(by_path, current)
        carried = own.times(outer)
        within = leaves_reached(updates, state.inner, params, extra_args, carried)
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args, leaf_factors=carried)
        # Where no rate takes the factor, the finished update is multiplied; what lies around this does so itself.
        leaves = [
            leaf if path in within else scale_leaf(leaf, current[by_path[path]]) for path, leaf in named_leaves(updates)
        ]
        updates = jax.tree.unflatten(jax.tree.structure(updates), leaves)
        # A group whose leaves have no gradient this time keeps its place.
        shown = dict(state.factors) | {str(label): jnp.array(factor) for label, factor in current.items()}
        return updates, GroupState(optax.safe_increment(state.count), shown, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _factor(label: Any, factor: Any) -> ArrayLike | Schedule:
    """Check a factor, and take a function of the step to a schedule."""
    name = f"factors[{label!r}]"
    if isinstance(factor, Rate | Controller) and not isinstance(factor, Schedule):
        raise TypeError(
            f"{name} must be a number or a Schedule, got {factor!r}, which follows feedback: only a learning rate can, "
            "as 1e-3 * controller."
        )
    if callable(factor):
        return as_schedule(factor, name=name)
    _checks.non_negative(name, factor)
    return factor


def _value_at(factor: ArrayLike | Schedule, count: jax.Array) -> jax.Array:
    return jnp.asarray(factor.function(count) if isinstance(factor, Schedule) else factor, jnp.float32)
