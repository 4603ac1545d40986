"""How do I write a controller of my own?

Two pure functions and a state: lrx does the rest, from the product with a schedule to `monitor`. This one halves the
rate at every spike of the loss, and ends the run after too many. Run it to see the rate follow a loss that spikes at
every sixth minibatch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import lrx
from lrx.feedback import controller
from lrx.transformations import factory


class SpikesState(NamedTuple):
    scale: jax.Array  # () float32: multiplies the rate
    mean: jax.Array  # () float32: of the loss, 0 before the first
    spikes_left: jax.Array  # () int32: before the run is over

    def shown(self):
        return {"spikes/mean": self.mean, "spikes/left": self.spikes_left}  # what `lrx.monitor` shows

    def stops(self):
        return self.spikes_left < 0  # `lrx.stopped` says so, and `lrx.train` ends


@factory
def halve_at_spikes(*, ratio=3.0, max_spikes=20, feedback="value"):
    def init(params):
        del params
        return SpikesState(jnp.ones([], jnp.float32), jnp.zeros([], jnp.float32), jnp.array(max_spikes, jnp.int32))

    def update(state, loss):
        spike = (state.mean > 0) & (loss > ratio * state.mean)
        scale = jnp.where(spike, state.scale / 2, state.scale)
        mean = jnp.where(state.mean > 0, 0.9 * state.mean + 0.1 * loss, loss)
        state = SpikesState(scale, mean, state.spikes_left - spike)
        return jnp.where(state.stops(), 0.0, scale), state

    return controller(init=init, update=update, feedback=feedback)


def main() -> None:
    targets = jnp.where(jnp.arange(18) % 6 == 5, 10.0, 1.0)
    workload = lrx.Workload.from_functions(
        lambda weight, target, _key: jnp.mean((weight - target) ** 2),
        lambda _key: jnp.zeros([]),
        lrx.Batches(targets, batch_size=1, shuffle=False),
        name="spikes",
    )
    history = lrx.train(workload, lrx.sgd(0.01 * halve_at_spikes(max_spikes=1)), steps=18)
    for step, (loss, rate) in enumerate(zip(history.loss, history.rate, strict=True)):
        print(f"step {step:2}  loss {loss:5.2f}  rate {rate:.4f}")
    print("stopped:", bool(lrx.stopped(history.opt_state)))


if __name__ == "__main__":
    main()
