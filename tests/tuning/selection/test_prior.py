"""A budget below one run: the first method of a fixed order that learns."""

from __future__ import annotations

from typing import Any

import pytest
from tuning.line import NOISY_LINE
from tuning.selection.observations import STEPS, add, add_range_test, beginning, range_test_of, run_of

import lrx
from lrx.tuning import PORTFOLIO
from lrx.tuning.selection.policy import Ask, Choice, Observed
from lrx.tuning.selection.portfolio import ADAMW, SGD
from lrx.tuning.selection.prior import ORDER, Prior


def asked(observed: Observed) -> Ask:
    decision = Prior().decide(observed)
    assert isinstance(decision, Ask)
    return decision


def test_a_beginning_of_a_full_run_shows_whether_the_first_method_learns() -> None:
    observed = beginning(0.4)
    (training,) = asked(observed).runs
    assert training.run == (ORDER[0], 1.0, 0, STEPS)
    assert (training.start, training.stop, training.evaluate_at) == (0, 200, (200,))
    learns = add(observed, run_of(ORDER[0], 1.0, 200, 0.5))
    choice = Prior().decide(learns)
    assert isinstance(choice, Choice)
    assert choice[:2] == (ORDER[0], 1.0)
    assert "a budget below 1 compares no methods" in choice.reasons[0]


def test_the_next_method_takes_its_rate_from_a_range_test() -> None:
    observed = add(beginning(0.6), run_of(ORDER[0], 1.0, 300, 1.0, learnt=False))
    (probe,) = asked(observed).range_tests
    assert (probe.method, probe.num_steps) == (SGD, 100)
    (training,) = asked(add_range_test(observed, SGD, range_test_of(0.05))).runs
    assert training.run.method == "sgd, linear decay"
    assert training.run.rate == pytest.approx(0.05 * (1.5 * 18) ** 0.5)
    assert training.stop == (300 - 30) // 2


def test_only_the_methods_of_the_order_and_their_leaders_are_compiled() -> None:
    assert list(Prior().needed(PORTFOLIO)) == [SGD, "sgd, linear decay", ADAMW, "adamw, linear decay", ORDER[0]]
    others = {name: PORTFOLIO[name] for name in ("dog", "cocob")}
    assert Prior().needed(others) == others


def test_a_budget_that_is_too_small_or_shows_no_learning_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget must be at least 0.12 full runs of 1,000 steps"):
        Prior().decide(beginning(0.1))
    observed = beginning(0.12)
    for name in PORTFOLIO:
        observed = add(observed, run_of(name, 1.0, 10, 1.0, learnt=False))
    with pytest.raises(ValueError, match="nothing was learnt within the budget: the training losses of sgd, warmup"):
        Prior().decide(observed)


def test_select_with_less_than_one_run_says_how_it_chose() -> None:
    few: Any = {name: PORTFOLIO[name] for name in ("cocob", "prodigy, linear decay")}
    found = lrx.select(NOISY_LINE, num_steps=200, budget=0.5, portfolio=few, progress=False)
    assert found.method == "prodigy, linear decay"
    assert found.cost <= 0.5
    assert "a budget below 1 compares no methods" in str(found)
    assert [each.steps for each in found.records] == [50]
