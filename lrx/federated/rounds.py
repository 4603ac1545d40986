"""A round of federated learning, and many of them in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from lrx._leaves import at_least_float32
from lrx.extra_args import tolerant_update
from lrx.federated.aggregation import norm_of, statistic
from lrx.federated.clients import ClientData, Draw, Local, Report
from lrx.rates import Rate
from lrx.reading import NoRateError, learning_rate
from lrx.run_state import apply_updates


class Carry(NamedTuple):
    """What a round hands to the next."""

    params: Any
    model_state: Any
    server: Any  # state of the server's transformation
    rate: Any  # state of the clients' rate, () if they have none
    clients: Any  # states of the clients' transformations, (clients, ...) each; () if they begin anew in each round


class Numbers(NamedTuple):
    """Numbers that a round depends on, scalars: another one needs no other program."""

    proximal: Any  # weight of |w - w_server|^2 / 2 in the local loss
    dropout: Any  # probability that a client drops out
    stragglers: Any  # probability that a client makes a part of its steps only
    max_norm: Any  # the largest norm of a change that counts
    weighted: Any  # bool: whether a client's change counts by its number of examples
    local_steps: Any  # int32: steps of every client; 0 if they follow from `local_epochs`
    local_epochs: Any  # passes of each client over its examples


class Seen(NamedTuple):
    """What is recorded of a round; every leaf is a scalar."""

    start_loss: jax.Array  # float32: the statistic of the clients' losses before their steps
    loss: jax.Array  # float32: the same statistic of the losses of their steps
    server_rate: jax.Array  # float32, NaN if the server's state shows none
    client_rate: jax.Array  # float32, NaN if the clients' transformation has its own
    norm: jax.Array  # float32: of the mean change
    counted: jax.Array  # int32: clients whose change counts
    dropped: jax.Array  # int32: clients that dropped out
    rejected: jax.Array  # int32: clients whose change was not finite or too large
    steps: jax.Array  # int32: local steps of all clients


@dataclasses.dataclass(frozen=True)
class Federation:
    """What the program of a round is traced from.

    Args:
      local: local training.
      client: the clients' transformation, of a rate that may be traced; the rate is ignored if it has its own.
      client_rate: the rate of the clients, counted in rounds; None if their transformation has its own.
      server: the server's transformation.
      clients_per_round: number of clients of a round.
      chunk_size: clients that train side by side on a device.
      feedback: "mean", "median" or "trimmed"; see `aggregation.statistic`.
      keeps_state: whether the clients keep the states of their transformation.
      mesh: the devices over whose only axis the clients of a round are split; None for one device.
    """

    local: Local
    client: Callable[[Any], optax.GradientTransformation]
    client_rate: Rate | None
    server: optax.GradientTransformation
    clients_per_round: int
    chunk_size: int
    feedback: str
    keeps_state: bool
    mesh: Mesh | None = None

    def begin(self, params: Any, model_state: Any, num_clients: int) -> Carry:
        """Return the state before the first round."""
        rate = () if self.client_rate is None else self.client_rate.init(params)
        clients: Any = ()
        if self.keeps_state:
            one = self.client(jnp.float32(0)).init(params)
            clients = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)).copy(), one)
        return Carry(params, model_state, self.server.init(params), rate, clients)

    def steps_of(self, sizes: jax.Array, numbers: Numbers) -> jax.Array:
        """Return the local steps of clients with these numbers of examples."""
        exact = sizes * numbers.local_epochs / self.local.sampling.batch_size
        by_epochs = jnp.maximum(jnp.ceil(exact - 1e-4), 1).astype(jnp.int32)
        return jnp.where(numbers.local_steps > 0, numbers.local_steps, by_epochs)

    def round(
        self, carry: Carry, number: jax.Array, key: jax.Array, numbers: Numbers, data: ClientData, arrays: Any
    ) -> tuple[Carry, Seen]:
        """Make the round after `number` rounds.

        Args:
          carry: the state before it.
          number: () int32.
          key: of the run.
          numbers: see there.
          data: of all clients, with a leading axis.
          arrays: the examples of all clients.
        """
        choice_key, drop_key, straggler_key, client_key = jax.random.split(jax.random.fold_in(key, number), 4)
        num_clients = len(data.size)
        chosen = jax.random.permutation(choice_key, num_clients)[: self.clients_per_round]
        here = ~jax.random.bernoulli(drop_key, numbers.dropout, chosen.shape)
        steps = self.steps_of(data.size[chosen], numbers)
        late_key, part_key = jax.random.split(straggler_key)
        late = jax.random.bernoulli(late_key, numbers.stragglers, chosen.shape)
        part = jnp.ceil(steps * jax.random.uniform(part_key, chosen.shape)).astype(jnp.int32)
        steps = jnp.where(here, jnp.where(late, jnp.maximum(part, 1), steps), 0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(client_key, chosen)
        weights = jnp.where(here, jnp.where(numbers.weighted, data.size[chosen], 1), 0).astype(jnp.float32)
        draws = jax.vmap(self.local.draw)(jax.tree.map(lambda leaf: leaf[chosen], data), keys)

        start = self._start_losses(carry, draws, arrays)
        start_loss = statistic(start, weights, self.feedback)
        rate, rate_state = self._client_rate(carry, start_loss)
        total, new, states = self._train(carry, numbers, rate, chosen, draws, steps, weights, arrays)

        counts = weights * new["counts"]
        weight = jnp.sum(counts)
        mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(weight, 1e-30), total["change"])
        gradient = jax.tree.map(lambda leaf, like: -leaf.astype(like.dtype), mean, carry.params)
        updates, server = tolerant_update(self.server)(
            gradient, carry.server, carry.params, value=start_loss, grad=gradient
        )
        after = Carry(
            apply_updates(carry.params, updates, server),
            jax.tree.map(
                lambda leaf, like: (leaf / weight).astype(like.dtype), total["model_state"], carry.model_state
            ),
            server,
            rate_state,
            carry.clients,
        )
        kept = carry._replace(rate=rate_state)  # a round in which no change counts changes nothing
        after = jax.tree.map(lambda ours, theirs: jnp.where(weight > 0, ours, theirs), after, kept)
        if self.keeps_state:
            clients = jax.tree.map(lambda all_, some: all_.at[chosen].set(some), carry.clients, states)
            after = after._replace(clients=clients)
        number_here = jnp.sum(here).astype(jnp.int32)
        counted = jnp.sum(counts > 0).astype(jnp.int32)
        seen = Seen(
            start_loss=start_loss,
            loss=statistic(new["loss"], weights * (new["counts"] > 0), self.feedback),
            server_rate=_rate_of(server),
            client_rate=jnp.asarray(rate, jnp.float32),
            norm=norm_of(mean),
            counted=counted,
            dropped=jnp.int32(self.clients_per_round) - number_here,
            rejected=number_here - counted,
            steps=jnp.sum(steps),
        )
        return after, seen

    def _start_losses(self, carry: Carry, draws: Draw, arrays: Any) -> jax.Array:
        def judge_all(
            real: jax.Array, draws: Draw, params: Any, model_state: Any, arrays: Any
        ) -> tuple[Any, jax.Array]:
            del real  # the loss of a client that fills up is cut off

            def judge(draw: Draw) -> jax.Array:
                return self.local.judge(params, model_state, draw, arrays)

            return (), jax.lax.map(judge, draws, batch_size=self.chunk_size)

        losses: jax.Array = self._over_clients(judge_all, draws, carry.params, carry.model_state, arrays)[1]
        return losses

    def _client_rate(self, carry: Carry, loss: jax.Array) -> tuple[jax.Array, Any]:
        """Return the rate of this round's clients, from the loss before their steps."""
        if self.client_rate is None:
            return jnp.float32(jnp.nan), ()
        # A loss that is not finite is ignored by controllers; no direction is known yet.
        nothing = jax.tree.map(jnp.zeros_like, carry.params)
        _, state = tolerant_update(self.client_rate)(nothing, carry.rate, carry.params, value=loss, grad=nothing)
        return learning_rate(state), state

    def _train(
        self,
        carry: Carry,
        numbers: Numbers,
        rate: jax.Array,
        chosen: jax.Array,
        draws: Draw,
        steps: jax.Array,
        weights: jax.Array,
        arrays: Any,
    ) -> tuple[Any, Any, Any]:
        """Train the chosen clients in chunks; return weighted sums, reports, and the states that clients keep."""

        def train_all(
            real: jax.Array, each: Any, carry: Carry, numbers: Numbers, rate: jax.Array, arrays: Any
        ) -> tuple[Any, Any]:
            tx = self.client(rate)
            chosen, draws, steps, weights = each
            each = (chosen, draws, jnp.where(real, steps, 0), jnp.where(real, weights, 0))

            def one(number: jax.Array, draw: Draw, made: jax.Array) -> Report:
                state = tx.init(carry.params)
                if self.keeps_state:
                    state = jax.tree.map(lambda leaf: leaf[number], carry.clients)
                report = self.local.train(
                    tx, state, carry.params, carry.model_state, draw, made, numbers.proximal, arrays
                )
                kept = jax.tree.map(lambda new, old: jnp.where(report.sound, new, old), report.state, state)
                return report._replace(state=kept if self.keeps_state else ())

            def chunk(total: Any, each: Any) -> tuple[Any, Any]:
                *inputs, weight = each
                reports = jax.vmap(one)(*inputs)
                counts = reports.sound & (reports.norm <= numbers.max_norm)
                parts = {"change": reports.change, "model_state": reports.model_state}
                total = jax.tree.map(lambda sum_, leaf: sum_ + _weighted_sum(leaf, weight * counts), total, parts)
                return total, ({"loss": reports.loss, "counts": counts.astype(jnp.float32)}, reports.state)

            split = jax.tree.map(lambda leaf: leaf.reshape(-1, self.chunk_size, *leaf.shape[1:]), each)
            zeros = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, at_least_float32(leaf.dtype)),
                {"change": carry.params, "model_state": carry.model_state},
            )
            total, reported = jax.lax.scan(chunk, zeros, split)
            return total, jax.tree.map(
                lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), reported
            )

        each = (chosen, draws, steps, weights)
        total, (new, states) = self._over_clients(train_all, each, carry, numbers, rate, arrays)
        return total, new, states

    def _over_clients(self, work: Callable[..., tuple[Any, Any]], each: Any, *whole: Any) -> tuple[Any, Any]:
        """Split the clients of a round over the devices, in whole chunks, and apply `work` to each share.

        Args:
          work: `(real, each, *whole) -> (sums, arrays)` for the clients of a share: `real` tells them from repetitions
            of the last one, which fill up the last chunks; sums over the clients, and arrays with an axis of clients.
          each: arrays of the clients of the round.
          whole: what is the same for all clients.

        Returns:
          The sums over all clients, and the arrays of all.
        """
        number = self.clients_per_round
        devices = 1 if self.mesh is None else self.mesh.size
        multiple = devices * self.chunk_size
        slots = jnp.arange(-(-number // multiple) * multiple)
        place, real = jnp.minimum(slots, number - 1), slots < number
        filled = jax.tree.map(lambda leaf: leaf[place], each)
        if self.mesh is None:
            sums, arrays = work(real, filled, *whole)
        else:
            axis = self.mesh.axis_names[0]

            def work_and_sum(*given: Any) -> tuple[Any, Any]:
                sums, arrays = work(*given)
                return jax.lax.psum(sums, axis), arrays

            split, same = PartitionSpec(axis), PartitionSpec()
            sums, arrays = jax.shard_map(
                work_and_sum,
                mesh=self.mesh,
                in_specs=(split, split, *[same] * len(whole)),
                out_specs=(same, split),
                check_vma=False,
            )(real, filled, *whole)
        return sums, jax.tree.map(lambda leaf: leaf[:number], arrays)


def _weighted_sum(leaf: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum over clients; those of weight 0 do not count, whatever their numbers are."""
    shown = weights.reshape(-1, *[1] * (leaf.ndim - 1))
    wide = leaf.astype(at_least_float32(leaf.dtype))
    return jnp.sum(jnp.where(shown > 0, shown * wide, 0), axis=0)


def _rate_of(state: Any) -> jax.Array:
    try:
        return learning_rate(state)
    except (NoRateError, ValueError):
        return jnp.float32(jnp.nan)
