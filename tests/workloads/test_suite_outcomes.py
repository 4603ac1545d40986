"""The tasks of outcomes: what each computes, against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning import learn

from lrx.workloads.denoising import make_denoising_workload, make_energy_workload
from lrx.workloads.graphs import make_graph_workload
from lrx.workloads.outcomes import (
    make_folded_curve,
    make_ordinal_workload,
    make_survival_workload,
    mixture_density,
    pinball,
)
from lrx.workloads.ratings import make_ratings_workload
from lrx.workloads.recurrent import make_filter_workload, recurrent_network
from lrx.workloads.suite import KINDS, OUTCOMES, TASKS
from lrx.workloads.tables import make_friedman_table

KEY = jax.random.key(0)


def test_the_tasks_of_outcomes_are_of_other_kinds() -> None:
    kinds = {task.kind for task in OUTCOMES.values()}
    assert len(OUTCOMES) >= 6
    assert len(kinds) >= 4
    assert not kinds & set(KINDS)
    assert not set(OUTCOMES) & set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTCOMES)
def test_every_task_of_outcomes_is_learnt_at_one_rate(name: str) -> None:
    task = OUTCOMES[name]
    found = learn(task.make(None), 5e-3, steps=100)
    before, after = found.before[task.metric], found.after[task.metric]
    assert np.all(np.isfinite(found.losses))
    assert after < 0.9 * before if task.mode == "min" else after > before + 0.1


@pytest.mark.slow
def test_a_recurrent_network_reads_one_step_after_the_other() -> None:
    network = recurrent_network(3, 2, width=4)
    params = jax.jit(network.init)(KEY)
    np.testing.assert_array_equal(params["carry"], np.eye(4))
    params["carry"] = jax.random.normal(jax.random.key(2), (4, 4))
    sequence = jax.random.normal(jax.random.key(1), (1, 2, 3))
    state = jnp.tanh(sequence[:, 0] @ params["read"]["kernel"])
    state = jnp.tanh(sequence[:, 1] @ params["read"]["kernel"] + state @ params["carry"])
    expected = state @ params["output"]["kernel"]
    np.testing.assert_allclose(network.apply(params, sequence), expected, atol=1e-5)


@pytest.mark.slow
def test_the_filter_is_a_sum_of_damped_turning_states() -> None:
    workload = make_filter_workload(width=2, length=6, num_train=8, num_test=4, batch_size=8)
    params = jax.jit(workload.init)(KEY)[0] | {"direct": jnp.float32(0.3)}
    seen, signal = (np.asarray(part, np.float64) for part in workload.batches.arrays)
    pole = 1 / (1 + np.exp(-np.asarray(params["decay"]))) * np.exp(1j * np.asarray(params["angle"]))
    gain = np.asarray(params["gain"][0]) + 1j * np.asarray(params["gain"][1])
    state, losses = np.zeros((8, 2), complex), []
    for step in range(6):
        state = pole * state + seen[:, step, None]
        losses.append((np.real(state @ gain) + 0.3 * seen[:, step] - signal[:, step]) ** 2)
    found = jax.jit(workload.loss_fn)(params, (), workload.batches.arrays, KEY)[0]
    assert float(found) == pytest.approx(np.mean(losses) / 2, rel=1e-4)


@pytest.mark.slow
def test_a_measurement_of_the_oscillation_has_the_noise_that_it_says() -> None:
    seen, signal = make_filter_workload(num_train=500, num_test=4).batches.arrays
    assert float(jnp.std(seen - signal)) == pytest.approx(0.5, rel=0.05)
    assert float(jnp.std(signal)) == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_the_true_factors_leave_only_the_noise_of_the_ratings() -> None:
    workload = make_ratings_workload(num_users=8, num_items=6, rank=2, noise=0.0, num_train=4000, num_test=50)
    pairs, ratings = (np.asarray(part) for part in workload.batches.arrays)
    table = np.full((8, 6), np.nan)
    table[pairs[:, 0], pairs[:, 1]] = ratings
    assert not np.isnan(table).any()
    centred = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    left, sizes, right = np.linalg.svd(centred)
    np.testing.assert_allclose(sizes[2:], 0, atol=1e-4)  # a product of two factors beside the biases
    params = {
        "mean": table.mean(),
        "biases": np.concatenate([table.mean(axis=1), table.mean(axis=0)])
        - np.repeat([table.mean(), table.mean()], [8, 6]),
        "users": left[:, :2] * sizes[:2],
        "items": right[:2].T,
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    assert float(workload.evaluate(params, ())["loss"]) < 1e-6


@pytest.mark.slow
def test_grades_have_the_chances_of_cumulative_logits() -> None:
    table = make_friedman_table(num_rows=100)
    workload = make_ordinal_workload(table, 4, hidden=3)
    _, grades = workload.batches.arrays
    assert np.bincount(np.asarray(grades)).tolist() == [20, 20, 20, 20]
    params = jax.tree.map(jnp.zeros_like, jax.jit(workload.init)(KEY)[0])
    params["first"] = jnp.float32(-1.0)  # thresholds -1, 0, 1
    above = 1 / (1 + np.exp([-1.0, 0.0, 1.0]))
    chances = -np.diff([1.0, *above, 0.0])
    found = jax.jit(workload.loss_fn)(params, (), workload.batches.arrays, KEY)[0]
    assert float(found) == pytest.approx(-np.mean(np.log(chances)), rel=1e-5)


@pytest.mark.slow
def test_the_partial_likelihood_compares_an_event_with_those_still_at_risk() -> None:
    workload = make_survival_workload(num_features=2, num_train=5, num_test=10, batch_size=5)
    params = jax.jit(workload.init)(KEY)[0]
    x, outcomes = (np.asarray(part) for part in workload.batches.arrays)
    hidden = np.maximum(x @ np.asarray(params[0]["kernel"]), 0)
    risks = (hidden @ np.asarray(params[1]["kernel"]))[:, 0]
    terms = []
    for time, happened, risk in zip(*outcomes.T, risks, strict=True):
        if happened:
            terms.append(np.log(np.exp(risks[outcomes[:, 0] >= time]).sum()) - risk)
    assert len(terms) >= 2
    found = jax.jit(workload.loss_fn)(params, (), workload.batches.arrays, KEY)[0]
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-4)
    still = jax.tree.map(jnp.zeros_like, params)
    assert 0 < float(workload.evaluate(still, ())["loss"]) < np.log(5)


@pytest.mark.slow
def test_the_pinball_loss_is_least_at_the_quantiles() -> None:
    targets = jnp.asarray(np.random.default_rng(0).normal(size=999), jnp.float32)
    measure = pinball((0.1, 0.8))
    gradient = jax.grad(lambda q: measure(jnp.broadcast_to(q, (999, 2)), targets)["loss"])
    best = jnp.quantile(targets, jnp.array([0.1, 0.8]))
    np.testing.assert_allclose(gradient(best), 0, atol=2e-3)
    assert float(measure(jnp.array([[1.0, 1.0]]), jnp.array([3.0]))["loss"]) == pytest.approx((0.1 + 0.8) * 2 / 2)


@pytest.mark.slow
def test_a_mixture_density_integrates_to_one() -> None:
    outputs = jnp.array([0.3, -0.2, -1.0, 2.0, -0.5, 0.4])
    grid = jnp.linspace(-12.0, 14.0, 2601)
    losses = jax.vmap(lambda y: mixture_density(2)(outputs[None], y[None])["loss"])(grid)
    assert float(jnp.exp(-losses).sum() * 0.01) == pytest.approx(1.0, abs=1e-3)
    x, y = make_folded_curve(500, np.random.default_rng(0))
    assert x.shape == (500, 1)
    middle = np.abs(x[:, 0]) < 0.1
    assert np.ptp(y[middle]) > 1.5  # several y for one x


@pytest.mark.slow
def test_a_graph_network_gives_alike_nodes_the_mean_of_their_neighbours_and_hides_the_labels_of_the_others() -> None:
    workload = make_graph_workload(num_nodes=40, labelled=8, batch_size=8, within=1.0, between=0.0)
    nodes, labels = workload.batches.arrays
    others, answers = workload.evaluate.function.arrays
    assert sorted([*np.asarray(nodes).tolist(), *np.asarray(others).tolist()]) == list(range(40))
    params, measure = jax.jit(workload.init)(KEY)[0], jax.jit(workload.evaluate.function.function)
    # Groups are complete graphs here, so that each of their nodes sees the same: the mean of the group.
    losses = np.array([float(measure(params, (others[i : i + 1], answers[i : i + 1]))["loss"]) for i in range(32)])
    for group in range(4):
        np.testing.assert_allclose(
            losses[np.asarray(answers) == group], losses[np.asarray(answers) == group][0], rtol=1e-4
        )
    assert np.ptp(losses) > 0.01
    zero = jax.tree.map(jnp.zeros_like, params)
    assert float(jax.jit(workload.loss_fn)(zero, (), (nodes, labels), KEY)[0]) == pytest.approx(np.log(4))


@pytest.mark.slow
def test_images_with_their_noise_taken_away_have_no_loss() -> None:
    images = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    workload = make_denoising_workload("images", images, images, noise=0.5, hidden=4)
    nothing = jax.tree.map(jnp.zeros_like, jax.jit(workload.init)(KEY)[0])
    assert float(workload.evaluate(nothing, ())["loss"]) == pytest.approx(np.mean(images**2) / 2, rel=1e-5)
    # The noise of an evaluation is fixed; that of a step is drawn by the key.
    params = jax.jit(workload.init)(KEY)[0]
    losses = [
        float(jax.jit(workload.loss_fn)(params, (), jnp.asarray(images), jax.random.key(seed))[0]) for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_an_energy_of_no_slope_leaves_the_noise() -> None:
    workload = make_energy_workload(noise=0.3, hidden=4, num_train=64, num_test=500)
    params = jax.jit(workload.init)(KEY)[0]
    flat = jax.tree.map(jnp.zeros_like, params)
    assert float(workload.evaluate(flat, ())["loss"]) == pytest.approx(1.0, abs=0.1)  # |z|^2 / 2 in the plane
    held_out, drawn = workload.evaluate.function.arrays
    layers = [{name: np.asarray(value, np.float64) for name, value in layer.items()} for layer in params]

    def energy(x: np.ndarray) -> np.ndarray:
        for layer in layers[:-1]:
            x = np.tanh(x @ layer["kernel"] + layer["bias"])
        return (x @ layers[-1]["kernel"])[:, 0]

    x = np.asarray(held_out + 0.3 * drawn, np.float64)
    slopes = [(energy(x + step) - energy(x - step)) / 2e-4 for step in 1e-4 * np.eye(2)]
    expected = 0.5 * np.mean(np.sum((0.3 * np.stack(slopes, axis=1) - np.asarray(drawn)) ** 2, axis=1))
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(expected, rel=1e-3)
