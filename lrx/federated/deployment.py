"""A server's round from what real clients have sent, and a client's round: the rules of `simulate`, outside of it.

Nothing here knows how messages travel: `ClientRule` and `ServerRule` take arrays by name, and return them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._paths import leaves_by_key
from lrx.extra_args import tolerant_update
from lrx.federated.aggregation import STATISTICS, is_sound, norm_of, statistic
from lrx.federated.clients import ClientData, Local
from lrx.run_state import apply_updates
from lrx.training.sampling import keys_of
from lrx.training.workload import Workload

Arrays = Mapping[str, np.ndarray]
MOST_EXAMPLES = 2**31 - 1  # of a client


class Sent(NamedTuple):
    """What a client has sent."""

    client: str  # what messages call it
    arrays: Arrays  # the change of the parameters, and the model state
    examples: float
    start_loss: float  # of the server's parameters
    loss: float  # of the client's steps


class Refused(NamedTuple):
    """A client whose change did not count, and why."""

    round: int  # from 1 on
    client: str
    reason: str


class ServerState(NamedTuple):
    """What the server keeps between rounds."""

    params: Any
    model_state: Any
    server: Any  # state of the server's transformation


@dataclasses.dataclass(frozen=True)
class ServerRule:
    """The server's part of a round.

    Args:
      server: the server's transformation, whose schedules count rounds.
      feedback: "mean", "median" or "trimmed": the number of the clients' losses that controllers see.
      weighting: "examples" or "uniform".
      max_norm: the largest norm of a change that counts; None for no bound.

    Raises:
      ValueError: if an argument is out of its range.
    """

    server: optax.GradientTransformation
    feedback: str = "mean"
    weighting: str = "examples"
    max_norm: float | None = None

    def __post_init__(self) -> None:
        _checks.transformation(self.server)
        _checks.one_of("feedback", self.feedback, STATISTICS)
        _checks.one_of("weighting", self.weighting, ("examples", "uniform"))
        if self.max_norm is not None:
            _checks.positive("max_norm", self.max_norm)

    def begin(self, workload: Workload, seed: int = 0) -> ServerState:
        """Return the state before the first round: the parameters are those of `simulate` with the same seed."""
        params, model_state = workload.init(keys_of(seed).init)
        return ServerState(params, model_state, self.server.init(params))

    def reason(self, state: ServerState, sent: Sent) -> str | None:
        """Return why what a client has sent does not count; None if it counts."""
        expected = to_arrays(state.params, state.model_state)
        if set(sent.arrays) != set(expected):
            return f"its arrays are {', '.join(sorted(sent.arrays)) or 'none'}, not {', '.join(sorted(expected))}"
        for name, array in expected.items():
            found = sent.arrays[name]
            if found.shape != array.shape:
                return f"the shape of {name} is {found.shape}, not {array.shape}"
            if found.dtype != array.dtype:
                return f"the type of {name} is {found.dtype}, not {array.dtype}"
        change, model_state = from_arrays(sent.arrays, state.params, state.model_state)
        if not bool(is_sound(change) & is_sound(model_state)):
            return "its change is not finite"
        norm = float(norm_of(change))
        bound = math.inf if self.max_norm is None else self.max_norm
        if not norm <= bound or not math.isfinite(norm):
            return f"the norm of its change is {norm:.3g}, above max_norm={bound:g}"
        if not 0 < sent.examples <= MOST_EXAMPLES:  # the weights are float32, and one must not stand for all
            return f"its number of examples is {sent.examples:g}"
        if not math.isfinite(sent.loss):
            return "its loss is not finite"
        return None

    def advance(
        self, state: ServerState, number: int, sent: Sequence[Sent]
    ) -> tuple[ServerState, dict[str, float], list[Refused]]:
        """Make a round from what clients have sent.

        Args:
          state: before the round.
          number: of the round, from 1 on.
          sent: of each client.

        Returns:
          The state after the round, unchanged if nothing counts; start_loss, loss, norm and counted; who was refused.
        """
        reasons = [self.reason(state, each) for each in sent]
        refused = [Refused(number, each.client, why) for each, why in zip(sent, reasons, strict=True) if why]
        good = [each for each, why in zip(sent, reasons, strict=True) if why is None]
        if not good:
            return state, dict.fromkeys(("start_loss", "loss", "norm"), math.nan) | {"counted": 0.0}, refused
        weights = jnp.asarray([each.examples if self.weighting == "examples" else 1.0 for each in good], jnp.float32)
        parts = [from_arrays(each.arrays, state.params, state.model_state) for each in good]
        change, model_state = jax.tree.map(lambda *leaves: _mean(leaves, weights), *parts)
        # Unlike in `simulate`, of those that count: who sends a wrong change may send any loss.
        start_loss = statistic(jnp.float32([each.start_loss for each in good]), weights, self.feedback)
        loss = statistic(jnp.float32([each.loss for each in good]), weights, self.feedback)
        gradient = jax.tree.map(jnp.negative, change)
        updates, server = tolerant_update(self.server)(
            gradient, state.server, state.params, value=start_loss, grad=gradient
        )
        after = ServerState(apply_updates(state.params, updates, server), model_state, server)
        shown: dict[str, Any] = {"start_loss": start_loss, "loss": loss, "norm": norm_of(change), "counted": len(good)}
        return after, {name: float(value) for name, value in shown.items()}, refused


@dataclasses.dataclass(frozen=True)
class ClientRule:
    """A client's part of a round, on its own examples.

    Args:
      client: its transformation, whose state begins anew in each round.
      local_epochs: passes over its examples, > 0.
      local_steps: steps in place of `local_epochs`.
      proximal: mu >= 0, of the term mu |x - x_t|^2 / 2.
      feedback_batches: minibatches on which the server's parameters are judged.
      seed: seed of the minibatches: with that of `simulate`, and the same clients, they are the same.

    Raises:
      ValueError: if an argument is out of its range.
    """

    client: optax.GradientTransformation
    local_epochs: float = 1.0
    local_steps: int | None = None
    proximal: float = 0.0
    feedback_batches: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.transformation(self.client)
        _checks.positive("local_epochs", self.local_epochs)
        if self.local_steps is not None:
            _checks.steps("local_steps", self.local_steps)
        _checks.non_negative("proximal", self.proximal)
        _checks.steps("feedback_batches", self.feedback_batches, unit="minibatches")
        _checks.seed(self.seed)

    def train(self, workload: Workload, arrays: Arrays, number: int, client: int) -> Sent:
        """Train from the server's arrays.

        Args:
          workload: with the examples of this client alone.
          arrays: parameters and model state, from the server.
          number: of the round, from 1 on.
          client: number of the client, from 0 on.
        """
        like = jax.eval_shape(workload.init, jax.random.key(0))
        params, model_state = from_arrays(arrays, *like)
        examples = workload.batches.num_examples
        steps = self.local_steps or max(1, math.ceil(examples * self.local_epochs / workload.batches.batch_size - 1e-4))
        local = Local(workload.loss_fn, workload.batches.sampling, self.feedback_batches)
        data = ClientData(jnp.arange(examples, dtype=jnp.int32), jnp.int32(examples))
        # The keys of this client in this round of `simulate`.
        round_key = jax.random.fold_in(keys_of(self.seed).step, number - 1)
        key = jax.random.fold_in(jax.random.split(round_key, 4)[3], client)

        def both(params: Any, model_state: Any, arrays: Any) -> Any:
            draw = local.draw(data, key)
            start = local.judge(params, model_state, draw, arrays)
            state = self.client.init(params)
            proximal = jnp.float32(self.proximal)
            report = local.train(self.client, state, params, model_state, draw, jnp.int32(steps), proximal, arrays)
            return start, report

        start_loss, report = jax.jit(both)(params, model_state, workload.batches.arrays)
        sent = to_arrays(report.change, report.model_state)
        return Sent(str(client), sent, float(examples), float(start_loss), float(report.loss))


def to_arrays(params: Any, model_state: Any) -> dict[str, np.ndarray]:
    """Return the leaves of parameters, or of their change, and of the model state, by name."""
    leaves = leaves_by_key({"model_state": model_state, "params": params})
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def from_arrays(arrays: Arrays, params: Any, model_state: Any) -> tuple[Any, Any]:
    """Return what `to_arrays` was given, as trees like these parameters and this model state."""
    like = {"model_state": model_state, "params": params}
    leaves = [jnp.asarray(arrays[name]) for name in leaves_by_key(like)]
    found = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return found["params"], found["model_state"]


def _mean(leaves: Sequence[jax.Array], weights: jax.Array) -> jax.Array:
    stacked = jnp.stack(leaves)
    shown = weights.reshape(-1, *[1] * (stacked.ndim - 1))
    return (jnp.sum(shown * stacked.astype(jnp.float32), axis=0) / jnp.sum(weights)).astype(stacked.dtype)
