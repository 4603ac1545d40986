"""How much faster than a Python loop over optax is `lrx.training.train`, for a perceptron on digits?

    python -m lrx.benchmarks.training_loop

Three loops make the same steps, data on the device and the step compiled: the usual one, which picks the minibatch,
calls the step and reads the loss; the same without reading the loss; and the leanest, which picks the minibatch inside
the step, donates its buffers and reads nothing. All are timed in turn, and the medians compared.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lrx
from lrx.training import Workload, train
from lrx.workloads import make_workload


def python_loop(
    workload: Workload, tx: optax.GradientTransformationExtraArgs, epochs: int, *, lean: bool, read_loss: bool
) -> Callable[[], Any]:
    """Make a training loop with Python at every step; the step is compiled."""
    arrays, size = workload.batches.arrays, workload.batches.batch_size

    def update(state: Any, minibatch: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, model_state, opt_state = state
        batch = workload.batches.transform(minibatch, key)
        gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
        (loss, model_state), grads = gradient(params, model_state, batch, key)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    def lean_update(state: Any, arrays: Any, chosen: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        return update(state, jax.tree.map(lambda x: x[chosen], arrays), key)

    def initial(key: jax.Array) -> Any:
        params, model_state = workload.init(key)
        return params, model_state, tx.init(params)

    initialize = jax.jit(initial)
    step = jax.jit(lean_update, donate_argnums=0) if lean else jax.jit(update)

    def loop() -> Any:
        key = jax.random.key(0)
        state, losses = initialize(key), []
        for epoch in range(epochs):
            order = jax.random.permutation(jax.random.fold_in(key, epoch), workload.batches.num_examples)
            for start in range(0, len(order) - size + 1, size):
                chosen = order[start : start + size]
                if lean:
                    state, loss = step(state, arrays, chosen, key)
                else:
                    minibatch = jax.tree.map(operator.itemgetter(chosen), arrays)
                    state, loss = step(state, minibatch, key)
                losses.append(float(loss) if read_loss else loss)
        return jax.block_until_ready((state, losses))

    return loop


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="*", default=[128, 128])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    workload = make_workload("digits", "mlp", batch_size=options.batch_size, widths=tuple(options.widths))
    workload = Workload(workload.name, workload.init, workload.loss_fn, workload.batches)  # nothing but steps
    steps = options.epochs * workload.batches.steps_per_epoch
    tx = lrx.sgd(lrx.cosine_decay(0.1, steps), momentum=0.9)
    contestants: dict[str, Callable[[], Any]] = {
        "lrx.training.train": lambda: train(workload, tx, epochs=options.epochs),
        "Python loop that reads the loss": python_loop(workload, tx, options.epochs, lean=False, read_loss=True),
        "the same, loss not read": python_loop(workload, tx, options.epochs, lean=False, read_loss=False),
        "the leanest Python loop": python_loop(workload, tx, options.epochs, lean=True, read_loss=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(options.repeats + 1):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant()
            if repeat:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
    device, widths = jnp.zeros(()).devices().pop(), "-".join(map(str, options.widths))
    print(f"perceptron {widths} on digits, batch {options.batch_size}, {steps} steps, {device.device_kind}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:32}  {1e6 * median / steps:8.1f} us/step  {median / ours:6.1f} times the time of train")


if __name__ == "__main__":
    main()
