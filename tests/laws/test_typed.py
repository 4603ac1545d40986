"""Law 4: typed numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import all_states
from laws.programs import INT32_MAX, is_finite, observed
from problems import assert_trees_close, assert_trees_equal, gradient_stream, signature_of, vector_params


def _typed(tree: Any, dtypes: Mapping[str, Any]) -> Any:
    return {name: leaf.astype(dtypes[name]) for name, leaf in tree.items()}


NARROW, WIDE, HALF = jnp.bfloat16, jnp.float32, jnp.float16
# Types of the parameters and of their gradients: all of one narrow type, and leaf by leaf every pair that meets.
PAIRS = [(WIDE, WIDE), (NARROW, NARROW), (WIDE, NARROW), (NARROW, WIDE), (HALF, HALF), (WIDE, HALF)]
TYPES = {"narrow": [(NARROW, NARROW)] * len(PAIRS), "mixed": PAIRS}


@all_states
def test_updates_have_the_type_of_their_gradient(case):
    whole = {str(index): leaf for index in range(len(PAIRS)) for leaf in [jnp.asarray([[0.5, -1.0], [2.0, 1.0]])]}
    tx = case()
    for pairs in TYPES.values():
        of_gradients = {str(index): jnp.dtype(dtype) for index, (_, dtype) in enumerate(pairs)}
        params = _typed(whole, {str(index): dtype for index, (dtype, _) in enumerate(pairs)})
        gradients = _typed(gradient_stream(whole, 1)[0], of_gradients)
        state = tx.init(params)
        updates, after = jax.eval_shape(lambda *xs: tx.update(*xs, value=1.0), gradients, state, params)
        assert {name: leaf.dtype for name, leaf in updates.items()} == of_gradients
        assert signature_of(state) == signature_of(after)
        scalars = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == ()]
        assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.floating)} <= {jnp.dtype(jnp.float32)}
        assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.integer)} <= {jnp.dtype(jnp.int32)}


@all_states
def test_narrow_updates_are_the_wide_ones_rounded(case):
    params = vector_params()
    gradients = _typed(gradient_stream(params, 1)[0], {"a": NARROW, "b": NARROW})
    tx = case()
    narrow, narrow_state = tx.update(gradients, tx.init(params), params, value=1.0)
    wide, wide_state = tx.update(_typed(gradients, {"a": WIDE, "b": WIDE}), tx.init(params), params, value=1.0)
    # A chain rounds between its links, so that an update may be one rounding apart.
    assert_trees_close(narrow, _typed(wide, {"a": NARROW, "b": NARROW}))
    assert_trees_equal(narrow_state, wide_state)


@all_states
def test_arithmetic_mixes_no_types_silently(case):
    params = {**vector_params(), "narrow": jnp.ones(2, jnp.bfloat16)}
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    state = tx.init(params)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(tx.init, params)
        jax.eval_shape(lambda *xs: tx.update(*xs, value=jnp.bfloat16(1.0)), gradients, state, params)


BARE_TREES = {
    "empty": {},
    "none": None,
    "float": 1.5,
    "leaves": (None, np.float32(2.0), jnp.asarray(1.0), [jnp.zeros((0, 3))], ()),
}


@all_states
def test_empty_trees_none_leaves_and_scalars_pass(case):
    tx = case()
    for name, params in BARE_TREES.items():
        state = tx.init(params)
        for _ in range(2):
            updates, after = tx.update(params, state, params, value=1.0)
            assert jax.tree.structure(updates) == jax.tree.structure(params), name
            assert signature_of(after) == signature_of(state), name
            assert is_finite(updates), name
            state = after


@all_states
def test_counts_stay_at_their_largest_value(case):
    params = vector_params()
    tx = case()

    def at_the_end(path, leaf):
        name = jax.tree_util.keystr(path)
        return jnp.asarray(INT32_MAX, jnp.int32) if name.endswith("count") else leaf

    state = jax.tree.map_with_path(at_the_end, tx.init(params))
    last = [leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")]
    for gradients in gradient_stream(params, 2):
        updates, state = tx.update(gradients, observed(state, 1.0), params, value=1.0)
        assert is_finite(updates)
        counts = [
            leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")
        ]
        assert_trees_equal(counts, last)
        integers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
        assert all(bool(leaf >= 0) for leaf in integers)
