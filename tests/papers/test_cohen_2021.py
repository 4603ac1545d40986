"""Cohen et al. (2021): the sharpness is the Hessian's largest eigenvalue, and each verdict can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from reproductions import Tiny, failing

import lrx
from lrx.papers import cohen_2021
from lrx.records import Result
from lrx.workloads.full_batch import make_full_batch_workload, squared_loss

TINY = Tiny(cohen_2021.Size(50, (4,), 20, 1.0, 0.5, 5, 4, 2), "digits", {"WIDTHS": (4, 4)}, kept=True)

SEEDS = (0, 1, 2)
TIMES = np.arange(1, 61)


@pytest.mark.slow
def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian():
    rows = np.random.default_rng(0).normal(size=(30, 6)) * np.geomspace(3, 0.3, 6)
    workload = make_full_batch_workload(rows, np.arange(30, dtype=np.int32) % 3, widths=(5, 4), num_classes=3)
    params, state = jax.jit(workload.init)(jax.random.key(1))
    params = jax.tree.map(lambda x: 2 * x, params)  # away from where it is nearly linear
    flat, unravel = ravel_pytree(params)

    def function(point):
        return squared_loss(unravel(point), workload.batches.arrays)

    eigenvalues = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(function))(flat), np.float64))
    assert -eigenvalues[0] > 0.01 * eigenvalues[-1]  # it is indefinite, and the largest one is asked for
    found = lrx.sharpness(workload.loss_at(0), params, tol=cohen_2021.TOLERANCE)
    assert float(found) == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert set(workload.evaluate(params, state)) == {"accuracy"}


@pytest.mark.parametrize("label", ["2 / 100", "heavy ball", "Nesterov"])
def test_the_edge_is_where_the_method_loses_its_stability_on_a_quadratic(label):
    run = cohen_2021.runs(cohen_2021.SCALES["cpu"].size)[label]
    assert float(lrx.stability_limit(run.tx.init(jnp.ones(())))) == pytest.approx(run.edge, rel=1e-5)
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
