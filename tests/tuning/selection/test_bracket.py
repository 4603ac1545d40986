"""Runs of the bracket are runs that `train` makes, the budget holds, and the better ones advance."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuning.line import NOISY_LINE, line
from tuning.selection.methods import SMALL, chosen, late_decay

import lrx
from lrx.training import train
from lrx.training.following import BestBy
from lrx.tuning import Method, RunRecord, Selection, select
from lrx.tuning.selection.policy import RangeProbe
from lrx.tuning.selection.selector import Selector


def require_run_of_train(record: RunRecord) -> None:
    """Check that a record is what `train` reaches in as many steps."""
    tx = SMALL[record.method].make(record.rate, record.steps)
    try:
        error = train(NOISY_LINE, tx, steps=record.steps).evaluations["error"][-1]
    except lrx.DivergenceError:
        error = math.inf
    np.testing.assert_allclose(record.value, error, rtol=2e-3, atol=1e-6, err_msg=str(record))


@pytest.mark.slow
def test_the_first_and_the_last_run_of_each_method_are_those_of_their_length_that_train_makes(found: Selection) -> None:
    last = {record.method: record for record in found.records}
    first = {record.method: record for record in reversed(found.records)}
    middle = next(record for record in found.records if record.round == 3 and record.method == "late decay")
    assert 0 < middle.steps_paid < middle.steps, "a part of it is reused"
    assert not np.isfinite(last["blown up"].value)
    for record in {id(record): record for record in (*first.values(), middle, *last.values())}.values():
        require_run_of_train(record)


PINNED = (  # length of the runs of each round, and their methods
    (7, ["late decay", "late decay", "late decay", "constant", "restarted", "slow", "blown up"]),
    (30, ["late decay", "late decay", "late decay", "restarted", "constant", "slow"]),
    (114, ["late decay", "late decay", "late decay", "restarted", "constant"]),
    (129, ["late decay", "late decay", "restarted", "linear decay"]),
)
PINNED_RATES = [0.47434166073799133, 1.6431676149368286, 5.692099571228027]


def test_the_choice_stays_what_it_is(found: Selection) -> None:
    """Bit for bit on one machine; the tolerance is for another one's rounding."""
    assert (found.method, found.rate) == ("restarted", np.float32(0.1))
    assert found.cost == 3.0
    for number, (length, methods) in enumerate(PINNED, 1):
        records = [record for record in found.records if record.round == number]
        assert [record.method for record in records] == methods
        assert {record.steps for record in records} == {length}
    rates = [record.rate for record in found.records if record.method == "late decay" and record.round == 1]
    np.testing.assert_allclose(rates, PINNED_RATES, rtol=1e-4)


def test_what_is_reused_is_not_paid_twice(found: Selection) -> None:
    reusable: dict[tuple[str, float], int] = {}  # steps of the state that is there
    assert len({each.method for each in found.records if each.round > 1}) > 1
    for each in found.records:
        assert each.steps == next(other.steps for other in found.records if other.round == each.round)
        run, part = (
            (each.method, each.rate),
            0.0 if each.method == "linear decay" else SMALL[each.method].reusable_fraction,
        )
        assert each.steps_paid == each.steps - reusable.get(run, 0)
        reusable[run] = int(part * each.steps)


def test_the_budget_holds_and_the_cost_is_what_was_made(found: Selection) -> None:
    probed = sum(len(test.rates) for test in found.range_tests.values())
    assert list(found.range_tests) == ["late decay"]
    assert found.cost == pytest.approx((probed + sum(each.steps_paid for each in found.records)) / 400)
    assert 2.8 < found.cost <= found.budget == 3.0


@pytest.mark.parametrize("budget", [1.0, 1.5, 30.0])
def test_any_budget_holds_and_no_run_is_longer_than_the_full_one(bracket: Selector, budget: float) -> None:
    result = bracket.run(budget, 0)
    assert result.cost <= budget
    lengths = sorted({each.steps for each in result.records})
    assert [each.steps for each in result.records] == sorted(each.steps for each in result.records)
    if budget == 30:
        assert max(lengths) == 400
    else:
        assert len(lengths) == 4
        assert all(b >= length * lengths[0] for b, length in zip(lengths, (1, 4, 14), strict=False))


