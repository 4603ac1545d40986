"""A warm-up and a decay with one total: the schedules that most networks are trained with, in a single call."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import as_steps, digits_of, multiply, nearest_whole
from lrx.schedules.composition import warmup
from lrx.schedules.cosine import cosine_decay
from lrx.schedules.polynomial import linear_decay
from lrx.transformations import factory


@factory
def warmup_cosine_decay(
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    total_steps: ArrayLike,
    *,
    init_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    """Warm up, then anneal along half a cosine, so that the run ends where the schedule does.

    With W warm-up steps of T in total, the rate is `init + (alpha* - init) t / W` for `t < W`, then
    `alpha_end + (alpha* - alpha_end) (1 + cos(pi u)) / 2` with `u = (t - W) / (T - W)`, and `alpha_end` from t = T on.
    It is `warmup(cosine_decay(alpha*, T - W), W)`: there you give the length of the decay, here that of the run.

    Args:
      peak_value: alpha*, reached at step W, >= 0; may be traced.
      warmup_steps: W, in optimizer steps, >= 0 and < T, or as a fraction of T, rounded to the nearest step: 0.1 for a
        tenth; may be traced, a fraction in a floating-point type.
      total_steps: T, the length of the run in optimizer steps, the warm-up included, >= 1; may be traced.
      init_value: init, the rate at step 0, >= 0; may be traced.
      end_value: alpha_end, >= 0; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, `total_steps` is not a whole number >= 1, or `warmup_steps` is
        neither a whole number >= 0 nor a fraction, or leaves no step of `total_steps` to the decay.

    Source:
      P. Goyal et al., 2017, arXiv:1706.02677, section 2.2; I. Loshchilov, F. Hutter, ICLR 2017, arXiv:1608.03983,
      equation 5.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.warmup_cosine_decay(0.8, 2, 6)(jnp.array([0, 1, 2, 6, 7])))
      [0.  0.4 0.8 0.  0. ]
      >>> bool(lrx.warmup_cosine_decay(0.8, 0.1, 1000)(100) == lrx.warmup_cosine_decay(0.8, 100, 1000)(100))
      True
    """
    return _warm_up_to(cosine_decay, peak_value, warmup_steps, total_steps, init_value, end_value)


@factory
def warmup_linear_decay(
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    total_steps: ArrayLike,
    *,
    init_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    """Warm up, then decay along a straight line, so that the run ends where the schedule does.

    With W warm-up steps of T in total, the rate is `init + (alpha* - init) t / W` for `t < W`, then
    `alpha_end + (alpha* - alpha_end) (1 - u)` with `u = (t - W) / (T - W)`, and `alpha_end` from t = T on. It is
    `warmup(linear_decay(alpha*, T - W), W)`: there you give the length of the decay, here that of the run. On many
    problems it is the best of the fixed schedules.

    Args:
      peak_value: alpha*, reached at step W, >= 0; may be traced.
      warmup_steps: W, in optimizer steps, >= 0 and < T, or as a fraction of T, rounded to the nearest step: 0.1 for a
        tenth; may be traced, a fraction in a floating-point type.
      total_steps: T, the length of the run in optimizer steps, the warm-up included, >= 1; may be traced.
      init_value: init, the rate at step 0, >= 0; may be traced.
      end_value: alpha_end, >= 0; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, `total_steps` is not a whole number >= 1, or `warmup_steps` is
        neither a whole number >= 0 nor a fraction, or leaves no step of `total_steps` to the decay.

    Source:
      J. Devlin et al., "BERT", NAACL 2019, arXiv:1810.04805, appendix A.2; A. Defazio, A. Cutkosky, H. Mehta,
      K. Mishchenko, 2023, arXiv:2310.07831.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.warmup_linear_decay(0.8, 2, 6)(jnp.arange(8)))
      [0.  0.4 0.8 0.6 0.4 0.2 0.  0. ]
    """
    return _warm_up_to(linear_decay, peak_value, warmup_steps, total_steps, init_value, end_value)


def _warm_up_to(
    decay: Callable[..., Schedule],
    peak_value: ArrayLike,
    warmup_steps: ArrayLike,
    total_steps: ArrayLike,
    init_value: ArrayLike,
    end_value: ArrayLike,
) -> Schedule:
    """Build the warm-up and the decay that ends with the run."""
    _checks.non_negative("peak_value", peak_value)
    _checks.non_negative("init_value", init_value)
    _checks.non_negative("end_value", end_value)
    climb, fall = _durations(warmup_steps, total_steps)
    return warmup(decay(peak_value, fall, end_value=end_value), climb, init_value=init_value)


def _durations(warmup_steps: ArrayLike, total_steps: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Return the steps of the warm-up, which may be given as a fraction, and the remaining steps."""
    _checks.steps("total_steps", total_steps)
    _checks.steps_or_fraction("warmup_steps", warmup_steps, "total_steps")
    if _checks.is_concrete(warmup_steps) and _checks.is_concrete(total_steps):
        share, total = float(warmup_steps), int(total_steps)
        climb = round(share * total) if share < 1 else int(share)
        if climb >= total:
            raise ValueError(
                f"warmup_steps must be < total_steps, got warmup_steps={warmup_steps}, total_steps={total_steps}: the "
                "total includes the warm-up."
            )
        return climb, total - climb
    steps = _steps_of(warmup_steps, total_steps)
    return steps, jnp.maximum(as_steps(total_steps) - steps, 0)


def _steps_of(warmup_steps: ArrayLike, total_steps: ArrayLike) -> ArrayLike:
    if jnp.issubdtype(jnp.result_type(warmup_steps), jnp.integer):
        return as_steps(warmup_steps)
    rounded, _ = nearest_whole(multiply(digits_of(as_steps(total_steps)), digits_of(warmup_steps)))
    return jnp.where(jnp.asarray(warmup_steps) < 1, rounded.astype(jnp.int32), as_steps(warmup_steps))
