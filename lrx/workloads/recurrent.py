"""Networks that read a sequence step by step: a recurrent classifier, and a filter with a linear state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.supervised import make_supervised_workload, squared_error


def recurrent_network(size: int, num_classes: int = 10, *, width: int = 24) -> Network:
    """Build a recurrent network, h <- tanh(x A + h B + b), whose last state is classified by a linear layer.

    B begins as the identity, so that what was read first is kept.

    Args:
      size: numbers at each step of a sequence, (n, steps, size).
      num_classes: width of the output.
      width: width of the state.

    Source: J. Elman, "Finding structure in time", Cognitive Science 14, 1990; the start is that of Q. Le, N. Jaitly,
      G. Hinton, 2015, arXiv 1504.00941, with tanh.
    """

    def init(key: jax.Array) -> dict[str, Any]:
        read, output = he_normal(key, [(size, width), (width, num_classes)])
        return {"read": read, "carry": jnp.eye(width), "output": output}

    def apply(params: Any, sequences: jax.Array) -> jax.Array:
        def advance(state: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(affine(params["read"], x) + state @ params["carry"]), None

        start = jnp.zeros((len(sequences), width))
        state, _ = jax.lax.scan(advance, start, jnp.moveaxis(sequences, 1, 0))
        return affine(params["output"], state)

    return Network(init, apply)


def make_filter_workload(
    *,
    width: int = 8,
    length: int = 32,
    noise: float = 0.5,
    num_train: int = 2000,
    num_test: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build a filter that estimates an oscillation from a noisy measurement of it, with a diagonal linear state.

    The oscillation is an autoregression with the poles 0.97 exp(+-0.4 i), scaled to unit variance; its estimate at each
    step may use the measurements until then. The state is h <- a h + b x with |a| < 1 in the complex plane, and the
    estimate Re(c.h) + d x.

    Args:
      width: number of complex states.
      length: steps of a sequence.
      noise: standard deviation of the noise of a measurement.
      num_train: number of training sequences.
      num_test: number of sequences that are evaluated.
      batch_size: sequences in a minibatch.
      seed: seed of the sequences.

    Source: A. Gupta, A. Gu, J. Berant, 2022, arXiv 2203.14343, for the diagonal state; |a| is a logistic function here.
    """
    rng = np.random.default_rng(seed)
    number, before = num_train + num_test, 100
    shocks = rng.normal(size=(number, before + length))
    signal = np.zeros_like(shocks)
    for step in range(2, before + length):
        signal[:, step] = 2 * 0.97 * np.cos(0.4) * signal[:, step - 1] - 0.97**2 * signal[:, step - 2] + shocks[:, step]
    signal = signal[:, before:] / signal[:, before:].std()
    seen = (signal + noise * rng.normal(size=signal.shape)).astype(np.float32)
    signal = signal.astype(np.float32)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        angles, gains = jax.random.split(key)
        return {
            "decay": jnp.ones(width),
            "angle": jnp.pi * jax.random.uniform(angles, (width,)),
            "gain": jax.random.normal(gains, (2, width)) / width,
            "direct": jnp.zeros([]),
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        size, angle = jax.nn.sigmoid(params["decay"]), params["angle"]
        turn = (size * jnp.cos(angle))[None], (size * jnp.sin(angle))[None]

        def advance(state: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[Any, jax.Array]:
            real, imaginary = state
            state = turn[0] * real - turn[1] * imaginary + x[:, None], turn[1] * real + turn[0] * imaginary
            return state, state[0] @ params["gain"][0] - state[1] @ params["gain"][1] + params["direct"] * x

        start = (jnp.zeros((len(x), width)),) * 2
        return jnp.moveaxis(jax.lax.scan(advance, start, jnp.moveaxis(x, 1, 0))[1], 0, 1)

    parts = (seen[:num_train], signal[:num_train]), (seen[num_train:], signal[num_train:])
    return make_supervised_workload("filter", Network(init, apply), *parts, squared_error, batch_size=batch_size)
