"""`simulate`: federated learning of many clients in one compiled program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.federated.aggregation import STATISTICS
from lrx.federated.clients import ClientData, Local
from lrx.federated.history import FederatedHistory
from lrx.federated.partition import Partition
from lrx.federated.rounds import Carry, Federation, Numbers, Seen
from lrx.rates import Rate
from lrx.run_state import eval_params
from lrx.training.checkpoints import CheckpointFolder
from lrx.training.checks import optimizer_key, workload_key
from lrx.training.identity import Identity, checksums, optimizer_identity, run_identity
from lrx.training.placement import data_devices, placement
from lrx.training.program_cache import Cache, Latest
from lrx.training.progress import reporter, require_progress
from lrx.training.resuming import require_length
from lrx.training.sampling import keys_of
from lrx.training.stream import Stream
from lrx.training.workload import Workload, require_workload

Client: TypeAlias = optax.GradientTransformation | Callable[[Any], optax.GradientTransformation]
_PROGRAMS = Cache(maxsize=16)


def simulate(
    workload: Workload,
    partition: Partition,
    *,
    num_rounds: int,
    clients_per_round: int | None = None,
    client: Client,
    client_rate: ArrayLike | Rate | None = None,
    server: optax.GradientTransformation,
    local_epochs: float = 1.0,
    local_steps: int | None = None,
    proximal: float = 0.0,
    weighting: str = "examples",
    feedback: str = "mean",
    feedback_batches: int = 1,
    dropout: float = 0.0,
    stragglers: float = 0.0,
    max_norm: float | None = None,
    keep_client_states: bool = False,
    evaluate_every: int | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> FederatedHistory:
    """Simulate federated learning: in each round some clients train on their own examples, and the server averages.

    In round t a random set S of clients starts from the server's parameters x_t and makes local steps to x_{t,i}. The
    server takes the mean of their changes as a gradient:

        g_t = - sum_i p_i (x_{t,i} - x_t) / sum_i p_i,      x_{t+1} = x_t + server update of g_t

    with p_i the client's number of examples, or 1. With `server=lrx.sgd(1.0)` that is FedAvg. All rounds between two
    evaluations are one compiled program, and the clients of a round train side by side in it. They are split over the
    devices on which the workload's arrays are, or else over all those of this process; up to rounding, the results do
    not depend on it.

    The clients' rate and the server's can both follow the clients' losses: both are given, as `value=`, the loss of the
    server's parameters on the first minibatches of the round's clients, before they make a step. So
    `server=lrx.sgd(lrx.constant(1.0) * lrx.pid())` and `client_rate=lrx.constant(0.1) * lrx.reduce_on_plateau()` work.

    Args:
      workload: model, loss and the examples of all clients. Its batch size is that of the local steps.
      partition: the examples of each client.
      num_rounds: number of rounds.
      clients_per_round: clients of a round, 1 to the number of clients, all of them by default; drawn without
        replacement.
      client: the clients' transformation. Its state is made anew in each round, so its schedules count the local steps
        of the round; or a function of the rate, `lrx.sgd`, whose rate is then `client_rate`.
      client_rate: the rate of the clients, if `client` is a function: a float, a `Schedule` that counts rounds, or a
        rate with controllers, which see a loss each round and no direction.
      server: the server's transformation, whose schedules count rounds.
      local_epochs: passes of each client over its own examples in a round, > 0: ceil(epochs x examples / batch size)
        steps, at least 1. A pass is a random order; the last minibatch is filled up from its beginning.
      local_steps: steps of each client in a round, in place of `local_epochs`.
      proximal: mu >= 0, of the term mu |x - x_t|^2 / 2 in the local loss (FedProx).
      weighting: "examples" or "uniform": how much a client's change counts.
      feedback: which number of the clients' losses controllers see: "mean" (weighted as the changes), "median", or
        "trimmed" (the mean without a tenth of the clients at each end).
      feedback_batches: minibatches of each client in that loss, at least 1.
      dropout: probability, in [0, 1), that a chosen client drops out of the round.
      stragglers: probability, in [0, 1], that a client makes only a random part of its local steps, which counts.
      max_norm: a change with a larger norm is discarded, as one that is not finite is. None for no bound.
      keep_client_states: whether each client keeps the state of its transformation, whose schedules then count all its
        local steps. It needs memory for the states of all clients.
      evaluate_every: rounds between evaluations by the workload's `evaluate`; by default only the end is evaluated,
        and the initial parameters.
      seed: seed of the initial parameters (those of `lrx.train`), the choice of clients and their minibatches.
      chunk_size: clients that train side by side on a device; all of its share by default. Fewer need less memory. Of
        convolutional networks on a CPU, 1 is faster.
      checkpoint: a folder. The state is kept there after each evaluation, and the same call continues from there. A
        call that differs in anything that determines its numbers is refused; `chunk_size` and the devices, which change
        their rounding, may differ.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `FederatedHistory`. A round in which no change counts leaves parameters and server state as they are.

    Raises:
      ValueError: if an argument is out of its range, the partition names examples that the workload does not have,
        `client_rate` is missing, or is given though `client` has a rate, the folder holds another or a longer run, the
        arrays lie on a mesh of several processes, or several devices are used within `jax.set_mesh`.
      TypeError: if an argument is of the wrong type, or the workload's batches are a stream.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      H. B. McMahan et al., AISTATS 2017, arXiv:1602.05629 (FedAvg); S. Reddi et al., ICLR 2021, arXiv:2003.00295
      (server transformations); T. Li et al., MLSys 2020, arXiv:1812.06127 (proximal term, stragglers). Rates from the
      clients' losses: no paper; ours.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.federated import random_partition, simulate
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jnp.float32(0),
      ...     lrx.Batches((x, 3.0 * x), batch_size=4),
      ... )
      >>> history = simulate(line, random_partition(64, 8), num_rounds=50, client=lrx.sgd(0.1), server=lrx.sgd(1.0))
      >>> print(f"{history.params:.2f}")
      3.00
    """
    require_workload(workload)
    require_progress(progress)
    make, rate = _clients(client, client_rate)
    _require(workload, partition, num_rounds, clients_per_round, server, seed)
    number = partition.num_clients if clients_per_round is None else int(clients_per_round)
    _require_local(local_epochs, local_steps, proximal, feedback_batches, chunk_size)
    _checks.one_of("weighting", weighting, ("examples", "uniform"))
    _checks.one_of("feedback", feedback, STATISTICS)
    _checks.in_interval("dropout", dropout, "[0, 1)", "a probability")
    _checks.in_interval("stragglers", stragglers, "[0, 1]", "a probability")
    _checks.flag("keep_client_states", keep_client_states)
    if max_norm is not None:
        _checks.positive("max_norm", max_norm)
    if evaluate_every is not None:
        _checks.steps("evaluate_every", evaluate_every, unit="rounds")
    devices = data_devices(workload.batches)
    share = -(-number // len(devices))
    federation = Federation(
        local=Local(workload.loss_fn, workload.batches.sampling, int(feedback_batches)),
        client=make,
        client_rate=rate,
        server=server,
        clients_per_round=number,
        chunk_size=share if chunk_size is None else min(share, int(chunk_size)),
        feedback=feedback,
        keeps_state=keep_client_states,
        mesh=placement(devices).mesh,
    )
    numbers = Numbers(
        proximal=float(proximal),
        dropout=float(dropout),
        stragglers=float(stragglers),
        max_norm=float("inf") if max_norm is None else float(max_norm),
        weighted=weighting == "examples",
        local_steps=int(local_steps or 0),
        local_epochs=float(local_epochs),
    )
    every = int(evaluate_every or num_rounds)
    title = f"federated, {workload.name}"
    with contextlib.ExitStack() as stack:
        folder = None
        if checkpoint is not None:
            folder = stack.enter_context(contextlib.closing(CheckpointFolder(checkpoint, unit="round")))
        meter = stack.enter_context(
            reporter(progress, title, step=0, total=num_rounds, batch_size=number, unit="clients")
        )
        return _run(workload, partition, federation, devices, numbers, num_rounds, every, seed, folder, meter)


def _run(
    workload: Workload,
    partition: Partition,
    federation: Federation,
    devices: tuple[jax.Device, ...],
    numbers: Numbers,
    num_rounds: int,
    every: int,
    seed: int,
    folder: CheckpointFolder | None,
    meter: Any,
) -> FederatedHistory:
    everywhere = placement(devices).everywhere
    partition_arrays = ClientData(jnp.asarray(partition.indices), jnp.asarray(partition.sizes))
    keys, data, arrays = jax.device_put((keys_of(seed), partition_arrays, workload.batches.arrays), everywhere)
    begin, advance = _program(federation, workload, partition.num_clients, devices)
    carry = begin(keys.init)
    made, record = 0, _nothing_seen()
    if folder is None or folder.latest() is None:
        _evaluate(workload, _on_one(carry, devices), 0, record)
    run = None
    if folder is not None:
        run = _identity(workload, partition, federation, numbers, every, seed)
        if folder.latest() is not None:
            folder.require_same_run(run)
            made, carry, found = folder.restore(carry)
            require_length(folder, made, num_rounds, "rounds")
            carry = jax.device_put(carry, everywhere)
            record |= {name: list(values) for name, values in found.items()}
    while made < num_rounds:
        stop = min(num_rounds, (made // every + 1) * every)
        rounds = jnp.arange(made, stop, dtype=jnp.int32)
        carry, seen = advance(carry, rounds, keys.step, numbers, data, arrays)
        for name, values in zip(Seen._fields, jax.device_get(seen), strict=True):
            record[name] += list(values)
        made = stop
        meter.update(made, float(record["loss"][-1]), float(record["client_rate"][-1]))
        read = _on_one(carry, devices)
        results = _evaluate(workload, read, made, record)
        if results:
            meter.show_evaluation(made, results)
        if folder is not None:
            assert run is not None
            folder.save(made, read, {name: np.asarray(values) for name, values in record.items()}, run)
    recorded = {name: np.asarray(values) for name, values in record.items()}
    evaluations = {
        name.removeprefix("evaluation/"): values for name, values in recorded.items() if name.startswith("evaluation/")
    }
    carry = _on_one(carry, devices)
    return FederatedHistory(
        **{name: recorded[name] for name in Seen._fields},
        evaluation_rounds=recorded["evaluation_rounds"],
        evaluations=evaluations,
        params=eval_params(carry.server, carry.params),
        model_state=carry.model_state,
        server_state=carry.server,
    )


def _program(
    federation: Federation, workload: Workload, num_clients: int, devices: tuple[jax.Device, ...]
) -> tuple[Any, Any]:
    """Return the compiled functions: `key -> carry`, and the one that makes rounds; those of an equal simulation."""

    def build(latest: Latest[tuple[Federation, Callable[..., Any]]]) -> tuple[Any, Any]:
        def begin(key: jax.Array) -> Carry:
            federation, init = latest.parts
            params, model_state = init(key)
            return federation.begin(params, model_state, num_clients)

        def advance(
            carry: Carry, rounds: jax.Array, key: jax.Array, numbers: Numbers, data: ClientData, arrays: Any
        ) -> tuple[Carry, Seen]:
            federation = latest.parts[0]

            def one(carry: Carry, number: jax.Array) -> tuple[Carry, Seen]:
                return federation.round(carry, number, key, numbers, data, arrays)

            return jax.lax.scan(one, carry, rounds)

        return jax.jit(begin, out_shardings=everywhere), jax.jit(advance, donate_argnums=0, out_shardings=everywhere)

    everywhere = placement(devices).everywhere
    rate, client_rate, server = jax.ShapeDtypeStruct((), jnp.float32), federation.client_rate, federation.server
    key = (
        workload_key(workload),
        optimizer_key(federation.client, (rate,), workload),
        None if client_rate is None else optimizer_key(lambda: client_rate, (), workload),
        optimizer_key(lambda: server, (), workload),
        tuple(_plain(federation).items()),
        *(federation.chunk_size, num_clients, devices),
    )
    return _PROGRAMS.find_program(key, (federation, workload.init), build)


def _on_one(carry: Carry, devices: tuple[jax.Device, ...]) -> Carry:
    """Return the state on the first of several devices, where it is evaluated, kept and returned, as by `train`."""
    return jax.device_put(carry, devices[0]) if len(devices) > 1 else carry


def _evaluate(workload: Workload, carry: Carry, made: int, record: dict[str, list[Any]]) -> dict[str, float]:
    """Evaluate the parameters after `made` rounds, and record it."""
    if workload.evaluate is None:
        return {}
    found = workload.evaluate(eval_params(carry.server, carry.params), carry.model_state)
    results = {name: float(value) for name, value in found.items()}
    record["evaluation_rounds"].append(made)
    for name, value in results.items():
        record.setdefault(f"evaluation/{name}", []).append(value)
    return results


def _nothing_seen() -> dict[str, list[Any]]:
    return {**{name: [] for name in Seen._fields}, "evaluation_rounds": []}


def _plain(federation: Federation) -> dict[str, Any]:
    """Return the numbers and names on which the results of a federation depend, up to rounding."""
    kept = ("clients_per_round", "feedback", "keeps_state")
    return {name: getattr(federation, name) for name in kept} | {"feedback_batches": federation.local.feedback_batches}


def _identity(
    workload: Workload, partition: Partition, federation: Federation, numbers: Numbers, every: int, seed: int
) -> Identity:
    """Return everything that determines the numbers of a simulation."""
    params = jax.eval_shape(workload.init, jax.random.key(0))[0]
    plain = _plain(federation)
    one = optimizer_identity(federation.client(0.0), params)
    rate = None if federation.client_rate is None else optimizer_identity(federation.client_rate, params)
    return run_identity(
        workload,
        federation.server,
        seed=seed,
        evaluate_every=every,
        partition=checksums((partition.indices, partition.sizes)),
        client=one,
        client_rate=rate,
        **plain,
        **{**numbers._asdict(), "max_norm": repr(numbers.max_norm)},
    )


def _clients(client: Any, client_rate: Any) -> tuple[Callable[[Any], optax.GradientTransformation], Rate | None]:
    """Return the clients' transformation as a function of a rate, and that rate."""
    if isinstance(client, optax.GradientTransformation):
        if client_rate is not None:
            raise ValueError(
                f"client_rate must be left out, since client has a rate of its own, got client_rate={client_rate!r}: "
                "give a function of the rate, such as client=lrx.sgd."
            )
        return lambda rate: client, None  # noqa: ARG005
    if not callable(client):
        raise TypeError(f"client must be a transformation or a function of the rate, got client={client!r}.")
    if client_rate is None:
        raise ValueError("client_rate must be given, since client is a function of the rate: client_rate=0.1.")
    return client, as_rate(client_rate, name="client_rate")


