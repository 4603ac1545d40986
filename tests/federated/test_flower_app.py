"""The strategy and the client app with Flower's own messages, in one process.

Needs flwr, which is not in the environment of the other tests.
"""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.federated import Partition, flower, simulate

pytest.importorskip("flwr", reason="needs flwr, which has an environment of its own")

from flwr.app import Array, ArrayRecord, Error, Message
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # which Flower sets in a process of a run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
PARTITION = Partition([np.arange(2), np.arange(2, 7), np.arange(7, 12)])
SERVER = lrx.sgd(lrx.constant(0.5) * lrx.pid())


def squared_error(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    del key
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def workload_of(chosen: Any) -> lrx.Workload:
    batches = lrx.Batches((X[chosen], Y[chosen]), batch_size=2)
    return lrx.Workload.from_functions(squared_error, lambda key: jax.random.normal(key, (3,)), batches)


WORKLOAD = workload_of(slice(None))
APP = flower.make_client_app(
    lambda number: workload_of(PARTITION.indices[number, : PARTITION.sizes[number]]), lrx.sgd(0.1)
)


class Grid:
    """Three nodes, which answer at once; `faults` maps a round and a client to what becomes of its reply."""

    def __init__(self, faults: dict[tuple[int, int], Any] | None = None) -> None:
        self.faults = faults or {}

    def get_node_ids(self) -> list[int]:
        return [101, 102, 103]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            client = message.metadata.dst_node_id - 101
            context = types.SimpleNamespace(node_config={"partition-id": client})
            fault = self.faults.get((int(message.content["config"]["round"]), client), lambda _, reply: reply)
            reply = fault(message, APP(message, context))
            replies += [] if reply is None else [reply]
        return replies


def strategy_of(**changed: Any) -> Any:
    options = {"server": SERVER, "max_norm": 10.0, "min_available_nodes": 3} | changed
    return flower.make_strategy(WORKLOAD, **options)


def changed(by: Any) -> Any:
    """Return a fault that changes each array."""

    def fault(message: Any, reply: Any) -> Any:
        arrays = {name: Array(by(array.numpy())) for name, array in reply.content["arrays"].items()}
        reply.content["arrays"] = ArrayRecord(arrays)
        return reply

    return fault


def without_metrics(message: Any, reply: Any) -> Any:
    del reply.content["metrics"]
    return reply


FAULTS = {
    "its change is not finite": changed(lambda a: np.full_like(a, np.nan)),
    "the shape of": changed(lambda a: a[:-1]),
    "above max_norm=10": changed(lambda a: a + np.float32(1e20)),
    "it has failed: out of memory": lambda message, _: Message(Error(code=0, reason="out of memory"), reply_to=message),
    "it is gone, or has not answered in time": lambda message, _: None,
    "metrics": without_metrics,
}


def test_rounds_are_those_of_simulate() -> None:
    strategy = strategy_of()
    params = strategy.run(Grid(), 3)
    history = simulate(WORKLOAD, PARTITION, num_rounds=3, client=lrx.sgd(0.1), server=SERVER)
    np.testing.assert_allclose(params, history.params, rtol=1e-5)
    for name in ("start_loss", "loss", "norm"):
        np.testing.assert_allclose([each[name] for each in strategy.rounds], getattr(history, name), rtol=1e-4)
    assert strategy.refused == []


@pytest.mark.parametrize("reason", FAULTS)
def test_a_client_that_fails_is_named_and_the_model_is_that_of_the_others(reason: str) -> None:
    strategy, others = strategy_of(), strategy_of()
    params = strategy.run(Grid({(2, 1): FAULTS[reason]}), 2)
    silent = FAULTS["it is gone, or has not answered in time"]
    np.testing.assert_array_equal(params, others.run(Grid({(2, 1): silent}), 2))
    [found] = strategy.refused
    assert (found.round, found.client) == (2, "client 1 (node 102)")
    assert reason in found.reason
    assert [int(each["counted"]) for each in strategy.rounds] == [3, 2]


def test_an_answer_of_the_server_for_a_node_that_is_gone_names_the_node() -> None:
    def of_the_server(message: Any, _: Any) -> Any:
        answer = Message(Error(code=0, reason="unavailable"), reply_to=message)
        answer.metadata._src_node_id = 1
        return answer

    strategy = strategy_of()
    strategy.run(Grid({(1, 1): of_the_server}), 1)
    assert [(each.client, each.reason) for each in strategy.refused] == [
        ("node 102", "it is gone, or has not answered in time")
    ]


def test_a_round_in_which_every_client_fails_changes_nothing() -> None:
    bad = FAULTS["its change is not finite"]
    strategy = strategy_of()
    params = strategy.run(Grid({(2, each): bad for each in range(3)}), 2)
    np.testing.assert_array_equal(params, strategy_of().run(Grid(), 1))
    assert len(strategy.refused) == 3


def test_a_server_that_begins_again_continues_from_its_checkpoint(tmp_path: Any) -> None:
    strategy_of(checkpoint=tmp_path / "state").run(Grid(), 2)
    again = strategy_of(checkpoint=tmp_path / "state")
    assert again.made == 2
    np.testing.assert_array_equal(again.run(Grid(), 4), strategy_of().run(Grid(), 4))
    assert len(again.rounds) == 4
    with pytest.raises(ValueError, match="holds another run"):
        strategy_of(checkpoint=tmp_path / "state", max_norm=20.0)
