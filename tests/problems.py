"""What several tests share: parameter trees, streams of gradients, and the schedules once more in float64.

The references are written from the formulas in the docstrings and share no code with the library. They take the
schedule object itself (its family and arguments), so that compositions are followed to any depth.
"""

from __future__ import annotations

import itertools
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


def _pairs(points: Any) -> list[tuple[int, float]]:
    return [(int(step), float(number)) for step, number in (points.items() if isinstance(points, dict) else points)]


def _piecewise_constant(t: np.ndarray, *, init_value: Any, boundaries_and_factors: Any) -> np.ndarray:
    rate = np.full(t.shape, float(init_value))
    for boundary, factor in _pairs(boundaries_and_factors):
        rate = np.where(t >= boundary, rate * factor, rate)
    return rate


def _exponential_decay(
    t: np.ndarray, *, init_value: Any, decay_rate: Any, transition_steps: Any, staircase: bool, end_value: Any
) -> np.ndarray:
    exponent = t // int(transition_steps) if staircase else t / int(transition_steps)
    return np.maximum(float(init_value) * float(decay_rate) ** exponent.astype(np.float64), float(end_value))


def _polynomial_decay(t: np.ndarray, *, init_value: Any, decay_steps: Any, power: Any, end_value: Any) -> np.ndarray:
    _, left = _fractions(t, decay_steps)
    return float(end_value) + (float(init_value) - float(end_value)) * left ** float(power)


def _inverse_time_decay(t: np.ndarray, *, init_value: Any, decay_rate: Any, power: Any) -> np.ndarray:
    return float(init_value) / (1 + float(decay_rate) * t) ** float(power)


def _inverse_sqrt_decay(t: np.ndarray, *, peak_value: Any, warmup_steps: Any) -> np.ndarray:
    length = int(warmup_steps)
    return float(peak_value) * np.where(t < length, t / length, np.sqrt(length / np.maximum(t, 1)))


def _cosine_restarts(
    t: np.ndarray, *, init_value: Any, period_steps: Any, period_mult: Any, end_value: Any, restart_mult: Any
) -> np.ndarray:
    first, growth, end = int(period_steps), float(period_mult), float(end_value)
    if growth == 1:
        index, passed = np.divmod(t, first)
        length = np.full(t.shape, first)
    else:
        index, passed, length = np.zeros_like(t), t.copy(), np.full(t.shape, first)
        number, begin, steps = 0, 0, first
        while begin + steps <= t.max():
            number, begin, steps = number + 1, begin + steps, round(first * growth ** (number + 1))
            here = t >= begin
            index, passed = np.where(here, number, index), np.where(here, t - begin, passed)
            length = np.where(here, steps, length)
    peak = float(init_value) * float(restart_mult) ** index.astype(np.float64)
    peak = np.maximum(peak, min(end, float(init_value)))
    return end + (peak - end) * np.sin(np.pi * ((length - passed) / length) / 2) ** 2


def _phases(t: np.ndarray, values: list[float], total: int, share: float, anneal: str) -> np.ndarray:
    """PyTorch's phases, which may end between two steps; an end that misses a step by rounding is that step."""
    ends = [0.0, share * total - 1, *([2 * share * total - 2] if len(values) == 4 else []), total - 1.0]
    ends = [round(end) if abs(end - round(end)) < 2.0**-20 else end for end in ends]
    rate = np.full(t.shape, values[-1])
    for begin, end, start, target in reversed(list(zip(ends, ends[1:], values, values[1:], strict=False))):
        length = end - begin if end > begin else 1.0
        passed, left = (t - begin) / length, (end - t) / length
        if anneal == "cosine":
            within = start * np.sin(np.pi / 2 * left) ** 2 + target * np.sin(np.pi / 2 * passed) ** 2
        else:
            within = start * left + target * passed
        rate = np.where(t < end, within, np.where(t == end, target, rate))
    return rate


def _one_cycle(
    t: np.ndarray,
    *,
    peak_value: Any,
    total_steps: Any,
    pct_start: Any,
    div_factor: Any,
    final_div_factor: Any,
    anneal: str,
    three_phase: bool,
) -> np.ndarray:
    peak, start = float(peak_value), float(peak_value) / float(div_factor)
    values = [start, peak, *([start] if three_phase else []), start / float(final_div_factor)]
    return _phases(t, values, int(total_steps), float(pct_start), anneal)


def _one_cycle_momentum(
    t: np.ndarray,
    *,
    total_steps: Any,
    min_value: Any,
    max_value: Any,
    pct_start: Any,
    anneal: str,
    three_phase: bool,
) -> np.ndarray:
    low, high = float(min_value), float(max_value)
    values = [high, low, high, *([high] if three_phase else [])]
    return _phases(t, values, int(total_steps), float(pct_start), anneal)


