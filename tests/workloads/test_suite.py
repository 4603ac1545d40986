"""The suite of tasks: what each is made of, and that it can be trained."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from learning import learn

import lrx
from lrx.training import Workload, train
from lrx.workloads.datasets import DATASETS
from lrx.workloads.linear import (
    make_breast_cancer_workload,
    make_factored_workload,
    make_least_absolute_workload,
    make_least_squares_workload,
    make_sparse_workload,
)
from lrx.workloads.suite import KINDS, TASKS, Task
from lrx.workloads.text import CharacterTransformer, load_topics, make_text_workload

FILES = ("mnist", "cifar10")  # how the names of tasks begin that need files
needs_files = pytest.mark.skipif(
    not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data"
)
RATES = {  # of AdamW, where nothing is learnt in few steps at 5e-3: too low, or too high for large inputs
    "friedman-large-inputs": 1e-4,
    "sparse-logistic": 0.1,
    "least_squares": 0.1,
    "factored-pairs": 0.1,
    "diabetes-units": 0.1,
}
CHEAP = ("breast_cancer-single", "diabetes-units", "least_squares")  # a few seconds less than the others to compile
# One task of each other kind, the first that needs no data files; a kind's tasks share the program that is trained.
ONE_OF_EACH = {task.kind: name for name, task in reversed(TASKS.items()) if not name.startswith(FILES)}
for _name in CHEAP:
    ONE_OF_EACH.pop(TASKS[_name].kind, None)
STEPS = 60  # of a run


@pytest.fixture(autouse=True, scope="module")
def files_that_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, load in DATASETS.items():
            patch.setitem(DATASETS, name, functools.cache(load))
        yield


@functools.cache
def made(name: str) -> Workload:
    return TASKS[name].make(None)


@pytest.mark.parametrize(
    "name", [*CHEAP, *(pytest.param(name, marks=pytest.mark.slow) for name in ONE_OF_EACH.values())]
)
def test_a_task_of_every_kind_is_learnt_in_a_few_steps(name: str) -> None:
    task, found = TASKS[name], learn(made(name), RATES.get(name, 5e-3), STEPS)
    before, after = found.before[task.metric], found.after[task.metric]
    assert (before - after if task.mode == "min" else after - before) > 0.02 * abs(before)
    assert np.all(np.isfinite(found.losses))


def test_a_task_is_learnt_by_train() -> None:
    history = train(made("diabetes-units"), lrx.adamw(RATES["diabetes-units"]), steps=STEPS, evaluate_every=STEPS // 2)
    assert history.loss[-1] < history.loss[0]
    assert np.ptp(history.evaluations["loss"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_files if name.startswith(FILES) else ()) for name in TASKS],
)
def test_every_task_has_a_program_and_the_metric_that_counts(name: str) -> None:
    task = TASKS[name]
    workload = made(name)
    params, state = jax.eval_shape(workload.init, jax.random.key(0))
    found = jax.eval_shape(workload.evaluate, params, state)
    assert found[task.metric].shape == ()


def test_there_are_tasks_of_many_kinds() -> None:
    assert {task.kind for task in TASKS.values()} == set(KINDS)
    assert len(TASKS) >= 24
    assert len(KINDS) == len(set(KINDS)) >= 12


def test_both_kinds_of_metric_are_there_and_rewards_are_maximized() -> None:
    by_mode = {mode: [task for task in TASKS.values() if task.mode == mode] for mode in ("min", "max")}
    assert 0.2 < len(by_mode["max"]) / len(TASKS) < 0.5
    assert {task.metric for task in by_mode["max"]} == {"accuracy", "reward"}
    assert {task.metric for task in by_mode["min"]} == {"loss", "class_loss", "error"}
    with pytest.raises(ValueError, match="mode must be one of 'min', 'max'"):
        Task(lambda data_dir: None, 10, mode="least")
    with pytest.raises(ValueError, match="steps must be a whole number"):
        Task(lambda data_dir: None, 0)


# Batch size, examples, and the metric of the initial parameters, which do not depend on what is drawn.
MADE = {
    "diabetes-units": (16, 353, None),
    "wine-unscaled": (142, 142, np.log(3)),
    "breast_cancer-single": (1, 455, np.log(2)),
    "friedman-large-inputs": (32, 1600, 0.5),
    "least_absolute": (4, 4000, None),
    "digits-bandit": (64, 1437, 0.1),
    "oscillator": (48, 48, None),
}


@pytest.mark.parametrize("name", MADE)
def test_tasks_have_the_data_and_the_beginning_that_they_say(name: str) -> None:
    batch_size, examples, initial = MADE[name]
    workload, again = made(name), TASKS[name].make(None)
    assert (workload.batches.batch_size, workload.batches.num_examples) == (batch_size, examples)
    jax.tree.map(np.testing.assert_array_equal, workload.batches.arrays, again.batches.arrays)
    if initial is not None:
        found = workload.evaluate(*jax.jit(workload.init)(jax.random.key(3)))[TASKS[name].metric]
        assert float(found) == pytest.approx(initial, rel=0.02)


def test_inputs_and_losses_have_the_scales_that_the_tasks_say() -> None:
    small, large = (made(name) for name in ("digits-small-inputs", "friedman-large-inputs"))
    assert np.std(small.batches.arrays[0]) == pytest.approx(1e-3, rel=1e-3)
    assert np.std(large.batches.arrays[0]) == pytest.approx(1e3, rel=1e-2)
    for name, low, high in (("diabetes-units", 5e3, 5e4), ("oscillator", 1e-5, 1e-2)):
        workload = made(name)
        params, state = jax.jit(workload.init)(jax.random.key(0))
        batch = jax.tree.map(lambda x, size=workload.batches.batch_size: x[:size], workload.batches.arrays)
        assert low < float(jax.jit(workload.loss_fn)(params, state, batch, jax.random.key(0))[0]) < high


@pytest.mark.slow
def test_factored_least_squares_stays_where_it_is_and_then_falls() -> None:
    workload = make_factored_workload(num_train=500, num_test=100)
    found = lrx.sweep(workload, lambda lr: lrx.sgd(lr), {"lr": [1e-6, 1e-2, 1.0]}, num_steps=200, evaluate_every=100)
    losses = found.evaluation_curves["loss"][:, 0]
    np.testing.assert_allclose(losses[:2], losses[0, 0], rtol=1e-3)
    assert losses[2, 1] < 0.1 * losses[0, 0]


def test_least_absolute_deviations_are_least_at_the_true_weights() -> None:
    workload = make_least_absolute_workload(num_features=5, noise=0.2, num_train=2000)
    features, targets = (np.asarray(part, np.float64) for part in workload.batches.arrays)
    # By iteratively reweighted least squares, which is another way to the same minimum.
    weights = np.ones(len(targets))
    for _ in range(50):
        scaled = features * weights[:, None]
        solution = np.linalg.lstsq(scaled, targets * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(features @ solution - targets), 1e-6))
    params = {"weights": jnp.asarray(solution, jnp.float32), "bias": jnp.zeros([])}
    gradient = jax.grad(lambda p: workload.loss_fn(p, (), (features, targets), jax.random.key(0))[0])(params)
    assert float(jnp.abs(gradient["weights"]).max()) < 0.02
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(np.sqrt(2) * 0.2, rel=0.25)


@pytest.mark.slow
def test_the_transformer_looks_at_nothing_that_comes_later() -> None:
    @jax.jit
    def logits(codes: jax.Array) -> jax.Array:
        return CharacterTransformer(8, 64, width=16, rngs=nnx.Rngs(0))(codes)

    codes = jnp.arange(16).reshape(2, 8)
    before, after = logits(codes), logits(codes.at[:, 5].set(40))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(np.abs(before - after)[:, 5:] > 1e-3, axis=-1))


@pytest.mark.slow
def test_losses_of_the_text_are_nats_per_character() -> None:
    workload = make_text_workload()
    params, _ = jax.eval_shape(workload.init, jax.random.key(0))
    flat = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    found = workload.evaluate(flat, ())
    assert float(found["loss"]) == pytest.approx(np.log(64), rel=1e-5)
    batch = workload.batches.arrays[:16]
    loss = jax.jit(workload.loss_fn)(flat, (), batch, jax.random.key(0))[0]
    assert float(loss) == pytest.approx(np.log(64), rel=1e-5)


def test_the_codes_spell_the_text_and_the_end_is_held_out() -> None:
    from pydoc_data.topics import topics

    text = load_topics()
    whole = "".join(topics[name] for name in sorted(topics))
    shown = [text.characters[code] if code < len(text.characters) else None for code in text.train[:5000]]
    assert all(code is None or code == letter for code, letter in zip(shown, whole, strict=False))
    assert len(text.train) + len(text.test) == len(whole)
    assert sum(code is None for code in shown) < 50
    assert len(text.test) == pytest.approx(0.1 * len(whole), abs=1)


def test_least_squares_has_the_condition_number_and_the_noise_that_it_says() -> None:
    workload = make_least_squares_workload(num_features=10, power=2.0, noise=0.1, num_train=20_000)
    features, targets = (np.asarray(part, np.float64) for part in workload.batches.arrays)
    eigenvalues = np.linalg.eigvalsh(features.T @ features / len(features))[::-1]
    np.testing.assert_allclose(eigenvalues, np.arange(1, 11.0) ** -2, rtol=0.05)
    solution = np.linalg.lstsq(features, targets, rcond=None)[0].astype(np.float32)
    best = workload.evaluate({"weights": jnp.asarray(solution), "bias": jnp.zeros([])}, ())
    assert float(best["loss"]) == pytest.approx(0.1**2 / 2, rel=0.1)


@pytest.mark.slow
def test_sparse_examples_have_the_features_that_they_say_and_labels_that_can_be_told() -> None:
    workload = make_sparse_workload(num_features=50, active=5, num_train=4000, num_test=1000)
    places, labels = (np.asarray(part) for part in workload.batches.arrays)
    assert places.shape == (4000, 5)
    assert 0.3 < labels.mean() < 0.7
    counts = np.bincount(places.ravel(), minlength=50)
    np.testing.assert_allclose(counts[0] / counts[40], 50 / 10, rtol=0.35)
    history = train(workload, lrx.adagrad(0.3), steps=400)
    assert history.evaluations["accuracy"][-1] > 0.85  # of 0.95: one label in twenty is wrong
    params = {"weights": jnp.arange(50.0), "bias": jnp.float32(-1.0)}
    scores = places[:32].sum(axis=1) - 1.0
    expected = np.mean(np.logaddexp(0, scores) - labels[:32] * scores)
    batch = (jnp.asarray(places[:32]), jnp.asarray(labels[:32]))
    assert float(workload.loss_fn(params, (), batch, jax.random.key(0))[0]) == pytest.approx(expected, rel=1e-5)


def test_the_table_is_standardized_on_its_training_examples() -> None:
    workload = make_breast_cancer_workload()
    features, labels = (np.asarray(part) for part in workload.batches.arrays)
    assert features.shape == (455, 30)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-4)
    zero = {"weights": jnp.zeros(30), "bias": jnp.zeros([])}
    found = workload.evaluate(zero, ())
    assert float(found["loss"]) == pytest.approx(np.log(2), rel=1e-6)
    assert 0.5 < 1 - float(found["accuracy"]) < 0.75  # score 0 is the first class, and most tumours are of the second
    assert set(labels.tolist()) == {0, 1}
