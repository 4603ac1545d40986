"""The suite of tasks: what each is made of, and that it can be trained."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lrx
from lrx.training import train
from lrx.workloads.linear import make_breast_cancer_workload, make_least_squares_workload, make_sparse_workload
from lrx.workloads.suite.earlier import EARLIER, UNSEEN
from lrx.workloads.text import CharacterTransformer, load_topics, make_text_workload

needs_files = pytest.mark.skipif(
    not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs_files if name.startswith(("mnist", "cifar10")) else ())
        for name in EARLIER | UNSEEN
    ],
)
def test_every_task_is_learnt_within_a_fifth_of_its_run(name: str) -> None:
    task = (EARLIER | UNSEEN)[name]
    workload = task.make(None)
    params, model_state = workload.init(jax.random.key(0))
    before = float(workload.evaluate(params, model_state)[task.metric])
    rate = 0.1 if name.startswith(("sparse", "least_squares")) else 5e-3
    history = train(workload, lrx.adamw(rate), steps=task.steps // 5)
    after = history.evaluations[task.metric][-1]
    assert after < 0.95 * before if task.mode == "min" else after > before + 0.02
    assert np.all(np.isfinite(history.loss))


@pytest.mark.slow
def test_the_transformer_looks_at_nothing_that_comes_later() -> None:
    @jax.jit
    def logits(codes: jax.Array) -> jax.Array:
        return CharacterTransformer(8, 64, width=16, rngs=nnx.Rngs(0))(codes)

    codes = jnp.arange(16).reshape(2, 8)
    before, after = logits(codes), logits(codes.at[:, 5].set(40))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(np.abs(before - after)[:, 5:] > 1e-3, axis=-1))


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
