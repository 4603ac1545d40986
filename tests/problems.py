"""What several tests share: parameter trees, streams of gradients, and the schedules once more in float64.

The references are written from the formulas in the docstrings and share no code with the library. They take the
schedule object itself (its family and arguments), so that compositions are followed to any depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STREAM = 6  # steps of the gradient stream: enough for a warm-up, a decay and a plateau in the cases of the laws


def mixed_params() -> dict[str, Any]:
    """A tree with both widths, a matrix, a scalar and a leaf that is not there."""
    return {
        "bias": jnp.asarray(0.5, jnp.float32),
        "frozen": None,
        "kernel": jnp.arange(6, dtype=jnp.float32).reshape(3, 2) / 6,
        "narrow": jnp.asarray([1.0, -0.5], jnp.bfloat16),
    }


def vector_params() -> dict[str, jax.Array]:
    """Two float32 leaves."""
    return {"a": jnp.asarray([0.5, -1.0, 2.0], jnp.float32), "b": jnp.asarray([[0.25], [1.5]], jnp.float32)}


def gradient_stream(params: Any, steps: int = STREAM, seed: int = 0) -> list[Any]:
    """Gradients of all signs, the same for the same arguments."""
    random = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=jnp.shape(leaf)), jnp.result_type(leaf)), params)
        for _ in range(steps)
    ]


def value_stream(steps: int = STREAM) -> list[float]:
    """Losses that improve once and then stay: a plateau."""
    return [1.0, 0.5] + [0.5] * (steps - 2)


def signature_of(tree: Any) -> tuple[Any, ...]:
    """Structure, and shape, type and weakness of every leaf: what two calls must share not to be traced twice."""
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


def _fractions(t: np.ndarray, steps: Any) -> tuple[np.ndarray, np.ndarray]:
    passed = np.minimum(t, int(steps))
    return passed / int(steps), (int(steps) - passed) / int(steps)


def _constant(t: np.ndarray, *, value: Any) -> np.ndarray:
    return np.full(t.shape, float(value))


def _linear_decay(t: np.ndarray, *, init_value: Any, decay_steps: Any, end_value: Any) -> np.ndarray:
    passed, left = _fractions(t, decay_steps)
    return float(init_value) * left + float(end_value) * passed


def _cosine_decay(t: np.ndarray, *, init_value: Any, decay_steps: Any, end_value: Any) -> np.ndarray:
    # 1 + cos(pi u) = 2 sin^2(pi (1 - u) / 2): near the end the left-hand side cancels even in float64.
    _, left = _fractions(t, decay_steps)
    return float(end_value) + (float(init_value) - float(end_value)) * np.sin(np.pi * left / 2) ** 2


def _step_decay(t: np.ndarray, *, init_value: Any, step_size: Any, factor: Any) -> np.ndarray:
    return float(init_value) * float(factor) ** (t // int(step_size)).astype(np.float64)


def _cyclical(
    t: np.ndarray,
    *,
    min_value: Any,
    max_value: Any,
    half_period_steps: Any,
    down_steps: Any,
    mode: str,
    decay_rate: Any,
) -> np.ndarray:
    up = int(half_period_steps)
    down = up if down_steps is None else int(down_steps)
    cycle, position = np.divmod(t, up + down)
    wave = np.where(position < up, position / up, (up + down - position) / down)
    shrink = {
        "triangular": np.ones(t.shape),
        "triangular2": 0.5 ** cycle.astype(np.float64),
        "exp_range": float(decay_rate) ** t.astype(np.float64),
    }[mode]
    return float(min_value) + (float(max_value) - float(min_value)) * wave * shrink


def _warmup(t: np.ndarray, *, schedule: Any, warmup_steps: Any, init_value: Any, mode: str) -> np.ndarray:
    length, start = int(warmup_steps), float(init_value)
    peak = float(reference(schedule, np.zeros(1, np.int64))[0])
    after = reference(schedule, np.maximum(t - length, 0))
    if length == 0:
        return after
    passed, left = _fractions(t, length)
    if mode == "exponential":
        ramp = start * (peak / start) ** passed
    else:
        ramp = np.full(t.shape, start) if mode == "constant" else start * left + peak * passed
    return np.where(t < length, ramp, after)


def _join(t: np.ndarray, *, schedules: Any, boundaries: Any) -> np.ndarray:
    begins = [0, *(int(boundary) for boundary in boundaries)]
    rate = np.zeros(t.shape)
    for begin, schedule in zip(begins, schedules, strict=True):
        rate = np.where(t >= begin, reference(schedule, np.maximum(t - begin, 0)), rate)
    return rate


def _product(t: np.ndarray, *, left: Any, right: Any) -> np.ndarray:
    return reference(left, t) * reference(right, t)


_FAMILIES: dict[str, Callable[..., np.ndarray]] = {
    "constant": _constant,
    "cosine_decay": _cosine_decay,
    "cyclical": _cyclical,
    "join": _join,
    "linear_decay": _linear_decay,
    "step_decay": _step_decay,
    "warmup": _warmup,
    "_multiply": _product,
}


def reference(schedule: Any, counts: Any) -> np.ndarray:
    """Evaluate a schedule, or a number, in float64 at whole steps."""
    counts = np.asarray(counts, np.int64)
    if not hasattr(schedule, "family"):
        return np.full(counts.shape, float(schedule))
    return _FAMILIES[schedule.family](counts, **schedule.arguments)
