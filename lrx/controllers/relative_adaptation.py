"""Find the rate from the relative change of the loss curve, for any rate at the start.

The rate is raised from below until the loss begins to fall, then rises slowly, and is cut back when the loss rises.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx._smoothing import RunningMean, add, empty_mean
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.states import shows
from lrx.transformations import factory

FIRST_LOSSES = 20  # during which only the level and the noise of the loss are measured
REST = 3  # losses after a cut during which the rate stays, so that the mean can follow
DEVIATIONS = 4.0  # standard deviations of the mean by which a rise must exceed the tolerance
LEAK = 0.05  # share by which the lowest mean follows a higher one: a slow drift of the loss is not a rise
MEMORY = 0.98  # decay of the noise's estimate: about fifty losses
WEAKENING = 0.5  # factor on the growth at each cut, so that the search settles


@shows(
    "scale",
    "log_growth",
    "relative_change",
    "noise",
    "fallen",
    "first_value",
    "lowest_mean",
    "seen_count",
    "rest_count",
)
class RelativeAdaptationState(NamedTuple):
    """State of `relative_adaptation`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    log_growth: jax.Array  # () float32: growth of log(scale) in a step of the search
    relative_change: jax.Array  # () float32: rho, of the mean loss relative to its lowest, dimensionless
    noise: jax.Array  # () float32: standard deviation of that change under noise alone
    fallen: jax.Array  # () bool: whether the search is over
    first_value: jax.Array  # () float32: the first loss, in its units; infinite before it
    lowest_mean: jax.Array  # () float32: the lowest mean, slowly following a higher one; infinite before the first
    seen_count: jax.Array  # () int32: losses so far
    rest_count: jax.Array  # () int32: losses for which the rate is still held
    mean: RunningMean  # of the loss
    variance: RunningMean  # relative, of a loss around the mean


