"""Ctrl-C: the state is saved, and other handlers are left alone."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest
from training.linear import assert_identical, linear

import lrx
from lrx.training import (
    History,
    TrainingInterrupted,
    Workload,
    train,
)


def interrupting(at: int) -> Workload:
    """Ctrl-C is pressed during evaluation number `at`."""
    left = [at]

    def evaluate(params: Any) -> dict[str, jax.Array]:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return {"norm": jnp.sum(params["w"] ** 2)}

    return linear(evaluate=evaluate)


def test_ctrl_c_saves_and_the_run_goes_on_bit_for_bit(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"after 14 of 28 steps.*start it again with the same arguments") as e:
        train(interrupting(at=2), lrx.adam(0.1), epochs=4, checkpoint=tmp_path)
    assert isinstance(e.value, KeyboardInterrupt)
    assert "once more to stop at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert e.value.step == 14
    assert e.value.history.loss.shape == (14,)
    assert e.value.history.ended == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["14"]
    whole = train(linear(), lrx.adam(0.1), epochs=4)
    assert_identical(train(interrupting(at=99), lrx.adam(0.1), epochs=4, checkpoint=tmp_path), whole)


def test_ctrl_c_without_a_folder_gives_the_history_back():
    with pytest.raises(TrainingInterrupted, match="Nothing is saved") as e:
        train(interrupting(at=1), lrx.adam(0.1), epochs=4)
    assert e.value.history.loss.shape == (7,)


def test_a_second_ctrl_c_stops_at_once():
    def evaluate(params: Any) -> dict[str, jax.Array]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt) as e:
        train(linear(evaluate=evaluate), lrx.adam(0.1), epochs=4)
    assert not isinstance(e.value, TrainingInterrupted)


def test_other_handlers_and_threads_are_left_alone():
    seen: list[Any] = []
    own = lambda number, frame: seen.append(number)  # noqa: E731
    before = signal.signal(signal.SIGINT, own)
    try:
        train(interrupting(at=1), lrx.adam(0.1), epochs=2)
    finally:
        assert signal.signal(signal.SIGINT, before) is own
    assert seen == [signal.SIGINT]
    histories: list[History] = []
    thread = threading.Thread(target=lambda: histories.append(train(linear(), lrx.adam(0.1), steps=2)))
    thread.start()
    thread.join()
    assert histories[0].loss.shape == (2,)
