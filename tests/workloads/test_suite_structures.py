"""The tasks of structures: what each computes, against its definition."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from learning import learn

from lrx.workloads.adversarial import make_adversarial_workload
from lrx.workloads.binary import binary_network, make_spins_workload
from lrx.workloads.experts import expert_network
from lrx.workloads.fields import make_kernel_workload, make_layout_workload
from lrx.workloads.outcomes import poisson
from lrx.workloads.sets import draw_shapes, set_network
from lrx.workloads.suite import KINDS, OUTCOMES, STRUCTURES, TASKS

KEY = jax.random.key(0)


def test_the_tasks_of_structures_are_of_kinds_that_no_other_task_has() -> None:
    kinds = {task.kind for task in STRUCTURES.values()}
    assert len(STRUCTURES) >= 8
    assert len(kinds) >= 5
    assert not kinds & ({task.kind for task in OUTCOMES.values()} | set(KINDS))
    assert not set(STRUCTURES) & (set(TASKS) | set(OUTCOMES))


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_task_of_structures_is_learnt_at_one_rate(name: str) -> None:
    task = STRUCTURES[name]
    found = learn(task.make(None), 1e-2, steps=100)
    before, after = found.before[task.metric], found.after[task.metric]
    assert np.all(np.isfinite(found.losses))
    assert after < before - 0.02 * abs(before) if task.mode == "min" else after > before + 0.1


@pytest.mark.slow
def test_the_loss_of_a_kernel_is_the_density_of_a_normal_distribution() -> None:
    workload = make_kernel_workload(num_features=2, num_train=8, batch_size=5)
    params = {"log_inverse_scales": np.float32([0.3, -0.2]), "log_amplitude": 0.1, "log_noise": -1.0}
    x, y = (np.asarray(part[:5], np.float64) for part in workload.batches.arrays)
    scaled = x * np.exp(params["log_inverse_scales"])
    squares = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    covariance = np.exp(0.2) * np.exp(-squares / 2) + (np.exp(-2.0) + 1e-4) * np.eye(5)
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    expected = (y @ np.linalg.solve(covariance, y) + log_determinant) / 2 / 5
    batch = tuple(part.astype(np.float32) for part in (x, y))
    assert float(jax.jit(workload.loss_fn)(params, (), batch, KEY)[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_layout_of_the_points_themselves_has_no_stress() -> None:
    points = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    workload = make_layout_workload("plane", points, num_train=40, num_test=20, batch_size=8)
    pairs, distances = workload.batches.arrays
    assert distances.mean() == pytest.approx(1, abs=0.15)
    scale = distances[0] / np.linalg.norm(points[pairs[0, 0]] - points[pairs[0, 1]])
    assert float(workload.evaluate(scale * points, ())["loss"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_set_has_no_order_and_its_shapes_can_be_told_by_their_radii() -> None:
    network, rng = set_network(2, 4, 3), np.random.default_rng(0)
    points, labels = draw_shapes(300, rng, noise=0.0)
    params = jax.jit(network.init)(KEY)
    np.testing.assert_allclose(network.apply(params, points), network.apply(params, points[:, ::-1]), atol=1e-5)
    spread = np.linalg.norm(points, axis=2).std(axis=1)
    assert spread[labels == 0].max() < 1e-5 < spread[labels == 1].min() < spread[labels == 2].max()


@pytest.mark.slow
def test_inputs_are_moved_so_that_the_loss_rises() -> None:
    rng = np.random.default_rng(0)
    examples = rng.normal(size=(64, 4)).astype(np.float32), rng.integers(3, size=64).astype(np.int32)
    here, moved = (
        make_adversarial_workload("moved", examples, examples, size=size, batch_size=8) for size in (0.0, 0.2)
    )
    params = jax.jit(here.init)(KEY)[0]
    assert float(moved.evaluate(params, ())["loss"]) > float(here.evaluate(params, ())["loss"]) + 0.02


@pytest.mark.slow
def test_units_are_binary_forwards_and_pass_slopes_near_zero() -> None:
    network = binary_network(3, 4, 2)
    params = jax.jit(network.init)(KEY)
    params[0]["kernel"] = 0.1 * params[0]["kernel"]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(network.apply(params, x), network.apply(params, 1.001 * x), atol=1e-6)
    slopes = jax.grad(lambda x: network.apply(params, x).sum())(x)
    assert np.all(np.abs(slopes).max(axis=1) > 0)


@pytest.mark.slow
def test_spins_without_couplings_are_told_by_their_biases() -> None:
    rows = np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 3)).astype(np.float32)
    workload = make_spins_workload("spins", rows, rows, batch_size=4)
    params = {"couplings": np.eye(3, dtype=np.float32), "biases": np.float32([0.5, -0.2, 0.0])}
    expected = np.log1p(np.exp(-2 * rows * params["biases"])).mean()
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(expected, rel=1e-5)


def test_counts_are_told_best_by_the_logarithm_of_their_rate() -> None:
    counts = np.float32([0.0, 2.0, 4.0])
    at = {shift: float(poisson(np.full(3, np.log(2) + shift, np.float32), counts)["loss"]) for shift in (-0.1, 0, 0.1)}
    assert at[0] == pytest.approx(2 - 2 * np.log(2), rel=1e-5)
    assert at[0] < min(at[-0.1], at[0.1])


@pytest.mark.slow
def test_a_gate_weighs_experts() -> None:
    network = expert_network(2, 2)
    params = [{"kernel": np.float32([[50, 0, 1, 0], [0, 0, 0, 1]]), "bias": np.zeros(4, np.float32)}]
    found = network.apply(params, np.float32([[1, 5], [-1, 5]]))
    np.testing.assert_allclose(found, [1, 5], atol=1e-5)
