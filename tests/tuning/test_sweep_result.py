"""What a sweep found: its best member, and how it is printed and drawn."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.line import LINE, RATES, VMAP, momentum_sgd, swept

import lrx
from lrx.tuning import HalvingResult, Method, RangeTest, RunRecord, Selection, SweepResult, TrialTable, sweep
from lrx.tuning.suggestions import RULES


def test_the_best_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^every member of the sweep diverged with some seed"):
        swept(space={"lr": [1e9]}, num_steps=40).best()
    with pytest.raises(ValueError, match=r"^metric must be one of \['error'\]"):
        swept().best("accuracy")


def test_the_name_of_a_metric_says_which_is_better_or_a_pair_does() -> None:
    found = swept()
    with pytest.raises(ValueError, match=r"^metric must say whether the least or the greatest is best, got"):
        found.best("f1")
    with pytest.raises(TypeError, match=r"^metric must be the name of a result of evaluate"):
        found.best(3)  # type: ignore[arg-type]
    falls = dataclasses.replace(found, evaluations={"accuracy": np.array([[0.5] * 2, [0.9] * 2, [1.0] * 2])})
    assert falls.best("accuracy") == falls.best(("accuracy", "max")) == {"lr": 0.1}
    assert falls.best(("accuracy", "min")) == {"lr": 0.01}
    assert falls.at_edge(("accuracy", "min")) == {"lr": "lowest"}


def test_a_metric_that_is_not_finite_is_not_the_best() -> None:
    nowhere = dataclasses.replace(swept(), evaluations={"error": np.full((3, 2), np.nan)})
    with pytest.raises(ValueError, match=r"^the error of no member is finite with every seed, though not all diverged"):
        nowhere.best("error")
    infinite = swept(tx=momentum_sgd, space={"lr": [1e-6, 0.3], "momentum": [0.0, 0.1]}, num_steps=40)
    score = np.stack([np.full((2, 2), np.inf), np.ones((2, 2))])
    infinite = dataclasses.replace(infinite, evaluations={"score": score})
    assert infinite.best(("score", "max"))["lr"] == 0.3
    drawn = infinite.plot(("score", "max"), names=["momentum"]).axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(drawn, [1.0, 1.0])


def noise_alone(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sum(batch) + 0.0 * jnp.sum(params)


NOISE = 1.0 + 0.1 * np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)


def test_the_best_of_a_sweep_has_learnt_something() -> None:
    arguments: dict[str, Any] = {"num_steps": 30, "seeds": 1}
    batches = lrx.Batches.stack(NOISE)
    noise = lrx.Workload.from_functions(noise_alone, lambda key: jnp.ones(2), batches)
    flat = swept(noise, space={"lr": [1e-3, 0.1]}, **arguments)
    assert flat.final_loss.mean() < np.mean(flat.losses[0, 0, :3]), "the example is one whose loss falls by chance"
    np.testing.assert_allclose(flat.initial_loss, flat.final_loss, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"^no member of the sweep has learnt anything: the lowest final loss is 0\.\d+"
    ):
        flat.best()
    low = swept(space={"lr": [1e-9, 1e-8]}, **arguments)
    for metric in (None, "error"):
        with pytest.raises(ValueError, match="Sweep higher rates"):
            low.best(metric)
    found = swept(space={"lr": [1e-9, 0.1]}, **arguments)
    assert found.best() == found.best("error") == {"lr": 0.1}
    # By a metric that says the contrary, what has not moved is not the best one either.
    lucky = dataclasses.replace(found, evaluations={"error": np.array([[0.0], [1.0]])})
    assert lucky.best("error") == {"lr": 0.1}


def test_the_pictures_show_what_diverged() -> None:
    found = swept(space={"lr": [0.001, 0.01, 0.1, 1e9]})
    axes = found.plot().axes[0]
    assert axes.get_xscale() == "log"
    assert [line.get_label() for line in axes.get_lines()].count("diverged") == 1
    two = swept(tx=momentum_sgd, space={"lr": RATES, "momentum": [0.0, 0.5]}, num_steps=40)
    figure = two.plot()
    assert [text.get_text() for text in figure.axes[0].texts].count("x") == 2
    assert figure.axes[0].get_ylabel() == "lr"
    assert two.plot(names=["momentum"]).axes[0].get_xlabel() == "momentum"
    assert two.plot("error", names=["momentum", "lr"]).axes[0].get_ylabel() == "momentum"
    with pytest.raises(ValueError, match=r"^names must be one or two of \['lr', 'momentum'\], got names=\['b1'\]"):
        two.plot(names=["b1"])


def test_the_map_shows_numbers_and_the_best_and_says_where_a_better_one_may_lie() -> None:
    found = sweep(
        LINE,
        lambda lr, b1: lrx.adam(lr, b1=b1),
        {"lr": [1e-3, 1e-2, 0.1], "b1": [0.5, 0.8, 0.9]},
        num_steps=20,
        execution=VMAP,
    )
    best = found.best()
    axes = found.plot().axes[0]
    written = sorted(text.get_text() for text in axes.texts)
    assert written == sorted(f"{value:.3g}" for value in found.final_loss.ravel())
    (frame,) = axes.patches
    row, column = (list(found.axes[name]).index(best[name]) for name in ("lr", "b1"))
    assert (frame.get_x(), frame.get_y()) == (column - 0.5, row - 0.5)
    assert found.at_edge()["lr"] == "highest"
    words = "the highest lr"
    assert words in axes.get_title("left").replace("\n", " ")
    assert words in found.plot(names=["lr"]).axes[0].get_title("left").replace("\n", " ")
    assert words in str(found)
    assert "best: lr=0.1" in str(found)


def test_results_are_printed_in_a_few_lines_that_fit() -> None:
    found = swept(space={"lr": np.geomspace(1e-4, 0.1, 40)}, num_steps=4, seeds=1)
    assert repr(found) == "SweepResult(40 lr, 1 seed, 4 steps)"
    lines = str(found).splitlines()
    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert "and 20 more" in lines


def curves(*shape: int) -> np.ndarray:
    return np.linspace(1.0, 0.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def made_up_sweep(**axes: Any) -> SweepResult:
    """The result of a sweep of a grid with one seed, made without training."""
    shape = tuple(len(values) for values in axes.values())
    arrays = {name: np.array(values) for name, values in axes.items()}
    final, initial, losses = curves(*shape, 1), 2 * curves(*shape, 1), curves(*shape, 1, 4)
    points, ends = np.arange(4), np.array([4])
    return SweepResult(arrays, np.arange(1), final, initial, losses, losses, points, {}, {}, ends, True, "vmap", 3, {})


NONE: dict[str, Any] = dict.fromkeys(RULES)
RESULTS: dict[str, Any] = {
    "line": made_up_sweep(lr=RATES),
    "map": made_up_sweep(lr=RATES, b=[0.1, 0.2]),
    "range test": RangeTest(
        curves(4), curves(4), curves(4), curves(1, 4), curves(4), 0.4, 0.1, None, NONE | {"minimum": 0.1}
    ),
    "trials": TrialTable(0.1, curves(1), ["trains"], curves(1), curves(1), curves(1, 4)),
    "halving": HalvingResult(
        {"lr": np.array(RATES)},
        np.zeros(3, int),
        np.full(3, 9),
        curves(3, 1),
        curves(3, 1),
        curves(3),
        curves(3, 1, 4),
        np.arange(4),
        1.0,
        {"lr": 0.1},
        (),
        (),
        "min",
    ),
    "selection": Selection(
        "a",
        0.1,
        optax.sgd(0.1),
        9,
        {"a": Method(lambda rate, num_steps: lrx.sgd(rate))},
        [RunRecord("a", 0.1, 1, 9, 0.5, 0.5, 9, True)],
        {},
        1.0,
        3.0,
        1.0,
        "loss",
        "min",
    ),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_a_plot_without_matplotlib_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RESULTS[kind].plot()  # with it, it can be drawn
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'^plots need matplotlib: pip install "lrx\[papers\]"\.$'):
        RESULTS[kind].plot()
    assert len(repr(RESULTS[kind])) < 200