@factory
def relative_adaptation(
    *,
    smoothing: ArrayLike = 0.8,
    growth: ArrayLike = 1.2,
    creep: ArrayLike = 0.005,
    backoff: ArrayLike = 0.3,
    tolerance: ArrayLike = 0.1,
    target: ArrayLike = 0.1,
    min_factor: ArrayLike = 1e-8,
    max_factor: ArrayLike = 1e8,
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Adapt the rate to the relative change of the loss.

    `constant(1.0) * relative_adaptation()` is a rate without a value to choose. The starting rate still matters: in the
    reproduction of the source, test errors of plain gradient descent from rates between 1e-6 and 1 differ by 15 points.
    Let l_t be the running mean of the loss,
    and l* the lowest such mean, which moves toward a higher mean by a twentieth of the difference at each step. The
    relative change is `rho_t = (l_t - l*) / |l*|`, and sigma_t is its standard deviation due to the noise of single
    losses. After the first twenty losses:

    - search, until `l_t < v_1 - target |v_1|` with v_1 the first loss: `scale <- growth scale`
    - then: `scale <- growth^creep scale`
    - whenever `rho_t > tolerance + 4 sigma_t`, the loss rises: `scale <- backoff scale`, the logarithm of the growth is
      halved, the search ends, l* restarts at l_t, and the rate is held for three losses

    Time is counted in losses. They should be those of single minibatches, passed as `value=loss` at every update;
    sigma_t accounts for their noise. With one observation an epoch, twenty epochs would pass before the search.

    Args:
      smoothing: s of the running mean of the loss, in [0, 1): about 1 / (1 - s) losses count; may be traced.
      growth: factor for each loss while searching, > 1, dimensionless; may be traced.
      creep: power of the growth after the search, >= 0: with 0 the rate is only ever lowered; may be traced.
      backoff: multiplies the rate when the loss rises, in (0, 1), dimensionless; may be traced.
      tolerance: relative rise that is allowed beyond the noise, >= 0; may be traced.
      target: relative fall that ends the search, in (0, 1); may be traced.
      min_factor: lower bound of the scale, in (0, 1], dimensionless; may be traced.
      max_factor: upper bound of the scale, >= 1, dimensionless; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`.
      start_after: updates before the first whose loss is used, >= 0; may be traced. The search is itself a warm-up and
        needs no other: a scale found at the low rates of a warm-up is too large at the peak.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Source:
      The rule is ours. The idea, to set the rate from the relative change of the global loss curve without an initial
      rate, is that of S. Biswas et al., "LRT-RA", AppliedMath 5(1), 2025, whose formula was not available to us: this
      is not LRT-RA.

    Example:
      >>> import jax, lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(1e-6 * lrx.relative_adaptation())
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):
      ...     loss, grad = jax.value_and_grad(lambda x: 0.5 * jnp.sum(x**2))(theta)
      ...     updates, state = tx.update(grad, state, theta, value=loss)
      ...     theta = theta + updates
      >>> print(bool(lrx.learning_rate(state) > 1e-2))
      True
    """
    _checks.decay("smoothing", smoothing)
    _checks.above("growth", growth, 1, "at 1 nothing is searched")
    _checks.non_negative("creep", creep)
    _checks.in_interval("backoff", backoff, "(0, 1)", "it multiplies the rate when the loss rises")
    _checks.non_negative("tolerance", tolerance)
    _checks.in_interval("target", target, "(0, 1)", "it is a share of the first loss")
    _checks.factor_bounds(min_factor, max_factor)

    def init(params: object) -> RelativeAdaptationState:
        del params
        return RelativeAdaptationState(
            scale=jnp.ones([], jnp.float32),
            log_growth=jnp.log(jnp.array(growth, jnp.float32)),
            relative_change=jnp.zeros([], jnp.float32),
            noise=jnp.zeros([], jnp.float32),
            fallen=jnp.zeros([], bool),
            first_value=jnp.asarray(jnp.inf, jnp.float32),
            lowest_mean=jnp.asarray(jnp.inf, jnp.float32),
            seen_count=jnp.zeros([], jnp.int32),
            rest_count=jnp.zeros([], jnp.int32),
            mean=empty_mean(),
            variance=empty_mean(),
        )

    def update(state: RelativeAdaptationState, value: jax.Array) -> tuple[jax.Array, RelativeAdaptationState]:
        begun = state.seen_count > 0
        first_value = jnp.where(begun, state.first_value, value)
        before = jnp.where(begun, state.mean.weighted_sum / jnp.maximum(state.mean.weight, 1e-30), value)
        size = jnp.maximum(jnp.abs(before), 1e-30)
        # An outlier must neither stay in the mean for long, nor hide the next losses by the noise that it adds.
        loss, mean = add(state.mean, jnp.minimum(value, before + 2 * size), smoothing)
        spread = state.variance.weighted_sum / jnp.maximum(state.variance.weight, 1e-30)
        # The derivative of the root is infinite at 0.
        known = jnp.where(spread > 0, jnp.sqrt(jnp.where(spread > 0, spread, 1.0)), 0.0)
        bound = jnp.maximum(DEVIATIONS * known, 0.05)
        deviation = jnp.clip(value / size - before / size, -bound, bound)
        _, variance = add(state.variance, jnp.square(deviation), MEMORY)
        s = jnp.asarray(smoothing, jnp.float32)
        noise = known * jnp.sqrt((1 - s) / (1 + s))

        lowest_before = jnp.where(begun, state.lowest_mean, loss)
        followed = lowest_before + LEAK * (loss - lowest_before)
        lowest = jnp.minimum(followed, loss)
        change = (loss - lowest) / jnp.maximum(jnp.abs(lowest), 1e-30)
        resting = state.rest_count > 0
        rising = ~resting & (change > jnp.asarray(tolerance, jnp.float32) + DEVIATIONS * noise)
        fall = jnp.asarray(target, jnp.float32) * jnp.abs(first_value)
        fallen = state.fallen | rising | (loss < first_value - fall)

        log_growth = jnp.where(rising, WEAKENING * state.log_growth, state.log_growth)
        rise = log_growth * jnp.where(fallen, jnp.asarray(creep, jnp.float32), 1.0)
        still = resting | (state.seen_count < FIRST_LOSSES)
        moved = state.scale * jnp.where(rising, jnp.asarray(backoff, jnp.float32), jnp.where(still, 1.0, jnp.exp(rise)))
        scale = jnp.clip(moved, jnp.asarray(min_factor, jnp.float32), jnp.asarray(max_factor, jnp.float32))
        return scale, RelativeAdaptationState(
            scale=scale,
            log_growth=log_growth,
            relative_change=change,
            noise=noise,
            fallen=fallen,
            first_value=first_value,
            lowest_mean=jnp.where(rising, loss, lowest),
            seen_count=optax.safe_increment(state.seen_count),
            rest_count=jnp.where(rising, REST, jnp.maximum(state.rest_count - 1, 0)),
            mean=mean,
            variance=variance,
        )

    return controller(init=init, update=update, feedback=feedback, start_after=start_after)
