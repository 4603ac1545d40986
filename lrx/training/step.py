"""One step of training: the loss and its gradient, the update, and the best state so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx.run_state import apply_updates, eval_params, improved, tracks_best
from lrx.training.history import Best
from lrx.training.identity import describe


class State(NamedTuple):
    """The state that a step changes."""

    params: Any
    model_state: Any
    opt_state: Any
    best: Any  # `Best`, () if nothing in opt_state tracks the best


def initial(init: Callable[..., Any], tx: optax.GradientTransformation, key: jax.Array) -> State:
    """Build the state before the first step."""
    params, model_state = require_pair(init(key), "init", "(params, model_state)")
    opt_state = tx.init(params)
    best = Best(jnp.int32(0), eval_params(opt_state, params), model_state) if tracks_best(opt_state) else ()
    return jax.tree.map(_strengthen_type, State(params, model_state, opt_state, best))


def step(
    loss_fn: Callable[..., Any],
    update: Callable[..., Any],
    state: State,
    batch: Any,
    key: jax.Array,
    count: jax.Array,
) -> tuple[State, jax.Array]:
    """Run one step after `count` completed ones; return the new state, and the loss before the update."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        result = loss_fn(params, state.model_state, batch, key)
        loss, model_state = require_pair(result, "loss_fn", "(loss, model_state)")
        if jnp.ndim(loss) != 0:
            raise ValueError(
                f"loss_fn must return a scalar loss, got one of shape {jnp.shape(loss)}: return its mean, "
                "jnp.mean(loss)."
            )
        return loss, model_state

    (loss, model_state), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_of(params)[0],
        grad_fn=lambda params, _: jax.grad(lambda params: loss_of(params)[0])(params),
    )
    best = better(state, opt_state, count)
    new = State(apply_updates(state.params, updates, opt_state), model_state, opt_state, best)
    _require_same_types(new, state)
    return new, loss


def better(state: State, opt_state: Any, count: jax.Array) -> Any:
    """Return the best so far, given the optimizer state after an update or an observation that judged `state`."""
    if not tracks_best(opt_state):
        return ()
    return jax.lax.cond(
        improved(state.opt_state, opt_state),
        lambda: Best(count, eval_params(state.opt_state, state.params), state.model_state),
        lambda: state.best,
    )


def require_pair(value: Any, name: str, wanted: str) -> tuple[Any, Any]:
    """Return what a function of a workload has returned, after a check that it is a pair."""
    if not (isinstance(value, tuple) and len(value) == 2):
        raise TypeError(
            f"{name} must return {wanted}, got a {type(value).__name__}: Workload.from_functions takes functions "
            "without a model state."
        )
    return value


def _strengthen_type(x: Any) -> jax.Array:
    """Return an array without a weak type: the state of a loop must keep its type."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return jnp.asarray(x, jnp.result_type(x))


def _require_same_types(new: State, old: State) -> None:
    for name, origin in (("params", "tx"), ("model_state", "loss_fn"), ("opt_state", "tx")):
        after, before = describe(getattr(new, name)), describe(getattr(old, name))
        for leaf in {**before, **after}:
            was, became = before.get(leaf, "absent"), after.get(leaf, "absent")
            if was != became:
                raise TypeError(
                    f"{origin} must keep the types of {name}, but {name}{leaf} is {was} before a step and {became} "
                    "after it."
                )
