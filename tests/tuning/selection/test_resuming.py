"""An interrupted selection continues with the next round."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuning.line import NOISY_LINE, line
from tuning.selection.methods import SMALL, chosen

import lrx
from lrx.tuning import Method, Selection, select
from lrx.tuning.selection.policy import Training
from lrx.tuning.selection.runner import MethodRunner


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [0, 3, 4])
def test_an_interrupted_selection_loses_a_round_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bracket: Any, found: Selection, rounds: int
) -> None:
    lengths = sorted({each.steps for each in found.records})
    made: list[int] = []
    original = MethodRunner.train

    def train(self: Any, training: Training, *how: Any) -> Any:
        if rounds < 4 and training.stop == lengths[rounds] and not made.count(-1):
            made.append(-1)
            raise KeyboardInterrupt
        made.append(training.stop)
        return original(self, training, *how)

    monkeypatch.setattr(MethodRunner, "train", train)
    if rounds < 4:
        with pytest.raises(KeyboardInterrupt):
            bracket.run(3.0, 0, tmp_path / "kept")
    else:
        bracket.run(3.0, 0, tmp_path / "kept")
    before = len(made)
    monkeypatch.setattr(MethodRunner, "test_range", None)  # what is kept is not made again
    resumed = bracket.run(3.0, 0, tmp_path / "kept")
    assert made[before:] == [each.steps for each in found.records if each.round > rounds]
    assert resumed.records == found.records
    for name, test in resumed.range_tests.items():
        assert test.suggestions == found.range_tests[name].suggestions
        assert test.diverged_at == found.range_tests[name].diverged_at
        np.testing.assert_array_equal(test.losses_by_seed, found.range_tests[name].losses_by_seed)
    assert (resumed.method, resumed.rate, resumed.cost) == (found.method, found.rate, found.cost)


def test_a_finished_selection_that_is_read_again_says_what_it_was_compared_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = line(lambda slope: {"loss": jnp.abs(slope - 3.0)})
    few = {"constant": SMALL["constant"]}
    first = select(workload, num_steps=60, portfolio=few, checkpoint=tmp_path / "kept")
    monkeypatch.setattr(MethodRunner, "compile_ahead", None)  # a selection that is finished compiles no steps
    monkeypatch.setattr(MethodRunner, "plan", None)
    again = select(workload, num_steps=60, portfolio=few, checkpoint=tmp_path / "kept")
    assert first.metric == again.metric == "loss"
    assert first.records == again.records


@pytest.mark.slow
def test_the_numbers_of_numpy_are_kept_as_those_of_python(tmp_path: Path) -> None:
    method = dataclasses.replace(SMALL["constant"], default=np.float32(0.03), trials=np.int64(1))
    arguments = {"budget": np.float32(3), "seed": np.int64(0), "num_steps": np.int64(40), "portfolio": {"a": method}}
    first, again = (chosen(checkpoint=tmp_path / "kept", **arguments) for _ in range(2))
    assert first.records == again.records


@pytest.mark.slow
def test_another_selection_in_the_folder_is_refused(tmp_path: Path) -> None:
    few = {"constant": SMALL["constant"]}
    chosen(portfolio=few, checkpoint=tmp_path / "kept")
    with pytest.raises(ValueError, match="holds another run"):
        chosen(portfolio=few, checkpoint=tmp_path / "kept", seed=1)
    both = {name: SMALL[name] for name in ("constant", "slow")}
    chosen(portfolio=both, checkpoint=tmp_path / "both")
    with pytest.raises(ValueError, match=r"methods is \['constant', 'slow'\] there and \['slow', 'constant'\] here"):
        chosen(portfolio=dict(reversed(both.items())), checkpoint=tmp_path / "both")
    batches = dataclasses.replace(NOISY_LINE.batches, arrays=jax.tree.map(lambda x: 2 * x, NOISY_LINE.batches.arrays))
    with pytest.raises(ValueError, match=r"data\[0\] is \S+, checksum \w{8} there and \S+, checksum \w{8} here"):
        select(
            dataclasses.replace(NOISY_LINE, batches=batches),
            portfolio=few,
            checkpoint=tmp_path / "kept",
            num_steps=400,
            metric="error",
        )
    other = {"constant": Method(lambda rate, num_steps: lrx.sgd(rate, momentum=0.9), default=0.03)}
    with pytest.raises(ValueError, match=r"portfolio\['constant'\].state\S* is \S+ there and absent here"):
        chosen(portfolio=other, checkpoint=tmp_path / "kept")
    other = {"constant": dataclasses.replace(SMALL["constant"], reusable_fraction=0.5)}
    with pytest.raises(ValueError, match=r"portfolio\['constant'\].reusable_fraction is 1.0 there and 0.5 here"):
        chosen(portfolio=other, checkpoint=tmp_path / "kept")
    one = dataclasses.replace(
        NOISY_LINE, init=lambda key: (jnp.ones(1), ()), evaluate=lambda slope, state: {"error": 1.0}
    )
    with pytest.raises(ValueError, match=r"params is float32\[\] there and float32\[1\] here"):
        select(one, portfolio=few, checkpoint=tmp_path / "kept", metric="error")
