"""Smith (2017): the recipe is the paper's, and claims and figures follow from the saved numbers alone."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny

import lrx
from lrx import papers
from lrx.papers import smith_2017
from lrx.papers.smith_2017 import policies
from lrx.papers.smith_2017.range_test import read_bounds
from lrx.records import Result

LENGTHS = policies.Lengths(fixed=12, drops=(8, 10), short=8, stepsize=2, range_test=8, every=2)


def records_every_policy_and_seed(result):
    fixed, cyclical = (result.curves["arms"][policy] for policy in ("fixed", "triangular2"))
    assert np.shape(fixed["evaluations"]["accuracy"]) == (2, 6)
    assert np.shape(cyclical["evaluations"]["accuracy"]) == (2, 4)
    assert cyclical["evaluation_steps"] == [2, 4, 6, 8]
    assert not np.array_equal(*fixed["evaluations"]["loss"])
    assert len(smith_2017.claims(result)) == 3


TINY = Tiny(
    dataclasses.replace(smith_2017.SCALES["demo"].size, model_options={"widths": (8,)}, lengths=LENGTHS),
    "digits",
    {"policies.strategy_of_networks": lambda: "vmap"},
    check=records_every_policy_and_seed,
)


def made_up(fixed=81.4, decay=78.5, triangular2=81.4, peaks_off_by=0):
    """A result as `run` leaves it, whose accuracies are given."""
    lengths = policies.Lengths.divided_by(5)
    arms = {}
    for policy, final in (("fixed", fixed), ("decay", decay), ("triangular2", triangular2)):
        total = lengths.fixed if policy == "fixed" else lengths.short
        steps = np.arange(lengths.every, total + 1, lengths.every)
        wave = np.abs(((steps - peaks_off_by) / lengths.stepsize) % 2 - 1)  # 1 at the ends of cycles
        accuracy = 0.85 + 0.05 * wave
        accuracy[-1] = final / 100
        steps = steps.tolist()
        curve = {"steps": steps, "rate": [[0.1] * len(steps)], "evaluation_steps": steps}
        arms[policy] = curve | {"evaluations": {"accuracy": [accuracy.tolist()], "loss": [[0.5]]}}
    curves = {"range_test": {"steps": [1, 2], "rate": [0.0, 0.02], "accuracy": [0.1, 0.5]}, "arms": arms}
    settings = dataclasses.asdict(smith_2017.SCALES["cpu"].size) | {"bounds": [0.001, 0.006]}
    return Result("smith_2017", "cpu", "cifar10", [0], settings, curves, 1.0)


def test_policies_have_the_rates_of_the_paper():
    found = policies.schedules(policies.Lengths.divided_by(1), 0.001, 0.006)
    fixed = found["fixed"](jnp.array([0, 59_999, 60_000, 64_999, 65_000, 69_999]))
    np.testing.assert_allclose(fixed, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    np.testing.assert_allclose(found["decay"](jnp.array([0, 2000, 4000, 25_000])), [7e-3, 4e-3, 1e-3, 1e-3], rtol=1e-6)
    cycles = found["triangular2"](jnp.array([0, 2000, 4000, 6000, 8000, 10_000]))
    np.testing.assert_allclose(cycles, [1e-3, 6e-3, 1e-3, 3.5e-3, 1e-3, 2.25e-3], rtol=1e-6)


def test_bounds_are_read_where_the_accuracy_stops_rising():
    rates = np.linspace(0, 1, 101)
    accuracies = np.where(rates < 0.4, 0.1 + 2 * rates, np.where(rates < 0.7, 0.9, 0.1))
    low, high = read_bounds(rates, accuracies)
    assert high == pytest.approx(0.4, abs=0.02)
    assert low == high / 4


def test_published_accuracies_would_make_every_claim_hold():
    assert [claim.holds for claim in smith_2017.claims(made_up())] == [True, True, True]


@pytest.mark.parametrize(
    ("changed", "failing"),
    [({"triangular2": 80.8, "decay": 70.0}, 0), ({"decay": 80.0}, 1), ({"peaks_off_by": 200}, 2)],
)
def test_a_claim_fails_when_its_numbers_do(changed, failing):
    holds = [claim.holds for claim in smith_2017.claims(made_up(**changed))]
    assert holds == [index != failing for index in range(3)]


def test_result_survives_saving_and_draws_its_figures_alone(tmp_path):
    result = made_up()
    result.curves["arms"]["fixed"]["evaluations"]["loss"] = [[float("nan")]]
    loaded = papers.load_result(result.save(tmp_path / "deep" / "result.json"))
    assert loaded.settings["lengths"]["stepsize"] == 400
    assert loaded.curves["arms"]["fixed"]["evaluations"]["loss"] == [[None]]
    assert {"jax", "optax", "python"} <= set(loaded.versions)
    for name, figure in smith_2017.plot(loaded).items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_a_file_that_is_no_result_is_refused_by_name(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"path must be a result.json .*other.json"):
        papers.load_result(path)


def test_unknown_scale_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="scale must be one of demo, cpu, paper, got scale='full'"):
        smith_2017.PAPER.run("full")


def test_a_paper_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"PAPER must be one of cauchy_1847, .*, got PAPER='smith_2017x': did you mean 'smith_2017'\?"
    ):
        papers.load("smith_2017x")


def test_every_paper_names_its_scales_and_their_cost():
    found = papers.available()
    assert list(found) == papers.names()
    for name, paper in found.items():
        assert paper.name == name
        assert set(paper.scales) == {"demo", "cpu", "paper"}
        for scale in paper.scales.values():
            assert scale.description
            assert re.search(r"minute|hour|second|\d s,", scale.cost), (name, scale.cost)
    assert isinstance(policies.schedules(policies.Lengths.divided_by(1), 0.1, 0.2)["fixed"], lrx.Schedule)
