"""Cohen et al. (2021): the sharpness is the Hessian's largest eigenvalue, and each verdict can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from reproductions import Tiny, failing

from lrx.diagnostics import sharpness
from lrx.papers import cohen_2021
from lrx.records import Result

TINY = Tiny(cohen_2021.Size(100, (4,), 20, 2.0, 0.5, 5, 20, 10), "digits")

SEEDS = (0, 1, 2)
TIMES = np.arange(1, 61)


def pixels(number=30, features=40):
    return np.random.default_rng(0).normal(size=(number, features)) * np.geomspace(3, 0.3, features)


def small(monkeypatch, number=30, features=40):
    monkeypatch.setattr(cohen_2021, "WIDTHS", (5, 4))
    return cohen_2021.make_workload(pixels(number, features), np.arange(number, dtype=np.int32) % 3, 3)


def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(monkeypatch):
    workload = small(monkeypatch, features=6)
    params, state = jax.jit(workload.init)(jax.random.key(1))
    params = jax.tree.map(lambda x: 2 * x, params)  # away from where it is nearly linear
    flat, unravel = ravel_pytree(params)

    def function(point):
        return cohen_2021.loss(unravel(point), workload.batches.arrays)

    eigenvalues = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(function))(flat), np.float64))
    assert -eigenvalues[0] > 0.01 * eigenvalues[-1]  # it is indefinite, and the largest one is asked for
    found = workload.evaluate(params, state)
    assert found["sharpness"] == pytest.approx(eigenvalues[-1], rel=1e-4)


def test_pixels_have_zero_mean_and_unit_variance_over_all_images():
    images = np.random.default_rng(0).integers(0, 255, (50, 4, 3, 2)).astype(np.uint8)
    images[:, 1, 1, 0] = 7  # a pixel that is the same everywhere
    rows = images.reshape(50, -1).astype(np.float64)
    spread = rows.std(axis=0)
    expected = (rows - rows.mean(axis=0)) / np.where(spread == 0, 1, spread)
    found = cohen_2021.standardized(images, 20)
    np.testing.assert_allclose(found, expected[:20], atol=1e-10)


def test_descent_in_the_span_of_the_images_is_descent_on_all_pixels(monkeypatch):
    workload = small(monkeypatch)
    x = jnp.asarray(pixels(), jnp.float32)
    labels = workload.batches.arrays[1]
    inside = jax.jit(workload.init)(jax.random.key(0))[0]
    assert inside[0]["kernel"].shape == (30, 5)
    monkeypatch.setattr(cohen_2021, "in_own_span", lambda x: (x, np.eye(x.shape[1])))
    outside = jax.jit(small(monkeypatch).init)(jax.random.key(0))[0]
    assert outside[0]["kernel"].shape == (40, 5)

    @jax.jit
    def descend(params, batch):
        def step(params, _):
            value, gradient = jax.value_and_grad(cohen_2021.loss)(params, batch)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        params, values = jax.lax.scan(step, params, length=20)
        return values, sharpness(lambda p: cohen_2021.loss(p, batch), params)

    losses, sharp = descend(inside, workload.batches.arrays)
    expected_losses, expected_sharp = descend(outside, (x, labels))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert sharp == pytest.approx(float(expected_sharp), rel=1e-3)


def test_initial_values_are_uniform_within_one_over_the_root_of_the_inputs():
    workload = cohen_2021.make_workload(np.ones((50, 30)), np.zeros(50, np.int32))
    params, _ = jax.jit(workload.init)(jax.random.key(0))
    shapes = [(layer["kernel"].shape, layer["bias"].shape) for layer in params]
    assert shapes == [((30, 200), (200,)), ((200, 200), (200,)), ((200, 10), (10,))]
    for layer in params:
        bound = layer["kernel"].shape[0] ** -0.5
        assert 0.98 * bound < jnp.max(jnp.abs(layer["kernel"])) <= bound
        assert jnp.std(layer["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.5 * bound < jnp.max(jnp.abs(layer["bias"])) <= bound


def test_loss_is_half_the_squared_distance_from_the_labels():
    params = [{"kernel": jnp.zeros((2, 3)), "bias": jnp.array([1.0, 2.0, 3.0])}]
    batch = jnp.ones((2, 2)), jnp.array([0, 2])
    # (0, 2, 3) and (1, 2, 2) are left of the labels
    assert cohen_2021.loss(params, batch) == pytest.approx(0.5 * (13 + 9) / 2)


@pytest.mark.parametrize("label", ["2 / 100", "heavy ball", "Nesterov"])
def test_the_edge_is_where_the_method_loses_its_stability_on_a_quadratic(label):
    run = cohen_2021.runs(cohen_2021.SCALES["cpu"].size)[label]
    for factor, stable in ((0.99, True), (1.01, False)):
        x, state = jnp.ones(()), run.tx.init(jnp.ones(()))

        def step(carry, _, curvature=factor * run.edge):
            x, state = carry
            updates, state = run.tx.update(curvature * x, state, x)
            return (x + updates, state), jnp.abs(x)

        _, distances = jax.lax.scan(step, (x, state), length=300)
        assert (distances[-1] < 0.1) == stable
        assert (distances[-1] > 10) != stable


@pytest.mark.parametrize("scale", list(cohen_2021.SCALES))
def test_every_rate_goes_for_the_same_time_and_is_measured_at_the_same_times(scale):
    size = cohen_2021.SCALES[scale].size
    descents = [run for label, run in cohen_2021.runs(size).items() if label.startswith(("2 / ", "gradient"))]
    assert [run.edge for run in descents] == [*size.edges, size.flow]
    for run in descents:
        assert run.rate * run.edge == pytest.approx(2)
        assert run.every * run.rate == pytest.approx(size.every)
        assert run.steps * run.rate == pytest.approx(size.time)


def made_up():
    """A result as `measure` leaves it, of runs that do what the paper says."""
    size = cohen_2021.SCALES["cpu"].size
    path = np.linspace(80, 200, len(TIMES))  # of gradient flow
    curves = {}
    for label, run in cohen_2021.runs(size).items():
        first = int(np.argmax(path >= run.edge)) if run.edge <= path[-1] else len(TIMES)
        sharpness = np.where(np.arange(len(TIMES)) < first, path, 1.03 * run.edge)
        rising = np.where(np.arange(len(TIMES)) <= first, 0.0, 0.3)
        curves[label] = {
            "rate": run.rate,
            "edge": run.edge,
            "steps": (run.every * TIMES).tolist(),
            "sharpness": [sharpness.tolist() for _ in SEEDS],
            "accuracy": [np.linspace(0.5, 1, len(TIMES)).tolist() for _ in SEEDS],
            "rising": [rising.tolist() for _ in SEEDS],
            "mean_loss": [np.geomspace(0.4, 0.01, len(TIMES)).tolist() for _ in SEEDS],
            "loss_steps": (run.every * TIMES).tolist(),
            "loss": np.geomspace(0.4, 0.01, len(TIMES)).tolist(),
        }
    return Result("cohen_2021", "cpu", "cifar10", list(SEEDS), {}, curves, 1.0)


def test_what_the_paper_says_makes_every_claim_hold():
    assert failing(made_up()) == []


def never_at_the_edge(curves):
    curves["2 / 120"]["sharpness"] = [[80.0] * 60] * 3
    curves["2 / 120"]["rising"] = [[0.0] * 60] * 3


def sinks_below_the_edge(curves):
    for each in curves["2 / 120"]["sharpness"]:
        each[-18:] = [105.0] * 18


def far_above_the_edge(curves):
    for each in curves["2 / 100"]["sharpness"]:
        each[-18:] = [130.0] * 18


def loss_goes_up_before(curves):
    for each in curves["2 / 140"]["rising"]:
        each[:5] = [0.2] * 5


def loss_never_goes_up(curves):
    curves["2 / 140"]["rising"] = [[0.0] * 60] * 3


def loss_rises_in_the_end(curves):
    for each in curves["2 / 100"]["mean_loss"]:
        each[-15:] = [0.5] * 15


def leaves_the_flow(curves):
    for each in curves["2 / 140"]["sharpness"]:
        each[10:20] = [1.2 * value for value in each[10:20]]


def flow_is_no_sharper(curves):
    curves["gradient flow"]["sharpness"] = [
        [min(value, 139.0) for value in curves["gradient flow"]["sharpness"][0]]
    ] * 3


def momentum_as_without(name):
    def change(curves):
        rate = curves[name]["rate"]
        curves[name]["sharpness"] = [[2 / rate] * 60] * 3

    return change


@pytest.mark.parametrize(
    ("change", "places"),
    [
        (never_at_the_edge, [1, 4, 5, 6]),
        (sinks_below_the_edge, [1]),
        (far_above_the_edge, [0]),
        (loss_goes_up_before, [3]),
        (loss_never_goes_up, [4]),
        (loss_rises_in_the_end, [5]),
        (leaves_the_flow, [6]),
        (flow_is_no_sharper, [7]),
        (momentum_as_without("heavy ball"), [8]),
        (momentum_as_without("Nesterov"), [9]),
    ],
)
def test_a_claim_fails_when_its_numbers_do(change, places):
    assert failing(made_up(), change) == places


def test_a_run_that_diverged_fails_and_is_drawn(tmp_path):
    result = made_up()
    for name in ("sharpness", "mean_loss"):
        result.curves["2 / 100"][name] = [[None] * 60] * 3
    assert {0, 5} <= set(failing(result))
    for name, figure in cohen_2021.plot(result).items():
        figure.savefig(tmp_path / f"{name}.png")


def test_steps_that_raise_the_loss_are_counted_between_measurements():
    losses = np.array([5.0, 4, 4.5, 4, 3, 3.5, 3.6, 3])
    np.testing.assert_allclose(cohen_2021._rising(losses, 4), [0.25, 0.5])
