"""The gradient noise scale: how large a batch must be for its gradient to be more signal than noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx.diagnostics.losses import flatten, require_scalar
from lrx.figures import BLUE, LIGHT, VERMILION, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3  # minibatches: leaving one out must leave a variance
RESOLVED = 2.0  # standard errors by which |G|^2 must be above 0
NORMAL = 1.959964  # the quantile of the normal distribution for a two-sided 95 %


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale and what it predicts.

    Attributes:
      noise_scale: B = tr(S) / |G|^2, in examples; NaN if it is not resolved.
      interval: (low, high), a 95 % jackknife interval of B; if it is not resolved, a lower bound and infinity.
      resolved: whether |G|^2 is at least two standard errors above 0.
      noise_trace: tr(S), the trace of the covariance of the gradient of one example, in the gradients' units squared.
      gradient_square: |G|^2, the squared norm of the expected gradient, unbiased, so that it may be below 0.
      gradient_square_error: the standard error of |G|^2.
      batch_size: examples in each minibatch.
      num_batches: number of minibatches.
    """

    noise_scale: float
    interval: tuple[float, float]
    resolved: bool
    noise_trace: float
    gradient_square: float
    gradient_square_error: float
    batch_size: int
    num_batches: int

    @property
    def critical_batch_size(self) -> float:
        """The batch size at which training takes twice the minimum of steps and twice the minimum of examples: B."""
        return self.noise_scale

    def scale_rate(self, learning_rate: float, batch_size: float, *, power: float = 1.0) -> float:
        """Return the rate for another batch size, from the best rate for the batch size that was measured.

        The best rate for a batch of b examples is `alpha_max / (1 + B / b)^power`: proportional to b far below B, and
        constant far above.

        Args:
          learning_rate: the best rate for minibatches of `batch_size` examples of this measurement, >= 0.
          batch_size: the other number of examples, > 0.
          power: 1 for gradient descent with or without momentum; for Adam and other methods that normalise the
            gradient between 0.5 and 1.

        Raises:
          ValueError: if an argument is out of its range, or the noise scale is not resolved.

        Example:
          >>> from lrx.diagnostics import NoiseScale
          >>> found = NoiseScale(96.0, (80.0, 115.0), True, 96.0, 1.0, 0.1, 32, 50)
          >>> print(found.scale_rate(0.1, 96))
          0.2
        """
        _checks.non_negative("learning_rate", learning_rate)
        _checks.positive("batch_size", batch_size)
        _checks.in_interval("power", power, "(0, 1]")
        if not self.resolved:
            raise ValueError(
                "the noise scale must be resolved to scale a rate, got |G|^2 = "
                f"{self.gradient_square:.3g} +- {self.gradient_square_error:.2g}: give more or larger minibatches."
            )
        ratio = (1 + self.noise_scale / self.batch_size) / (1 + self.noise_scale / batch_size)
        return float(learning_rate * ratio**power)

    def __repr__(self) -> str:
        low, high = self.interval
        measured = f"{self.num_batches} minibatches of {self.batch_size:,}"
        if not self.resolved:
            return f"NoiseScale(not resolved: above {low:.3g} examples; {measured})"
        return f"NoiseScale({self.noise_scale:.3g} examples, 95 % from {low:.3g} to {high:.3g}; {measured})"

    def plot(self) -> Figure:
        """Draw what the noise scale predicts: steps and examples to the same loss over the batch size.

        Both are multiples of their minimum: steps 1 + B / b, examples 1 + b / B (S. McCandlish et al., equation 5.1).
        The shaded bands are for the interval of B. Needs matplotlib.

        Raises:
          ValueError: if the noise scale is not resolved.
          ImportError: if matplotlib is not installed.
        """
        if not self.resolved:
            raise ValueError(f"the noise scale must be resolved to be drawn, got {self!r}: give more minibatches.")
        figure, (axes,) = panels(size=(7.0, 4.4))
        sizes = np.geomspace(
            min(self.batch_size, self.noise_scale) / 8, 8 * max(self.batch_size, self.noise_scale), 200
        )
        low, high = self.interval
        for name, color, cost in (
            ("optimizer steps", BLUE, lambda scale: 1 + scale / sizes),
            ("examples", VERMILION, lambda scale: 1 + sizes / scale),
        ):
            axes.plot(sizes, cost(self.noise_scale), color=color, lw=1.8, label=name)
            axes.fill_between(sizes, cost(low), cost(high), color=color, alpha=0.15, lw=0)
        axes.axvline(self.noise_scale, color=LIGHT, ls="--", lw=1.2, label=f"noise scale, {self.noise_scale:.3g}")
        axes.axvline(self.batch_size, color=LIGHT, ls=":", lw=1.6, label=f"measured at {self.batch_size:,}")
        axes.set(xscale="log", yscale="log", xlabel="batch size, examples", ylabel="predicted cost, over its minimum")
        axes.legend(frameon=False)
        return figure


