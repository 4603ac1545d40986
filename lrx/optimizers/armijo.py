"""Armijo's line search on the minibatch: the largest rate that decreases the loss enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._leaves import descend, has_no_gradient, inner, require_params, total, upcast
from lrx._numbers import ArrayLike
from lrx.feedback import check_loss
from lrx.rates import Core, Feedback, Rate
from lrx.states import shows
from lrx.transformations import factory


@shows("rate", "evaluations", "accepted")
class ArmijoState(NamedTuple):
    """State of `armijo`."""

    rate: jax.Array  # () float32: the last one tried
    evaluations: jax.Array  # () int32: evaluations of the loss in the latest search
    accepted: jax.Array  # () bool: whether it decreased the loss enough


@factory
def armijo(
    *,
    c: ArrayLike = 0.1,
    backtrack: ArrayLike = 0.9,
    max_rate: ArrayLike = 1.0,
    growth: ArrayLike | None = None,
    max_evaluations: ArrayLike = 100,
) -> Rate:
    """Search for a rate that decreases the loss of this minibatch by a share of the decrease that its slope predicts.

    From `gamma = max_rate`, or with `growth` from `min(max_rate, growth gamma_{t-1})`, the rate is multiplied by
    `backtrack` until `f(x - gamma u) <= f(x) - c gamma <g, u>`, with u the incoming direction (alone, the gradient). A
    loss that is not finite does not satisfy this. If no rate does, no step is made: the rate is 0. The authors let it
    grow by a factor of 2 in an epoch of n minibatches, `growth=2 ** (1 / n)`, which takes few evaluations.

    Each trial is an evaluation of the loss, made by `value_fn` as in optax's line searches:

        updates, state = tx.update(grads, state, params, value=loss, grad=grads, value_fn=lambda params: ...)

    Args:
      c: required share of the predicted decrease, in (0, 1); may be traced.
      backtrack: ratio of successive trial rates, in (0, 1); may be traced.
      max_rate: the largest rate, > 0; may be traced.
      growth: ratio of the first trial rate to the last step's rate, >= 1; None starts at `max_rate`; may be traced.
      max_evaluations: largest number of evaluations of the loss in a search, >= 1; may be traced.

    Returns:
      A `Rate`. `update` needs `params`, `value=`, a scalar, and `value_fn=`; `grad=`, the gradient, if it is not the
      incoming direction.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`, `value` or `value_fn`.

    Differs from the source:
      After the last evaluation the authors take a step of 1e-6, whatever the loss.

    Source:
      S. Vaswani et al., NeurIPS 2019, arXiv:1905.09997, equation 1 and algorithm 1; L. Armijo, 1966.

    Example:
      >>> import jax, lrx, jax.numpy as jnp
      >>> loss_fn = lambda theta: 4.0 * jnp.sum(theta**2)
      >>> tx = lrx.armijo(backtrack=0.5)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> loss, grads = jax.value_and_grad(loss_fn)(theta)
      >>> updates, state = tx.update(grads, state, theta, value=loss, value_fn=loss_fn)
      >>> print(lrx.learning_rate(state), theta + updates)
      0.125 [0. 0.]
    """
    _checks.in_interval("c", c, "(0, 1)", "it is a share of the promised decrease")
    _checks.in_interval("backtrack", backtrack, "(0, 1)", "it multiplies a rate that was too large")
    _checks.positive("max_rate", max_rate)
    if growth is not None:
        _checks.near_one("growth", growth)
        _checks.at_least("growth", growth, 1, "below 1 the rate could only fall")
    _checks.steps("max_evaluations", max_evaluations, unit="evaluations")

    def init(params: Any) -> tuple[jax.Array, ArmijoState]:
        del params
        first = jnp.array(max_rate, jnp.float32)
        return jnp.array(first), ArmijoState(first, jnp.zeros([], jnp.int32), jnp.ones([], bool))

    def update(state: ArmijoState, seen: Feedback) -> tuple[jax.Array, ArmijoState]:
        require_params("armijo", seen.params, seen.updates, "from which it searches")
        value, value_fn = seen.extra_args.get("value"), seen.extra_args.get("value_fn")
        if value is None:
            raise ValueError(
                "armijo needs the loss: pass it as tx.update(grads, state, params, value=loss, value_fn=loss_fn)."
            )
        check_loss(value)
        if not callable(value_fn):
            raise ValueError(
                f"armijo needs value_fn, a function from parameters to the loss of this minibatch, got {value_fn!r}: "
                "pass it as tx.update(grads, state, params, value=loss, value_fn=loss_fn)."
            )
        grads = seen.extra_args.get("grad")
        grads = seen.updates if grads is None else grads
        # The predicted decrease, with the factors of groups.
        slope = -total(inner, descend(seen.updates, jnp.ones([], jnp.float32), seen.extra_args), grads)
        loss = jnp.asarray(value, jnp.float32)
        share, shrink = jnp.asarray(c, jnp.float32), jnp.asarray(backtrack, jnp.float32)
        most = jnp.asarray(max_evaluations, jnp.int32)

        def accepts(rate: jax.Array) -> jax.Array:
            step = descend(seen.updates, rate, seen.extra_args)
            trial = jax.tree.map(
                lambda u, x: x if has_no_gradient(u) else (upcast(x) + upcast(u)).astype(jnp.result_type(x)),
                step,
                seen.params,
                is_leaf=lambda leaf: leaf is None,
            )
            found = jnp.asarray(value_fn(trial), jnp.float32)
            return jnp.isfinite(found) & (found <= loss - share * rate * slope)

        def search(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            rate, tried, _ = carry
            rate = jnp.where(tried == 0, rate, rate * shrink)
            return rate, tried + 1, accepts(rate)

        start = jnp.asarray(max_rate, jnp.float32)
        if growth is not None:
            start = jnp.minimum(start, jnp.asarray(growth, jnp.float32) * state.rate)
        carry = (start, jnp.zeros([], jnp.int32), jnp.zeros([], bool))
        rate, tried, accepted = jax.lax.while_loop(lambda carry: ~carry[2] & (carry[1] < most), search, carry)
        return jnp.where(accepted, rate, 0.0), ArmijoState(jnp.array(rate), tried, accepted)

    return Rate.from_cores((Core(init, update),), peak=max_rate)
