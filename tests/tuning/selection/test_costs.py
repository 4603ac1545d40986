"""What steps and evaluations of a selection cost, as measured before its first run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
import pytest
from tuning.line import NOISY_LINE
from tuning.selection.methods import SMALL

import lrx
from lrx.training.following import BestBy
from lrx.tuning.selection.costs import Costs
from lrx.tuning.selection.policy import Ask, Choice, Observed, Run, Training
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.runner import MethodRunner

ERROR = BestBy("error", "min")
SEEN: list[Observed] = []  # by `Watching`


@dataclasses.dataclass(frozen=True)
class Watching:
    """Train the first method for 20 steps, choose it, and keep what was observed."""

    counts_time: ClassVar[bool] = True

    def decide(self, observed: Observed) -> Ask | Choice:
        SEEN.append(observed)
        name, method = next(iter(observed.portfolio.items()))
        run = Run(name, method.default, observed.seed, observed.num_steps)
        return Choice(run.method, run.rate) if observed.rounds else Ask(runs=(Training(run, 20, evaluate_at=(20,)),))


def observed_by_select(workload: lrx.Workload, methods: dict[str, Method], folder: Path) -> list[Observed]:
    SEEN.clear()
    found = lrx.select(workload, num_steps=40, portfolio=methods, metric="error", policy=Watching(), checkpoint=folder)
    assert found.evaluations == SEEN[-1].evaluations
    return list(SEEN)


def test_evaluations_of_less_than_a_second_are_free() -> None:
    runner = MethodRunner(NOISY_LINE, 40, {"constant": SMALL["constant"]}, ERROR)
    runner.initial_scores(0)
    assert Costs(runner, 0, 4000).evaluation_steps() == {}


def test_an_evaluation_for_which_batch_statistics_are_recomputed_costs_200_forward_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loss_fn(weight: jax.Array, mean: jax.Array, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return jnp.mean((weight * x - 3.0) ** 2), 0.9 * mean + 0.1 * jnp.mean(weight * x)

    workload = lrx.Workload(
        "mean",
        lambda key: (jnp.zeros([]), jnp.zeros([])),
        loss_fn,
        lrx.Batches(jnp.ones(32), batch_size=8),
        lambda weight, mean: {"loss": (weight - 3.0) ** 2 + mean},
    )
    methods = {
        "plain": Method(lambda rate, num_steps: lrx.sgd(rate), default=0.1),
        "averaged": Method(lambda rate, num_steps: lrx.schedule_free_sgd(rate), default=0.1),
    }
    runner = MethodRunner(workload, 40, methods, None)
    runner.initial_scores(0)
    monkeypatch.setattr("lrx.tuning.selection.costs.FREE_SECONDS", 0.0)
    steps = Costs(runner, 0, 4000).evaluation_steps()
    assert steps["averaged"] - steps["plain"] == pytest.approx(200 / 3)


def test_a_policy_knows_how_long_an_evaluation_takes_and_a_resumed_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*state: Any) -> dict[str, jax.Array]:
        time.sleep(0.05)
        return NOISY_LINE.evaluate(*state)

    monkeypatch.setattr("lrx.tuning.selection.costs.FREE_SECONDS", 0.04)
    slow, few = dataclasses.replace(NOISY_LINE, evaluate=evaluate), {"constant": SMALL["constant"]}
    first, *_, last = observed_by_select(slow, few, tmp_path / "kept")
    assert first.evaluation_steps == {}
    assert last.evaluation_steps["constant"] > 1  # a step takes less than 0.05 s
    assert last.evaluations == 3
    (resumed,) = observed_by_select(slow, few, tmp_path / "kept")[1:]
    assert resumed.evaluation_steps == last.evaluation_steps


def laborious_sgd(rate: Any, num_steps: Any) -> optax.GradientTransformation:
    """Descend as SGD does, after many products of matrices that have no effect."""
    del num_steps

    def work(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        square = jnp.full((200, 200), 1.0 / 200)
        added = jax.lax.fori_loop(0, 20, lambda _, x: x @ square, square + updates.mean())
        return updates + 0.0 * added.sum(), state

    return optax.chain(optax.GradientTransformation(lambda params: optax.EmptyState(), work), lrx.sgd(rate))


def test_a_policy_knows_which_steps_take_long_and_a_resumed_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {
        "plain": Method(lambda rate, num_steps: lrx.sgd(rate), default=0.1),
        "averaged": Method(lambda rate, num_steps: lrx.schedule_free_sgd(rate), default=0.1),
        "laborious": Method(laborious_sgd, default=0.1),
    }
    *_, last = observed_by_select(NOISY_LINE, methods, tmp_path / "free")
    assert last.step_costs == {}  # a full run takes less than a second
    monkeypatch.setattr("lrx.tuning.selection.costs.FREE_RUN_SECONDS", 0.0)
    first, *_, last = observed_by_select(NOISY_LINE, methods, tmp_path / "kept")
    assert first.step_costs == {}
    assert last.step_costs["laborious"] >= 2
    (resumed,) = observed_by_select(NOISY_LINE, methods, tmp_path / "kept")[1:]
    assert resumed.step_costs == last.step_costs


SECONDS = {"plain": 1.0, "fast": 0.7, "slower": 1.2, "slow": 3.0, "outlier": 1.0}


def costs_of(monkeypatch: pytest.MonkeyPatch, step: float, num_steps: int) -> tuple[dict[str, float], list[int]]:
    """Return the costs of steps if calls take `SECONDS`, in steps, and a fixed time; and the steps that were made."""
    runner = MethodRunner(NOISY_LINE, num_steps, {name: SMALL["constant"] for name in SECONDS}, ERROR)
    runner.groups = {name: place for place, name in enumerate(SECONDS)}
    made: list[int] = []

    def call(costs: Costs, place: int, steps: int) -> tuple[float, int]:
        del costs
        made.append(steps)
        late = 3.0 if (place == 4 and len(made) < 11) or len(made) == 3 < steps else 1.0  # calls that are held up
        return 0.05 + steps * step * list(SECONDS.values())[place] * late, steps

    monkeypatch.setattr(Costs, "_call", call)
    costs = Costs(runner, 0, 3 * num_steps)
    assert costs.step_seconds == pytest.approx(step, rel=0.06)
    return costs.step_costs(), made


@pytest.mark.parametrize(
    ("step", "num_steps", "timed"), [(0.001, 20_000, 64), (0.001, 4000, 40), (0.02, 4000, 5), (1.0, 40, 1)]
)
def test_steps_are_compared_without_what_a_call_takes(
    monkeypatch: pytest.MonkeyPatch, step: float, num_steps: int, timed: int
) -> None:
    costs, made = costs_of(monkeypatch, step, num_steps)
    assert costs == {"slow": 3.0}
    assert max(made[5:]) == timed
    assert len(made) <= 5 + 5 + 3 * 3


def test_where_a_full_run_is_short_no_step_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    costs, made = costs_of(monkeypatch, 0.001, 900)
    assert costs == {}
    assert sum(made) <= 2 + 2 * 5 + 33


def test_for_a_policy_that_does_not_count_time_no_step_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Indifferent(Watching):
        counts_time = False

    places: list[int] = []

    def call(costs: Costs, place: int, steps: int) -> tuple[float, int]:
        del costs
        places.append(place)
        return float(steps), steps

    monkeypatch.setattr(Costs, "_call", call)
    few = {name: SMALL[name] for name in ("constant", "late decay")}
    for policy, compared in ((Watching(), {0, 1}), (Indifferent(), {0})):
        places.clear()
        lrx.select(NOISY_LINE, num_steps=40, portfolio=few, metric="error", policy=policy, progress=True)
        assert set(places) == compared


def test_of_two_methods_the_faster_one_has_the_usual_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = MethodRunner(NOISY_LINE, 4000, {name: SMALL["constant"] for name in ("slow", "fast")}, ERROR)
    runner.groups = {"slow": 0, "fast": 1}
    monkeypatch.setattr(Costs, "_call", lambda costs, place, steps: (steps * (0.003, 0.001)[place], steps))
    assert Costs(runner, 0, 4000).step_costs() == {"slow": 3.0}


def test_the_estimate_names_the_methods_whose_steps_take_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Costs, "step_costs", lambda costs: {"constant": 2.5})
    few = {"constant": SMALL["constant"]}
    lrx.select(NOISY_LINE, num_steps=40, portfolio=few, metric="error", policy=Watching(), progress=True)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith("; a step of constant takes as long as 2.5 of most methods"), first
