"""No tool continues or returns the results of a different call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.line import VMAP

import lrx
from lrx.training import Batches, Workload
from lrx.training import plan as plans
from lrx.training.checkpoints import OtherRunError
from lrx.tuning import Method

X = np.linspace(-1.0, 1.0, 40, dtype=np.float32)
CHANGES: dict[str, dict[str, Any]] = {
    "clip": {"clip": 2.0},
    "weight decay": {"weight_decay": 0.5},
    "a later value of the schedule": {"last": 0.25},
    "patience": {"patience": 51},
    "a constant of the loss": {"target": 2.5},
    "noise of the loss": {"noise": 0.2},
    "the initial parameters": {"start": 1.0},
    "data": {"data": 1.01},
    "batch size": {"batch_size": 10},
    "the evaluation": {"goal": 2.0},
    "seed": {"seed": 1},
}
# A number of each part of a call. The other tools describe their parts as a sweep does, which sees every number.
OF_EACH_PART = ("clip", "a constant of the loss", "the initial parameters", "data", "the evaluation", "seed")


def workload(
    target: float = 3.0,
    noise: float = 0.1,
    start: float = 0.0,
    data: float = 1.0,
    batch_size: int = 8,
    goal: float = 3.0,
    **others: Any,
) -> Workload:
    def loss_fn(slope: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        return jnp.mean((slope * batch - target * batch + noise * jax.random.normal(key, batch.shape)) ** 2)

    return Workload.from_functions(
        loss_fn,
        lambda key: jnp.float32(start),
        Batches(data * X, batch_size),
        name="line",
        evaluate=lambda slope: {"error": jnp.abs(slope - goal)},
    )


def chain(
    rate: Any, clip: float = 1.0, weight_decay: float = 0.0, last: float = 0.5, patience: int = 50, **others: Any
) -> Any:
    late = lrx.piecewise_constant(rate, {1000: last})
    return optax.chain(
        optax.clip(clip),
        optax.add_decayed_weights(weight_decay),
        lrx.sgd(late * lrx.reduce_on_plateau(patience=patience)),
    )


def race(folder: Path, seed: int, **numbers: Any) -> Any:
    methods = {"only": Method(lambda rate, num_steps: chain(rate, **numbers), default=0.05)}
    return lrx.select(workload(**numbers), num_steps=80, portfolio=methods, seed=seed, checkpoint=folder)


TOOLS: dict[str, Callable[..., Any]] = {
    "sweep": lambda folder, seed, **numbers: lrx.sweep(
        workload(**numbers),
        lambda lr: chain(lr, **numbers),
        {"lr": [0.05, 0.1]},
        num_steps=6,
        seeds=[seed],
        execution=VMAP,
        checkpoint=folder,
    ),
    "successive_halving": lambda folder, seed, **numbers: lrx.successive_halving(
        workload(**numbers),
        lambda lr: chain(lr, **numbers),
        {"lr": [0.05, 0.1, 0.2]},
        num_steps=9,
        seeds=[seed],
        execution=VMAP,
        checkpoint=folder,
    ),
    "halve_until_trains": lambda folder, seed, **numbers: lrx.halve_until_trains(
        workload(**numbers),
        lambda lr: chain(lr, **numbers),
        start_rate=0.1,
        num_steps=20,
        seeds=[seed],
        checkpoint=folder,
    ),
    "select": race,
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_another_number_is_refused_and_the_same_call_goes_on(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    TOOLS[tool](tmp_path / "kept", seed=0)
    for what in CHANGES if tool == "sweep" else OF_EACH_PART:
        with monkeypatch.context() as patch:
            if tool != "select":  # which compiles a program to look at the evaluation
                patch.setattr(plans, "Plan", None)
            try:
                TOOLS[tool](tmp_path / "kept", **({"seed": 0} | CHANGES[what]))
            except OtherRunError:
                continue
            pytest.fail(f"another number in {what} was taken for the same run")
    capsys.readouterr()
    again = TOOLS[tool](tmp_path / "kept", seed=0)
    assert "line: resumed after" in capsys.readouterr().err
    if tool == "sweep":
        assert again.strategy == "restored"


@pytest.mark.slow
def test_the_optimizer_of_a_range_test_is_part_of_a_selection(tmp_path: Path) -> None:
    def chosen(momentum: float) -> Any:
        method = Method(
            lambda rate, num_steps: lrx.sgd(rate), range_test_of=lambda rate: lrx.sgd(rate, momentum=momentum)
        )
        return lrx.select(workload(), num_steps=200, portfolio={"only": method}, checkpoint=tmp_path / "kept")

    chosen(0.5)
    with pytest.raises(OtherRunError, match=r"\['only'\].range_test_of.* has another number: 0.5 there, 0.75 here"):
        chosen(0.75)


@pytest.mark.slow
def test_the_difference_is_said_by_its_numbers(tmp_path: Path) -> None:
    TOOLS["sweep"](tmp_path / "kept", seed=0)
    message = "tx.update has another number: -1 there, -2 here"
    with pytest.raises(OtherRunError, match=message):
        TOOLS["sweep"](tmp_path / "kept", seed=0, clip=2.0)
    other = dataclasses.replace(workload(), name="plane")
    with pytest.raises(OtherRunError, match="workload is 'line' there and 'plane' here"):
        lrx.sweep(other, chain, {"rate": [0.05, 0.1]}, num_steps=6, execution=VMAP, checkpoint=tmp_path / "kept")