def ranked_in(records: list[Any], number: int) -> dict[str, list[Any]]:
    """Method to its runs of a round, the best methods and the best runs first."""
    ended = [each for each in records if each.round == number and math.isfinite(each.value)]
    methods: dict[str, list[Any]] = {}
    for each in sorted(ended, key=lambda each: each.loss):
        methods.setdefault(each.method, []).append(each)
    return methods


def in_round(records: list[Any], number: int) -> set[tuple[str, float]]:
    return {(each.method, each.rate) for each in records if each.round == number}


@pytest.mark.slow
@pytest.mark.parametrize("always", ["late decay", "restarted", "blown up", None])
def test_a_method_that_always_advances_keeps_all_its_rates_and_the_best_others_advance(
    found: Selection, always: str | None
) -> None:
    result = found
    if always:
        result = chosen(portfolio=SMALL | {always: dataclasses.replace(SMALL[always], always_advance=True)})
    records = result.records
    first = ["late decay"] * 3 + ["constant", "restarted", "slow", "blown up"]
    assert [each.method for each in records if each.round == 1] == first
    stays = next(iter(ranked_in(records, 1))) if always in ("blown up", None) else always
    for number, others in ((2, 3), (3, 2), (4, 1)):
        before = ranked_in(records, number - 1)
        rates = {(stays, each.rate) for each in before.pop(stays)}
        best = {(runs[0].method, runs[0].rate) for runs in list(before.values())[:others]}
        entered = {run for run in in_round(records, number) if run[0] != "linear decay"}
        if number < 4:
            assert entered == rates | best
        else:
            assert {run for run in entered if run[0] != stays} == best
            assert len(entered) == len(best) + min(2, len(rates))
    last = [each for each in records if each.round == 4 and math.isfinite(each.value)]
    assert result.method == min(last, key=lambda each: each.value).method
    assert result.rate == min((each for each in last if each.method == result.method), key=lambda e: e.loss).rate


def test_the_last_round_has_a_new_rate_of_the_method_that_always_advances() -> None:
    always = dataclasses.replace(SMALL["late decay"], always_advance=True, default=0.01)
    records = chosen(portfolio={"late decay": always, "slow": SMALL["slow"]}).records
    ladder = [each.rate for each in records if each.round == 1 and each.method == "late decay"]
    best = ranked_in(records, 3)["late decay"][0]
    assert best.rate == ladder[0], "the example is one where the lowest rate leads"
    last = [each for each in records if each.round == 4 and each.method == "late decay"]
    assert [each.rate for each in last] == [best.rate, pytest.approx(best.rate * 12**0.25)]
    assert last[1].steps_paid == last[1].steps > last[0].steps_paid


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_selection_in_which_nothing_is_learnt_says_so(noise: float) -> None:
    """A product of factors near zero is flat for SGD at any rate that does not blow up once it fits."""
    batches = 1 + noise * np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)

    def product(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.mean((jnp.prod(params) * batch - 3.0 * batch) ** 2)

    def init(key: jax.Array) -> jax.Array:
        return jnp.full(6, 0.05)

    few = {"a": SMALL["late decay"], "b": dataclasses.replace(SMALL["late decay"], scale=0.5)}
    workload = lrx.Workload.from_functions(product, init, lrx.Batches.stack(batches))
    with pytest.raises(ValueError, match="nothing was learnt: after"):
        select(workload, num_steps=300, portfolio=few)
    adam = dataclasses.replace(SMALL["constant"], default=0.03)
    result = select(workload, num_steps=300, portfolio=few | {"adam": adam})
    assert result.method == "adam"
    assert {each.learnt for each in result.records if each.round == 4} == {True, False}


@pytest.mark.parametrize("max_rate", [10.0, pytest.param(1e5, marks=pytest.mark.slow)])
def test_a_range_test_in_the_program_of_the_runs_is_that_of_range_test(bracket: Selector, max_rate: float) -> None:
    found = bracket.runner.test_range(RangeProbe("late decay", 0, 40, 1e-4, max_rate))
    expected = lrx.range_test(
        *(NOISY_LINE, lrx.sgd),
        min_rate=1e-4,
        max_rate=max_rate,
        num_steps=40,
        seeds=[0],
        extend=False,
        progress=False,
    )
    assert (found.diverged_at is None) == (max_rate == 10)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=2e-3, atol=1e-6)
    assert found.diverged_at == expected.diverged_at
    for rule, rate in expected.suggestions.items():
        assert found.suggestions[rule] == (None if rate is None else pytest.approx(rate, rel=1e-2)), rule


