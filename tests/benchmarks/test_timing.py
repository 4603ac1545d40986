"""Contestants are timed in turn, and compared round by round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.benchmarks import timing


def test_contestants_are_called_in_turn_and_each_goes_first_equally_often() -> None:
    called: list[str] = []

    def contestant(name: str) -> Any:
        def run() -> float:
            called.append(name)
            return float(len(called))

        return run

    times = timing.in_turn({name: contestant(name) for name in "abc"}, 3, warmup_rounds=1)
    assert "".join(called) == "abccbaabccba"
    assert {name: each.tolist() for name, each in times.items()} == {
        "a": [6.0, 7.0, 12.0],
        "b": [5.0, 8.0, 11.0],
        "c": [4.0, 9.0, 10.0],
    }


def test_a_contestant_may_measure_several_times_at_once() -> None:
    times = timing.in_turn({"a": lambda: (1.0, 2.0)}, 4)
    assert times["a"].shape == (4, 2)


def test_ratios_of_pairs_do_not_depend_on_who_goes_first() -> None:
    called: list[str] = []

    def contestant(name: str) -> Any:
        def run() -> float:
            called.append(name)
            return 3.0 if len(called) % 2 else 2.0  # the first of a round takes longer

        return run

    times = timing.in_turn({name: contestant(name) for name in "ab"}, 6)
    assert (times["a"] / times["b"]).tolist() == [1.5, 2 / 3] * 3
    assert {name: each.tolist() for name, each in timing.sum_pairs(times).items()} == {"a": [5.0] * 3, "b": [5.0] * 3}


def test_pairs_of_rounds_need_an_even_number_of_them() -> None:
    with pytest.raises(ValueError, match="rounds must be even, got 3 of a"):
        timing.sum_pairs({"a": np.ones(3)})


def test_ratios_are_of_the_same_round() -> None:
    # The machine is ten times slower in the second half: the ratio is not.
    slow = np.array([1.0, 1.0, 10.0, 10.0, 10.0])
    found = timing.compare({"ours": 2 * slow, "theirs": slow}, "theirs")
    assert found["ours"] == (20.0, 2.0, 2.0, 2.0)
    assert found["theirs"] == (10.0, 1.0, 1.0, 1.0)
    assert str(found["ours"]) == "2.000 (2.000 to 2.000)"
    # Neither is it the ratio of the medians, which may be of different rounds.
    assert timing.compare({"a": np.array([1.0, 2.0, 9.0]), "b": np.array([1.0, 1.0, 10.0])}, "b")["a"].ratio == 1.0
    uneven = timing.compare({"ours": np.array([1.0, 2.0, 3.0, 4.0, 5.0]), "theirs": np.ones(5)}, "theirs")["ours"]
    assert (uneven.ratio, uneven.low, uneven.high) == (3.0, 2.0, 4.0)


def test_interval_of_the_median_is_between_order_statistics() -> None:
    # Ranks as in tables of the sign test: 10 and 21 of 30, with 95.7 %.
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, 31.0))
    assert timing.median_interval(shuffled) == (10.0, 21.0)
    assert timing.median_interval(np.arange(1.0, 7.0)) == (1.0, 6.0)  # 96.9 %
    assert np.isnan(timing.median_interval(np.arange(1.0, 6.0))).all()  # at most 93.8 %
    assert timing.median_interval(np.arange(1.0, 6.0), 0.9) == (1.0, 5.0)


def test_interval_contains_the_median_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).exponential(size=(2000, 30))
    low, high = np.array([timing.median_interval(sample) for sample in samples]).T
    covered = np.mean((low <= np.log(2)) & (np.log(2) <= high))
    assert covered == pytest.approx(0.957, abs=0.015)  # three standard errors


def test_a_call_is_timed_until_its_arrays_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    assert timing.seconds_of(jnp.add, 1.0, 2.0) > 0
    assert waited == [3.0]
