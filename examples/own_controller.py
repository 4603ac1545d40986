"""How do I write a controller of my own?

Two pure functions and a state: lrx does the rest, from the product with a schedule to `monitor`. This one halves the
rate at every spike of the loss. Run it to see the rate follow a loss that spikes twice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import lrx
from lrx.feedback import controller


class SpikesState(NamedTuple):
    scale: jax.Array  # () float32: multiplies the rate
    mean: jax.Array  # () float32: of the loss, 0 before the first


def halve_at_spikes(*, ratio=3.0, feedback="value"):
    def init(params):
        del params
        return SpikesState(jnp.ones([], jnp.float32), jnp.zeros([], jnp.float32))

    def update(state, loss):
        spike = (state.mean > 0) & (loss > ratio * state.mean)
        scale = jnp.where(spike, state.scale / 2, state.scale)
        mean = jnp.where(state.mean > 0, 0.9 * state.mean + 0.1 * loss, loss)
        return scale, SpikesState(scale, mean)

    arguments = {"ratio": ratio, "feedback": feedback}
    return controller(halve_at_spikes, arguments, init=init, update=update, feedback=feedback)


def main() -> None:
    tx = lrx.adam(lrx.linear_decay(1e-3, 100) * halve_at_spikes())
    params = jnp.ones(3)
    state = tx.init(params)
    for loss in (1.0, 0.9, 5.0, 0.8, 6.0, 0.7):
        _, state = tx.update(params, state, params, value=loss)
        report = lrx.monitor(state)
        print(f"loss {loss:.1f}  rate {report['learning_rate']:.2e}  factor {report['spikes/factor']:.2f}")


if __name__ == "__main__":
    main()
