"""Choosing the method: runs of a race are runs that `train` makes, the budget holds, and the better ones go on."""

from __future__ import annotations

import importlib
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuning.test_sweep import LINE, line

import lrx
from lrx.training import train
from lrx.tuning import PORTFOLIO, Method, Selection, select
from lrx.tuning.portfolio import stable_decay
from lrx.workloads import make_workload

module = importlib.import_module("lrx.tuning.select")


def late_decay(rate: Any, num_steps: Any) -> Any:
    """Constant, and from half of the run on linear to 0: what comes before does not depend on the length."""
    half = num_steps // 2
    return lrx.sgd(lrx.warmup_stable_decay(rate, warmup_steps=0, stable_steps=half, decay_steps=num_steps - half))


SMALL = {
    "late decay": Method(late_decay, default=0.1, probe=lrx.sgd, trials=3, carried=0.5),
    "linear decay": Method(
        lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), carried=0.0, follows="late decay"
    ),
    "constant": Method(lambda rate, num_steps: lrx.adam(rate), default=0.03),
    "restarted": Method(lambda rate, num_steps: lrx.adam(lrx.linear_decay(rate, num_steps)), 0.1, carried=0.0),
    "slow": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e-6),
    "blown up": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e9),
}


def chosen(**arguments: Any) -> Selection:
    return select(LINE, **({"num_steps": 400, "portfolio": SMALL, "metric": "error"} | arguments))


@pytest.fixture(scope="module")
def race() -> Any:
    return module.Race(LINE, 400, SMALL, "error", "min")


@pytest.fixture(scope="module")
def found(race: Any) -> Selection:
    return race.run(3.0, 0)


def test_every_run_of_the_race_is_the_run_of_that_length_that_train_makes(found: Selection) -> None:
    for each in found.evidence:
        tx = SMALL[each.method].make(each.rate, each.steps)
        try:
            error = train(LINE, tx, steps=each.steps).evaluations["error"][-1]
        except lrx.DivergenceError:
            error = math.inf
        np.testing.assert_allclose(each.value, error, rtol=2e-3, atol=1e-6, err_msg=str(each))


def test_what_is_carried_is_not_paid_twice(found: Selection) -> None:
    first, second, third = sorted({each.steps for each in found.evidence})
    carried = {1: 0, 2: first, 3: second}
    assert len({each.method for each in found.evidence if each.round > 1}) > 1
    for each in found.evidence:
        assert each.steps == {1: first, 2: second, 3: third}[each.round]
        part = 0.0 if each.method == "linear decay" else SMALL[each.method].carried
        assert each.steps_paid == each.steps - int(part * carried[each.round])


def test_the_budget_holds_and_the_cost_is_what_was_made(found: Selection) -> None:
    probed = sum(len(test.rates) for test in found.range_tests.values())
    assert list(found.range_tests) == ["late decay"]
    assert found.cost == pytest.approx((probed + sum(each.steps_paid for each in found.evidence)) / 400)
    assert 2.8 < found.cost <= found.budget == 3.0


@pytest.mark.parametrize("budget", [0.8, 1.5, 30.0])
def test_any_budget_holds_and_no_run_is_longer_than_the_full_one(race: Any, budget: float) -> None:
    result = race.run(budget, 0)
    assert result.cost <= budget
    lengths = sorted({each.steps for each in result.evidence})
    assert [each.steps for each in result.evidence] == sorted(each.steps for each in result.evidence)
    assert max(lengths) == 400 if budget == 30 else all(b >= 3 * a for a, b in itertools.pairwise(lengths))


def test_the_better_ones_go_on(found: Selection) -> None:
    rounds = [[each for each in found.evidence if each.round == number] for number in (1, 2, 3)]
    assert [each.method for each in rounds[0]] == ["late decay"] * 3 + ["constant", "restarted", "slow", "blown up"]
    assert len(rounds[1]) == 2
    for earlier, later in itertools.pairwise(rounds):
        ranked = sorted(earlier, key=lambda each: each.value)
        kept: list[tuple[str, float]] = []
        for each in ranked:  # two rates of a method at most
            if sum(method == each.method for method, _ in kept) < 2:
                kept.append((each.method, each.rate))
        entered = [(each.method, each.rate) for each in later if each.method != "linear decay"]
        assert entered == kept[: len(entered)]
    best = min(rounds[2], key=lambda each: each.value)
    assert (found.method, found.rate) == (best.method, best.rate)


