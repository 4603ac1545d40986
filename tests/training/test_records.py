"""Examples of a data set of Grain: which ones a step sees, also after a resume and on other processes."""

from __future__ import annotations

import itertools
import sys
import types
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx
from lrx.training import Batches, Workload, feed, train
from lrx.training.batches import first_of
from lrx.training.layout import require_shares

NUMBER = 23
X = np.random.default_rng(0).normal(size=(NUMBER, 3)).astype(np.float32)
DATASET = grain.MapDataset.range(NUMBER).shuffle(seed=5).map(lambda i: {"x": X[i], "number": i})
GROWING = lrx.piecewise_constant(4, {3: 2, 7: 1.5})  # 4, 8 from step 3, 12 from step 7
OPTIONS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


def records(batch_size: Any = 8, dataset: Any = DATASET, **arguments: Any) -> Any:
    return Batches.records(dataset, batch_size, **{"read_options": OPTIONS, **arguments})


def read(batches: Any, steps: int, step: int = 0, position: Any = None) -> list[list[int]]:
    """Return the numbers of the examples of some steps."""
    return [batch["number"].tolist() for batch in itertools.islice(batches.read(step, position), steps)]


def order(epochs: int) -> list[list[int]]:
    """Return the numbers of the examples of each epoch, by Grain alone."""
    numbers = [int(example["number"]) for example in itertools.islice(iter(DATASET.repeat()), epochs * NUMBER)]
    return [numbers[first : first + NUMBER] for first in range(0, len(numbers), NUMBER)]


def loss_fn(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    numbers = batch["number"].astype(jnp.float32) / NUMBER
    return jnp.mean((batch["x"] @ w - numbers + 0.1 * jax.random.normal(key)) ** 2)


def line(batches: Batches) -> Workload:
    return Workload.from_functions(loss_fn, lambda key: jnp.zeros(3), batches, name="line")


ADAM = lrx.adam(lrx.linear_decay(0.1, 40))


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.params, other.params)


def test_an_epoch_leaves_out_the_last_examples_or_goes_on_into_the_next():
    first, second, third = order(3)
    assert sorted(first) == sorted(second) == list(range(NUMBER))
    assert first != second
    assert read(records(), 5) == [first[:8], first[8:16], second[:8], second[8:16], third[:8]]
    assert records().steps_per_epoch == 2
    whole = first + second + third
    carried = records(drop_remainder=False)
    assert read(carried, 8) == [whole[at : at + 8] for at in range(0, 64, 8)]
    assert (carried.steps_per_epoch, carried.steps_of(8)) == (2, NUMBER)


