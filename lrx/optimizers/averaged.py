"""A moving average of the parameters to evaluate at: it has less noise than the newest parameters."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import require_params, zeros_like
from lrx._numbers import ArrayLike
from lrx._positions import combine, move_mean
from lrx.run_state import eval_params
from lrx.states import array, shows
from lrx.transformations import factory


@shows("averaged_count")
class AveragedState(NamedTuple):
    """State of `averaged`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; saturates at 2^31 - 1
    averaged_count: jax.Array  # () int32: iterates in the average
    forgetting: jax.Array  # () float32: 1 - decay, the weight of the newest iterate in the long run; 0 for a plain mean
    start_after: jax.Array  # () int32: updates before the first iterate that is averaged
    average: Any  # like the parameters, at least float32: average of the iterates, without the newest
    inner: Any

    def within(self) -> tuple[Any, ...]:
        """Return the state of the averaged transformation."""
        return (self.inner,)

    def evaluation_params(self, params: Any) -> Any:
        """Return the average, including the newest iterate."""
        count, start = array(self.count), array(self.start_after)
        number = array(self.averaged_count) + 1
        share = jnp.where(count > start, _share(array(self.forgetting), number), 1.0)
        point = eval_params(self.inner, params)
        return combine(lambda x, mean: (1 - share) * mean + share * x, point, self.average)


def _share(forgetting: jax.Array, number: jax.Array) -> jax.Array:
    """Return the weight of the newest of n iterates: (1 - decay) / (1 - decay^n), or 1 / n for a decay of 1."""
    n = jnp.maximum(number, 1).astype(jnp.float32)
    plain = forgetting == 0
    rate = jnp.where(plain, 0.5, forgetting)
    return jnp.where(plain, 1 / n, rate / -jnp.expm1(n * jnp.log1p(-rate)))


@factory
def averaged(
    tx: optax.GradientTransformation,
    *,
    decay: ArrayLike | None = None,
    half_life: ArrayLike | None = None,
    start_after: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """Keep a moving average of the parameters, and evaluate there.

    Training is the same as with `tx` alone; `eval_params(state, params)` is the average of the iterates x_1, x_2, ...
    With `decay` = d or `half_life` = h, `d = 2^(-1 / h)`, it is the exponential moving average with its bias corrected,

        x~_t = sum_i d^(t-i) x_i / sum_i d^(t-i)

    so that it is right from the first iterate on. With neither it is the plain mean of all iterates after
    `start_after` updates: stochastic weight averaging, or the mean of a tail. Before that, it is the parameters
    themselves. Average over the last tenth to half of a run; less decay of the rate is then needed. Batch statistics
    belong to the trained parameters: `lrx.train` recomputes them at the average, and
    `lrx.training.recompute_batch_stats` does so elsewhere. The average costs 4 bytes for each parameter.

    With `accumulate`, put this inside, `accumulate(averaged(tx), 4)`, so that only applied updates count. Around
    `master_weights` it averages the rounded parameters, inside of it the float32 copies. Put `group_rates` with a
    frozen group around this; otherwise an average of the frozen parameters is kept too.

    Args:
      tx: the transformation whose iterates, or evaluation points if it has its own, are averaged.
      decay: d, in [0, 1), of the average per update, dimensionless; may be traced.
      half_life: h, > 0, updates in which the weight of an iterate halves; may be traced. Give one of the two or none.
      start_after: updates before the first iterate that is averaged, >= 0; may be traced.

    Returns:
      A transformation whose updates are those of `tx`. `update` needs `params`, and what `tx` needs.

    Raises:
      ValueError: if an argument is out of its range, both `decay` and `half_life` are given, or `update` gets no
        `params`.
      TypeError: if `tx` is not a gradient transformation.

    Source:
      B. Polyak, A. Juditsky, SIAM J. Control Optim. 30, 1992, for the mean; P. Izmailov et al., UAI 2018,
      arXiv:1803.05407, for its tail; D. Kingma, J. Ba, 2015, arXiv:1412.6980, section 7.2, for the corrected average.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.averaged(lrx.sgd(0.5))
      >>> theta, state = jnp.array([4.0]), tx.init(jnp.array([4.0]))
      >>> for _ in range(2):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(theta, lrx.eval_params(state, theta))
      [1.] [1.5]
    """
    _checks.transformation(tx)
    if decay is not None and half_life is not None:
        raise ValueError(f"decay must be left out with half_life, got decay={decay}, half_life={half_life}.")
    if decay is not None:
        _checks.decay("decay", decay)
    if half_life is not None:
        _checks.positive("half_life", half_life, "it is a number of updates")
    _checks.steps("start_after", start_after, at_least=0, unit="updates")
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> AveragedState:
        zero = jnp.zeros([], jnp.int32)
        start = jnp.array(start_after).astype(jnp.int32)
        average = zeros_like(params, upcast=True)
        return AveragedState(
            zero, jnp.array(zero), _forgetting_rate(decay, half_life), start, average, inner.init(params)
        )

    def update(updates: Any, state: AveragedState, params: Any = None, **extra_args: Any) -> tuple[Any, AveragedState]:
        require_params("averaged", params, updates, "which it averages")
        counts = state.count > jnp.maximum(state.start_after, 0)  # before the first update there is no iterate
        number = jnp.where(counts, optax.safe_increment(state.averaged_count), state.averaged_count)
        share = jnp.where(counts, _share(state.forgetting, number), 0.0)
        point = eval_params(state.inner, params)
        average = jax.tree.map(lambda mean, x: move_mean(mean, x, share), state.average, point)
        steps, after = inner.update(updates, state.inner, params, **extra_args)
        following = optax.safe_increment(state.count)
        kept = jnp.array(state.forgetting), jnp.array(state.start_after)
        return steps, AveragedState(following, number, *kept, average, after)

    return optax.GradientTransformationExtraArgs(init, update)


def _forgetting_rate(decay: ArrayLike | None, half_life: ArrayLike | None) -> jax.Array:
    """Return 1 - decay in float32, without cancellation error."""
    if half_life is not None:
        if _checks.is_concrete(half_life):
            return jnp.array(-math.expm1(-math.log(2) / float(half_life)), jnp.float32)
        return -jnp.expm1(-math.log(2) / jnp.asarray(half_life, jnp.float32))
    if decay is None:
        return jnp.zeros([], jnp.float32)
    if _checks.is_concrete(decay):
        return jnp.array(1 - float(decay), jnp.float32)
    return 1 - jnp.asarray(decay, jnp.float32)