def test_a_schedule_that_follows_enters_last_at_the_rate_of_the_leader() -> None:
    portfolio = {name: SMALL[name] for name in ("late decay", "linear decay")}
    result = chosen(portfolio=portfolio)
    followers = [each for each in result.evidence if each.method == "linear decay"]
    (follower,) = followers
    second = [each for each in result.evidence if each.round == 2]
    assert follower.round == 3
    assert follower.rate == min(second, key=lambda each: each.value).rate
    assert follower.steps_paid == follower.steps


def test_a_schedule_whose_leader_does_not_lead_stays_out() -> None:
    best = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, carried=0.0)
    portfolio = {"slow": SMALL["slow"], "linear decay": SMALL["linear decay"], "best": best}
    portfolio["linear decay"] = Method(portfolio["linear decay"].make, carried=0.0, follows="slow")
    result = chosen(portfolio=portfolio)
    assert {each.method for each in result.evidence} == {"slow", "best"}


def test_what_is_chosen_is_ready_to_train(found: Selection) -> None:
    history = train(LINE, found.tx, steps=found.num_steps, seed=5)
    assert history.evaluations["error"][-1] < 0.05


def test_a_line_that_a_user_adds_can_win() -> None:
    solved = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, carried=0.0)
    poor = {"slow": SMALL["slow"], "mine": solved}
    assert chosen(portfolio=poor, budget=1.0).method == "mine"


def test_the_mode_turns_the_race_round() -> None:
    assert chosen(mode="max", portfolio={name: SMALL[name] for name in ("constant", "slow")}).method == "slow"


def test_without_an_evaluation_the_training_loss_decides() -> None:
    result = select(line(), num_steps=300, portfolio={name: SMALL[name] for name in ("constant", "slow")})
    assert result.method == "constant"
    assert result.metric == "training loss"
    final = result.evidence[-1]
    history = train(line(), SMALL[final.method].make(final.rate, final.steps), steps=final.steps)
    tail = history.loss[-math.ceil(0.1 * final.steps) - 2 :]
    assert tail.min() <= final.value <= tail.max()


@pytest.mark.parametrize(("name", "compared"), [("loss", "loss"), ("error", "training loss")])
def test_by_default_the_loss_of_the_evaluation_decides_where_it_has_one(name: str, compared: str) -> None:
    few = {"constant": SMALL["constant"]}
    workload = line(lambda slope: {name: jnp.abs(slope - 3.0)})
    result = select(workload, num_steps=300, portfolio=few)
    assert result.metric == compared
    final = result.evidence[-1]
    history = train(workload, few["constant"].make(final.rate, final.steps), steps=final.steps)
    error = history.evaluations[name][-1]
    assert (final.value == pytest.approx(float(error), rel=1e-2, abs=1e-5)) == (name == "loss")


def test_batches_without_epochs_need_a_number_of_steps() -> None:
    x = jnp.ones((7, 4))
    with pytest.raises(ValueError, match="num_steps must be given with batches that"):
        select(lambda w, batch, key: jnp.mean(w * batch), lambda key: jnp.ones([]), batches=[x[0], x[1]])


def test_plain_functions_are_taken_and_ten_epochs_are_the_default() -> None:
    x = jnp.linspace(-1.0, 1.0, 64)
    result = select(
        lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
        lambda key: jax.random.normal(key),
        batches=lrx.Batches((x, 3.0 * x), batch_size=8),
        portfolio={"constant": SMALL["constant"]},
    )
    assert result.num_steps == 80


def test_the_table_and_the_picture_show_every_run(found: Selection) -> None:
    text = str(found)
    assert text.count("\n") == len({(each.method, each.rate) for each in found.evidence}) + 2
    assert "diverged" in text
    assert f"chosen: {found.method} at {found.rate:.3g}, by error (min)" in text
    assert f"cost: {found.cost:.2f} full runs of 3 allowed, 0.10 of them for 1 range test" in text
    (axes,) = found.plot().axes
    finite = {(each.method, each.rate) for each in found.evidence if math.isfinite(each.value)}
    assert sum(len(drawn.get_xdata()) > 0 for drawn in axes.get_lines()) == len(finite)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_an_interrupted_race_loses_a_round_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, race: Any, found: Selection, rounds: int
) -> None:
    lengths = sorted({each.steps for each in found.evidence})
    made: list[int] = []
    original = module.Race._advance

    def advance(self: Any, run: Any, horizon: int, seed: int) -> int:
        if rounds < 3 and horizon == lengths[rounds] and not made.count(-1):
            made.append(-1)
            raise KeyboardInterrupt
        made.append(horizon)
        return original(self, run, horizon, seed)

    monkeypatch.setattr(module.Race, "_advance", advance)
    if rounds < 3:
        with pytest.raises(KeyboardInterrupt):
            race.run(3.0, 0, tmp_path / "race")
    else:
        race.run(3.0, 0, tmp_path / "race")
    before = len(made)
    resumed = race.run(3.0, 0, tmp_path / "race")
    assert made[before:] == [each.steps for each in found.evidence if each.round > rounds]
    assert resumed.evidence == found.evidence
    assert (resumed.method, resumed.rate, resumed.cost) == (found.method, found.rate, found.cost)