def _require(
    workload: Workload, partition: Any, num_rounds: Any, clients_per_round: Any, server: Any, seed: Any
) -> None:
    if isinstance(workload.batches, Stream):
        raise TypeError(
            "workload must hold its examples as arrays, lrx.Batches(arrays, batch_size), got a stream: clients draw "
            "from their own examples by number."
        )
    if not isinstance(partition, Partition):
        raise TypeError(
            f"partition must be a Partition, got {type(partition).__name__}: lrx.federated.random_partition(examples, "
            "clients), or Partition(lists of indices of examples)."
        )
    if not all(
        leaf.is_fully_addressable for leaf in jax.tree.leaves(workload.batches.arrays) if isinstance(leaf, jax.Array)
    ):
        raise ValueError(
            "workload must hold arrays of this process, got arrays on a mesh of several: give each process all "
            "examples, as arrays of NumPy or on its own devices. Each then simulates all clients."
        )
    around = jax.sharding.get_abstract_mesh()
    if len(data_devices(workload.batches)) > 1 and not around.empty:
        raise ValueError(
            f"simulate must be called outside of jax.set_mesh, since it makes a mesh of its own, got {around}: leave "
            "that mesh, or put the arrays on one device by jax.device_put."
        )
    largest, number = int(partition.indices.max()), workload.batches.num_examples
    if largest >= number:
        raise ValueError(
            f"partition must name examples of the workload, 0 to {number - 1:,}, got {largest:,}: it was made for "
            "other data."
        )
    _checks.steps("num_rounds", num_rounds, unit="rounds")
    if clients_per_round is not None:
        _checks.steps("clients_per_round", clients_per_round, unit="clients")
        if clients_per_round > partition.num_clients:
            raise ValueError(
                f"clients_per_round must be at most the number of clients, {partition.num_clients:,}, got "
                f"clients_per_round={clients_per_round:,}."
            )
    _checks.transformation(server)
    _checks.seed(seed)


def _require_local(local_epochs: Any, local_steps: Any, proximal: Any, feedback_batches: Any, chunk_size: Any) -> None:
    _checks.positive("local_epochs", local_epochs)
    if local_steps is not None:
        _checks.steps("local_steps", local_steps)
    _checks.non_negative("proximal", proximal)
    _checks.steps("feedback_batches", feedback_batches, unit="minibatches")
    if chunk_size is not None:
        _checks.steps("chunk_size", chunk_size, unit="clients")
