"""Law 10 for the learning-rate-free methods: each against a plain NumPy transcription, on a noisy problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx

STEPS = 60
RNG = np.random.default_rng(0)
SCALES = np.array([3.0, 1.0, 0.3, 2.0, 0.5, 1.5])
NOISE = 0.1 * RNG.standard_normal((STEPS, 6))
START = RNG.standard_normal(6)


def loss_at(theta: np.ndarray, t: int) -> float:
    return float(0.5 * np.sum(SCALES * theta**2) + NOISE[t] @ theta + 1.0)


def gradient_at(theta: np.ndarray, t: int) -> np.ndarray:
    return SCALES * theta + NOISE[t]


def d_adaptation(theta: np.ndarray, b1: float, b2: float, eps: float, d0: float, decay: float) -> np.ndarray:
    m, v, s, numerator, d, root = 0.0, 0.0, np.zeros(6), 0.0, d0, np.sqrt(b2)
    for t in range(STEPS):
        g, a = gradient_at(theta, t), d
        accumulated = a * np.sum(g * s / (np.sqrt(v) + eps))
        m, v, s = b1 * m + (1 - b1) * a * g, b2 * v + (1 - b2) * g**2, root * s + (1 - root) * a * g
        numerator = root * numerator + (1 - root) * accumulated
        d = max(d, numerator / ((1 - root) * np.abs(s).sum()))
        theta = theta - m / (np.sqrt(v) + eps) - decay * a * theta
    return theta


def prodigy(
    theta: np.ndarray, b1: float, b2: float, eps: float, d0: float, decay: float, growth: float = np.inf
) -> np.ndarray:
    start, m, v, s, numerator, d, b3, largest = theta, 0.0, 0.0, np.zeros(6), 0.0, d0, np.sqrt(b2), d0
    for t in range(STEPS):
        g, a = gradient_at(theta, t), d
        numerator = b3 * numerator + d / d0 * a * np.sum(g * (start - theta))
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
        s = b3 * s + d / d0 * a * g
        estimate = numerator / np.abs(s).sum()
        d = max(d, estimate) if d == d0 else d
        largest = max(largest, estimate)
        d = min(largest, d * growth)
        theta = theta - a * m / (np.sqrt(v) + d * eps) - decay * a * theta
    return theta


def dog(theta: np.ndarray, reps: float, eps: float, averaging: float) -> np.ndarray:
    start, r, total, mean = theta, reps * (1 + np.linalg.norm(theta)), 0.0, theta
    for t in range(STEPS):
        g = gradient_at(theta, t)
        r, total = max(r, float(np.linalg.norm(theta - start))), total + g @ g
        theta = theta - r / np.sqrt(total + eps) * g
        w = (1 + averaging) / (t + 1 + averaging)
        mean = (1 - w) * mean + w * theta
    return mean


def dowg(theta: np.ndarray, r0: float, eps: float) -> np.ndarray:
    start, squared, total = theta, r0**2, 0.0
    for t in range(STEPS):
        g = gradient_at(theta, t)
        squared = max(squared, float(np.sum((theta - start) ** 2)))
        total += squared * (g @ g)
        theta = theta - squared / (np.sqrt(total) + eps) * g
    return theta


def cocob(w: np.ndarray, alpha: float, eps: float) -> np.ndarray:
    first, largest, magnitudes, reward, theta = w, np.full(6, eps), np.zeros(6), np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(w, t)
        largest, magnitudes = np.maximum(largest, np.abs(g)), magnitudes + np.abs(g)
        reward, theta = np.maximum(reward - g * (w - first), 0), theta - g
        w = first + theta / (largest * np.maximum(magnitudes + largest, alpha * largest)) * (largest + reward)
    return w


def mechanic(x: np.ndarray, rate: float, betas: tuple[float, ...], s_init: float, lam: float, eps: float) -> np.ndarray:
    beta, start, delta = np.array(betas), x, np.zeros(6)
    s, r, m, v = (np.zeros(len(betas)) for _ in range(4))
    for t in range(STEPS):
        g = gradient_at(x, t)
        h = (g + lam * s.sum() * np.linalg.norm(g) / (np.linalg.norm(x) + eps) * x) @ delta
        delta = delta + rate * g
        r = beta * r + np.clip(h, -m, m) * s
        m, v = np.maximum(beta * m, abs(h) + eps), beta**2 * v + h**2
        s = (s_init / len(betas) * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        x = start - s.sum() * delta
    return x


def momo(x: np.ndarray, alpha: float, beta: float, lam: float) -> np.ndarray:
    f_mean, gamma, d = 0.0, 0.0, np.zeros(6)
    for t in range(STEPS):
        f, g, b = loss_at(x, t), gradient_at(x, t), beta if t else 0.0
        d, f_mean, gamma = b * d + (1 - b) * g, b * f_mean + (1 - b) * f, b * gamma + (1 - b) * (g @ x)
        tau = min(alpha, max((1 + alpha * lam) * (f_mean - gamma) + d @ x, 0) / (d @ d))
        x = x / (1 + alpha * lam) - tau * d
    return x


def momo_with_its_own_bound(x: np.ndarray, alpha: float, beta: float, lam: float, bound: float) -> np.ndarray:
    f_mean, gamma, d, lowest, shrink = 0.0, 0.0, np.zeros(6), bound, 1 + alpha * lam
    for t in range(STEPS):
        f, g, b = loss_at(x, t), gradient_at(x, t), beta if t else 0.0
        d, f_mean, gamma = b * d + (1 - b) * g, b * f_mean + (1 - b) * f, b * gamma + (1 - b) * (g @ x)
        cap = shrink * (f_mean - gamma) + d @ x
        if cap < shrink * bound:  # the model says that the bound is too high
            bound = max(cap / (2 * shrink), lowest)
        tau = min(alpha, max(cap - shrink * bound, 0) / (d @ d))
        bound = max(f_mean + d @ x - gamma - tau * (d @ d) / 2, lowest)
        x = x / shrink - tau * d
    return x


def momo_adam(x: np.ndarray, alpha: float, b1: float, b2: float, eps: float, bound: float) -> np.ndarray:
    f_mean, gamma, d, v = 0.0, 0.0, np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        f, g = loss_at(x, t), gradient_at(x, t)
        d, v = b1 * d + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        f_mean, gamma = b1 * f_mean + (1 - b1) * f, b1 * gamma + (1 - b1) * (g @ x)
        c, scale = 1 - b1 ** (t + 1), eps + np.sqrt(v / (1 - b2 ** (t + 1)))
        tau = min(alpha / c, max(f_mean - c * bound - gamma + d @ x, 0) / (d @ (d / scale)))
        x = x - tau * d / scale
    return x


def schedule_free(
    x: np.ndarray, gamma: float, beta: float, lam: float, r: float, adam: tuple[float, ...]
) -> np.ndarray:
    z, total, v = x, 0.0, np.zeros(6)
    for t in range(STEPS):
        y = (1 - beta) * z + beta * x
        g = gradient_at(y, t)
        if adam:
            v = adam[0] * v + (1 - adam[0]) * g**2
            g = g / (np.sqrt(v / (1 - adam[0] ** (t + 1))) + adam[1])
        z = z - gamma * (g + lam * y)
        weight = (t + 1) ** r * gamma**2
        total += weight
        x = (1 - weight / total) * x + weight / total * z
    return x


def hypergradient_sgd(x: np.ndarray, alpha: float, hyper: float, mu: float, nesterov: bool) -> np.ndarray:
    u, v = np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        alpha = max(alpha + hyper * (g @ u), 0.0)
        v = mu * v + g
        u = g + mu * v if nesterov else v
        x = x - alpha * u
    return x


def hypergradient_adam(x: np.ndarray, alpha: float, hyper: float, b1: float, b2: float, eps: float) -> np.ndarray:
    u, m, v = np.zeros(6), np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        alpha = max(alpha + hyper * (g @ u), 0.0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        x = x - alpha * u
    return x


def polyak(x: np.ndarray, c: float, cap: float, lowest: float) -> np.ndarray:
    for t in range(STEPS):
        g = gradient_at(x, t)
        x = x - min(cap, max(loss_at(x, t) - lowest, 0) / (c * (g @ g))) * g
    return x


def armijo(x: np.ndarray, c: float, backtrack: float, cap: float) -> np.ndarray:
    for t in range(STEPS):
        g, rate = gradient_at(x, t), cap
        while loss_at(x - rate * g, t) > loss_at(x, t) - c * rate * (g @ g):
            rate *= backtrack
        x = x - rate * g
    return x


def cumulative_path(x: np.ndarray, alpha: float, c: float) -> np.ndarray:
    path, scale, mu = np.zeros(6), 1.0, c / (2 - c)
    damping = 2 * 2 * mu * (1 - c) / np.sqrt(((1 - c) ** 2 + 1) * 6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        path = (1 - c) * path + c * g / np.linalg.norm(g)
        x = x - alpha * scale * g
        scale *= np.exp(damping * (path @ path / mu - 1))
    return x


CASES: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]] = {
    "d_adaptation": (lrx.d_adaptation(), lambda x: d_adaptation(x, 0.9, 0.999, 1e-8, 1e-6, 0.0)),
    "d_adaptation, other": (
        lrx.d_adaptation(b1=0.5, b2=0.99, d0=1e-3, weight_decay=0.1),
        lambda x: d_adaptation(x, 0.5, 0.99, 1e-8, 1e-3, 0.1),
    ),
    # In float32, x_0 - x is not known better than to 6e-8: first steps of 1e-6 would be compared with noise.
    "prodigy": (lrx.prodigy(d0=1e-3), lambda x: prodigy(x, 0.9, 0.999, 1e-8, 1e-3, 0.0)),
    "prodigy, other": (
        lrx.prodigy(b1=0.5, b2=0.99, d0=1e-3, weight_decay=0.1),
        lambda x: prodigy(x, 0.5, 0.99, 1e-8, 1e-3, 0.1),
    ),
    "prodigy, growing slowly": (
        lrx.prodigy(d0=1e-3, growth_rate=1.1),
        lambda x: prodigy(x, 0.9, 0.999, 1e-8, 1e-3, 0.0, 1.1),
    ),
    "dog": (lrx.dog(reps_rel=1e-4), lambda x: dog(x, 1e-4, 1e-8, 8.0)),
    "dog, other": (lrx.dog(reps_rel=1e-2, eps=0.1, averaging=1.0), lambda x: dog(x, 1e-2, 0.1, 1.0)),
    "dowg": (lrx.dowg(), lambda x: dowg(x, 1e-2, 1e-4)),
    "cocob": (lrx.cocob(), lambda x: cocob(x, 100.0, 1e-8)),
    "cocob, other": (lrx.cocob(alpha=5.0, eps=0.1), lambda x: cocob(x, 5.0, 0.1)),
    "mechanic": (
        lrx.mechanic(lrx.sgd(0.1)),
        lambda x: mechanic(x, 0.1, tuple(1 - 0.1**i for i in range(1, 7)), 1e-6, 1e-2, 1e-8),
    ),
    "mechanic, other": (
        lrx.mechanic(lrx.sgd(0.1), betas=(0.9, 0.99), s_init=1e-2, weight_decay=0.1),
        lambda x: mechanic(x, 0.1, (0.9, 0.99), 1e-2, 0.1, 1e-8),
    ),
    "momo": (lrx.momo(), lambda x: momo(x, 1.0, 0.9, 0.0)),
    "momo, other": (lrx.momo(0.2, momentum=0.5, weight_decay=0.1), lambda x: momo(x, 0.2, 0.5, 0.1)),
    "momo, its own bound": (
        lrx.momo(0.5, adapt_lower_bound=True, lower_bound=-1.0, weight_decay=0.1),
        lambda x: momo_with_its_own_bound(x, 0.5, 0.9, 0.1, -1.0),
    ),
    "momo_adam": (lrx.momo_adam(), lambda x: momo_adam(x, 1e-2, 0.9, 0.999, 1e-8, 0.0)),
    "momo_adam, other": (
        lrx.momo_adam(1.0, b1=0.5, b2=0.9, lower_bound=0.9),
        lambda x: momo_adam(x, 1.0, 0.5, 0.9, 1e-8, 0.9),
    ),
    "schedule_free_sgd": (lrx.schedule_free_sgd(0.1), lambda x: schedule_free(x, 0.1, 0.9, 0.0, 0.0, ())),
    "schedule_free_sgd, other": (
        lrx.schedule_free_sgd(0.3, b1=0.5, weight_decay=0.1, r=1.0),
        lambda x: schedule_free(x, 0.3, 0.5, 0.1, 1.0, ()),
    ),
    "schedule_free_adamw": (
        lrx.schedule_free_adamw(0.1, weight_decay=0.1),
        lambda x: schedule_free(x, 0.1, 0.9, 0.1, 0.0, (0.999, 1e-8)),
    ),
    "hypergradient_sgd": (lrx.hypergradient_sgd(), lambda x: hypergradient_sgd(x, 1e-3, 1e-3, 0.0, False)),
    "hypergradient_sgd, momentum": (
        lrx.hypergradient_sgd(0.01, momentum=0.5),
        lambda x: hypergradient_sgd(x, 0.01, 1e-3, 0.5, False),
    ),
    "hypergradient_sgd, nesterov": (
        lrx.hypergradient_sgd(0.01, momentum=0.5, nesterov=True),
        lambda x: hypergradient_sgd(x, 0.01, 1e-3, 0.5, True),
    ),
    "hypergradient_adam": (
        lrx.hypergradient_adam(0.01, hyper_rate=1e-4),
        lambda x: hypergradient_adam(x, 0.01, 1e-4, 0.9, 0.999, 1e-8),
    ),
    "polyak": (lrx.polyak(f_min=0.9), lambda x: polyak(x, 0.5, 1.0, 0.9)),
    "armijo": (lrx.armijo(), lambda x: armijo(x, 0.1, 0.9, 1.0)),
    "cumulative_path": (lrx.sgd(0.1 * lrx.cumulative_path()), lambda x: cumulative_path(x, 0.1, 0.2)),
}


@pytest.mark.parametrize(("tx", "transcription"), CASES.values(), ids=CASES)
def test_law_10_a_method_follows_its_transcription(tx: Any, transcription: Callable[[np.ndarray], np.ndarray]) -> None:
    def split(theta: Any) -> dict[str, jax.Array]:
        return {"a": jnp.asarray(theta[:2], jnp.float32), "b": jnp.asarray(theta[2:], jnp.float32).reshape(2, 2)}

    def loss_of(params: Any, noise: jax.Array) -> jax.Array:
        theta = jnp.concatenate([params["a"], params["b"].ravel()])
        return 0.5 * jnp.sum(jnp.asarray(SCALES, jnp.float32) * theta**2) + noise @ theta + 1.0

    def step(carry: Any, noise: jax.Array) -> tuple[Any, None]:
        params, state = carry
        value, grads = jax.value_and_grad(loss_of)(params, noise)
        updates, state = tx.update(grads, state, params, value=value, value_fn=lambda params: loss_of(params, noise))
        return (lrx.apply_updates(params, updates, state), state), None

    start = split(START)
    (params, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.asarray(NOISE, jnp.float32)))(
        (start, tx.init(start))
    )
    found = lrx.eval_params(state, params)
    moved = np.concatenate([found["a"], found["b"].ravel()]) - START
    expected = transcription(START) - START
    # Estimates feed back on themselves, so that the rounding of float32 grows over the sixty steps.
    np.testing.assert_allclose(moved, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-5


def prodigy_with_rates(
    theta: np.ndarray, rates: np.ndarray, b1: float, b2: float, d0: float, correct: bool, safeguard: bool
) -> np.ndarray:
    """The authors' code, which leaves everything as it is while the rate is 0."""
    start, m, v, s, numerator, d, largest, b3, k = theta, 0.0, 0.0, np.zeros(6), 0.0, d0, d0, np.sqrt(b2), 0
    for t, rate in enumerate(rates):
        g = gradient_at(theta, t)
        correction = np.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1)) if correct else 1.0
        a, gathered, length = d * rate * correction, b3 * numerator, 0.0
        if rate > 0:
            gathered += d / d0 * a * np.sum(g * (start - theta))
            m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
            s = b3 * s + d / d0 * (d if safeguard else a) * g
            length = np.abs(s).sum()
        if length == 0:
            continue
        numerator, estimate = gathered, gathered / length
        d = max(d, estimate) if d == d0 else d
        largest = max(largest, estimate)
        d = min(largest, d * 1.2)
        theta = theta - a * m / (np.sqrt(v) + d * 1e-8)
        k += 1
    return theta


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("safeguard", [False, True])
def test_prodigy_at_a_rate_of_zero_leaves_everything_alone_as_the_authors_code(correct, safeguard):
    rates = np.concatenate([np.zeros(2), np.linspace(0, 1, 4), np.zeros(3), np.ones(STEPS - 9)])
    expected = prodigy_with_rates(START, rates, 0.9, 0.999, 0.1, correct, safeguard)
    tx = lrx.prodigy(lrx.tabulated(rates), d0=0.1, growth_rate=1.2, bias_correction=correct, safeguard_warmup=safeguard)
    theta, state = jnp.asarray(START, jnp.float32), tx.init(jnp.asarray(START, jnp.float32))
    update = jax.jit(tx.update)
    for t in range(STEPS):
        gradient = jnp.asarray(SCALES, jnp.float32) * theta + jnp.asarray(NOISE[t], jnp.float32)
        updates, state = update(gradient, state, theta)
        theta = theta + updates
    np.testing.assert_allclose(theta, expected, rtol=1e-3, atol=1e-5)
    assert int(state.moved_count) == np.count_nonzero(rates)


def test_the_bias_correction_of_d_adaptation_counts_from_the_first_rate_above_zero():
    tx = lrx.d_adaptation(lrx.tabulated([0.0, 0.0, 1.0]), d0=0.1, bias_correction=True)
    later, at_once = tx.init(jnp.zeros(2)), lrx.d_adaptation(1.0, d0=0.1, bias_correction=True).init(jnp.zeros(2))
    for _ in range(3):
        _, later = tx.update(jnp.ones(2), later)
    _, at_once = lrx.d_adaptation(1.0, d0=0.1, bias_correction=True).update(jnp.ones(2), at_once)
    assert lrx.learning_rate(later) == lrx.learning_rate(at_once)