def test_another_race_in_the_folder_is_refused(tmp_path: Path) -> None:
    few = {"constant": SMALL["constant"]}
    chosen(portfolio=few, checkpoint=tmp_path / "race", num_steps=40)
    with pytest.raises(ValueError, match="holds another run"):
        chosen(portfolio=few, checkpoint=tmp_path / "race", num_steps=40, seed=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"portfolio": {}}, ValueError, "portfolio must have at least one method that follows no other"),
        ({"portfolio": {"sgd": lrx.sgd}}, TypeError, "portfolio must be a dict from names to lrx.tuning.Method"),
        (
            {"portfolio": {"constant": SMALL["constant"], "a": Method(late_decay, follows="b")}},
            ValueError,
            r"portfolio\['a'\] must follow a method of the portfolio, got follows='b'",
        ),
        (
            {"portfolio": {"a": Method(lambda rate: lrx.sgd(rate))}},
            TypeError,
            r"portfolio\['a'\].make must be a function of a rate and a number of steps, but make\(1.0, 100\) failed",
        ),
        (
            {"budget": 0.15},
            ValueError,
            "budget must be at least 0.6 full runs of 400 steps for 1 range test\\(s\\) and a race of 7 runs, got "
            "budget=0.15",
        ),
        ({"budget": -1}, ValueError, "budget must be"),
        ({"seed": 0.5}, ValueError, "seed must be a whole number from 0 to 2\\^31 - 1, got seed=0.5"),
        ({"num_steps": 0}, ValueError, "num_steps must be"),
        ({"mode": "best"}, ValueError, "mode must be one of 'min', 'max'"),
        ({"metric": "accuracy"}, ValueError, r"metric must be one of \['error'\], got metric='accuracy'"),
        ({"portfolio": {"blown up": SMALL["blown up"]}}, ValueError, "every run diverged within"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        chosen(**arguments)


def test_a_metric_without_an_evaluation_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="metric needs a workload that evaluates"):
        select(line(), num_steps=50, metric="error")


@pytest.mark.parametrize("name", [name for name, method in PORTFOLIO.items() if method.carried == 1])
def test_what_the_portfolio_calls_carried_does_not_depend_on_the_length(name: str) -> None:
    short, long = (train(LINE, PORTFOLIO[name].make(PORTFOLIO[name].default, steps), steps=30) for steps in (40, 400))
    np.testing.assert_array_equal(short.loss, long.loss)


def test_warmup_stable_decay_is_stable_up_to_what_is_carried() -> None:
    steps = np.arange(1000)
    rates = np.asarray(stable_decay(0.1, 1000)(steps))
    assert np.all(rates[50:701] == np.float32(0.1))
    assert rates[0] == 0
    assert rates[701] < np.float32(0.1)
    assert stable_decay(0.1, 1000)(1000) == 0
    assert {PORTFOLIO[name].carried for name in PORTFOLIO if "stable" in name} == {0.7}


def test_rates_to_try_go_from_the_range_test() -> None:
    test = lrx.range_test(LINE, tx=lrx.sgd, max_rate=100.0)
    low = 3 * test.suggestions["minimum"]
    high = max(10 * low, test.suggestions["divergence"])
    np.testing.assert_allclose(module.trial_rates(test, 3, 0.1), [low, math.sqrt(low * high), high])
    np.testing.assert_allclose(module.trial_rates(test, 1, 0.1), [math.sqrt(low * high)])


@pytest.mark.slow
def test_the_whole_portfolio_races_on_digits() -> None:
    workload = make_workload("digits", "mlp", batch_size=32, widths=(32,))
    result = select(workload, num_steps=400, metric="accuracy", mode="max")
    assert {each.method for each in result.evidence if each.round == 1} == {
        name for name, method in PORTFOLIO.items() if method.follows is None
    }
    assert result.cost <= 3
    history = train(workload, result.tx, steps=400, seed=1)
    assert history.evaluations["accuracy"][-1] > 0.94