def _warmup_decay(falls: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def rates(
        t: np.ndarray, *, peak_value: Any, warmup_steps: Any, total_steps: Any, init_value: Any, end_value: Any
    ) -> np.ndarray:
        climb = int(warmup_steps) if float(warmup_steps) >= 1 else round(float(warmup_steps) * int(total_steps))
        start, peak, length = float(init_value), float(peak_value), int(total_steps) - climb
        after = falls(np.maximum(t - climb, 0), init_value=peak, decay_steps=length, end_value=end_value)
        return np.where(t < climb, start + (peak - start) * np.minimum(t, climb) / max(climb, 1), after)

    return rates


def _warmup_stable_decay(
    t: np.ndarray,
    *,
    peak_value: Any,
    warmup_steps: Any,
    stable_steps: Any,
    decay_steps: Any,
    end_value: Any,
    decay: str,
) -> np.ndarray:
    climb, begin = int(warmup_steps), int(warmup_steps) + int(stable_steps)
    peak, end = float(peak_value), float(end_value)
    passed, left = _fractions(np.maximum(t - begin, 0), decay_steps)
    if decay == "exponential":
        falling = peak * (end / peak) ** passed
    else:
        shape = {"linear": left, "cosine": np.sin(np.pi / 2 * left) ** 2, "sqrt": left / (1 + np.sqrt(passed))}[decay]
        falling = end + (peak - end) * shape
    return np.where(t < climb, peak * (t / max(climb, 1)), np.where(t < begin, peak, falling))


def _interpolate(t: np.ndarray, *, points: Any, kind: str) -> np.ndarray:
    pairs = _pairs(points)
    rate = np.full(t.shape, pairs[0][1])
    for (begin, first), (end, second) in itertools.pairwise(pairs):
        left = (end - np.clip(t, begin, end)) / (end - begin)
        shape = np.sin(np.pi / 2 * left) ** 2 if kind == "cosine" else left
        rate = np.where(t > begin, second + (first - second) * shape, rate)
    return rate


def _tabulated(t: np.ndarray, *, values: Any) -> np.ndarray:
    return np.asarray([float(value) for value in values])[np.minimum(t, len(values) - 1)]


def _refined(t: np.ndarray, *, grad_norms: Any, peak_value: Any, norm: str, smoothing: float) -> np.ndarray:
    norms = [float(g) for g in grad_norms]
    half, last = int(smoothing * len(norms) / 2), len(norms) - 1

    def at(i: int) -> float:
        # Left of the beginning the first repeats, right of the end the series comes back.
        return norms[max(i if i <= last else 2 * last - i, 0)]

    smooth = [float(np.median([at(i) for i in range(k - half, k + half + 1)])) for k in range(len(norms))]
    weights = [g ** (-2 if norm == "l2" else -1) for g in smooth]
    shape = np.asarray([weight * sum(weights[k + 1 :]) for k, weight in enumerate(weights)])
    return float(peak_value) * (shape / shape.max())[np.minimum(t, last)]


_FAMILIES: dict[str, Callable[..., np.ndarray]] = {
    "constant": _constant,
    "cosine_decay": _cosine_decay,
    "cosine_restarts": _cosine_restarts,
    "cyclical": _cyclical,
    "exponential_decay": _exponential_decay,
    "interpolate": _interpolate,
    "inverse_sqrt_decay": _inverse_sqrt_decay,
    "inverse_time_decay": _inverse_time_decay,
    "join": _join,
    "linear_decay": _linear_decay,
    "one_cycle": _one_cycle,
    "one_cycle_momentum": _one_cycle_momentum,
    "piecewise_constant": _piecewise_constant,
    "polynomial_decay": _polynomial_decay,
    "refined": _refined,
    "step_decay": _step_decay,
    "tabulated": _tabulated,
    "warmup": _warmup,
    "warmup_cosine_decay": _warmup_decay(_cosine_decay),
    "warmup_linear_decay": _warmup_decay(_linear_decay),
    "warmup_stable_decay": _warmup_stable_decay,
    "_multiply": _product,
    "_divide": lambda t, *, left, right: reference(left, t) / float(right),
}


def reference(schedule: Any, counts: Any) -> np.ndarray:
    """Evaluate a schedule, or a number, in float64 at whole steps."""
    counts = np.asarray(counts, np.int64)
    if not hasattr(schedule, "family"):
        return np.full(counts.shape, float(schedule))
    return _FAMILIES[schedule.family](counts, **schedule.arguments)
