"""How much faster than a Python loop over clients is `lrx.federated.simulate`, for a perceptron on digits?

    lrx bench federated_loop
    lrx bench federated_loop --width 32 --rounds 5

A hundred clients, all of them in each of a hundred rounds, train by FedAvg: every client makes one pass over its 14 or
15 images. Two Python loops do the same with the same compiled functions, the data on the device, and nothing read
before the end: the usual one calls a compiled step for each minibatch of each client, the leaner one a compiled
function for all local steps of a client. They do not judge the server's parameters before the local steps, as
`simulate` does for controllers. All are timed in turn, compiled beforehand.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import lrx
from lrx.benchmarks.timing import compare, describe_machine, in_turn, seconds_of
from lrx.federated import Partition, random_partition, simulate
from lrx.training import Workload
from lrx.training.sampling import keys_of
from lrx.workloads import make_workload

SIMULATE = "lrx.federated.simulate"
RATE = 0.1  # of the clients


def python_loop(workload: Workload, partition: Partition, num_rounds: int, *, lean: bool) -> Callable[[], Any]:
    """Build FedAvg with Python at every step of every client, or, if `lean`, at every client."""
    tx, size = optax.sgd(RATE), workload.batches.batch_size
    arrays = workload.batches.arrays if lean else jax.device_get(workload.batches.arrays)
    clients = [row[:number] for row, number in zip(partition.indices, partition.sizes, strict=True)]
    weights = partition.sizes / partition.sizes.sum()

    def step(state: Any, minibatch: Any, key: jax.Array) -> Any:
        params, model_state, opt_state = state
        batch = workload.batches.transform(minibatch, key)
        grads, model_state = jax.grad(workload.loss_fn, has_aux=True)(params, model_state, batch, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), model_state, opt_state

    def all_steps(total: Any, params: Any, model_state: Any, arrays: Any, mine: Any, weight: Any, key: Any) -> Any:
        order = mine[jax.random.permutation(key, len(mine))]

        def one(count: Any, state: Any) -> Any:
            chosen = order[(count * size + jnp.arange(size)) % len(order)]
            return step(state, jax.tree.map(operator.itemgetter(chosen), arrays), key)

        local = jax.lax.fori_loop(0, -(-len(mine) // size), one, (params, model_state, tx.init(params)))[0]
        return add(total, local, weight)

    def add(total: Any, local: Any, weight: Any) -> Any:
        return jax.tree.map(lambda sum_, leaf: sum_ + weight * leaf, total, local)

    initialize, stepped, trained = jax.jit(workload.init), jax.jit(step), jax.jit(all_steps)

    def leaner_loop() -> Any:
        keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), num_rounds * len(clients))))
        params, model_state = initialize(keys_of(0).init)
        held = [jnp.asarray(mine) for mine in clients]
        zeros = jax.tree.map(jnp.zeros_like, params)
        for made in range(num_rounds):
            total = zeros
            for number, mine in enumerate(held):
                key = jax.random.wrap_key_data(keys[made * len(clients) + number])
                total = trained(total, params, model_state, arrays, mine, weights[number], key)
            params = total
        return params

    def usual_loop() -> Any:
        rng, key = np.random.default_rng(0), jax.random.key(0)
        params, model_state = initialize(keys_of(0).init)
        initial = tx.init(params)
        for _ in range(num_rounds):
            total = jax.tree.map(jnp.zeros_like, params)
            for mine, weight in zip(clients, weights, strict=True):
                order, state = rng.permutation(mine), (params, model_state, initial)
                for start in range(0, len(order), size):
                    chosen = np.take(order, range(start, start + size), mode="wrap")
                    state = stepped(state, jax.tree.map(operator.itemgetter(chosen), arrays), key)
                total = add(total, state[0], float(weight))
            params = total
        return params

    return leaner_loop if lean else usual_loop


def contestants_of(width: int, num_clients: int, num_rounds: int) -> dict[str, Callable[[], Any]]:
    """Return each way to train, name to a function that returns the parameters after the last round."""
    workload = make_workload("digits", "mlp", batch_size=10, widths=(width,))
    workload = Workload(workload.name, workload.init, workload.loss_fn, workload.batches)  # nothing but rounds
    partition = random_partition(workload.batches.num_examples, num_clients)
    tx = lrx.sgd(RATE)
    return {
        SIMULATE: lambda: (
            simulate(workload, partition, num_rounds=num_rounds, client=tx, server=lrx.sgd(1.0), progress=False).params
        ),
        "Python loop, a call for each step": python_loop(workload, partition, num_rounds, lean=False),
        "Python loop, a call for each client": python_loop(workload, partition, num_rounds, lean=True),
    }


def main(
    width: Annotated[int, typer.Option(min=1, help="Of the hidden layer.")] = 64,
    clients: Annotated[int, typer.Option(min=1, max=1437, help="Clients, all of them in each round.")] = 100,
    num_rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each.")] = 7,
) -> None:
    """Measure and print."""
    found = contestants_of(width, clients, num_rounds)
    # The first round compiles.
    times = in_turn(
        {name: functools.partial(seconds_of, train) for name, train in found.items()}, rounds, warmup_rounds=1
    )
    print(
        f"perceptron of width {width} on digits, {clients} clients, {num_rounds} rounds, batch 10, {describe_machine()}"
    )
    for name, each in compare(times, SIMULATE).items():
        print(f"{name:36}  {each.median:7.3f} s  {each} times the time of simulate")
