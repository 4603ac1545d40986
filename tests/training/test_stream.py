"""Data that are read while a run trains: the same numbers as of the same minibatches stacked."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx
from lrx.training import Batches, TrainingInterrupted, Workload, feed, train

NUMBER = 7  # minibatches of an iterator


def minibatches(number: int = NUMBER) -> Iterator[Any]:
    draws = np.random.default_rng(0).normal(size=(number, 8, 3)).astype(np.float32)
    return iter([{"x": x, "y": x.sum(axis=1)} for x in draws])


def loss_fn(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    return jnp.mean((batch["x"] @ w - batch["y"] + 0.1 * jax.random.normal(key)) ** 2)


def line(batches: Batches) -> Workload:
    evaluate = lambda w: {"error": jnp.sum((w - 1.0) ** 2)}  # noqa: E731
    return Workload.from_functions(loss_fn, lambda key: jnp.zeros(3), batches, name="line", evaluate=evaluate)


def streamed(make_iterator: Callable[[], Iterator[Any]] = minibatches) -> Workload:
    return line(Batches.stream(make_iterator, steps_per_epoch=NUMBER))


STACKED = line(Batches.stack(minibatches()))
ADAM = lrx.adam(lrx.linear_decay(0.1, 40))


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.params, other.params)
    np.testing.assert_array_equal(one.evaluations["error"], other.evaluations["error"])


@pytest.mark.parametrize("size", first_tier_has([4], [1, 4, NUMBER, 256]))
def test_a_stream_trains_as_the_same_minibatches_stacked(size, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", size)
    assert_same(train(streamed(), ADAM, epochs=3), train(STACKED, ADAM, epochs=3))


def test_chunks_fill_the_memory_that_they_are_given(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_BYTES", 3 * 8 * 4 * 4)
    batches = streamed().batches
    found = feed.Feed(batches, 4, 11, jax.device_put)
    while found._loaded.empty():  # nothing is asked for, so the chunk is filled up
        time.sleep(0.001)
    arrays, end = found.at(4)
    assert (arrays["x"].shape, end) == ((3, 8, 3), 7)  # three minibatches, those of the steps 4 to 6
    expected = [batch["x"] for batch in itertools.islice(batches.read(), 7)]
    np.testing.assert_array_equal(arrays["x"], [expected[6], *expected[4:6]])
    found.close()


def test_the_cpu_trains_on_what_was_read_without_a_copy():
    put: list[Any] = []
    found = feed.Feed(streamed().batches, 0, NUMBER, lambda arrays: put.append(arrays) or jax.device_put(arrays))
    arrays, _ = found.at(0)
    for read, used in zip(jax.tree.leaves(put[0]), jax.tree.leaves(arrays), strict=True):
        if used.device.platform == "cpu":
            assert used.unsafe_buffer_pointer() == read.ctypes.data
    found.close()


def test_training_that_waits_is_given_what_there_is(monkeypatch):
    waits = threading.Event()

    def make_iterator() -> Iterator[Any]:
        for number, batch in enumerate(minibatches()):
            if number == 2:
                waits.wait(5)
            yield batch

    batches = Batches.stream(make_iterator, steps_per_epoch=NUMBER)
    found = feed.Feed(batches, 0, NUMBER, jax.device_put)
    monkeypatch.setattr(found, "_wanted", waits)
    end = found.at(0)[1]
    assert end <= 3
    while end < NUMBER:
        end = found.at(end)[1]
    assert end == NUMBER
    found.close()


def test_a_stream_compiles_once(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 3)
    traces = []

    def counted(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        traces.append(1)
        return loss_fn(w, batch, key)

    batches = Batches.stream(minibatches, steps_per_epoch=NUMBER)
    workload = Workload.from_functions(counted, lambda key: jnp.zeros(3), batches)
    train(workload, lrx.sgd(0.1), steps=17)
    assert len(traces) == 2  # for the program; and for its key, since a loss that counts its calls may change
    train(workload, lrx.sgd(0.1), steps=17, seed=1)
    assert len(traces) == 2 + 1  # for the key


def test_a_stopped_run_goes_on_with_the_minibatch_that_comes_next(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 4)
    train(streamed(), ADAM, steps=10, checkpoint=tmp_path, evaluate_every=NUMBER)
    resumed = train(streamed(), ADAM, steps=24, checkpoint=tmp_path, evaluate_every=NUMBER)
    assert resumed.resumed_at == 10
    assert_same(resumed, train(STACKED, ADAM, steps=24, evaluate_every=NUMBER))


def test_no_more_is_read_than_is_trained_with():
    read = []

    def make_iterator() -> Iterator[Any]:
        for batch in minibatches():
            read.append(1)
            yield batch

    train(streamed(make_iterator), lrx.sgd(0.1), steps=5)
    assert len(read) == 1 + 5  # the first one twice, for its shapes


def test_range_test_takes_what_it_needs_of_a_stream():
    found = lrx.range_test(streamed(), tx=lrx.sgd, num_steps=20, extend=False, progress=False)
    stacked = line(Batches.stack(itertools.islice(itertools.cycle(minibatches()), 20)))
    expected = lrx.range_test(stacked, tx=lrx.sgd, num_steps=20, extend=False, progress=False)
    np.testing.assert_array_equal(found.losses, expected.losses)


def test_batch_statistics_are_computed_anew_from_a_stream():
    def mean(w: jax.Array, state: jax.Array, batch: Any, key: jax.Array) -> Any:
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2), 0.9 * state + 0.1 * jnp.mean(batch["x"])

    def of(batches: Batches) -> Workload:
        return Workload.from_functions(mean, lambda key: (jnp.ones(3), jnp.zeros(())), batches, has_state=True)

    one, other = (
        lrx.training.recompute_batch_stats(of(batches), jnp.ones(3), jnp.zeros(()), num_batches=NUMBER)
        for batches in (Batches.stream(minibatches, steps_per_epoch=NUMBER), Batches.stack(minibatches()))
    )
    np.testing.assert_array_equal(one, other)


TOOLS: dict[str, Callable[[Workload], Any]] = {
    "sweep": lambda workload: lrx.sweep(workload, lrx.sgd, {"learning_rate": [0.1, 0.2]}, num_steps=9),
    "successive_halving": lambda workload: lrx.successive_halving(
        workload, lrx.sgd, {"learning_rate": [0.1, 0.2, 0.3]}, num_steps=9
    ),
    "halve_until_trains": lambda workload: lrx.halve_until_trains(workload, lrx.sgd, start_rate=1.0),
    "select": lambda workload: lrx.select(workload, num_steps=100),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_that_need_all_data_refuse_a_stream_and_say_what_to_do(tool):
    message = r"arrays here, got Batches\.stream\(minibatches, .*workload\.batches\.take\(100\)"
    with pytest.raises(ValueError, match=message):
        TOOLS[tool](streamed())


@pytest.mark.parametrize(
    ("make_iterator", "message"),
    [
        (lambda: iter([]), "make_iterator must return a new iterator of at least one minibatch"),
        (itertools.repeat(iter([np.zeros((8, 3))] * 9)).__next__, "make_iterator must return a new iterator at each"),
        (lambda: iter([np.zeros((8, 3)), np.zeros((5, 3))]), "must all have the same shapes"),
    ],
)
def test_a_stream_that_cannot_be_trained_with_is_refused(make_iterator, message):
    workload = Workload.from_functions(
        lambda w, batch, key: jnp.sum(w) + sum(jnp.sum(x) for x in jax.tree.leaves(batch)),
        lambda key: jnp.zeros(3),
        Batches.stream(make_iterator, steps_per_epoch=2),
    )
    with pytest.raises(ValueError, match=message):
        train(workload, lrx.sgd(0.0), steps=20)


def test_an_error_of_the_iterator_is_that_of_the_run():
    def make_iterator() -> Iterator[Any]:
        yield next(minibatches())
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        train(streamed(make_iterator), lrx.sgd(0.1), steps=20)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 2), TypeError, "make_iterator must be a function"),
        ((iter([1]), 2), TypeError, "make_iterator must be a function .* or a loader"),
        ((minibatches, 0), ValueError, "steps_per_epoch must be a whole number"),
    ],
)
def test_stream_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches.stream(arguments[0], steps_per_epoch=arguments[1])


def one_buffer() -> Iterator[Any]:
    """Yield minibatches in the same arrays, as a loader does that saves memory."""
    buffer = {"x": np.zeros((8, 3), np.float32), "y": np.zeros(8, np.float32)}
    for batch in minibatches():
        for name, array in buffer.items():
            array[:] = batch[name]
        yield buffer


def test_a_loader_may_use_its_arrays_again():
    expected = train(STACKED, ADAM, epochs=2)
    assert_same(train(streamed(one_buffer), ADAM, epochs=2), expected)
    assert_same(train(line(Batches.stack(one_buffer())), ADAM, epochs=2), expected)


def test_ctrl_c_does_not_wait_for_minibatches(tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 4)
    waiting, trained = threading.Event(), threading.Event()

    def hanging() -> Iterator[Any]:
        yield from itertools.islice(minibatches(), 6)
        waiting.set()
        threading.Event().wait(60)
        yield from ()

    def interrupt() -> None:
        assert waiting.wait(30)
        assert trained.wait(30)
        signal.raise_signal(signal.SIGINT)

    began = time.monotonic()
    workload = streamed(hanging)
    workload.batches.minibatch_shapes()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(TrainingInterrupted) as stopped:
        train(workload, ADAM, steps=20, checkpoint=tmp_path, callback=lambda _: trained.set(), callback_every=4)
    thread.join()
    assert time.monotonic() - began < 50
    assert 4 <= len(stopped.value.history.loss) <= 6


def test_two_chunks_are_in_memory_at_most(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 2)
    read = []

    def counted() -> Iterator[Any]:
        for batch in itertools.cycle(minibatches()):
            read.append(1)
            yield batch

    seen = []

    def look(moment: Any) -> None:
        time.sleep(0.2)
        seen.append(len(read) - 1 - moment.step)  # the first minibatch is read once more, for its shapes

    train(streamed(counted), ADAM, steps=8, callback=look, callback_every=2)
    assert max(seen) <= 3  # what is left of the chunk that trains, whose first step is done, and the next chunk


def test_a_loader_that_begins_again_in_its_iter_is_taken():
    class Loader:
        def __iter__(self) -> Any:
            self.rest = minibatches()
            return self

        def __next__(self) -> Any:
            return next(self.rest)

    loader = Loader()
    assert_same(train(streamed(lambda: loader), ADAM, epochs=2), train(STACKED, ADAM, epochs=2))


class Counted:
    """An iterator whose position can be kept, and that counts what it reads."""

    read = 0

    def __init__(self, as_bytes: bool) -> None:
        self.batches, self.place, self.as_bytes = list(minibatches()), 0, as_bytes

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        if self.place == len(self.batches):
            raise StopIteration
        Counted.read += 1
        self.place += 1
        return self.batches[self.place - 1]

    def get_state(self) -> Any:
        return str(self.place).encode() if self.as_bytes else {"place": np.int64(self.place), "more": [1, "a"]}

    def set_state(self, state: Any) -> None:
        assert self.as_bytes or state["more"] == [1, "a"]
        self.place = int(state if self.as_bytes else state["place"])


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("stop", [10, 2 * NUMBER])
def test_a_checkpoint_holds_the_position_of_an_iterator(as_bytes, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 4)
    monkeypatch.setattr(Counted, "read", 0)
    workload = streamed(lambda: Counted(as_bytes))
    train(workload, ADAM, steps=stop, checkpoint=tmp_path, evaluate_every=NUMBER)
    assert Counted.read == 1 + stop
    resumed = train(workload, ADAM, steps=stop + 9, checkpoint=tmp_path, evaluate_every=NUMBER)
    assert Counted.read == 1 + stop + 9
    assert_same(resumed, train(STACKED, ADAM, steps=stop + 9, evaluate_every=NUMBER))


def test_an_iterator_without_a_position_goes_on_from_a_checkpoint_with_one(tmp_path):
    train(streamed(lambda: Counted(True)), ADAM, steps=10, checkpoint=tmp_path, evaluate_every=NUMBER)
    resumed = train(streamed(), ADAM, steps=12, checkpoint=tmp_path, evaluate_every=NUMBER)
    assert_same(resumed, train(STACKED, ADAM, steps=12, evaluate_every=NUMBER))


def test_a_position_that_cannot_be_kept_is_refused_if_there_are_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(Counted, "get_state", lambda self: {"open": self})
    workload = streamed(lambda: Counted(False))
    train(workload, ADAM, steps=2)
    with pytest.raises(TypeError, match="get_state of the iterator must return bytes or numbers, strings"):
        train(workload, ADAM, steps=2, checkpoint=tmp_path)


def test_a_loader_is_taken_in_place_of_a_function_that_makes_its_iterator():
    batches = list(minibatches())
    expected = train(STACKED, ADAM, epochs=2)
    assert_same(train(line(Batches.stream(batches, steps_per_epoch=NUMBER)), ADAM, epochs=2), expected)
    assert repr(Batches.stream(batches, steps_per_epoch=7)) == "Batches.stream(list, steps_per_epoch=7)"


def test_the_first_minibatches_of_a_stream_are_arrays():
    np.testing.assert_array_equal(streamed().batches.take(9).arrays["x"][7:], STACKED.batches.arrays["x"][:2])
    with pytest.raises(ValueError, match="number must be a whole number of minibatches"):
        streamed().batches.take(0)


def test_minibatches_that_hold_no_numbers_are_refused():
    with pytest.raises(TypeError, match="minibatches must hold numbers, got arrays of <U1: encode them first"):
        Batches.stream([np.array(["a"])], steps_per_epoch=1).minibatch_shapes()
