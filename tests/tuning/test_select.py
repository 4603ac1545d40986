"""Choosing the method: runs of a race are runs that `train` makes, the budget holds, and the better ones go on."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.line import NOISY_LINE as LINE
from tuning.line import line

import lrx
from lrx.training import train
from lrx.training.following import BestBy
from lrx.tuning import PORTFOLIO, Method, Selection, select
from lrx.tuning.selection import bracket as bracket_module
from lrx.tuning.selection.bracket import Bracket
from lrx.tuning.selection.portfolio import stable_decay
from lrx.tuning.selection.rates import trial_rates
from lrx.tuning.selection.result import RunRecord
from lrx.tuning.selection.state import Candidate
from lrx.workloads import make_workload


def late_decay(rate: Any, num_steps: Any) -> Any:
    """Constant, and from half of the run on linear to 0: what comes before does not depend on the length."""
    half = num_steps // 2
    return lrx.sgd(lrx.warmup_stable_decay(rate, warmup_steps=0, stable_steps=half, decay_steps=num_steps - half))


SMALL = {
    "late decay": Method(late_decay, default=0.1, range_test_of=lrx.sgd, trials=3, reusable_fraction=0.5),
    "linear decay": Method(
        lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)),
        reusable_fraction=0.0,
        variant_of="late decay",
    ),
    "constant": Method(lambda rate, num_steps: lrx.adam(rate), default=0.03),
    "restarted": Method(
        lambda rate, num_steps: lrx.adam(lrx.linear_decay(rate, num_steps)), 0.1, reusable_fraction=0.0
    ),
    "slow": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e-6),
    "blown up": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e9),
}


def chosen(**arguments: Any) -> Selection:
    return select(LINE, **({"num_steps": 400, "portfolio": SMALL, "metric": "error"} | arguments))


@pytest.fixture(scope="module")
def race() -> Any:
    return Bracket(LINE, 400, SMALL, BestBy("error", "min"))


@pytest.fixture(scope="module")
def found(race: Any) -> Selection:
    return race.run(3.0, 0)


def test_every_run_of_the_race_is_the_run_of_that_length_that_train_makes(found: Selection) -> None:
    for each in found.records:
        tx = SMALL[each.method].make(each.rate, each.steps)
        try:
            error = train(LINE, tx, steps=each.steps).evaluations["error"][-1]
        except lrx.DivergenceError:
            error = math.inf
        np.testing.assert_allclose(each.value, error, rtol=2e-3, atol=1e-6, err_msg=str(each))


def test_what_is_carried_is_not_paid_twice(found: Selection) -> None:
    carried: dict[tuple[str, float], int] = {}  # steps of the state that is there
    assert len({each.method for each in found.records if each.round > 1}) > 1
    for each in found.records:
        assert each.steps == next(other.steps for other in found.records if other.round == each.round)
        run, part = (
            (each.method, each.rate),
            0.0 if each.method == "linear decay" else SMALL[each.method].reusable_fraction,
        )
        assert each.steps_paid == each.steps - carried.get(run, 0)
        carried[run] = int(part * each.steps)


def test_the_budget_holds_and_the_cost_is_what_was_made(found: Selection) -> None:
    probed = sum(len(test.rates) for test in found.range_tests.values())
    assert list(found.range_tests) == ["late decay"]
    assert found.cost == pytest.approx((probed + sum(each.steps_paid for each in found.records)) / 400)
    assert 2.8 < found.cost <= found.budget == 3.0


@pytest.mark.parametrize("budget", [1.0, 1.5, 30.0])
def test_any_budget_holds_and_no_run_is_longer_than_the_full_one(race: Any, budget: float) -> None:
    result = race.run(budget, 0)
    assert result.cost <= budget
    lengths = sorted({each.steps for each in result.records})
    assert [each.steps for each in result.records] == sorted(each.steps for each in result.records)
    if budget == 30:
        assert max(lengths) == 400
    else:
        assert len(lengths) == 4
        assert all(b >= length * lengths[0] for b, length in zip(lengths, (1, 4, 14), strict=False))


def ranked_in(evidence: list[Any], number: int) -> dict[str, list[Any]]:
    """Method to its runs of a round, the best methods and the best runs first."""
    ended = [each for each in evidence if each.round == number and math.isfinite(each.value)]
    methods: dict[str, list[Any]] = {}
    for each in sorted(ended, key=lambda each: each.loss):
        methods.setdefault(each.method, []).append(each)
    return methods


def in_round(evidence: list[Any], number: int) -> set[tuple[str, float]]:
    return {(each.method, each.rate) for each in evidence if each.round == number}


@pytest.mark.parametrize("favoured", ["late decay", "restarted", "blown up", None])
def test_the_favoured_method_stays_with_all_its_rates_and_the_best_others_go_on(
    found: Selection, favoured: str | None
) -> None:
    result = found
    if favoured:
        result = chosen(portfolio=SMALL | {favoured: dataclasses.replace(SMALL[favoured], always_advance=True)})
    evidence = result.records
    first = ["late decay"] * 3 + ["constant", "restarted", "slow", "blown up"]
    assert [each.method for each in evidence if each.round == 1] == first
    stays = next(iter(ranked_in(evidence, 1))) if favoured in ("blown up", None) else favoured
    for number, others in ((2, 3), (3, 2), (4, 1)):
        before = ranked_in(evidence, number - 1)
        rates = {(stays, each.rate) for each in before.pop(stays)}
        best = {(runs[0].method, runs[0].rate) for runs in list(before.values())[:others]}
        entered = {run for run in in_round(evidence, number) if run[0] != "linear decay"}
        if number < 4:
            assert entered == rates | best
        else:
            assert {run for run in entered if run[0] != stays} == best
            assert len(entered) == len(best) + min(2, len(rates))
    last = [each for each in evidence if each.round == 4 and math.isfinite(each.value)]
    assert result.method == min(last, key=lambda each: each.value).method
    assert result.rate == min((each for each in last if each.method == result.method), key=lambda e: e.loss).rate


def test_the_last_round_has_a_new_rate_of_the_favoured_method() -> None:
    favoured = dataclasses.replace(SMALL["late decay"], always_advance=True, default=0.01)
    evidence = chosen(portfolio={"late decay": favoured, "slow": SMALL["slow"]}).records
    ladder = [each.rate for each in evidence if each.round == 1 and each.method == "late decay"]
    best = ranked_in(evidence, 3)["late decay"][0]
    assert best.rate == ladder[0], "the example is one where the lowest rate leads"
    last = [each for each in evidence if each.round == 4 and each.method == "late decay"]
    assert [each.rate for each in last] == [best.rate, pytest.approx(best.rate * STEP**0.5)]
    assert last[1].steps_paid == last[1].steps > last[0].steps_paid


STEP = math.sqrt(12)  # from one of three rates to the next


def nearer(race: Any, losses: list[float | None]) -> list[float]:
    """The rates of the last round, for losses at 1, STEP and STEP^2; None where there is no run."""
    runs = [
        Candidate("late decay", STEP**place, value=0.5, loss=loss)
        for place in (1, 0, 2)
        if (loss := losses[place]) is not None
    ]
    return [each.rate for each in race.rules.refine(race.rules.rank(runs))]


@pytest.mark.parametrize("losses", [[0.5, 0.2, 0.3], [0.3, 0.2, 0.5], [0.21, 0.2, 90.0], [-3.0, -4.0, -3.5]])
def test_the_new_rate_is_where_a_parabola_through_the_losses_is_lowest(race: Any, losses: list[float]) -> None:
    values = np.log(losses) if losses[0] > 0 else losses
    a, b, _ = np.polyfit([0.0, 1.0, 2.0], values, 2)
    np.testing.assert_allclose(nearer(race, losses), [STEP, STEP ** (-b / (2 * a))], rtol=1e-5)


@pytest.mark.parametrize(
    ("losses", "rates"),
    [
        ([3.0, 2.0, 1.0], [STEP**2, STEP**2.5]),  # half a step above the last rate
        ([1.0, 2.0, 3.0], [1.0, STEP**0.5]),  # and above the first
        ([2.0, 1.0, 2.1], [STEP, 1.0]),  # where a rate is already: the second best
        ([1.0, 1.0, 1.0], [STEP, 1.0]),
        ([None, 1.0, 2.0], [STEP, STEP**1.5]),  # what diverged has no loss
        ([3.0, 1.0, None], [STEP, STEP**1.5]),
        ([3.0, 1.0, math.inf], [STEP, STEP**1.5]),  # neither has what only the evaluation could not tell
        ([math.nan, 1.0, 3.0], [STEP, STEP**1.5]),
        ([None, None, 1.0], [STEP**2, STEP**2.5]),
    ],
)
def test_without_a_vertex_between_the_rates(race: Any, losses: list[float | None], rates: list[float]) -> None:
    np.testing.assert_allclose(nearer(race, losses), rates, rtol=1e-6)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_metric_tells_the_method_and_the_loss_its_rate(mode: str) -> None:
    race = Bracket(LINE, 400, SMALL, BestBy("error", mode))
    sign = 1.0 if mode == "min" else -1.0
    rows = [("a", 0.1, 2.0, 0.1), ("b", 0.2, 1.0, 0.5), ("b", 0.3, 1.5, 0.3)]
    runs = [RunRecord(method, rate, 4, 100, sign * value, loss, 100, True) for method, rate, value, loss in rows]
    assert race.rules.choose(runs, "error") is runs[2]
    diverged = RunRecord("c", 1.0, 4, 100, sign * math.inf, math.inf, 100, False)
    assert race.rules.choose([diverged, *runs[:2]], "error") is runs[1]


def test_the_winner_is_of_those_that_came_furthest_and_did_not_diverge(race: Any) -> None:
    good = RunRecord("a", 0.1, 1, 100, 0.1, 0.1, 100, True)
    further = RunRecord("b", 0.1, 2, 400, 0.2, 0.2, 400, True)
    assert race.rules.choose([good, further], "error") is further
    gone = RunRecord("b", 0.1, 3, 800, math.inf, math.inf, 400, False)
    assert race.rules.choose([good, further, gone], "error") is good, "what diverged later is not chosen"
    early = RunRecord("c", 0.1, 1, 400, 0.15, 0.15, 400, True)
    assert race.rules.choose([early, further], "error") is early, "a run of full length that an early round made counts"


def test_what_has_learnt_nothing_is_not_chosen_whatever_the_metric_says(race: Any) -> None:
    lucky = RunRecord("a", 1e-9, 4, 100, 0.1, 0.1, 100, False)
    trained = RunRecord("b", 0.1, 4, 100, 0.2, 0.2, 100, True)
    assert race.rules.choose([lucky, trained], "error") is trained
    with pytest.raises(ValueError, match=r"^nothing was learnt: after 100 steps no run has a training loss below"):
        race.rules.choose([lucky], "error")


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_race_in_which_nothing_is_learnt_says_so(noise: float) -> None:
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


def test_a_flat_range_test_of_a_race_goes_on_within_the_budget() -> None:
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
    asked = Bracket(LINE, 400, few, None)
    with pytest.raises(ValueError, match="budget must be at least") as refused:
        asked.run(0.01, 0)
    least = float(str(refused.value).split("at least ")[1].split()[0])
    with pytest.raises(ValueError, match="nothing was learnt"):  # there is room for the first ladder alone
        select(workload, num_steps=400, portfolio=few, budget=least)


def test_where_all_diverge_late_the_race_ends_with_what_did_not() -> None:
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


def test_a_run_of_full_length_is_not_made_again(race: Any) -> None:
    evidence = race.run(30.0, 0).records
    before: dict[tuple[str, float], RunRecord] = {}
    again = 0
    for each in evidence:
        run = each.method, each.rate
        if run in before and before[run].steps == each.steps:
            assert each.steps_paid == 0
            assert (each.value, each.loss) == (before[run].value, before[run].loss)
            again += 1
        before[run] = each
    assert again > 1, "the budget is enough for two rounds of full length"


def test_a_run_that_its_controller_stops_has_not_diverged() -> None:
    stops = Method(
        lambda rate, num_steps: lrx.sgd(lrx.constant(rate) * lrx.early_stopping(patience=5, accumulation_size=1)),
        default=0.1,
    )
    result = chosen(portfolio={"slow": SMALL["slow"], "stops": stops})
    assert result.method == "stops"
    history = train(LINE, result.tx, steps=400)
    assert len(history.loss) < 400
    final = next(each for each in reversed(result.records) if each.method == "stops")
    assert final.value == pytest.approx(float(history.evaluations["error"][-1]), rel=1e-3)


def test_a_metric_that_is_nan_is_said_to_be_so() -> None:
    workload = line(lambda slope: {"error": jnp.nan * slope})
    with pytest.raises(ValueError, match=r"the error of every run is not finite within .* look at what the workload's"):
        select(workload, num_steps=100, portfolio={"constant": SMALL["constant"]}, metric="error")


def test_the_budget_holds_where_the_favoured_diverges_and_the_leader_has_many_rates() -> None:
    portfolio = {
        "favoured": Method(lambda rate, num_steps: lrx.sgd(rate), default=1e30, always_advance=True),
        "mine": dataclasses.replace(SMALL["late decay"], trials=20),
    }
    result = chosen(portfolio=portfolio)
    assert result.cost <= 3
    lengths = [next(each.steps for each in result.records if each.round == number) for number in (1, 2, 3, 4)]
    assert all(longer >= ratio * lengths[0] for longer, ratio in zip(lengths, (1, 4, 14, 14), strict=True))


def test_of_a_method_that_has_one_rate_that_one_stays(race: Any) -> None:
    only = Candidate("constant", 0.03, value=1.0, loss=1.0)
    assert race.rules.refine([only]) == [only]
    assert race.rules.refine([]) == []


def test_a_schedule_that_follows_enters_last_at_the_rate_of_the_leader() -> None:
    portfolio = {name: SMALL[name] for name in ("late decay", "linear decay")}
    result = chosen(portfolio=portfolio)
    followers = [each for each in result.records if each.method == "linear decay"]
    (follower,) = followers
    third = [each for each in result.records if each.round == 3]
    assert follower.round == 4
    assert follower.rate == min(third, key=lambda each: each.value).rate
    assert follower.steps_paid == follower.steps


def test_a_schedule_whose_leader_does_not_lead_stays_out() -> None:
    best = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, reusable_fraction=0.0)
    portfolio = {"slow": SMALL["slow"], "linear decay": SMALL["linear decay"], "best": best}
    portfolio["linear decay"] = Method(portfolio["linear decay"].make, reusable_fraction=0.0, variant_of="slow")
    result = chosen(portfolio=portfolio)
    assert {each.method for each in result.records} == {"slow", "best"}


def test_what_is_chosen_is_ready_to_train(found: Selection) -> None:
    history = train(LINE, found.tx, steps=found.num_steps, seed=5)
    assert history.evaluations["error"][-1] < 0.05


def test_a_line_that_a_user_adds_can_win() -> None:
    solved = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, reusable_fraction=0.0)
    poor = {"slow": SMALL["slow"], "mine": solved}
    assert chosen(portfolio=poor, budget=1.0).method == "mine"


def test_the_mode_turns_the_race_round() -> None:
    slow = dataclasses.replace(SMALL["slow"], default=1e-2)
    assert chosen(metric=("error", "max"), portfolio={"constant": SMALL["constant"], "slow": slow}).method == "slow"


def test_without_an_evaluation_the_training_loss_decides() -> None:
    result = select(line(), num_steps=300, portfolio={name: SMALL[name] for name in ("constant", "slow")})
    assert result.method == "constant"
    assert result.metric == "training loss"
    final = result.records[-1]
    history = train(line(), SMALL[final.method].make(final.rate, final.steps), steps=final.steps)
    tail = history.loss[-math.ceil(0.1 * final.steps) - 2 :]
    assert tail.min() <= final.value <= tail.max()


@pytest.mark.parametrize(("name", "compared"), [("loss", "loss"), ("error", "training loss")])
def test_by_default_the_loss_of_the_evaluation_decides_where_it_has_one(name: str, compared: str) -> None:
    few = {"constant": SMALL["constant"]}
    workload = line(lambda slope: {name: jnp.abs(slope - 3.0)})
    result = select(workload, num_steps=300, portfolio=few)
    assert result.metric == compared
    final = result.records[-1]
    history = train(workload, few["constant"].make(final.rate, final.steps), steps=final.steps)
    error = history.evaluations[name][-1]
    assert (final.value == pytest.approx(float(error), rel=1e-2, abs=1e-5)) == (name == "loss")


def test_ten_epochs_are_the_default() -> None:
    assert select(line(), portfolio={"constant": SMALL["constant"]}, budget=10.0).num_steps == 50


def test_the_table_and_the_picture_show_every_run(found: Selection) -> None:
    text = str(found)
    assert text.count("\n") == len({(each.method, each.rate) for each in found.records}) + 4
    assert "diverged" in text
    assert repr(found).startswith(f"Selection({found.method}")
    assert len(repr(found)) < 150
    assert max(map(len, text.splitlines())) <= 80
    assert f"chosen: {found.method} at {found.rate:.3g}, by error (min)" in text
    assert f"cost: {found.cost:.2f} full runs of 3 allowed, 0.10 of them for 1 range test" in text
    (axes,) = found.plot().axes
    finite = {(each.method, each.rate) for each in found.records if math.isfinite(each.value)}
    assert sum(len(drawn.get_xdata()) > 0 for drawn in axes.get_lines()) == len(finite)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 4])
def test_an_interrupted_race_loses_a_round_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, race: Any, found: Selection, rounds: int
) -> None:
    lengths = sorted({each.steps for each in found.records})
    made: list[int] = []
    original = Bracket._advance

    def advance(self: Any, run: Any, horizon: int, seed: int, *how: Any) -> int:
        if rounds < 4 and horizon == lengths[rounds] and not made.count(-1):
            made.append(-1)
            raise KeyboardInterrupt
        made.append(horizon)
        return original(self, run, horizon, seed, *how)

    monkeypatch.setattr(Bracket, "_advance", advance)
    if rounds < 4:
        with pytest.raises(KeyboardInterrupt):
            race.run(3.0, 0, tmp_path / "race")
    else:
        race.run(3.0, 0, tmp_path / "race")
    before = len(made)
    monkeypatch.setattr(bracket_module, "range_test", None)  # what is kept is not made again
    resumed = race.run(3.0, 0, tmp_path / "race")
    assert made[before:] == [each.steps for each in found.records if each.round > rounds]
    assert resumed.records == found.records
    for name, test in resumed.range_tests.items():
        assert test.suggestions == found.range_tests[name].suggestions
        assert test.diverged_at == found.range_tests[name].diverged_at
        np.testing.assert_array_equal(test.losses_by_seed, found.range_tests[name].losses_by_seed)
    assert (resumed.method, resumed.rate, resumed.cost) == (found.method, found.rate, found.cost)


def test_a_finished_race_that_is_read_again_says_what_it_was_compared_by(tmp_path: Path) -> None:
    workload = line(lambda slope: {"loss": jnp.abs(slope - 3.0)})
    few = {"constant": SMALL["constant"]}
    first, again = (select(workload, num_steps=60, portfolio=few, checkpoint=tmp_path / "race") for _ in range(2))
    assert first.metric == again.metric == "loss"
    assert first.records == again.records


def test_a_metric_that_no_evaluation_gives_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bracket_module, "range_test", None)
    with pytest.raises(ValueError, match=r"metric must be one of \['error'\]"):
        chosen(metric="accuracy")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"max_rate": 1e-6}, "max_rate must be above 1e-06, where range tests begin, got max_rate=1e-06"),
        ({"reusable_fraction": 2.0}, r"reusable_fraction must be in \[0, 1\]"),
        ({"reusable_fraction": -0.5}, r"reusable_fraction must be in \[0, 1\]"),
        ({"trials": 0}, "trials must be a whole number of rates >= 1"),
        ({"scale": -1.0}, "scale must be a finite number > 0"),
        ({"default": 0.0}, "default must be a finite number > 0"),
        ({"max_rate": math.inf}, "max_rate must be a finite number > 0"),
    ],
)
def test_a_field_of_a_method_that_is_out_of_range_is_refused(field: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Method(late_decay, **field)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make": 0.1}, "make must be a function of a rate and a number of steps, got make=0.1"),
        (
            {"make": late_decay, "range_test_of": "sgd"},
            "range_test_of must be a function of a rate, or None, got range_test_of='sgd'",
        ),
    ],
)
def test_a_field_of_a_method_that_is_no_function_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Method(**arguments)


def test_a_method_that_has_no_state_for_the_parameters_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bracket_module, "range_test", None)
    matrices = optax.GradientTransformation(lambda params: params.shape[1], lambda u, s, p: (u, s))
    portfolio = SMALL | {"matrices only": Method(lambda rate, num_steps: matrices)}
    with pytest.raises(TypeError, match=r"portfolio\['matrices only'\].make gives a transformation whose init fails"):
        chosen(portfolio=portfolio)


def test_the_numbers_of_numpy_are_kept_as_those_of_python(tmp_path: Path) -> None:
    method = dataclasses.replace(SMALL["constant"], default=np.float32(0.03), trials=np.int64(1))
    arguments = {"budget": np.float32(3), "seed": np.int64(0), "num_steps": np.int64(40), "portfolio": {"a": method}}
    first, again = (chosen(checkpoint=tmp_path / "race", **arguments) for _ in range(2))
    assert first.records == again.records


def test_the_budget_that_is_said_to_be_enough_is(race: Any) -> None:
    for steps in (100, 237):
        asked = Bracket(LINE, steps, SMALL, BestBy("error", "min"))
        with pytest.raises(ValueError, match="budget must be at least") as refused:
            asked.run(0.01, 0)
        least = float(str(refused.value).split("at least ")[1].split()[0])
        assert asked.run(least, 0).cost <= least
        with pytest.raises(ValueError, match="budget must be at least"):
            asked.run(least - 0.02, 0)
    with pytest.raises(
        ValueError, match=r"or num_steps=\d+, the shortest run that this budget is enough for"
    ) as refused:
        chosen(num_steps=20)
    shortest = int(str(refused.value).split("num_steps=")[1].split(",")[0])
    with pytest.raises(ValueError, match="budget must be at least"):
        chosen(num_steps=shortest - 1)
    assert chosen(num_steps=shortest).cost <= 3


def test_another_race_in_the_folder_is_refused(tmp_path: Path) -> None:
    few = {"constant": SMALL["constant"]}
    chosen(portfolio=few, checkpoint=tmp_path / "race", num_steps=40)
    with pytest.raises(ValueError, match="holds another run"):
        chosen(portfolio=few, checkpoint=tmp_path / "race", num_steps=40, seed=1)
    both = {name: SMALL[name] for name in ("constant", "slow")}
    chosen(portfolio=both, checkpoint=tmp_path / "both", num_steps=60)
    with pytest.raises(ValueError, match=r"methods is \['constant', 'slow'\] there and \['slow', 'constant'\] here"):
        chosen(portfolio=dict(reversed(both.items())), checkpoint=tmp_path / "both", num_steps=60)
    batches = dataclasses.replace(LINE.batches, arrays=jax.tree.map(lambda x: 2 * x, LINE.batches.arrays))
    with pytest.raises(ValueError, match=r"data\[0\] is \S+, checksum \w{8} there and \S+, checksum \w{8} here"):
        select(
            dataclasses.replace(LINE, batches=batches),
            portfolio=few,
            checkpoint=tmp_path / "race",
            num_steps=40,
            metric="error",
        )
    other = {"constant": Method(lambda rate, num_steps: lrx.sgd(rate, momentum=0.9), default=0.03)}
    with pytest.raises(ValueError, match=r"portfolio\['constant'\].state\S* is \S+ there and absent here"):
        chosen(portfolio=other, checkpoint=tmp_path / "race", num_steps=40)
    other = {"constant": dataclasses.replace(SMALL["constant"], reusable_fraction=0.5)}
    with pytest.raises(ValueError, match=r"portfolio\['constant'\].reusable_fraction is 1.0 there and 0.5 here"):
        chosen(portfolio=other, checkpoint=tmp_path / "race", num_steps=40)
    one = dataclasses.replace(LINE, init=lambda key: (jnp.ones(1), ()), evaluate=lambda slope, state: {"error": 1.0})
    with pytest.raises(ValueError, match=r"params is float32\[\] there and float32\[1\] here"):
        select(one, portfolio=few, checkpoint=tmp_path / "race", num_steps=40, metric="error")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"portfolio": {}}, ValueError, "portfolio must have at least one method that is not a variant of another"),
        ({"portfolio": {"sgd": lrx.sgd}}, TypeError, "portfolio must be a dict from names to lrx.tuning.Method"),
        (
            {"portfolio": {"constant": SMALL["constant"], "a": Method(late_decay, variant_of="b")}},
            ValueError,
            r"portfolio\['a'\] must be a variant of a method of the portfolio that is not a variant itself, got "
            "variant_of='b'",
        ),
        (
            {"portfolio": SMALL | {"linear decay": dataclasses.replace(SMALL["linear decay"], always_advance=True)}},
            ValueError,
            r"portfolio\['linear decay'\] must not have always_advance, since it is a variant of 'late decay'",
        ),
        (
            {"portfolio": SMALL | {"third": dataclasses.replace(SMALL["linear decay"], variant_of="linear decay")}},
            ValueError,
            r"portfolio\['third'\] must be a variant of a method of the portfolio that is not a variant itself",
        ),
        (
            {
                "portfolio": {
                    "a": Method(lambda rate, num_steps: optax.sgd(optax.cosine_decay_schedule(rate, num_steps)))
                }
            },
            TypeError,
            r"portfolio\['a'\].make must take tracers for the rate and the number of steps",
        ),
        (
            {"portfolio": {"a": Method(lambda rate: lrx.sgd(rate))}},
            TypeError,
            r"portfolio\['a'\].make must be a function of a rate and a number of steps, but make\(1.0, 100\) failed",
        ),
        (
            {"budget": 0.15},
            ValueError,
            "budget must be at least 0.89 full runs of 400 steps for 1 range test\\(s\\) and a first round of 7 "
            "runs, got budget=0.15",
        ),
        ({"budget": -1}, ValueError, "budget must be"),
        ({"seed": 0.5}, ValueError, "seed must be a whole number from 0 to 2\\^31 - 1, got seed=0.5"),
        ({"num_steps": 0}, ValueError, "num_steps must be"),
        ({"metric": ("error", "best")}, ValueError, 'the mode of metric must be "min" or "max"'),
        ({"metric": "f1"}, ValueError, "metric must say whether the least or the greatest is best, got metric='f1'"),
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


@pytest.mark.parametrize("name", [name for name, method in PORTFOLIO.items() if method.reusable_fraction == 1])
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
    assert {PORTFOLIO[name].reusable_fraction for name in PORTFOLIO if "stable" in name} == {0.7}


def test_rates_to_try_go_from_the_range_test_and_the_default() -> None:
    test = lrx.range_test(LINE, lrx.sgd, max_rate=100.0)
    middle = math.sqrt(test.suggestions["minimum"] * 0.05)
    np.testing.assert_allclose(trial_rates(test, 3, 0.05), middle * np.array([1.5, math.sqrt(27), 18]))
    np.testing.assert_allclose(trial_rates(test, 1, 0.05), [middle * math.sqrt(27)])
    found = test.suggestions["minimum"]
    np.testing.assert_allclose(trial_rates(test, 2, 1e9 * found), 10 * found * np.array([1.5, 18]))
    np.testing.assert_allclose(trial_rates(test, 2, 1e-9 * found), 0.1 * found * np.array([1.5, 18]))


def test_a_method_takes_its_rates_from_its_probe_times_its_scale() -> None:
    few = {
        "first": Method(late_decay, default=0.1, range_test_of=lrx.sgd, trials=2),
        "second": Method(late_decay, default=7.0, range_test_of=lrx.sgd, trials=2, scale=3.0),
    }
    rates = [each.rate for each in chosen(portfolio=few).records if each.round == 1]
    np.testing.assert_allclose(rates[2:], 3 * np.array(rates[:2]), rtol=1e-6)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_loss_tells_who_goes_on_and_the_metric_who_wins(mode: str) -> None:
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


@pytest.mark.slow
def test_the_whole_portfolio_races_on_digits() -> None:
    workload = make_workload("digits", "mlp", batch_size=32, widths=(32,))
    result = select(workload, num_steps=400, metric="accuracy")
    assert {each.method for each in result.records if each.round == 1} == {
        name for name, method in PORTFOLIO.items() if method.variant_of is None
    }
    assert result.cost <= 3
    history = train(workload, result.tx, steps=400, seed=1)
    assert history.evaluations["accuracy"][-1] > 0.94