def noise_scale(
    loss: Callable[[Any, Any], Any], params: Any, batches: Any, *, batch_size: int | None = None
) -> NoiseScale:
    """Measure the gradient noise scale from the gradients of several minibatches.

    With g_i the gradients of n minibatches of b examples each, drawn independently, and g their mean,

        tr(S) = b / (n - 1) sum_i |g_i - g|^2      |G|^2 = |g|^2 - tr(S) / (b n)      B = tr(S) / |G|^2

    Both terms are unbiased. A batch of B examples has as much noise as signal in its gradient: far below B a larger
    batch saves steps in proportion, and far above it brings almost nothing. B grows while a network trains, so measure
    it at several points of a run; `accumulate(tx, every, noise_scale=True)` shows it during training. It predicts the
    critical batch size of a quadratic; of a network it is a proxy, which can be off by a large factor.

    The interval is that of a jackknife: the logarithm of B is computed n times with one minibatch left out.

    Args:
      loss: `(params, batch) -> loss`, the mean over the examples of a batch, a scalar. It is differentiated in float32.
      params: pytree of real arrays; leaves that hold no floating-point numbers are held fixed.
      batches: at least 3 minibatches of one size: one array, or a tuple or dict of arrays, whose leading axis counts
        minibatches; or a list or an iterator of minibatches, which are kept, since each is used twice.
      batch_size: b, examples in a minibatch; by default the length of its first array.

    Returns:
      A `NoiseScale`. Memory: one minibatch, its gradient and their mean.

    Raises:
      ValueError: if `loss` does not return a scalar, `params` holds no floating-point numbers, there are fewer than 3
        minibatches, their sizes differ, or a gradient is not finite.
      TypeError: if `loss` is not a function, `batches` is neither arrays nor an iterable, or a parameter is complex.

    Source: S. McCandlish, J. Kaplan, D. Amodei, "An Empirical Model of Large-Batch Training", 2018, arXiv:1812.06162,
    equation 2.8, appendix A.1. W. Merrill et al., 2025, arXiv:2505.23971, for what it is not: a safe proxy.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> examples = 1.0 + 2.0 * jax.random.normal(jax.random.key(0), (200, 8, 4))  # tr(S) is 16, |G|^2 is 4
      >>> found = lrx.noise_scale(lambda w, x: 0.5 * jnp.mean(jnp.sum((w[None] - x) ** 2, -1)), jnp.zeros(4), examples)
      >>> print(round(found.noise_scale, 1), found.resolved)
      4.2 True
    """
    flat = flatten(params)
    number, take = _minibatches(batches)
    first = take(0)
    require_scalar(loss, params, first)
    if number < FEWEST:
        raise ValueError(f"batches must be at least {FEWEST} minibatches, got {number}: a variance needs several.")
    if batch_size is None:
        batch_size = _length(first)
    _checks.steps("batch_size", batch_size, unit="examples")

    @jax.jit
    def gradient(point: jax.Array, batch: Any) -> jax.Array:
        return jax.grad(lambda point: jnp.asarray(loss(flat.unravel(point), batch), jnp.float32))(point)

    @jax.jit
    def add(mean: jax.Array, point: jax.Array, batch: Any) -> jax.Array:
        return mean + gradient(point, batch) / number

    @jax.jit
    def deviate(mean: jax.Array, point: jax.Array, batch: Any) -> jax.Array:
        # From the mean: a difference of large sums would lose small noise in float32.
        apart = gradient(point, batch) - mean
        return jnp.stack([jnp.sum(apart**2), jnp.sum(apart * mean)])

    mean = jnp.zeros_like(flat.point)
    for index in range(number):
        batch = take(index)
        if _length(batch) != _length(first):
            raise ValueError(
                f"batches must all have one size, got {_length(first)} and then {_length(batch)} at {index}: drop the "
                "incomplete last one."
            )
        mean = add(mean, flat.point, batch)
    square = float(jnp.sum(mean**2))
    if not math.isfinite(square):
        raise ValueError(f"the gradients must be finite, got a mean whose squared norm is {square}: look at the loss.")
    rows = [deviate(mean, flat.point, take(index)) for index in range(number)]
    apart = np.asarray(jax.device_get(rows), np.float64)
    return _estimate(square, apart[:, 0], apart[:, 1], int(batch_size))


