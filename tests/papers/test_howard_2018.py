"""Howard et al. (2018): the finder is as in the text, and wrong numbers fail its verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

import lrx
from lrx.papers import howard_2018
from lrx.papers.howard_2018 import divergence, finder, suggestions
from lrx.papers.reproduction import Job
from lrx.records import Result
from lrx.training import train
from lrx.training.sampling import keys_of
from lrx.workloads import make_workload

TINY = Tiny(
    (howard_2018.DIGITS[0]._replace(rates=(0.01, 0.1), batch_size=512, options={"widths": ()}),),
    "digits",
    {"finder.FINDER": finder.FINDER | {"num_steps": 10}, "divergence.LADDERS": (10,)},
)

JOB = Job((0, 1), "digits")
SEEDS = (1, 2)


def made_up() -> Result:
    """A result all of whose claims hold."""
    task = {
        "rates": [1e-7, 1e-3, 10.0],
        "smoothed": [[2.3, 1.0, 2.0]] * 2,
        "diverged_at": [1.0, 1.0],
        "suggestions": {rule: [0.05, 0.02] for rule in suggestions.RULES},
        "steps": 88,
        "grid": {
            "rates": [0.001, 0.01, 0.1, 1.0],
            "final_loss": [[2.0, 2.2], [0.35, 0.25], [0.1, 0.3], [None, None]],
            "best": 2,
        },
    }
    full_batch = {name: [1.5, 2.0] for name in ("quadratic", "quadratic, noisy", "softmax regression")}
    curves: dict[str, Any] = {
        "tasks": {"first": task, "second": task},
        "arrays": 12,
        "arrays_changed": 0,
        "full_batch": {"100": full_batch, "300": full_batch | {"quadratic": [6.0, 6.6]}},
    }
    return Result(
        "howard_2018",
        "demo",
        "digits",
        [0, 1],
        {"finder": finder.FINDER, "tasks": {"first": {"data": "digits"}, "second": {"data": "mnist"}}},
        curves,
        1.0,
    )


@pytest.mark.slow
def test_the_finder_has_the_defaults_of_fastai() -> None:
    assert finder.FINDER == {"min_rate": 1e-7, "max_rate": 10.0, "num_steps": 100, "extend": False}
    found = lrx.range_test(divergence.quadratic(0.0), tx=lrx.sgd, **finder.FINDER)
    np.testing.assert_allclose(found.rates, 1e-7 * 1e8 ** (np.arange(100) / 99), rtol=1e-5)


def test_grids_are_spaced_evenly_and_contain_their_ends() -> None:
    np.testing.assert_allclose(howard_2018.decades(-2, 0, 2), [0.01, 0.0316228, 0.1, 0.316228, 1.0], rtol=1e-5)
    for scale in howard_2018.SCALES.values():
        for task in scale.size:
            steps = np.diff(np.log10(task.rates))
            np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
            assert 0.3 < steps[0] < 0.51  # a third or half of a decade


@pytest.mark.slow
def test_tasks_are_those_of_the_text() -> None:
    workload = suggestions.make(howard_2018.DIGITS[0], JOB)
    shapes = {name: layer["kernel"].shape for name, layer in workload.init(jax.random.key(0))[0].items()}
    assert shapes == {"hidden1": (64, 64), "hidden2": (64, 64), "output": (64, 10)}
    assert 2 * workload.batches.steps_per_epoch == 88
    few, all_images = (howard_2018.SCALES[scale].size[-1] for scale in ("cpu", "paper"))
    assert (few.model, few.images, few.batch_size, few.epochs) == ("resnet8", 5000, 128, 2)
    assert all_images._replace(images=5000, strategy=few.strategy) == few
    momentum = suggestions.OPTIMIZERS["momentum"](0.5)
    state = momentum.init(jnp.float32(0))
    for expected in (-0.5, -0.95):
        update, state = momentum.update(jnp.float32(1), state)
        assert float(update) == pytest.approx(expected)


@pytest.mark.slow
def test_the_finder_starts_where_training_with_the_seed_starts() -> None:
    workload = suggestions.make(howard_2018.DIGITS[0], JOB)
    history = train(workload, lrx.sgd(0.0), steps=1, seed=3)
    jax.tree.map(np.testing.assert_array_equal, history.params, workload.init(keys_of(3).init)[0])


@pytest.mark.slow
def test_sharpest_curvature_is_that_of_softmax_regression_by_hand() -> None:
    workload = make_workload("digits", "mlp", batch_size=32, widths=())
    (found,) = divergence.sharpest_curvatures(workload, (5,))
    layer = workload.init(keys_of(5).init)[0]["output"]
    images, _ = workload.batches.transform(workload.batches.arrays, jax.random.key(0))
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    logits = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    # mean of (diag(p) - p p^T) kron x x^T
    hessian = -np.einsum("na,nb,ni,nj->aibj", p, p, x, x, optimize=True) / len(x)
    for label in range(10):
        hessian[label, :, label] += (x * p[:, label : label + 1]).T @ x / len(x)
    size = 10 * x.shape[1]
    assert found == pytest.approx(np.linalg.eigvalsh(hessian.reshape(size, size))[-1], rel=1e-4)


def test_a_direction_is_back_where_theory_says() -> None:
    # A ladder of rates so long that its steps add up to the integral; the rate ends at the zero, for curvature 1.
    rates = np.geomspace(1e-9, divergence.DILOGARITHM_ZERO, 2_000_001)[1:]
    grown = np.cumsum(np.log(np.abs(1 - rates))) * np.log(rates[-1] / rates[0]) / len(rates)
    assert abs(grown[-1]) < 1e-3
    assert grown.min() < -2
    assert np.all(grown[np.searchsorted(rates, 1e-6) : -1] < 0)


@pytest.mark.slow
def test_each_seed_diverges_after_the_step_that_takes_the_loss_up_for_good() -> None:
    workload = divergence.quadratic(0.0)
    rates = np.geomspace(finder.FINDER["min_rate"], finder.FINDER["max_rate"], 100)
    for seed, found in zip(SEEDS, divergence.blow_ups(workload, SEEDS, 100), strict=True):
        x = np.asarray(workload.init(keys_of(seed).init)[0], np.float64)
        losses = []
        for rate in rates:
            losses.append(0.5 * np.sum(divergence.CURVATURES * x**2))
            x = x * (1 - rate * divergence.CURVATURES)
        first = np.flatnonzero(np.array(losses) <= 0.3 * losses[0])[-1] + 1  # the least loss is 0
        assert found == pytest.approx(rates[first - 1], rel=1e-5)


def test_arrays_are_compared_bit_by_bit() -> None:
    before = np.array([0.0, 1.0, np.nan], np.float32)
    assert finder.is_unchanged(jnp.asarray(before), before)
    assert not finder.is_unchanged(jnp.array([-0.0, 1.0, np.nan]), before)
    assert not finder.is_unchanged(jnp.array([0.0, np.nextafter(np.float32(1), np.float32(2)), np.nan]), before)
    gone = jnp.asarray(before) + 0
    gone.delete()
    assert not finder.is_unchanged(gone, before)


@pytest.mark.slow
def test_a_finder_that_takes_an_array_of_the_caller_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = divergence.quadratic(divergence.NOISE)
    assert finder.run_finder(workload, lrx.adam, 0)[1:] == (0, 1)

    def taking(workload: Any, **options: Any) -> None:
        del options
        jax.tree.leaves(workload.init(None))[0].delete()

    monkeypatch.setattr(lrx, "range_test", taking)
    assert finder.run_finder(workload, lrx.adam, 0)[1:] == (1, 1)


def test_what_is_lost_is_that_of_the_nearest_rate_of_the_grid() -> None:
    task = made_up().curves["tasks"]["first"]
    gain = np.log(10) - 0.2
    task["suggestions"]["valley"] = [0.0012, 0.02, 0.05, None, 0.9]
    found = suggestions.lost(task, "valley")
    np.testing.assert_allclose(found, [1.9 / gain, 0.1 / gain, 0.0, np.inf, np.inf], rtol=1e-6, atol=1e-12)


def test_data_of_no_task_are_refused() -> None:
    with pytest.raises(ValueError, match="data must be of digits, joined by commas, at this scale, got data='mnist'"):
        howard_2018.PAPER.run("demo", data="mnist")


def suggests(rule: str, rates: list[float | None], tasks: tuple[str, ...] = ("second",)) -> Callable[[Any], None]:
    def change(curves: dict[str, Any]) -> None:
        for task in tasks:
            curves["tasks"][task]["suggestions"][rule] = rates

    return change


def loses(loss: float) -> Callable[[Any], None]:
    """With one seed a rule suggests a tenth of the best rate, where the loss is this; with the other the best one."""

    def change(curves: dict[str, Any]) -> None:
        task = curves["tasks"]["first"]
        task["suggestions"] = {rule: [0.011, 0.1] for rule in suggestions.RULES}
        task["grid"]["final_loss"][1] = [loss, loss]

    return change


def diverges(ladder: str, problem: str, ratios: list[float | None]) -> Callable[[Any], None]:
    return lambda curves: curves["full_batch"][ladder].__setitem__(problem, ratios)


# 0: inside; 1 to 6: valley, steepest, minimum on both tasks; 7 to 9: what they cost; 10 to 13: divergence; 14: bits.
@pytest.mark.parametrize(
    ("change", "places"),
    [
        (lambda curves: None, []),
        (suggests("valley", [0.009, 0.009]), [2]),
        (suggests("valley", [0.05, None]), [2, 7]),
        (suggests("steepest", [0.13, 0.13]), [4]),
        (suggests("minimum", [0.001, 0.001], ("first", "second")), [5, 6, 9]),
        (suggests("valley", [0.9, 0.9]), [2, 7]),
        (suggests("slide", [1e-6, None]), []),
        (loses(0.5), []),  # 0.3 above the best, of 2.1 to be gained, with one of two seeds
        (loses(0.7), [7, 8, 9]),
        (diverges("100", "quadratic", [3.1, 3.2]), [10]),
        (diverges("100", "quadratic, noisy", [0.3, 0.3]), [11]),
        (diverges("100", "softmax regression", [2.0, None]), [12]),
        (diverges("300", "quadratic", [5.8, 5.8]), [13]),
        (diverges("300", "quadratic", [6.8, 6.8]), [13]),
        (diverges("300", "softmax regression", [8.2, 8.2]), []),
        (lambda curves: curves.__setitem__("arrays_changed", 1), [14]),
    ],
)
def test_a_claim_fails_when_its_numbers_do(change: Callable[[Any], None], places: list[int]) -> None:
    assert failing(made_up(), change) == places


def test_a_best_rate_at_the_end_of_its_grid_is_not_known() -> None:
    def shorter(curves: dict[str, Any]) -> None:
        part = curves["tasks"]["first"]["grid"]
        part.update(rates=part["rates"][:3], final_loss=part["final_loss"][:3])

    assert failing(made_up(), shorter) == [0]


def test_figures_are_drawn_where_a_rule_finds_nothing_and_nothing_diverges() -> None:
    result = made_up()
    for task in result.curves["tasks"].values():
        task["suggestions"]["slide"] = [None, None]
    result.curves["full_batch"]["100"]["quadratic"] = [None, None]
    figures = howard_2018.plot(result)
    assert set(figures) == {"digits", "mnist", "ratios"}
    assert all(len(figure.axes) == 2 for figure in figures.values())
