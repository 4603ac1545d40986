"""`select`: what it compares by, what it shows, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax.numpy as jnp
import optax
import pytest
from tuning.line import NOISY_LINE, line
from tuning.selection.methods import SMALL, chosen, late_decay

import lrx
from lrx.training import train
from lrx.tuning import PORTFOLIO, Method, Selection, select
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.selection.runner import MethodRunner
from lrx.tuning.selection.selector import Selector
from lrx.workloads import make_workload


def test_what_is_chosen_is_ready_to_train(found: Selection) -> None:
    history = train(NOISY_LINE, found.tx, steps=found.num_steps, seed=5)
    assert history.evaluations["error"][-1] < 0.05


def test_a_method_that_a_user_adds_can_be_chosen() -> None:
    solved = Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), 1.5, reusable_fraction=0.0)
    poor = {"slow": SMALL["slow"], "mine": solved}
    assert chosen(portfolio=poor, budget=1.0).method == "mine"


def test_a_metric_can_be_maximized() -> None:
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
def test_by_default_the_loss_of_the_evaluation_decides_if_it_has_one(name: str, compared: str) -> None:
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
    runs = {(each.method, each.rate) for each in found.records}
    assert text.splitlines()[len(runs) + 1].startswith("chosen: "), "a line for each run below the head"
    assert "diverged" in text
    assert repr(found).startswith(f"Selection({found.method}")
    assert len(repr(found)) < 150
    assert max(map(len, text.splitlines())) <= 88
    assert f"chosen: {found.method} at {found.rate:.3g}, by error (min)" in " ".join(text.split())
    assert found.code in text
    assert found.evaluations == 1 + sum(math.isfinite(each.loss) for each in found.records)
    assert found.next_run is not None
    assert found.certainty is not None
    assert 0 <= found.certainty.probability <= 1
    assert found.run_seconds > 0
    assert f"cost: {found.cost:.2f} full runs of 3 allowed, 0.10 of them for range tests" in " ".join(text.split())
    (axes,) = found.plot().axes
    finite = {(each.method, each.rate) for each in found.records if math.isfinite(each.value)}
    drawn = [each for each in axes.get_lines() if each.get_marker() == "o" and len(each.get_xdata())]
    assert len(drawn) == len(finite)
    assert sum("(chosen)" in str(each.get_label()) for each in drawn) == 1


def test_what_it_will_cost_is_shown_before_it_begins(bracket: Selector, capsys: pytest.CaptureFixture[str]) -> None:
    bracket.run(1.0, 0, progress=True)
    first = capsys.readouterr().out.splitlines()[0]
    assert re.match(r"select, line: at most 1.00 full runs of .* s, .* s, and evaluations of .* s$", first), first


def test_runs_that_end_at_one_step_share_the_losses_of_the_initial_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    losses = InitialLoss.losses

    def count(self: InitialLoss, seed: int, start: int, stop: int) -> Any:
        asked.append((seed, start, stop))
        return losses(self, seed, start, stop)

    monkeypatch.setattr(InitialLoss, "losses", count)
    found = chosen(budget=2)
    assert len(found.records) > len(asked) == len(set(asked)) > 1


def test_a_metric_that_is_nan_is_said_to_be_so() -> None:
    workload = line(lambda slope: {"error": jnp.nan * slope})
    with pytest.raises(ValueError, match=r"the error of every run is not finite within .* look at what the workload's"):
        select(workload, num_steps=100, portfolio={"constant": SMALL["constant"]}, metric="error")


def test_a_metric_that_no_evaluation_gives_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MethodRunner, "test_range", None)
    with pytest.raises(ValueError, match=r"metric must be one of \['error'\]"):
        chosen(metric="accuracy")


def test_a_method_that_has_no_state_for_the_parameters_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MethodRunner, "test_range", None)
    matrices = optax.GradientTransformation(lambda params: params.shape[1], lambda u, s, p: (u, s))
    portfolio = SMALL | {"matrices only": Method(lambda rate, num_steps: matrices)}
    with pytest.raises(TypeError, match=r"portfolio\['matrices only'\].make gives a transformation whose init fails"):
        chosen(portfolio=portfolio)


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
            {"budget": 1.0, "num_steps": 300},
            ValueError,
            "budget must be at least 1.1[0-9] full runs of 300 steps for 1 range test\\(s\\) and a first round of 7 "
            "runs, got budget=1: ",
        ),
        (
            {"budget": 0.01},
            ValueError,
            "budget must be at least 0.15 full runs of 400 steps, for a range test and a run",
        ),
        ({"budget": -1}, ValueError, "budget must be"),
        (
            {"policy": "race"},
            TypeError,
            "policy must have a method decide, as lrx.tuning.selection.policy.Policy",
        ),
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


@pytest.mark.slow
def test_a_method_of_the_whole_portfolio_is_chosen_on_digits() -> None:
    workload = make_workload("digits", "mlp", batch_size=32, widths=(32,))
    result = select(workload, num_steps=400, metric="accuracy")
    assert {each.method for each in result.records} <= set(PORTFOLIO)
    assert len({each.method for each in result.records}) > 1
    assert result.cost <= 3
    history = train(workload, result.tx, steps=400, seed=1)
    assert history.evaluations["accuracy"][-1] > 0.94
