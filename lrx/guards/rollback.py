"""Take a diverging run back to earlier parameters, and continue with a smaller rate.

This does inside the compiled loop what one would do by hand: restart from a checkpoint with half the rate.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import copies, leafwise, require_params, total, with_float0, without_float0
from lrx._numbers import ArrayLike
from lrx._smoothing import RunningMean, add, empty_mean
from lrx.editing import scale_learning_rate, scale_rates
from lrx.feedback import no_observation, take_value
from lrx.run_state import settle_params
from lrx.states import Observation, RateState, Snapshot, shows
from lrx.transformations import factory

SMOOTHING = 0.9  # of the running mean that a loss is compared with: about ten minibatches


@shows("stopped", "rolled_back", "rollbacks", "scale", "first_value", "lowest_mean")
class RollbackState(NamedTuple):
    """State of `rollback_on_divergence`."""

    stopped: jax.Array  # () bool: whether the run is over, because the last rollback was not enough
    rolled_back: jax.Array  # () bool: whether the latest update took the parameters back
    rollbacks: jax.Array  # () int32: number of rollbacks
    scale: jax.Array  # () float32: the factor on the rate so far, dimensionless
    first_value: jax.Array  # () float32: the first loss, in its units; infinite before it
    lowest_mean: jax.Array  # () float32: the lowest running mean of the loss; infinite before the first
    mean: RunningMean  # running mean of the losses of accepted steps
    observation: Observation | tuple[()]
    snapshot: Snapshot  # the last parameters at which the loss was not above its mean, and the state of `tx` then
    inner: Any  # the state of `tx`

    def on_path(self) -> tuple[Any, ...]:
        """Return the state of the transformation; what is kept does not act."""
        return (self.inner,)

    def kept(self) -> tuple[Any, ...]:
        """Return the snapshot, whose state acts again after a rollback."""
        return (self.snapshot,)

    def stops(self) -> jax.Array:
        """Return whether the run is over."""
        return self.stopped

    def handles_divergence(self) -> bool:
        """Return True: a loss that is not finite takes the run back."""
        return True

    def applied_params(self, params: Any) -> Any:
        """Return the kept parameters if this update took the run back."""
        return _restore_params(self, settle_params(self.inner, params))


@factory
def rollback_on_divergence(
    tx: optax.GradientTransformation,
    *,
    factor: ArrayLike = 0.5,
    max_rollbacks: ArrayLike = 20,
    explode: ArrayLike = 2.0,
    feedback: str = "value",
) -> optax.GradientTransformationExtraArgs:
    """Take parameters and state back when a run diverges, and lower the rate.

    Whenever the loss is not above its running mean, the parameters and the state of `tx` are saved. They are restored
    when the loss, a gradient or the update of `tx` is not finite, or when the loss has exploded:
    `v > v_1` and `v > l* + explode |l*|` with v_1 the first loss and l* the lowest running mean so far. The rate is
    then multiplied by `factor` permanently, wherever `tx` applies it. A run started at 1,000 times the largest stable
    rate trains successfully after ten rollbacks. If a run diverges again after `max_rollbacks`, it stops: the
    parameters are the saved ones, the rate is 0, and `lrx.stopped(state)` is True.

    Pass the loss of each minibatch as `value=loss` at every update: the running mean is over about ten.

    The parameters are restored exactly by

        updates, state = tx.update(grads, state, params, value=loss)
        params = lrx.apply_updates(params, updates, state)

    With `optax.apply_updates` (as in `TrainState` and `nnx.Optimizer`) they are restored up to rounding.

    Args:
      tx: the transformation with its rate: an lrx optimizer, or one of `optax.inject_hyperparams`.
      factor: multiplies the rate at each rollback, in (0, 1), dimensionless; may be traced.
      max_rollbacks: largest number of rollbacks, >= 0; may be traced.
      explode: how far a loss may be above the lowest mean, relative to its size, > 0; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`;
        without an observation only gradients and updates are checked.

    Returns:
      A transformation. `update` needs `params`, `value=` unless `feedback="observed"`, and what `tx` needs. It needs
      twice the memory of `tx`'s state, and one more copy of the parameters.

    Raises:
      ValueError: if an argument is out of its range, `tx` has no rate that can be scaled, or `update` gets no `params`
        or no `value`.
      TypeError: if `tx` is not a gradient transformation.

    Source:
      No paper; the loss spikes of A. Chowdhery et al., "PaLM", 2022, section 5.1, were handled so by hand.

    Example:
      >>> import jax, lrx, jax.numpy as jnp
      >>> tx = lrx.rollback_on_divergence(lrx.sgd(1_500.0))
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(80):
      ...     loss, grad = jax.value_and_grad(lambda x: 0.5 * jnp.sum(x**2))(theta)
      ...     updates, state = tx.update(grad, state, theta, value=loss)
      ...     theta = lrx.apply_updates(theta, updates, state)
      >>> print(state.rollbacks, lrx.learning_rate(state), bool(jnp.all(jnp.abs(theta) < 0.05)))
      10 1.4648438 True
    """
    _checks.transformation(tx)
    _checks.in_interval("factor", factor, "(0, 1)", "it multiplies the rate at each rollback")
    _checks.steps("max_rollbacks", max_rollbacks, at_least=0, unit="rollbacks")
    _checks.positive("explode", explode, "a loss above its lowest mean is not yet a divergence")
    _checks.one_of("feedback", feedback, ("value", "observed"))
    wrapped = optax.with_extra_args_support(tx)

    def init(params: Any) -> RollbackState:
        inner = wrapped.init(params)
        if jax.tree.leaves(params):
            scale_learning_rate(inner, 1.0)  # raises if there is no rate
        infinity = jnp.inf
        return RollbackState(
            stopped=jnp.zeros([], bool),
            rolled_back=jnp.zeros([], bool),
            rollbacks=jnp.zeros([], jnp.int32),
            scale=jnp.ones([], jnp.float32),
            first_value=jnp.array(infinity, jnp.float32),
            lowest_mean=jnp.array(infinity, jnp.float32),
            mean=empty_mean(),
            observation=no_observation(feedback),
            snapshot=Snapshot(copies(params), copies(inner)),
            inner=inner,
        )

    def update(updates: Any, state: RollbackState, params: Any = None, **extra_args: Any) -> tuple[Any, RollbackState]:
        require_params("rollback_on_divergence", params, updates, "which it keeps")
        value, is_given, observation = take_value("rollback_on_divergence", state.observation, extra_args, feedback)
        candidate, inner = wrapped.update(updates, state.inner, params, **extra_args)
        wrong = total(
            lambda u, x, g: (~jnp.isfinite(x + u.astype(x.dtype)) | ~jnp.isfinite(g)).astype(jnp.float32),
            candidate,
            params,
            updates,
        )
        finite = wrong == 0
        level = jnp.where(jnp.isfinite(state.lowest_mean), state.lowest_mean, value)
        exploded = (value > state.first_value) & (value > level + jnp.asarray(explode, jnp.float32) * jnp.abs(level))
        bad = ~finite | (is_given & (~jnp.isfinite(value) | exploded))
        over = state.stopped | (bad & (state.rollbacks >= jnp.asarray(max_rollbacks, jnp.int32)))
        back = bad & ~state.stopped

        measured = is_given & ~bad & ~over
        mean_value, mean = add(state.mean, jnp.where(measured, value, 0.0), SMOOTHING)
        mean = _select(measured, mean, state.mean)
        lowest = jnp.where(measured, jnp.minimum(state.lowest_mean, mean_value), state.lowest_mean)
        well = measured & (value <= mean_value)

        lowered = jnp.where(back & ~over, jnp.asarray(factor, jnp.float32), 1.0)
        kept = _select(well, Snapshot(params, state.inner), state.snapshot)
        kept = kept._replace(inner=scale_rates(kept.inner, lowered))
        held = _select(over, _halt(kept.inner), kept.inner)
        # For callers that add updates and do not use `applied_params`: the difference to the kept parameters.
        difference, *_ = leafwise(lambda _, old, new: (old - new, old, new), candidate, kept.params, params)
        candidate, difference = without_float0(candidate), without_float0(difference)
        nothing = jax.tree.map(jnp.zeros_like, candidate)
        chosen = _select(back, difference, _select(over, nothing, candidate))
        return with_float0(chosen, updates), RollbackState(
            stopped=over,
            rolled_back=back,
            rollbacks=jnp.where(back & ~over, state.rollbacks + 1, state.rollbacks),
            scale=state.scale * lowered,
            first_value=jnp.where(measured & jnp.isinf(state.first_value), value, state.first_value),
            lowest_mean=lowest,
            mean=mean,
            observation=observation,
            snapshot=kept,
            inner=_select(back | over, held, inner),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _restore_params(node: RollbackState, params: Any) -> Any:
    def is_masked(leaf: Any) -> bool:
        return isinstance(leaf, optax.MaskedNode)

    kept, structure = jax.tree.flatten(node.snapshot.params, is_leaf=is_masked)
    leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    chosen = [
        new if is_masked(old) else jnp.where(node.rolled_back, old, new) for old, new in zip(kept, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, chosen)


def _select(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), yes, no)


def _halt(state: Any) -> Any:
    """Return the state with all rates at 0, also those that are shown."""

    def halt(node: Any) -> Any:
        if not isinstance(node, RateState):
            return node
        return node._replace(learning_rate=jnp.zeros_like(node.learning_rate), scale=jnp.zeros_like(node.scale))

    return jax.tree.map(halt, scale_rates(state, jnp.zeros([])), is_leaf=lambda node: isinstance(node, RateState))
