"""Many simulations of one federation, which differ in rates and seeds: one program, one run after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.federated.clients import ClientData, Local
from lrx.federated.partition import Partition
from lrx.federated.rounds import Federation, Numbers
from lrx.run_state import eval_params
from lrx.training.sampling import keys_of
from lrx.training.workload import Workload

Rule = Callable[[Any], optax.GradientTransformation]  # of the rate, a tracer


class Runs(NamedTuple):
    """What is seen of the runs."""

    evaluations: dict[str, np.ndarray]  # name to (rates, seeds, evaluations): after every so many rounds
    server_rate: np.ndarray  # (rates, seeds, rounds)


def simulate_many(
    workload: Workload,
    partitions: Sequence[Partition],
    rates: Sequence[tuple[float, float]],
    *,
    server: Rule,
    client: Rule,
    num_rounds: int,
    clients_per_round: int,
    local_steps: int,
    seeds: Sequence[int],
    evaluate_every: int = 1,
    feedback: str = "mean",
) -> Runs:
    """Run `simulate` for every pair of rates and every seed, and evaluate inside of the program.

    Args:
      workload: as in `simulate`; its `evaluate` is traced.
      partitions: one for each seed, with equally many clients.
      rates: pairs of a rate of the server and a rate of the clients.
      server: rate to the server's transformation.
      client: rate to the clients' transformation.
      num_rounds: a multiple of `evaluate_every`.
      clients_per_round: as in `simulate`.
      local_steps: as in `simulate`.
      seeds: as in `simulate`.
      evaluate_every: rounds between evaluations.
      feedback: as in `simulate`.
    """
    numbers = Numbers(0.0, 0.0, 0.0, jnp.inf, True, local_steps, 1.0)
    evaluate = workload.evaluate
    assert evaluate is not None

    def one(each: tuple[jax.Array, jax.Array, ClientData], examples: Any) -> tuple[Any, jax.Array]:
        (server_rate, client_rate), seed, data = each
        federation = Federation(
            local=Local(workload.loss_fn, workload.batches.sampling, 1),
            client=lambda _: client(client_rate),
            client_rate=None,
            server=server(server_rate),
            clients_per_round=clients_per_round,
            chunk_size=clients_per_round,
            feedback=feedback,
            keeps_state=False,
        )
        keys = keys_of(seed)

        def round_(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
            carry, seen = federation.round(carry, number, keys.step, numbers, data, examples)
            return carry, seen.server_rate

        def rounds(carry: Any, numbers_: jax.Array) -> tuple[Any, Any]:
            carry, rate = jax.lax.scan(round_, carry, numbers_)
            return carry, (evaluate(eval_params(carry.server, carry.params), carry.model_state), rate)

        carry = federation.begin(*workload.init(keys.init), len(data.size))
        return jax.lax.scan(rounds, carry, jnp.arange(num_rounds).reshape(-1, evaluate_every))[1]

    places = np.tile(np.arange(len(seeds)), len(rates))
    pairs = jnp.float32(np.repeat(np.asarray(rates), len(seeds), axis=0))
    data = jax.tree.map(lambda leaf: leaf[places], _stacked(partitions))
    given = (pairs, jnp.asarray(seeds)[places], data)
    # The examples are an argument, since XLA would compute with constants while it compiles.
    program = jax.jit(lambda given, examples: jax.lax.map(lambda each: one(each, examples), given))
    found, rate = program(given, workload.batches.arrays)
    shape = (len(rates), len(seeds), -1)
    return Runs({name: np.asarray(each).reshape(shape) for name, each in found.items()}, np.reshape(rate, shape))


def _stacked(partitions: Sequence[Partition]) -> ClientData:
    """Return partitions side by side, (seeds, clients, ...), filled up to the largest client of all."""
    most = max(part.indices.shape[1] for part in partitions)
    indices = [np.pad(each.indices, ((0, 0), (0, most - each.indices.shape[1])), mode="edge") for each in partitions]
    return ClientData(jnp.asarray(np.stack(indices)), jnp.asarray(np.stack([each.sizes for each in partitions])))
