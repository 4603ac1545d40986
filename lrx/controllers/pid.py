"""Proportional, integral and derivative control of the logarithm of the rate.

Step-size controllers of ODE solvers keep the local error at a tolerance; this one keeps the speed at which the loss
falls at a set point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx._smoothing import RunningMean, add, empty_mean
from lrx.controllers._progress import MEMORY, variance
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.states import shows
from lrx.transformations import factory

FAR = 16.0  # variances: the most that one loss may add to the measured noise


@shows("scale", "decrease", "error", "integral", "derivative", "previous_value")
class PidState(NamedTuple):
    """State of `pid`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    decrease: jax.Array  # () float32: r, the smoothed relative decrease of the loss per step
    error: jax.Array  # () float32: e
    integral: jax.Array  # () float32: the integral part of log(scale)
    derivative: jax.Array  # () float32: d, the smoothed change of the error per step
    previous_value: jax.Array  # () float32: the loss before, infinite before the first
    change: jax.Array  # () float32: the relative decrease of the latest loss
    mean: RunningMean  # of the relative decrease
    turns: RunningMean  # of the product of two changes at turns of the loss: its noise


@factory
def pid(
    *,
    kp: ArrayLike = 1.0,
    ki: ArrayLike = 0.1,
    kd: ArrayLike = 0.1,
    set_point: ArrayLike = 0.01,
    smoothing: ArrayLike = 0.9,
    significance: ArrayLike = 4.0,
    min_factor: ArrayLike = 1e-2,
    max_factor: ArrayLike = 10.0,
    error: Callable[[jax.Array], Any] | None = None,
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Keep the speed at which the loss falls at a set point.

    With v_t the loss, the relative decrease `2 (v_{t-1} - v_t) / (|v_{t-1}| + |v_t|)` lies in [-2, 2] and is 0 on
    average for a loss that only fluctuates; its running mean is r_t. The error is `e_t = r* - r_t` with r* =
    `set_point`: a loss that falls too slowly raises the rate. If the loss rises (r_t < 0), a smaller rate brings the
    decrease back, and `e_t = r_t - r*`. Then

        log(scale_t) = kp e_t + I_t + kd d_t,     I_t = I_{t-1} + ki e_t,     d_t = s d_{t-1} + (1 - s) (e_t - e_{t-1})

    within [log(min_factor), log(max_factor)], with s = `smoothing`. At a bound the integral stays unless the error
    leads away from it (anti-windup). With all gains 0 the factor stays 1. The loss falls slowly both at a rate that is
    too small and close to the largest stable one, so the rate may settle at a value at which the loss just rises.

    Time is counted in losses: updates with `value=loss`, observations otherwise. The losses of single minibatches are
    noisy: if |r_t| is within `significance` standard deviations of its noise, e_t is 0. The noise is measured at turns
    of the loss, as in `reduce_on_plateau`; without noise every r_t counts.

    Args:
      kp: proportional gain, >= 0; may be traced.
      ki: integral gain per step, >= 0; may be traced.
      kd: derivative gain, in steps, >= 0; may be traced.
      set_point: r*, > 0, relative decrease of the loss per step; may be traced.
      smoothing: s of the running means, in [0, 1): about 1 / (1 - s) losses count; may be traced.
      significance: standard deviations that r_t must be away from 0, >= 0: with 0 every r_t counts; may be traced.
      min_factor: lower bound of the scale, in (0, 1], dimensionless; may be traced.
      max_factor: upper bound of the scale, >= 1, dimensionless; may be traced.
      error: maps the loss, () float32, to e_t, in place of set point and decrease.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`.
      start_after: updates before the first whose loss is used, >= 0: set it to the length of a warm-up, whose slow
        decrease would raise the rate, up to `max_factor` times its peak; may be traced.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored, and so is an error that is not.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.
      TypeError: if `error` is not a function.

    Source:
      No paper; a controller in the textbook's form, on the logarithm as those of ODE solvers: K. Gustafsson, ACM Trans.
      Math. Softw. 17, 1991, and the step-size controllers of diffrax.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.pid(set_point=0.1))
      >>> theta, state = jnp.ones(1), tx.init(jnp.ones(1))
      >>> for _ in range(200):
      ...     loss = 0.5 * jnp.sum(theta**2)
      ...     updates, state = tx.update(theta, state, value=loss)
      ...     theta = theta + updates
      >>> print(f"{lrx.monitor(state)['pid/decrease']:.1f} {lrx.learning_rate(state):.2f}")
      0.1 0.05
    """
    _checks.non_negative("kp", kp)
    _checks.non_negative("ki", ki)
    _checks.non_negative("kd", kd)
    _checks.positive("set_point", set_point, "a loss that is not meant to fall needs no controller")
    _checks.decay("smoothing", smoothing)
    _checks.non_negative("significance", significance)
    _checks.factor_bounds(min_factor, max_factor)
    if error is not None and not callable(error):
        raise TypeError(f"error must be a function of the loss, got error={error!r}.")

    def init(params: object) -> PidState:
        del params
        decrease, e, integral, derivative = (jnp.zeros([], jnp.float32) for _ in range(4))
        before, change = jnp.asarray(jnp.inf, jnp.float32), jnp.zeros([], jnp.float32)
        scale = jnp.ones([], jnp.float32)
        return PidState(scale, decrease, e, integral, derivative, before, change, empty_mean(), empty_mean())

    def update(state: PidState, value: jax.Array) -> tuple[jax.Array, PidState]:
        first = jnp.isinf(state.previous_value)
        before = jnp.where(first, value, state.previous_value)
        size = jnp.abs(before) / 2 + jnp.abs(value) / 2
        size = jnp.where(size == 0, 1.0, size)
        change = before / size - value / size
        decrease, mean = add(state.mean, change, smoothing)
        # The noise of one outlier must not hide the losses that follow.
        most = jnp.maximum(FAR * variance(state.turns), 1e-4)
        _, turned = add(state.turns, jnp.clip(-change * state.change, 0.0, most), MEMORY)
        turns = jax.tree.map(lambda new, old: jnp.where(state.mean.weight > 0, new, old), turned, state.turns)
        keep = jnp.asarray(smoothing, jnp.float32)
        if error is None:
            target = jnp.asarray(set_point, jnp.float32)
            e = jnp.where(decrease < 0, decrease - target, target - decrease)
            spread = 2 * jnp.square(1 - keep) / (1 + keep) * variance(turns)
            e = jnp.where(jnp.square(decrease) >= jnp.square(jnp.asarray(significance, jnp.float32)) * spread, e, 0.0)
            e, started = jnp.where(first, 0.0, e), ~first
            mean = jax.tree.map(lambda new, old: jnp.where(first, old, new), mean, state.mean)
        else:
            e = jnp.asarray(error(value), jnp.float32)
            e, started = jnp.where(jnp.isfinite(e), e, state.error), jnp.bool_(True)
        derivative = keep * state.derivative + (1 - keep) * jnp.where(first, 0.0, e - state.error)
        low, high = (jnp.log(jnp.asarray(bound, jnp.float32)) for bound in (min_factor, max_factor))
        integral = jnp.clip(state.integral + jnp.asarray(ki, jnp.float32) * e, low, high)
        others = jnp.asarray(kp, jnp.float32) * e + jnp.asarray(kd, jnp.float32) * derivative
        wanted = others + integral
        winds_up = ((wanted > high) & (e > 0)) | ((wanted < low) & (e < 0))
        integral = jnp.where(winds_up, state.integral, integral)
        scale = jnp.where(started, jnp.exp(jnp.clip(others + integral, low, high)), 1.0)
        return scale, PidState(
            scale=scale,
            decrease=jnp.where(first, 0.0, decrease),
            error=e,
            integral=integral,
            derivative=derivative,
            previous_value=value,
            change=change,
            mean=mean,
            turns=turns,
        )

    return controller(init=init, update=update, feedback=feedback, start_after=start_after)