def test_a_batch_size_follows_a_schedule():
    first, second, third = order(3)
    sizes = [4, 4, 4, 8, 8, 8, 8, 12, 12]
    assert [len(step) for step in read(records(GROWING), 9)] == sizes
    # 23 examples: 4 + 4 + 4 + 8, then 8 + 8, then 8 + 12.
    assert read(records(GROWING), 8) == [
        *(first[:4], first[4:8], first[8:12], first[12:20]),
        *(second[:8], second[8:16], third[:8], third[8:20]),
    ]
    whole, ends = list(itertools.chain(*order(4))), np.cumsum(sizes)
    expected = [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    assert read(records(GROWING, drop_remainder=False), 9) == expected
    assert [records(GROWING).steps_of(epochs) for epochs in (1, 2, 3, 4)] == [4, 6, 8, 9]
    assert records(GROWING).steps_per_epoch == 4


def test_a_schedule_is_looked_up_again_and_again():
    late = lrx.piecewise_constant(1, {5000: 2})
    batches = records(late)
    assert [len(step) for step in read(batches, 3, 4999)] == [1, 2, 2]
    assert batches.place_after(5001) == 5000 // NUMBER * NUMBER + 5000 % NUMBER + 2


@pytest.mark.parametrize("size", [12, GROWING])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_the_shares_of_all_processes_make_up_the_minibatches(size, drop_remainder):
    expected = read(records(size, drop_remainder=drop_remainder), 9)
    for count in (2, 4):
        shares = [
            read(records(size, drop_remainder=drop_remainder, process_index=index, process_count=count), 9)
            for index in range(count)
        ]
        assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == expected


@pytest.mark.parametrize("size", [4, pytest.param(GROWING, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drop_remainder", [True, False])
def test_a_position_holds_on_any_number_of_processes(size, drop_remainder):
    whole = records(size, drop_remainder=drop_remainder)
    expected = read(whole, 14)
    for step in (2, 4, 8):
        positions = []
        for index in range(2):
            reader = records(size, drop_remainder=drop_remainder, process_index=index, process_count=2).read()
            list(itertools.islice(reader, step))
            positions.append(reader.position())
        assert positions[0] == positions[1]
        for count in {1, 4} if step == 4 else {4}:
            shares = [
                read(
                    records(size, drop_remainder=drop_remainder, process_index=index, process_count=count),
                    *(5, step, positions[0]),
                )
                for index in range(count)
            ]
            assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == expected[step : step + 5]
        assert read(whole, 5, step) == expected[step : step + 5]  # as it follows from the batch sizes


@pytest.mark.slow
def test_records_train_as_the_same_minibatches_stacked(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 4)
    stacked = Batches.stack(list(itertools.islice(records().read(), 13)))
    assert_same(train(line(records()), ADAM, steps=13), train(line(stacked), ADAM, steps=13))
    threads = records(read_options=None)
    assert_same(train(line(threads), ADAM, steps=13), train(line(stacked), ADAM, steps=13))


@pytest.mark.parametrize("size", [8, pytest.param(GROWING, marks=pytest.mark.slow)])
def test_a_run_goes_on_in_the_middle_of_an_epoch_bit_for_bit(size, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 4)
    expected = train(line(records(size)), ADAM, steps=13)
    for stop in (3, 5, 13):
        resumed = train(line(records(size)), ADAM, steps=stop, checkpoint=tmp_path)
    assert resumed.resumed_at == 5
    assert_same(resumed, expected)


@pytest.mark.slow
def test_a_run_that_goes_on_with_another_batch_size_takes_the_examples_that_come_next(tmp_path):
    train(line(records(4)), ADAM, steps=4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="batch_size is 4 there and 8 here"):
        train(line(records(8)), ADAM, steps=6, checkpoint=tmp_path)
    resumed = train(line(records(8)), ADAM, steps=6, checkpoint=tmp_path, on_mismatch="continue")
    switched = lrx.piecewise_constant(4, {4: 2})
    np.testing.assert_array_equal(resumed.loss, train(line(records(switched)), ADAM, steps=6).loss)


@pytest.mark.slow
def test_another_data_set_or_schedule_is_another_run(tmp_path):
    train(line(records(GROWING)), ADAM, steps=2, checkpoint=tmp_path)
    other = grain.MapDataset.range(NUMBER).shuffle(seed=6).map(lambda i: {"x": X[i], "number": i})
    for batches, message in [
        (records(GROWING, other), r"data\['x'\] is float32\[3\], checksum .* the first of 23 there"),
        (records(GROWING, drop_remainder=False), r"data\['drop_remainder'\] is True there and False here"),
        (records(lrx.piecewise_constant(4, {3: 3})), "batch_size has another number: 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(line(batches), ADAM, steps=3, checkpoint=tmp_path)


@pytest.mark.slow
def test_range_test_takes_records_and_tools_that_need_arrays_say_so():
    found = lrx.range_test(line(records(GROWING)), lrx.sgd, num_steps=6, extend=False, progress=False)
    taken = records(GROWING).take(6)
    assert taken.arrays["number"].shape == (6, 4)
    expected = lrx.range_test(line(taken), lrx.sgd, num_steps=6, extend=False, progress=False)
    np.testing.assert_array_equal(found.losses, expected.losses)
    for tool in (
        lambda workload: lrx.sweep(workload, lrx.sgd, {"learning_rate": [0.1, 0.2]}, num_steps=9),
        lambda workload: lrx.select(workload, num_steps=100),
    ):
        with pytest.raises(ValueError, match=r"arrays here, got Batches\.records\(<23 records>.*batches\.take\(100\)"):
            tool(line(records()))


def test_what_records_tell_about_themselves():
    batches = records(process_index=0, process_count=2, drop_remainder=False)
    expected = "Batches.records(<23 records>, batch_size=8, drop_remainder=False, process_index=0, process_count=2)"
    assert repr(batches) == expected
    assert (batches.num_examples, batches.examples_per_step, batches.transform) == (NUMBER, 8, first_of)
    assert jax.tree.leaves(batches.minibatch_shapes())[1].shape == (1, 8, 3)
    assert jax.tree.leaves(batches.shapes_at(0)[0])[1].shape == (1, 4, 3)
    assert Batches.records([1.0, 2.0, 3.0], 2).take(1).arrays.tolist() == [[1.0, 2.0]]  # a source that is no data set


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": 3}, TypeError, "dataset must be a grain.MapDataset, or a source .* got a int: minibatches"),
        ({"dataset": DATASET.repeat()}, ValueError, "dataset must hold one epoch of examples, got 9,223.* leave out"),
        ({"dataset": []}, ValueError, "dataset must hold one epoch of examples, got 0"),
        ({"dataset": DATASET.filter(lambda x: True)}, ValueError, "dataset must have an example for each number"),
        ({"batch_size": 24}, ValueError, "batch_size must be at most the number of examples, 23, got a batch size of"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a whole number of examples"),
        ({"batch_size": 0.5 * lrx.reduce_on_plateau()}, TypeError, "batch_size must be a Schedule"),
        ({"drop_remainder": 1}, TypeError, "drop_remainder must be True or False"),
        ({"process_index": 1}, ValueError, "process_index and process_count must be given together"),
        ({"process_index": 2, "process_count": 2}, ValueError, "process_index must be below process_count=2, got"),
        ({"process_index": -1, "process_count": 2}, ValueError, "process_index must be a whole number"),
        ({"process_index": 0, "process_count": 0}, ValueError, "process_count must be a whole number"),
    ],
)
def test_record_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        records(**arguments)


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (lrx.linear_decay(8, 4), "batch_size must be a whole number of examples >= 1 at each step, got 0 at step 4"),
        (lambda step: 4 + step / 2, r"batch_size must be a whole number .*, got 4\.5 at step 1: give steps"),
        (
            lambda step: 4 + 4 * (step > 2) + 99 * (step > 9),
            "at most the number of examples, 23, got .* 107 at step 10",
        ),
    ],
)
def test_sizes_of_a_schedule_are_checked_before_the_run(batch_size, message):
    with pytest.raises(ValueError, match=message):
        train(line(records(batch_size)), ADAM, steps=3)


def test_shares_that_are_not_whole_or_of_other_processes_are_refused():
    share = records(9, process_index=0, process_count=2)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 2 processes, .* 9 at step 0: give 8"):
        read(share, 1)
    message = "shares of the 1 processes that train together, got the share of process 0 of 2: leave out process_index"
    with pytest.raises(ValueError, match=message):
        train(line(share), ADAM, steps=3)


def test_epochs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"epochs must be left out if the batch size follows .* Give steps=8, which"):
        train(line(records(GROWING)), ADAM, epochs=3)
    assert len(train(line(records(11)), ADAM, epochs=2).loss) == 4


def test_records_without_grain_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r'pip install "lrx\[data\]"'):
        Batches.records([1.0], 1)


SAMPLER = grain.samplers.IndexSampler(NUMBER, grain.sharding.NoSharding(), shuffle=True, num_epochs=1, seed=3)
LOADERS = {
    "DataLoader": grain.DataLoader(
        data_source=DATASET,
        sampler=SAMPLER,
        operations=[grain.transforms.Batch(8, drop_remainder=True)],
        worker_count=0,
        read_options=OPTIONS,
    ),
    "IterDataset": DATASET.batch(8, drop_remainder=True).to_iter_dataset(OPTIONS),
    "filtered": DATASET.to_iter_dataset(OPTIONS).filter(lambda x: x["number"] % 5).batch(8, drop_remainder=True),
}


@pytest.mark.parametrize("kind", first_tier_has(["IterDataset"], LOADERS))
def test_checkpoints_hold_the_position_of_a_loader_of_grain(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK_STEPS", 3)
    loader = LOADERS[kind]
    workload = line(Batches.stream(loader, steps_per_epoch=2))
    train(workload, ADAM, steps=5, checkpoint=tmp_path)
    seen: list[Any] = []
    reader = Batches.stream(loader, steps_per_epoch=2).read
    monkeypatch.setattr(type(workload.batches), "read", lambda self, *at: seen.append(at) or reader(*at))
    resumed = train(workload, ADAM, steps=9, checkpoint=tmp_path)
    at = next(at for at in seen if at)
    assert at[0] == reader(*at).step == 5  # nothing is skipped
    whole = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), 9))
    assert_same(resumed, train(line(Batches.stack(whole)), ADAM, steps=9))