def test_a_range_test_that_the_program_has_no_room_for_is_refused(bracket: Selector) -> None:
    with pytest.raises(ValueError, match="a range test must have at most 400 steps, with those that it is continued"):
        bracket.runner.test_range(RangeProbe("late decay", 0, 300, extend=True))


def test_a_flat_range_test_is_continued_within_the_budget() -> None:
    def small(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        return 1e-7 * jnp.sum((params - 300.0) ** 2) + 0.0 * jnp.sum(batch)

    few = {"a": dataclasses.replace(SMALL["late decay"], max_rate=1.0)}
    batches = lrx.Batches.stack(np.zeros((16, 1), np.float32))
    workload = lrx.Workload.from_functions(small, lambda key: jnp.zeros(2), batches)
    result = select(workload, num_steps=400, portfolio=few)
    test = result.range_tests["a"]
    assert 40 < len(test.rates) <= 80
    assert test.rates[-1] > 100
    assert result.cost <= 3
    assert result.records[-1].learnt
    asked = Selector(NOISY_LINE, 400, few, None)
    with pytest.raises(ValueError, match="budget must be at least") as refused:
        asked.run(0.01, 0)
    least = float(str(refused.value).split("at least ")[1].split()[0])
    with pytest.raises(ValueError, match="nothing was learnt"):  # there is room for the first ladder alone
        select(workload, num_steps=400, portfolio=few, budget=least)


@pytest.mark.slow
def test_on_a_plateau_a_second_range_test_finds_the_rates_and_what_is_chosen_has_left_it() -> None:
    """Least squares in products of two small factors: nothing happens in a first range test that begins at 1e-6."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4)).astype(np.float32)
    y = x @ np.array([1.0, -1.0, 1.0, 0.0], np.float32) + 0.3 * rng.normal(size=256).astype(np.float32)

    def loss_fn(factors: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((batch[0] @ jnp.prod(factors, axis=0) - batch[1]) ** 2)

    def init(key: jax.Array) -> jax.Array:
        return 1e-4 * jax.random.normal(key, (2, 4))

    workload = lrx.Workload.from_functions(loss_fn, init, lrx.Batches((x, y), batch_size=16))
    plain = Method(lambda rate, num_steps: lrx.sgd(rate), default=0.05, range_test_of=lrx.sgd, trials=3)
    result = select(workload, num_steps=400, portfolio={"plain": plain})
    assert result.range_tests["plain"].rates[0] == np.float32(5e-4)
    assert len(result.range_tests["plain"].rates) == 80
    assert result.cost <= 3
    history = train(workload, result.tx, steps=400, seed=3)
    assert history.loss[-20:].mean() < 0.2 * history.loss[:20].mean()
    short = select(workload, num_steps=400, portfolio={"plain": plain}, budget=1.0)
    assert short.cost <= 1


@pytest.mark.slow
def test_if_all_diverge_late_a_run_that_did_not_is_chosen() -> None:
    def bursts(rate: Any, num_steps: Any) -> Any:
        late = lrx.tabulated(jnp.where(jnp.arange(400) < 60, rate, 1e9))
        return lrx.sgd(late)

    portfolio = {
        "late burst": Method(bursts, default=0.1, always_advance=True),
        "slow": dataclasses.replace(SMALL["slow"], default=1e-2),
        "slower": dataclasses.replace(SMALL["slow"], default=1e-3),
        "slowest": dataclasses.replace(SMALL["slow"], default=1e-4),
        "adam": SMALL["constant"],
    }
    late = {name: Method(bursts, default=10.0**-place) for place, name in enumerate(("a", "b", "c"), 1)}
    assert chosen(portfolio=portfolio).method != "late burst"
    result = chosen(portfolio=late | {"slow": portfolio["slow"], "slower": portfolio["slower"]}, budget=1.5)
    assert result.method == "slow"
    assert result.cost <= 1.5


def test_a_run_of_full_length_is_not_made_again(bracket: Any) -> None:
    records = bracket.run(30.0, 0).records
    runs = [(each.method, each.rate, each.steps) for each in records]
    assert len(set(runs)) == len(runs)
    assert len({each.method for each in records if each.steps == 400}) == 3, "the budget is enough for several rounds"


@pytest.mark.slow
def test_a_run_that_its_controller_stops_has_not_diverged() -> None:
    stops = Method(
        lambda rate, num_steps: lrx.sgd(lrx.constant(rate) * lrx.early_stopping(patience=5, accumulation_size=1)),
        default=0.1,
    )
    result = chosen(portfolio={"slow": SMALL["slow"], "stops": stops})
    assert result.method == "stops"
    history = train(NOISY_LINE, result.tx, steps=400)
    assert len(history.loss) < 400
    final = next(each for each in reversed(result.records) if each.method == "stops")
    assert final.value == pytest.approx(float(history.evaluations["error"][-1]), rel=1e-3)


def test_the_budget_holds_if_what_always_advances_diverges_and_the_leader_has_many_rates() -> None:
    portfolio = {
        "always": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e30, always_advance=True),
        "mine": dataclasses.replace(SMALL["late decay"], trials=20),
    }
    result = chosen(portfolio=portfolio)
    assert result.cost <= 3
    lengths = [next(each.steps for each in result.records if each.round == number) for number in (1, 2, 3, 4)]
    assert all(longer >= ratio * lengths[0] for longer, ratio in zip(lengths, (1, 4, 14, 14), strict=True))


def test_a_schedule_variant_enters_the_last_round_at_the_rate_of_the_leader() -> None:
    portfolio = {name: SMALL[name] for name in ("late decay", "linear decay")}
    result = chosen(portfolio=portfolio)
    followers = [each for each in result.records if each.method == "linear decay"]
    (follower,) = followers
    third = [each for each in result.records if each.round == 3]
    assert follower.round == 4
    assert follower.rate == min(third, key=lambda each: each.value).rate
    assert follower.steps_paid == follower.steps


def test_a_variant_of_a_method_that_does_not_lead_stays_out() -> None:
    best = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, reusable_fraction=0.0)
    portfolio = {"slow": SMALL["slow"], "linear decay": SMALL["linear decay"], "best": best}
    portfolio["linear decay"] = Method(portfolio["linear decay"].make, reusable_fraction=0.0, variant_of="slow")
    result = chosen(portfolio=portfolio)
    assert {each.method for each in result.records} == {"slow", "best"}


@pytest.mark.slow
def test_the_least_budget_is_enough_for_all_rounds() -> None:
    bracket = Selector(NOISY_LINE, 237, SMALL, BestBy("error", "min"))
    with pytest.raises(ValueError, match="budget must be at least") as refused:
        bracket.run(0.01, 0)
    least = float(str(refused.value).split("at least ")[1].split()[0])
    found = bracket.run(least, 0)
    assert found.cost <= least
    assert {record.round for record in found.records} == {1, 2, 3, 4}


def test_a_method_takes_its_rates_from_its_range_test_times_its_scale() -> None:
    few = {
        "first": Method(late_decay, default=0.1, range_test_of=lrx.sgd, trials=2),
        "second": Method(late_decay, default=7.0, range_test_of=lrx.sgd, trials=2, scale=3.0),
    }
    rates = [each.rate for each in chosen(portfolio=few).records if each.round == 1]
    np.testing.assert_allclose(rates[2:], 3 * np.array(rates[:2]), rtol=1e-6)


@pytest.mark.parametrize("mode", ["min", pytest.param("max", marks=pytest.mark.slow)])
def test_the_loss_decides_promotion_and_the_metric_the_choice(mode: str) -> None:
    sign = 1.0 if mode == "min" else -1.0
    # The metric is against what trains: by it alone the slow ones would be in the last round.
    workload = line(lambda slope: {"loss": jnp.abs(slope - 3.0), "score": -sign * jnp.abs(slope - 3.0)})
    rates = {"a": 0.03, "b": 0.02, "c": 1e-6, "d": 1e-7}
    few = {name: Method(lambda rate, num_steps: lrx.adam(rate), default=rate) for name, rate in rates.items()}
    result = select(workload, num_steps=300, portfolio=few, metric=("score", mode))
    last = [each for each in result.records if each.round == 4]
    assert {each.method for each in last} == {"a", "b"}
    assert result.method == min(last, key=lambda each: sign * each.value).method
    assert result.method == max(last, key=lambda each: each.loss).method
