"""Rates by group: a factor for each group of parameters, brought to where the rate acts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import LeafFactors, Path, scale_leaf
from lrx.rates import ArrayLike, Schedule, as_setting
from lrx.states import GroupState
from lrx.transformations import factory


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
      labels: a tree of labels (the parameters' tree, or a prefix of it), or a function of a leaf's path, such as
        "layer_0/kernel", and of the leaf, to its label.
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
    if not callable(labels) and not jax.tree.leaves(labels):
        raise TypeError(f"labels must be a tree of labels or a function of path and leaf, got labels={labels!r}.")
    inner = optax.with_extra_args_support(tx)
    settings: dict[Any, Any] = {}

    def setting_of(label: Any) -> tuple[Callable[[jax.Array], ArrayLike], jax.Array]:
        if label not in settings:
            if isinstance(factors, Mapping) and label not in factors:
                raise ValueError(
                    f"factors must have one for each label, got none for {label!r}: known are {[*factors]}."
                )
            factor = factors[label] if isinstance(factors, Mapping) else factors(label)
            settings[label] = as_setting(f"factors[{label!r}]", factor, _checks.non_negative)
        return settings[label]

    if isinstance(factors, Mapping):
        for label in factors:
            setting_of(label)

    def labels_of(tree: Any) -> dict[Path, Any]:
        if callable(labels):
            return {
                path: labels(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
                for path, leaf in jax.tree.leaves_with_path(tree)
            }
        try:
            full = jax.tree.map(lambda label, branch: jax.tree.map(lambda _: label, branch), labels, tree)
        except ValueError as error:
            raise ValueError(
                f"labels must have the parameters' tree or a prefix of it, got labels={labels!r}: {error}. A function "
                "of the path fits every tree."
            ) from None
        return dict(jax.tree.leaves_with_path(full))

    def init(params: Any) -> GroupState:
        found = set(labels_of(params).values())
        if isinstance(factors, Mapping):
            unused = [label for label in factors if label not in found]
            # Within a mask the other groups' leaves are hidden.
            if unused and not _hides_leaves(params) and found:
                raise ValueError(
                    f"factors must belong to a leaf each, got no leaf labelled {unused}: {found} are there."
                )
        shown = {str(label): jnp.array(setting_of(label)[1]) for label in sorted(found, key=str)}
        return GroupState(jnp.zeros([], jnp.int32), shown, inner.init(params))

    def update(updates: Any, state: GroupState, params: Any = None, **extra_args: Any) -> tuple[Any, GroupState]:
        by_path = labels_of(updates)
        current = {
            label: jnp.array(setting_of(label)[0](state.count), jnp.float32)
            for label in sorted(set(by_path.values()), key=str)
        }
        carried = LeafFactors({path: current[label] for path, label in by_path.items()}, extra_args.get("leaf_factors"))
        updates, inner_state = inner.update(updates, state.inner, params, **{**extra_args, "leaf_factors": carried})
        updates = jax.tree.map_with_path(
            lambda path, leaf: leaf if path in carried.taken else scale_leaf(leaf, carried.factors[path]), updates
        )
        # A group whose leaves have no gradient this time keeps its place.
        shown = {label: factor for label, factor in state.factors.items()}
        shown |= {str(label): jnp.array(factor) for label, factor in current.items()}
        return updates, GroupState(optax.safe_increment(state.count), shown, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _hides_leaves(params: Any) -> bool:
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)
