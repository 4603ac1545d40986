"""Schedule refinement: the next run's rate from the gradient norms of the last one."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.transformations import factory


@factory
def refined(
    grad_norms: Sequence[float] | jax.Array | np.ndarray,
    peak_value: ArrayLike,
    *,
    norm: str = "l2",
    smoothing: float = 0.1,
) -> Schedule:
    """Build the schedule that is optimal in theory for a run with the given gradient norms.

    With G_1..G_T the smoothed norms of a previous run and w_t = G_t^-2 (for `norm="l2"`, SGD) or w_t = G_t^-1 (for
    `norm="l1"`, the l1 norms of Adam's case), the rate of the t-th step is `alpha_t = w_t sum_{s > t} w_s`, scaled so
    that its largest value is `peak_value`. The last rate is 0 and holds. If the norms are constant, this is the linear
    decay `(T - t) / (T - 1)`; if they fall early, it warms up; if they rise late, it anneals faster. Record the norms
    in a run with a similar schedule: train with `optax.chain(optax.snapshot("gradient_norm", optax.tree.norm), tx)`,
    then read the history's `metrics["gradient_norm"]`.

    Args:
      grad_norms: one norm for each step of the previous run, (T,) float, > 0, T >= 2; not traced. Resample them
        for a run of another length.
      peak_value: the largest rate, >= 0; may be traced.
      norm: the norm that was recorded, "l2" or "l1".
      smoothing: the width of the running median that smooths the norms, as a fraction of T, in [0, 1]; 0 leaves them
        as they are.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `grad_norms` has fewer than two entries or one that is not finite and > 0, `peak_value` is
        negative, `norm` is unknown, or `smoothing` is not in [0, 1].
      TypeError: if `grad_norms` is traced or holds no numbers.

    Source:
      A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, 2023, arXiv:2310.07831, algorithm 1 and section 4; the median
      over a tenth of the run as in the authors' experiments.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.refined([2.0, 1.0, 1.0, 1.0], 0.8, smoothing=0.0)(jnp.arange(5)))
      [0.3 0.8 0.4 0.  0. ]
    """
    norms = _checks.non_negative_list("grad_norms", grad_norms)
    if norms is None:
        raise TypeError("grad_norms must be known numbers, got a tracer: compute the schedule outside of jit and vmap.")
    if len(norms) < 2 or not np.all(norms > 0):
        raise ValueError(
            f"grad_norms must be at least two numbers > 0, got {len(norms)} of which {int(np.sum(norms <= 0))} are 0: "
            "leave out the steps after which the run stood still."
        )
    _checks.non_negative("peak_value", peak_value)
    _checks.one_of("norm", norm, ("l2", "l1"))
    _checks.in_interval("smoothing", smoothing, "[0, 1]", "it is a fraction of the run")

    smooth = _running_median(norms, 2 * int(smoothing * len(norms) / 2) + 1)
    # In units of the smallest norm, so that no square overflows.
    weights = (smooth.min() / smooth) ** (2 if norm == "l2" else 1)
    following = np.append(np.cumsum(weights[:0:-1])[::-1], 0.0)
    shape = weights * following
    table = (shape / shape.max()).astype(np.float32)

    def rate_at(count: jax.Array) -> jax.Array:
        return jnp.float32(peak_value) * jnp.asarray(table)[jnp.minimum(count, len(table) - 1)]

    return Schedule.of_counts(
        rate_at,
        peak=peak_value,
    )


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Return the median over a window; the first value is repeated before the beginning, and the end is mirrored."""
    if width == 1:
        return values
    from scipy.ndimage import median_filter  # a dependency of JAX; imported here, because importing it takes a while

    half = width // 2
    behind = values[-2 : -half - 2 : -1]
    padded = np.concatenate([np.full(half, values[0]), values, np.pad(behind, (0, half - len(behind)), mode="edge")])
    return median_filter(padded, size=width, mode="nearest")[half:-half]
