"""A network whose output is read from the fixed point of a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal


def equilibrium_network(features: int, outputs: int, *, width: int = 24, iterations: int = 12) -> Network:
    """Build z <- tanh(x U + b + z V), iterated from 0, and a linear layer of the last z.

    V = W / sqrt(1 + |W|^2), by the Frobenius norm, so that the layer is a contraction whatever the trained W is.
    Gradients go through the iterations.

    Args:
      features: width of the inputs.
      outputs: width of the outputs.
      width: width of z.
      iterations: number of iterations.

    Source: S. Bai, J. Kolter, V. Koltun, "Deep equilibrium models", 2019, arXiv:1909.01377, equation 2, with a fixed
      number of iterations.
    """

    def init(key: jax.Array) -> dict[str, Any]:
        read, carry, output = he_normal(key, [(features, width), (width, width), (width, outputs)])
        return {"read": read, "carry": carry["kernel"], "output": output}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        fixed = affine(params["read"], x)
        carry = params["carry"] / jnp.sqrt(1 + jnp.sum(params["carry"] ** 2))

        def advance(z: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tanh(fixed + z @ carry), None

        z, _ = jax.lax.scan(advance, jnp.zeros_like(fixed), None, length=iterations)
        return affine(params["output"], z)

    return Network(init, apply)
