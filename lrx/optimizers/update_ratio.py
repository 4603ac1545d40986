"""The relative size of updates: a link that changes nothing and shows |update| / |parameters| by group."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx._leaf_factors import moving_masks, where_moving
from lrx._leaves import (
    abs_square,
    has_no_gradient,
    require_known_types,
    require_params,
    square_root,
    sum_of_finite,
    sum_scalars,
    upcast,
)
from lrx._paths import Path, is_placeholder, is_tree_of, named_leaves, spread, write_path
from lrx.optimizers.groups import LABELS
from lrx.states import shows
from lrx.transformations import factory


@shows()
class UpdateRatioState(NamedTuple):
    """State of `update_ratio`."""

    ratios: dict[str, jax.Array]  # label of a group to () float32: |update| / |parameters| of the latest update

    def within(self) -> tuple[Any, ...]:
        """Return nothing: the link holds no other state."""
        return ()

    def shown(self) -> dict[str, jax.Array]:
        """Show the ratio of each group."""
        return {f"update_ratio/{label}": ratio for label, ratio in self.ratios.items()}


@factory
def update_ratio(
    labels: Any | Callable[[str, Any], Hashable] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Show how large updates are relative to the parameters, and change nothing.

    For each group, `monitor` shows `|u| / |theta|`, the root of the sum of the squared updates over that of the
    parameters before the update, as `update_ratio/<group>`. Put it where updates are finished: after the optimizer,
    `optax.chain(lrx.adam(1e-3), lrx.update_ratio())`, and within `accumulate`. Layers whose ratios differ by orders of
    magnitude learn at different speeds; about 1e-3 is usual for a rate that is neither too low nor too high.

    Args:
      labels: the group of each leaf: a tree of labels (the parameters' tree, or a prefix of it), or a function
        `(path, leaf) -> label` of paths such as "layer_0/kernel". By default each layer is a group: its label is the
        path without its last part, "layer_0", or the whole path if it has one part.

    Returns:
      A transformation that passes updates on as they are. `update` needs `params`. The ratio is 0 before the first
      update, and infinite if parameters that are all 0 move. Coordinates that are not finite, and those of a frozen
      group, are left out of both sums. The state has one float32 number for each group.

    Raises:
      ValueError: if the labels' tree does not fit, or `update` gets no `params`.
      TypeError: if `labels` is a tree of something else than labels.

    Source:
      A. Karpathy, CS231n course notes, "Neural Networks Part 3: Learning and Evaluation", 2015, "Ratio of
      weights:updates", where about 1e-3 is named.

    Example:
      >>> import lrx, optax, jax.numpy as jnp
      >>> tx = optax.chain(lrx.sgd(0.1), lrx.update_ratio())
      >>> params = {"body": {"w": jnp.full(4, 2.0), "b": jnp.zeros(2)}, "head": {"w": jnp.ones(1)}}
      >>> gradients = {"body": {"w": jnp.full(4, 2.0), "b": jnp.zeros(2)}, "head": {"w": jnp.full(1, 5.0)}}
      >>> updates, state = tx.update(gradients, tx.init(params), params)
      >>> {name: round(value, 3) for name, value in lrx.monitor(state, scalars=True).items() if "ratio" in name}
      {'update_ratio/body': 0.1, 'update_ratio/head': 0.5}
    """
    by_tree = labels is not None and is_tree_of(labels, LABELS)
    if by_tree and not (
        jax.tree.leaves(labels) and all(isinstance(label, LABELS) for label in jax.tree.leaves(labels))
    ):
        raise TypeError(f"labels must be a tree of labels or a function of path and leaf, got labels={labels!r}.")

    def labels_of(tree: Any) -> dict[Path, str]:
        if labels is None:
            return {path: write_path(path[:-1] or path) or "all" for path, _ in named_leaves(tree)}
        if by_tree:
            return {path: str(label) for path, label in spread("labels", labels, tree).items()}
        return {path: str(labels(write_path(path), leaf)) for path, leaf in named_leaves(tree)}

    def init(params: Any) -> UpdateRatioState:
        if is_placeholder(params):
            # A placeholder does not show which groups there are: one entry stands for all.
            return UpdateRatioState(jnp.zeros([], jnp.float32))  # type: ignore[arg-type]
        require_known_types(params)
        return UpdateRatioState(
            {label: jnp.zeros([], jnp.float32) for label in sorted(set(labels_of(params).values()))}
        )

    def update(
        updates: Any, state: UpdateRatioState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, UpdateRatioState]:
        require_params("update_ratio", params, updates, "with which it compares updates")
        by_path = labels_of(params)
        leaves = dict(named_leaves(params))
        moved: dict[str, list[jax.Array]] = {label: [] for label in state.ratios}
        sizes: dict[str, list[jax.Array]] = {label: [] for label in state.ratios}
        rows = named_leaves(updates, is_leaf=lambda leaf: leaf is None)
        for (path, leaf), moves in zip(rows, moving_masks(updates, extra_args), strict=True):
            if has_no_gradient(leaf):
                continue
            for sums, values in ((moved, leaf), (sizes, leaves[path])):
                sums[by_path[path]].append(sum_of_finite(where_moving(moves, abs_square(upcast(values)))))
        return updates, UpdateRatioState({label: _ratio(moved[label], sizes[label]) for label in state.ratios})

    return optax.GradientTransformationExtraArgs(init, update)


def _ratio(moved: list[jax.Array], sizes: list[jax.Array]) -> jax.Array:
    square, size = sum_scalars(moved), sum_scalars(sizes)
    zero = size == 0
    ratio = square_root(square) / square_root(jnp.where(zero, 1.0, size))
    return jnp.where(zero & (square > 0), jnp.inf, ratio)
