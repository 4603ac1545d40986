"""Federated learning on real machines, by Flower: the rules of `simulate` as a strategy and a client app.

This module is imported by itself, `from lrx.federated import flower`, and needs the package flwr.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import optax

from lrx import _checks
from lrx.federated.deployment import ClientRule, Refused, Sent, ServerRule, ServerState, to_arrays
from lrx.run_state import eval_params
from lrx.training.checkpoints import CheckpointFolder
from lrx.training.identity import Identity, optimizer_identity
from lrx.training.workload import Workload

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"  # of a message
LOGGER = logging.getLogger("flwr")


def make_strategy(
    workload: Workload,
    *,
    server: optax.GradientTransformation,
    feedback: str = "mean",
    weighting: str = "examples",
    max_norm: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **sampling: Any,
) -> Any:
    """Return a Flower strategy whose rounds are those of `simulate`.

    A change that is not finite, has wrong shapes, or is too large does not count, and neither does a client that fails:
    the round is made from the others, and the client is named in the log and in `strategy.refused`. A round in which
    nothing counts changes nothing.

    Args:
      workload: model and loss; of its examples none are used.
      server: the server's transformation, whose schedules count rounds, and whose controllers see the clients' losses.
      feedback: "mean", "median" or "trimmed"; as in `simulate`.
      weighting: "examples" or "uniform"; as in `simulate`.
      max_norm: the largest norm of a change that counts; as in `simulate`. Clients are not to be trusted: give one.
      checkpoint: a folder. The server's whole state is kept there after each round, and a strategy that is made with it
        again continues from there.
      seed: seed of the initial parameters; those of `simulate`.
      **sampling: arguments of Flower's `FedAvg` on the choice of clients, such as `fraction_train` and
        `min_available_nodes`.

    Returns:
      A `flwr.serverapp.strategy.Strategy`, with `strategy.run(grid, num_rounds, timeout)`, the state in
      `strategy.state`, and a list of who was refused, when and why, in `strategy.refused`.

    Raises:
      ImportError: if flwr is not installed.
      ValueError: if an argument is out of its range, or the folder holds another run.
    """
    try:
        from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
        from flwr.serverapp.strategy import FedAvg
    except ImportError as error:
        raise ImportError('lrx.federated.flower needs flwr: pip install "lrx[flower]".') from error

    rule = ServerRule(server, feedback, weighting, max_norm)
    _checks.seed(seed)

    def record(state: ServerState) -> Any:
        return ArrayRecord({name: Array(a) for name, a in to_arrays(state.params, state.model_state).items()})

    class Strategy(FedAvg):
        """FedAvg's choice of clients, and lrx's rule of the server."""

        def __init__(self) -> None:
            super().__init__(**({"fraction_evaluate": 0.0} | sampling))
            self.state, self.made = rule.begin(workload, seed), 0
            self.refused: list[Refused] = []
            self.names: dict[int, str] = {}  # of nodes that have answered
            self.asked: list[int] = []  # nodes of this round
            self.rounds: list[dict[str, float]] = []
            self.identity = _identity(rule, self.state, seed)
            self.folder: CheckpointFolder | None = None
            if checkpoint is not None:
                self.folder = CheckpointFolder(checkpoint, unit="round")
                if self.folder.latest() is not None:
                    self.folder.require_same_run(self.identity)
                    self.made, self.state, seen = self.folder.restore(self.state)
                    columns = {name: values.tolist() for name, values in seen.items()}
                    self.rounds = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

        def run(self, grid: Any, num_rounds: int, timeout: float = 3600.0) -> Any:
            """Make rounds until there are `num_rounds` with those before an interruption; return the parameters."""
            left = num_rounds - self.made
            if left > 0:
                self.start(grid=grid, initial_arrays=record(self.state), num_rounds=left, timeout=timeout)
            return eval_params(self.state.server, self.state.params)

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Message]:
            """Send parameters and the number of the round, which goes on after an interruption."""
            del arrays
            config = ConfigRecord({**config, "round": self.made + 1})
            messages = list(super().configure_train(server_round, record(self.state), config, grid))
            self.asked = [message.metadata.dst_node_id for message in messages]
            return messages

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
            """Make the server's step from the replies that count."""
            del server_round
            number, sent, silent = self.made + 1, [], set(self.asked)
            for reply in replies:
                node = reply.metadata.src_node_id
                if node not in self.asked:
                    continue  # the server itself answers for a node that is gone, which is named below
                silent.discard(node)
                name = self.names.get(node, f"node {node}")
                try:
                    if reply.has_error():
                        raise ValueError(f"it has failed: {reply.error.reason}")
                    self.names[node] = name = f"client {int(reply.content[METRICS]['client'])} (node {node})"
                    sent.append(_read(reply.content, name))
                except (KeyError, ValueError, TypeError, OverflowError) as error:
                    self._refuse([Refused(number, name, str(error))])
            for node in sorted(silent):
                self._refuse(
                    [Refused(number, self.names.get(node, f"node {node}"), "it is gone, or has not answered in time")]
                )
            self.state, shown, refused = rule.advance(self.state, number, sent)
            self._refuse(refused)
            self.made = number
            self.rounds.append(shown)
            if self.folder is not None:
                seen = {name: np.asarray([each[name] for each in self.rounds]) for name in shown}
                self.folder.save(number, self.state, seen, self.identity)
            return record(self.state), MetricRecord(shown)

        def _refuse(self, refused: list[Refused]) -> None:
            for each in refused:
                LOGGER.warning("round %d: %s does not count: %s", *each)
            self.refused += refused

    return Strategy()


