"""What several tests share: parameter trees, streams of gradients, and comparisons of trees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STREAM = 6  # steps of the gradient stream: enough for a warm-up, a decay and a plateau in the cases of the laws


def mixed_params() -> dict[str, Any]:
    """Return a tree with both widths, a matrix, a scalar and a leaf that is not there."""
    return {
        "bias": jnp.asarray(0.5, jnp.float32),
        "frozen": None,
        "kernel": jnp.arange(6, dtype=jnp.float32).reshape(3, 2) / 6,
        "narrow": jnp.asarray([1.0, -0.5], jnp.bfloat16),
    }


def vector_params() -> dict[str, jax.Array]:
    """Return two float32 leaves."""
    return {"a": jnp.asarray([0.5, -1.0, 2.0], jnp.float32), "b": jnp.asarray([[0.25], [1.5]], jnp.float32)}


def gradient_stream(params: Any, steps: int = STREAM, seed: int = 0) -> list[Any]:
    """Return gradients of all signs, the same for the same arguments."""
    random = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=jnp.shape(leaf)), jnp.result_type(leaf)), params)
        for _ in range(steps)
    ]


def value_stream(steps: int = STREAM) -> list[float]:
    """Return losses that improve once and then stay: a plateau."""
    return [1.0, 0.5] + [0.5] * (steps - 2)


def signature_of(tree: Any) -> tuple[Any, ...]:
    """Return structure, and shape, type and weakness of every leaf: calls that share them are traced once."""
    avals = jax.tree.map(jax.typeof, tree)
    leaves, structure = jax.tree.flatten(avals)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


def assert_trees_equal(left: Any, right: Any) -> None:
    """Require the same structure, types and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        name = jax.tree_util.keystr(path)
        assert jnp.result_type(a) == jnp.result_type(b), name
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=name)


def assert_trees_close(left: Any, right: Any, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    """Require the same structure and types and close numbers; bfloat16 leaves may be one rounding apart."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True):
        name = jax.tree_util.keystr(path)
        assert jnp.result_type(a) == jnp.result_type(b), name
        tolerance = 2.0**-7 if jnp.result_type(a) == jnp.bfloat16 else rtol
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=atol, err_msg=name)
