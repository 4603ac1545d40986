"""Rounds from what clients have sent: those of `simulate`, and unharmed by clients that send anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.federated import Partition, fed_adam, simulate
from lrx.federated.deployment import ClientRule, Sent, ServerRule, to_arrays

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
PARTITION = Partition([np.arange(2), np.arange(2, 7), np.arange(7, 12)])


def squared_error(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    del key
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def workload_of(chosen: Any) -> lrx.Workload:
    batches = lrx.Batches((X[chosen], Y[chosen]), batch_size=2)
    return lrx.Workload.from_functions(squared_error, lambda key: jax.random.normal(key, (3,)), batches)


def workload_of_client(number: int) -> lrx.Workload:
    return workload_of(PARTITION.indices[number, : PARTITION.sizes[number]])


def sent(change: Any = (0.5, 0.0, 0.0), **changed: Any) -> Sent:
    arrays = to_arrays(np.asarray(change, np.float32), ())
    return Sent("client 7", arrays, 4.0, 1.0, 0.5)._replace(**changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "feedback", "weighting"),
    [(fed_adam(0.1), "mean", "examples"), (lrx.sgd(lrx.constant(1.0) * lrx.pid()), "median", "uniform")],
)
def test_rounds_of_separate_clients_are_those_of_simulate(server: Any, feedback: str, weighting: str) -> None:
    rule = ServerRule(server, feedback, weighting)
    client = ClientRule(lrx.sgd(0.1), local_epochs=2.0, proximal=0.3, seed=5)
    state = rule.begin(workload_of(slice(0, 1 + 1)), seed=5)
    losses = []
    for number in range(1, 4):
        arrays = to_arrays(state.params, state.model_state)
        found = [client.train(workload_of_client(each), arrays, number, each) for each in range(3)]
        state, shown, refused = rule.advance(state, number, found)
        losses.append((shown["start_loss"], shown["loss"]))
        assert refused == []
    options: dict[str, Any] = {"feedback": feedback, "weighting": weighting, "proximal": 0.3, "local_epochs": 2.0}
    history = simulate(
        workload_of(slice(None)), PARTITION, num_rounds=3, client=lrx.sgd(0.1), server=server, seed=5, **options
    )
    np.testing.assert_allclose(state.params, history.params, rtol=1e-5)
    np.testing.assert_allclose(losses, np.stack([history.start_loss, history.loss], axis=1), rtol=1e-4)
    assert float(lrx.learning_rate(state.server)) == pytest.approx(history.server_rate[-1], rel=1e-5)


BAD: dict[str, tuple[Callable[[], Sent], str]] = {
    "not finite": (lambda: sent((np.nan, 0, 0)), "its change is not finite"),
    "infinite": (lambda: sent((np.inf, 0, 0)), "its change is not finite"),
    "too large": (lambda: sent((1e9, 0, 0)), "the norm of its change is 1e\\+09, above max_norm=5"),
    "so large that its norm is not finite": (lambda: sent((1e30, 0, 0)), "the norm of its change is inf"),
    "another shape": (lambda: sent((1.0, 2.0)), "the shape of .*params.* is \\(2,\\), not \\(3,\\)"),
    "another type": (
        lambda: sent(arrays={name: a.astype(np.float64) for name, a in sent().arrays.items()}),
        "the type of .*params.* is float64, not float32",
    ),
    "other names": (lambda: sent(arrays={"w": np.zeros(3, np.float32)}), "its arrays are w, not"),
    "nothing": (lambda: sent(arrays={}), "its arrays are none, not"),
    "examples": (lambda: sent(examples=-1.0), "its number of examples is -1"),
    "more examples than there are": (lambda: sent(examples=1e39), "its number of examples is 1e\\+39"),
    "endless examples": (lambda: sent(examples=float("inf")), "its number of examples is inf"),
    "loss": (lambda: sent(loss=float("nan")), "its loss is not finite"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_change_that_must_not_count_is_refused_by_the_name_of_its_client(bad: str) -> None:
    rule = ServerRule(lrx.sgd(1.0), max_norm=5.0)
    state = rule.begin(workload_of(slice(0, 2)))
    make, reason = BAD[bad]
    after, shown, refused = rule.advance(state, 3, [make(), sent((1.0, 0.0, 0.0))])
    alone, _, _ = rule.advance(state, 3, [sent((1.0, 0.0, 0.0))])
    np.testing.assert_array_equal(after.params, alone.params)
    assert shown["counted"] == 1
    [found] = refused
    assert (found.round, found.client) == (3, "client 7")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.reason)


def test_a_round_in_which_nothing_counts_changes_nothing() -> None:
    rule = ServerRule(fed_adam(0.1))
    state = rule.begin(workload_of(slice(0, 2)))
    after, shown, refused = rule.advance(state, 1, [sent((np.nan, 0, 0))])
    assert after is state
    assert shown["counted"] == 0
    assert np.isnan(shown["loss"])
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ServerRule(lrx.sgd(1.0), feedback="max"), "feedback must be one of"),
        (lambda: ServerRule(lrx.sgd(1.0), weighting="none"), "weighting must be one of"),
        (lambda: ServerRule(lrx.sgd(1.0), max_norm=0.0), "max_norm must be"),
        (lambda: ClientRule(lrx.sgd(0.1), local_epochs=0.0), "local_epochs must be"),
        (lambda: ClientRule(lrx.sgd(0.1), proximal=-1.0), "proximal must be"),
        (lambda: ClientRule(lrx.sgd(0.1), feedback_batches=0), "feedback_batches must be"),
    ],
)
def test_bad_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