def make_client_app(
    load: Callable[[int], Workload],
    client: optax.GradientTransformation,
    *,
    local_epochs: float = 1.0,
    local_steps: int | None = None,
    proximal: float = 0.0,
    feedback_batches: int = 1,
    seed: int = 0,
) -> Any:
    """Return a Flower client app that makes a client's part of a round of `simulate`.

    A client knows its number from `partition-id` in the configuration of its node:
    `flower-supernode --node-config "partition-id=3"`.

    Args:
      load: number of the client, from 0 on, to the workload with its examples.
      client: the client's transformation, whose state begins anew in each round.
      local_epochs: passes over its examples in a round, > 0; as in `simulate`.
      local_steps: steps of a round in place of `local_epochs`.
      proximal: as in `simulate`.
      feedback_batches: as in `simulate`.
      seed: seed of the minibatches; those of `simulate`.

    Returns:
      A `flwr.clientapp.ClientApp`.

    Raises:
      ImportError: if flwr is not installed.
      ValueError: if an argument is out of its range.
    """
    try:
        from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp
    except ImportError as error:
        raise ImportError('lrx.federated.flower needs flwr: pip install "lrx[flower]".') from error

    rule = ClientRule(client, local_epochs, local_steps, proximal, feedback_batches, seed)
    app = ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        if "partition-id" not in context.node_config:
            raise ValueError('the node must know its number: flower-supernode --node-config "partition-id=0".')
        number = int(context.node_config["partition-id"])
        arrays = {name: array.numpy() for name, array in message.content[ARRAYS].items()}
        sent = rule.train(load(number), arrays, int(message.content[CONFIG]["round"]), number)
        metrics = {"client": number, "num-examples": sent.examples, "start_loss": sent.start_loss, "loss": sent.loss}
        record = ArrayRecord({name: Array(array) for name, array in sent.arrays.items()})
        return Message(RecordDict({ARRAYS: record, METRICS: MetricRecord(metrics)}), reply_to=message)

    return app


def _read(content: Any, name: str) -> Sent:
    """Return what a client has sent.

    Raises:
      KeyError: if something is missing.
      ValueError: if something is not what it should be; so do TypeError and OverflowError.
    """
    metrics = content[METRICS]
    arrays = {key: np.asarray(array.numpy()) for key, array in content[ARRAYS].items()}
    examples, start, loss = (float(metrics[key]) for key in ("num-examples", "start_loss", "loss"))
    return Sent(name, arrays, examples, start, loss)


def _identity(rule: ServerRule, state: ServerState, seed: int) -> Identity:
    """Return what determines the server's part of a run."""
    settings = {"feedback": rule.feedback, "weighting": rule.weighting, "max_norm": repr(rule.max_norm), "seed": seed}
    arrays = to_arrays(state.params, state.model_state)
    shapes = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
    return {**settings, "arrays": shapes, "server": optimizer_identity(rule.server, state.params)}
