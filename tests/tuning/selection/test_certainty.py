"""How sure a choice is, from a table of runs that were not made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tuning.selection.observations import STEPS, add, beginning, run_of

from lrx.tuning.selection.certainty import assess, next_run
from lrx.tuning.selection.policy import Observed
from lrx.tuning.selection.portfolio import ADAMW, SGD


def two_rounds(*, crossing: float, rival: float = 0.3, mode: str = "min") -> Observed:
    """The chosen run reaches 0.2 after 1,000 steps; a third run moves by `crossing` against it from 250 to 1,000."""
    first = 1.0 if mode == "min" else 0.0

    def value(loss: float) -> float:
        return loss if mode == "min" else 1.0 - loss

    observed = add(
        beginning(mode=mode, first=first),
        run_of(ADAMW, 0.01, 250, value(0.5)),
        run_of("dog", 1.0, 250, value(0.6)),
        run_of(SGD, 0.1, 250, value(0.55)),
    )
    gap = (0.6 - 0.5) / 0.5
    return add(
        observed,
        run_of(ADAMW, 0.01, STEPS, value(0.2)),
        run_of("dog", 1.0, STEPS, value(0.2 + 0.8 * (gap + crossing))),
        run_of("cocob", 1.0, STEPS, value(rival)),
    )


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_drift_is_that_of_the_runs_of_two_lengths(mode: str) -> None:
    found = assess(two_rounds(crossing=0.3, mode=mode), ADAMW, 0.01)
    assert found.drift == pytest.approx(0.3 / math.sqrt(math.log(4)))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_probability_is_that_of_the_stated_normal_distribution(mode: str) -> None:
    found = assess(two_rounds(crossing=0.3, mode=mode), ADAMW, 0.01)
    drift = 0.3 / math.sqrt(math.log(4))
    rivals = {each.method: each for each in found.rivals}
    draws = np.random.default_rng(0).normal(size=400_000)
    for name, gap, length in ((SGD, 0.05 / 0.5, 250), ("cocob", 0.1 / 0.8, STEPS)):
        drawn = gap + drift * math.sqrt(math.log(STEPS / length) + 1) * draws
        assert rivals[name].length == length
        assert rivals[name].probability == pytest.approx((drawn < -0.01).mean(), abs=3e-3)
    none = math.prod(1 - each.probability for each in found.rivals)
    assert found.probability == pytest.approx(1 - none)
    assert [each.probability for each in found.rivals] == sorted((e.probability for e in found.rivals), reverse=True)


def test_a_table_whose_order_does_not_change_is_surer() -> None:
    sure, unsure = (assess(two_rounds(crossing=crossing), ADAMW, 0.01).probability for crossing in (0.01, 0.5))
    assert sure < 0.01 < 0.2 < unsure


def test_a_run_that_diverged_is_no_rival_and_one_that_blew_up_does_not_make_the_rest_unsure() -> None:
    observed = two_rounds(crossing=0.01)
    before = assess(observed, ADAMW, 0.01)
    observed = add(observed, run_of("momo", 1.0, 250, 0.9), run_of("momo", 1.0, STEPS, math.inf))
    observed = add(
        observed, run_of("prodigy, linear decay", 1.0, 250, 1e6), run_of("prodigy, linear decay", 1.0, STEPS, 1e3)
    )
    after = assess(observed, ADAMW, 0.01)
    assert after.drift == pytest.approx(before.drift)
    assert after.probability == pytest.approx(before.probability, abs=1e-6)
    assert next(each.probability for each in after.rivals if each.method == "momo") == 0.0


def test_without_two_lengths_nothing_is_known() -> None:
    observed = add(beginning(), run_of(ADAMW, 0.01, STEPS, 0.2), run_of("dog", 1.0, STEPS, 0.3))
    assert math.isnan(assess(observed, ADAMW, 0.01).probability)
    alone = add(beginning(), run_of(ADAMW, 0.01, STEPS, 0.2))
    assert assess(alone, ADAMW, 0.01).probability == 0.0


def test_one_more_run_goes_to_the_likely_rival_or_to_the_choice() -> None:
    observed = two_rounds(crossing=0.5)
    certainty = assess(observed, ADAMW, 0.01)
    assert certainty.rivals[0].method == SGD
    assert next_run(observed, certainty, ADAMW, 0.01).run == (SGD, 0.1, 0, STEPS)
    sure = two_rounds(crossing=0.001)
    found = next_run(sure, assess(sure, ADAMW, 0.01), ADAMW, 0.01)
    assert found.run == (ADAMW, 0.01, 1, STEPS), "with another seed, since it was made to the end"
    two = add(sure, run_of(ADAMW, 0.01, STEPS, 0.2, seed=1))
    assert next_run(two, assess(two, ADAMW, 0.01), ADAMW, 0.01).run == (ADAMW, 0.01, 2, STEPS)
    short = add(beginning(), run_of(ADAMW, 0.01, 250, 0.5), run_of(ADAMW, 0.01, 500, 0.2))
    assert next_run(short, assess(short, ADAMW, 0.01), ADAMW, 0.01).run == (ADAMW, 0.01, 0, STEPS)
