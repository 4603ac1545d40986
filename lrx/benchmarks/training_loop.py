"""How much faster than a Python loop over optax is `lrx.training.train`, for a perceptron on digits?

Three Python loops take the same steps, with the data on the device and the step compiled. The usual loop selects the
minibatch, calls the step and reads the loss; the second is the same without reading the loss; the leanest selects the
minibatch inside the step, donates its buffers and reads nothing. All are timed in turn. The output shows the median
time of a step, and the median and the quartiles of its ratio to that of `train`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Annotated, Any

import jax
import optax
import typer

import lrx
from lrx.benchmarks.timing import compare, describe_machine, in_turn, seconds_of
from lrx.training import Workload, train
from lrx.workloads import make_workload

TRAIN = "lrx.training.train"


def python_loop(
    workload: Workload, tx: optax.GradientTransformationExtraArgs, epochs: int, *, lean: bool, read_loss: bool
) -> Callable[[], Any]:
    """Build a training loop with Python at every step; the step is compiled."""
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


def main(
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a minibatch.")] = 32,
    widths: Annotated[list[int], typer.Option("--width", min=1, help="Of a hidden layer; once for each.")] = [128, 128],  # noqa: B006
    epochs: Annotated[int, typer.Option(min=1, help="Length of each run.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each loop.")] = 7,
) -> None:
    """Measure and print."""
    workload = make_workload("digits", "mlp", batch_size=batch_size, widths=tuple(widths))
    workload = Workload(workload.name, workload.init, workload.loss_fn, workload.batches)  # nothing but steps
    steps = epochs * workload.batches.steps_per_epoch
    tx = lrx.sgd(lrx.cosine_decay(0.1, steps), momentum=0.9)
    loops: dict[str, Callable[[], Any]] = {
        TRAIN: lambda: train(workload, tx, epochs=epochs),
        "Python loop that reads the loss": python_loop(workload, tx, epochs, lean=False, read_loss=True),
        "the same, loss not read": python_loop(workload, tx, epochs, lean=False, read_loss=False),
        "the leanest Python loop": python_loop(workload, tx, epochs, lean=True, read_loss=False),
    }
    # The first round compiles.
    contestants = {name: functools.partial(seconds_of, loop) for name, loop in loops.items()}
    times = in_turn(contestants, rounds, warmup_rounds=1)
    print(f"perceptron {'-'.join(map(str, widths))} on digits, batch {batch_size}, {steps} steps, {describe_machine()}")
    for name, found in compare(times, TRAIN).items():
        print(f"{name:32}  {1e6 * found.median / steps:8.1f} us/step  {found} times the time of train")
