"""Check that an optimizer descends, by a few updates on a loss whose gradient is positive everywhere.

An lrx rate applies the minus sign, and so does `optax.adam(0.1)`. A chain with two signs ascends, and so does one with
none. A state that keeps only a count shows neither, so a few updates are made.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx._paths import named_leaves, write_path
from lrx.extra_args import tolerant_update
from lrx.reading import NoRateError, learning_rates

STEPS = 8  # at least; a method that first steps uphill (sharpness-aware minimization) comes back within them
MOST_STEPS = 256  # while nothing has moved: in a warm-up from 0, or a round of accumulation
MOST_ELEMENTS = 2**22  # up to which parameters are probed in their own shapes
CUT = 8  # larger ones are probed with dimensions of at most this
# Options of the compiler for a program that runs once: not optimized, it compiles in a third of the time.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def require_descent(tx: optax.GradientTransformation, params: Any) -> None:
    """Raise an error if the updates of an optimizer go uphill, or if it holds two rates on one path.

    The probe trains parameters `x`, all zero at first, on the loss `f(x) = log(1 + exp(sum(x)))`. It is positive and
    convex, and all components of its gradient are equal and positive. A method that descends moves every parameter
    that it moves at all below zero, whatever its rate is; weight decay, which pulls towards zero, cannot change the
    sign. A leaf whose components are above zero after each of the first updates in which it is moved ascends. If
    nothing has moved after 8 updates (a rate that is 0 at first, a round of accumulation), the probe continues, up to
    256 updates. An optimizer that never moves anything is accepted, and so is one that needs more than `params`,
    `value`, `grad`, `value_fn` and `grad_fn`.

    Args:
      tx: any optax transformation.
      params: a pytree of arrays or of `jax.ShapeDtypeStruct`; only structure, shapes and types are used.

    Raises:
      ValueError: if the updates ascend at any leaf, or two learning rates lie on one path.

    Example:
      >>> import jax.numpy as jnp, lrx, optax
      >>> from lrx.direction import require_descent
      >>> rate = lrx.cosine_decay(1.0, 50)
      >>> require_descent(optax.chain(optax.adam(0.1), rate.multiplier()), jnp.zeros(3))
      >>> require_descent(optax.chain(optax.adam(0.1), rate), jnp.zeros(3))
      Traceback (most recent call last):
      ...
      ValueError: tx must descend, got updates that ascend: it holds an lrx rate, ...
    """
    leaves, structure = jax.tree.flatten(params)
    types = tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)
    try:
        hash((tx, structure))
    except TypeError:  # a transformation, or a structure, that has no hash
        _require_descent(tx, structure, types)
        return
    _require_once(tx, structure, types)


def _require_descent(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> None:
    if sum(math.prod(shape) for shape, _ in types) > MOST_ELEMENTS:
        types = tuple((tuple(min(size, CUT) for size in shape), dtype) for shape, dtype in types)
    like = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*type_) for type_ in types])
    rated = _holds_rate(tx, like)
    try:
        with _on_cpu():
            rises = _ascents(tx, like)
    except Exception:  # it needs something that only training provides, and raises its own error there
        return
    rising = [write_path(path) for path, up in named_leaves(rises) if up]
    if not rising:
        return
    where = "" if len(rising) == len(types) else f" at {rising[0]!r}"
    if len(rising) > 1 and where:
        where += f" and {len(rising) - 1} more"
    if rated:
        why = (
            "it holds an lrx rate, which applies the minus sign, and another link that applies it too. Behind an "
            "optimizer with a rate of its own, such as optax.adam(0.1), let the schedule be schedule.multiplier(); or "
            "give the rate to the optimizer, lrx.adam(schedule)."
        )
    else:
        why = (
            "no learning rate applies the minus sign. End the chain with one, optax.chain(optax.scale_by_adam(), "
            "lrx.constant(1e-3)). Where ascent is meant, as in a dual variable, reverse the sign in the loss."
        )
    raise ValueError(f"tx must descend, got updates that ascend{where}: {why}")


# A run and its extension, or several seeds, probe once. A refusal is an exception, which is not kept.
_require_once = functools.lru_cache(maxsize=64)(_require_descent)


def _on_cpu() -> Any:
    """Return a context in which the probe runs on the host, where it compiles fastest."""
    try:
        return jax.default_device(jax.devices("cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names no CPU
        return contextlib.nullcontext()


def _holds_rate(tx: optax.GradientTransformation, types: Any) -> bool:
    """Return whether a learning rate can be read from the state.

    Raises:
      ValueError: if the state holds two rates on one path.
    """
    try:
        jax.eval_shape(lambda params: learning_rates(tx.init(params)), types)
    except NoRateError:
        return False
    return True


def _ascents(tx: optax.GradientTransformation, types: Any) -> Any:
    """Return for each leaf whether it ascends, as a tree of bools."""
    update = tolerant_update(tx)

    def loss_of(params: Any) -> jax.Array:
        return jax.nn.softplus(_sum(params))

    def gradient_of(params: Any, index: Any) -> Any:
        del index
        return jax.grad(loss_of)(params)

    def body(carry: Any) -> Any:
        step, params, state, rose, moved = carry
        loss, slope = jax.value_and_grad(jax.nn.softplus)(_sum(params))
        grads = jax.tree.map(lambda x: jnp.full_like(x, slope), params)
        updates, new = update(grads, state, params, value=loss, grad=grads, value_fn=loss_of, grad_fn=gradient_of)
        params = optax.apply_updates(params, updates)
        new = jax.tree.map(lambda after, before: jnp.asarray(after).astype(jnp.result_type(before)), new, state)
        here = jnp.stack([jnp.any(x != 0) for x in jax.tree.leaves(params)])
        up = jnp.stack([jnp.all(jnp.real(x) > 0) for x in jax.tree.leaves(params)])
        return step + 1, params, new, rose & (up | ~here), moved | here

    def goes_on(carry: Any) -> jax.Array:
        step, *_, moved = carry
        return (step < STEPS) | (~jnp.any(moved) & (step < MOST_STEPS))

    def run() -> jax.Array:
        params = jax.tree.map(lambda type_: jnp.zeros(type_.shape, type_.dtype), types)
        state = tx.init(params)
        flags = jnp.zeros(len(jax.tree.leaves(params)), bool)
        *_, rose, moved = jax.lax.while_loop(goes_on, body, (jnp.int32(0), params, state, ~flags, flags))
        return rose & moved

    try:
        program = jax.jit(run, compiler_options=QUICK)
        rises = np.asarray(program())
    except jax.errors.JaxRuntimeError:  # a compiler that does not know one of the options
        rises = np.asarray(jax.jit(run)())
    return jax.tree.unflatten(jax.tree.structure(types), rises.tolist())


def _sum(params: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return functools.reduce(jnp.add, [jnp.sum(jnp.real(x), dtype=jnp.float32) for x in leaves], jnp.float32(0.0))