def _estimate(square: float, squares: np.ndarray, products: np.ndarray, batch_size: int) -> NoiseScale:
    """Return the noise scale.

    Args:
      square: |g|^2 of the mean gradient.
      squares: (n,) |g_i - g|^2.
      products: (n,) (g_i - g) . g.
      batch_size: examples in a minibatch.
    """
    n = len(squares)
    spread = squares.sum()
    noise, signal = spread / (n - 1), square - spread / (n - 1) / n  # noise of a minibatch
    # The same without one: the mean moves by -(g_i - g) / (n - 1).
    noises = (spread - squares * n / (n - 1)) / (n - 2)
    signals = square - 2 * products / (n - 1) + squares / (n - 1) ** 2 - noises / (n - 1)
    error = _jackknife_error(signals)
    trace = batch_size * noise
    resolved = bool(signal > RESOLVED * error and np.all(signals > 0) and noise > 0 and np.all(noises > 0))
    if resolved:
        scale = trace / signal
        width = _student_quantile(n - 1) * _jackknife_error(np.log(noises / signals))
        interval = (float(scale * math.exp(-width)), float(scale * math.exp(width)))
    else:
        highest = signal + RESOLVED * error
        scale, interval = math.nan, (float(trace / highest) if highest > 0 else math.inf, math.inf)
    return NoiseScale(float(scale), interval, resolved, float(trace), float(signal), float(error), batch_size, n)


def _jackknife_error(values: np.ndarray) -> float:
    """Return the standard error of a statistic, from its values with one observation left out."""
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2)))


def _student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution (Abramowitz and Stegun, 26.7.5), within 2 % from 3 on."""
    z = NORMAL
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _minibatches(batches: Any) -> tuple[int, Callable[[int], Any]]:
    """Return how many minibatches there are, and a function from their place to one of them."""
    if isinstance(batches, np.ndarray | jax.Array | tuple | dict):
        leaves = jax.tree.leaves(batches)
        lengths = {np.shape(leaf)[:1] for leaf in leaves}
        if len(lengths) != 1 or () in lengths:
            raise ValueError(
                "batches must have one leading axis that counts minibatches, got arrays of shapes "
                f"{[np.shape(leaf) for leaf in leaves]}: reshape examples to (minibatches, batch_size, ...)."
            )
        return next(iter(lengths))[0], lambda index: jax.tree.map(lambda leaf: leaf[index], batches)
    if not isinstance(batches, Iterable) or isinstance(batches, str):
        raise TypeError(f"batches must be arrays or an iterable of minibatches, got batches={batches!r}.")
    kept = list(batches)
    if not kept:
        raise ValueError(f"batches must be at least {FEWEST} minibatches, got none: an iterator can be used once.")
    return len(kept), kept.__getitem__


def _length(batch: Any) -> int:
    """Return the examples of a minibatch: the leading axis of its first array that has one, or else 1."""
    return next((np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)), 1)
