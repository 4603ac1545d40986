"""With the factors of muP activations move equally far at every width; without them they move further in wider ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx

X = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(32, 2)).astype(np.float32)
WIDTHS = (16, 64, 256)


def init_fn(key, width):
    first, second, last = jax.random.split(key, 3)
    return {
        "first": jax.random.normal(first, (6, width)) / 6**0.5,
        "second": jax.random.normal(second, (width, width)) / width**0.5,
        "last": jax.random.normal(last, (width, 2)) / width**0.5,
    }


def activations(params, batch):
    first = jnp.tanh(batch[0] @ params["first"])
    second = jnp.tanh(first @ params["second"])
    return {"first": first @ params["second"], "second": second, "output": second @ params["last"]}


def loss_fn(params, batch, key):
    return jnp.mean((activations(params, batch)["output"] - batch[1]) ** 2)


def make(width, *, mup, tx=None):
    workload = lrx.Workload.from_functions(loss_fn, lambda key: init_fn(key, width), lrx.Batches((X, Y), 16))
    tx = lrx.adam(3e-3) if tx is None else tx
    if not mup:
        return workload, tx, activations
    factors = lrx.mup_factors(init_fn, (WIDTHS[0], width))
    return factors.scale_workload(workload), factors.scale_rates(tx), activations


@pytest.mark.slow
def test_changes_of_hidden_layers_are_flat_with_mup_and_grow_without():
    plain, scaled = (
        lrx.coordinate_check(lambda width, mup=mup: make(width, mup=mup), WIDTHS, num_steps=4, seeds=4)
        for mup in (False, True)
    )
    assert min(plain.slopes.values()) > 0.3
    assert max(map(abs, scaled.slopes.values())) < 0.12
    assert "grows" in str(plain).splitlines()[1]
    assert "grows" not in str(scaled)


@pytest.mark.slow
def test_changes_are_those_of_train_and_are_drawn(tmp_path):
    found = lrx.coordinate_check(lambda width: make(width, mup=False, tx=lrx.sgd(0.1)), (4, 8), num_steps=2, seeds=[3])
    assert found.changes["output"].shape == (2, 2, 1)
    workload, tx, _ = make(8, mup=False, tx=lrx.sgd(0.1))
    history = lrx.train(workload, tx, steps=2, seed=3)
    # The probe is the first minibatch of the run.
    batch = workload.loss_at(3).batch
    second_of = jax.jit(lambda params: activations(params, batch)["second"])
    initial = jax.jit(lambda key: init_fn(jax.random.split(key)[0], 8))(jax.random.key(3))
    start, end = np.asarray(second_of(initial)), np.asarray(second_of(history.params))
    expected = float(np.sqrt(np.mean((end - start) ** 2)))
    assert found.changes["second"][1, 1, 0] == pytest.approx(expected, rel=1e-4)
    assert found.initial["second"][1, 0] == pytest.approx(np.sqrt(np.mean(start**2)), rel=1e-5)
    ratio = found.changes["second"][1, 1, 0] / found.changes["second"][0, 1, 0]
    assert found.slopes["second"] == pytest.approx(np.log2(ratio), rel=1e-6)
    assert repr(found).startswith("CoordinateCheck(widths 4, 8; exponents of the width: first ")
    found.plot(title="sgd").savefig(tmp_path / "check.png")


def test_bad_arguments_are_refused():
    for arguments, options, error, message in (
        ((3, (4, 8)), {}, TypeError, "make must be a function width"),
        ((make, (4,)), {}, ValueError, r"widths must be at least two, got widths=\(4,\)"),
        ((make, (8, 4)), {}, ValueError, "widths must increase strictly"),
        ((make, (4, 8)), {"num_steps": 0}, ValueError, "num_steps must be a whole number of steps >= 1"),
        ((make, (4, 8)), {"seeds": 0}, ValueError, "seeds must be a whole number of runs >= 1"),
        ((lambda width: (3, lrx.sgd(0.1), activations), (4, 8)), {}, TypeError, "workload must be an lrx.Workload"),
    ):
        with pytest.raises(error, match=message):
            lrx.coordinate_check(*arguments, **options)


@pytest.mark.slow
def test_other_names_at_another_width_are_refused():
    def named(width):
        workload, tx, _ = make(width, mup=False, tx=lrx.sgd(0.1))
        return workload, tx, lambda params, batch: {f"of {width}": params["first"]}

    with pytest.raises(ValueError, match="activations must have the same names at each width, got of 8 at 8 and of 4"):
        lrx.coordinate_check(named, (4, 8), num_steps=1, seeds=1)
