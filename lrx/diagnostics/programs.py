"""Losses as programs: traced at every call, so that what they name is current, and compiled once if they are equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lrx.diagnostics.losses import require_scalar
from lrx.training.program_cache import Cache
from lrx.training.program_hash import Hashing

Evaluate = Callable[[Any, Any], jax.Array]  # (constants, params) -> () float32


class TracedLoss:
    """A loss of parameters, traced; the arrays that it closes over are arguments of what is compiled of it.

    Args:
      loss: `params -> loss`, a scalar.
      params: the parameters, or their shapes.

    Raises:
      ValueError: if what the loss returns is not a scalar.
      TypeError: if `loss` is not a function, or what it returns is not real.
    """

    def __init__(self, loss: Callable[[Any], Any], params: Any) -> None:
        require_scalar(loss, params)
        # A new function, since JAX keeps the traces of a function, and a global that it names may have changed.
        program = jax.make_jaxpr(lambda params: loss(params))(params)
        self.constants, self._program = tuple(map(jnp.asarray, program.consts)), program.jaxpr
        hashing = Hashing()
        digest = hashing.program(program.jaxpr)
        if hashing.has_rules:
            digest += _derivatives_digest(lambda params: loss(params), params)
        self._key = object() if hashing.calls_back else (digest, jax.tree.structure(params))

    def compile_once(self, cache: Cache, key: Any, build: Callable[[Evaluate], Any]) -> Any:
        """Return what `build` makes of `(constants, params) -> loss`, or what it made of an equal loss before.

        Args:
          cache: results of earlier calls.
          key: what `build` depends on besides the loss; hashable.
          build: returns a compiled function.
        """
        program = self._program

        def evaluate(constants: Any, params: Any) -> jax.Array:
            (loss,) = jax.core.eval_jaxpr(program, constants, *jax.tree.leaves(params))
            return loss.astype(jnp.float32)

        shapes = tuple((constant.shape, constant.dtype) for constant in self.constants)
        return cache.find((self._key, shapes, key), lambda: build(evaluate))


def _derivatives_digest(loss: Callable[[Any], Any], params: Any) -> str:
    """Return a hash of the first and second derivatives, where a function has a rule of its own for them."""

    def derivatives(params: Any) -> Any:
        return jax.jvp(jax.grad(lambda x: jnp.sum(loss(x))), (params,), (params,))

    return Hashing().program(jax.make_jaxpr(derivatives)(params).jaxpr)  # the constants are arguments