def layout_on(processes: list[int]) -> Any:
    """A layout on devices of these processes; a mesh of such devices cannot be made in a single process."""
    devices = np.array([types.SimpleNamespace(process_index=process) for process in processes], object)
    return types.SimpleNamespace(
        spans_processes=True, places=types.SimpleNamespace(mesh=types.SimpleNamespace(devices=devices))
    )


def test_processes_share_the_rows_of_a_mesh_in_any_order_as_many_each_at_every_batch_size(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    shared = records(GROWING, process_index=0, process_count=2)
    for processes in ([0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]):  # as make_mesh orders those of a torus
        require_shares(shared, layout_on(processes), 40)
    with pytest.raises(ValueError, match=r"as many to every process, .* got rows of the processes \[\[0\], \[0\], \[0"):
        require_shares(shared, layout_on([0, 0, 0, 1]), 40)
    with pytest.raises(ValueError, match=r"got the share of process 0 of 3"):
        require_shares(records(process_index=0, process_count=3), layout_on([0, 1]), 40)
    uneven = records(lrx.piecewise_constant(4, {3: 1.5}), process_index=0, process_count=2)
    require_shares(uneven, layout_on([0, 0, 1, 1]), 3)
    message = r"multiple of the 4 devices .* at every step, .* got 6 at step 3: give 4\.$"
    with pytest.raises(ValueError, match=message):
        require_shares(uneven, layout_on([0, 0, 1, 1]), 4)
