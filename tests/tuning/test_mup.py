"""The factors of muP follow from which dimensions grow, and activations then move equally far at every width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.tuning.mup import MupLeaf


def init_fn(key, width):
    """Return a network with every kind of leaf, drawn as a user would."""

    def kernel(shape, fan_in):
        # Of the key and not random, which would take the compiler a second for each leaf.
        places = jnp.arange(np.prod(shape)) + jax.random.key_data(key)[-1].astype(jnp.float32)
        return jnp.sin(places).reshape(shape) / fan_in**0.5

    return {
        "embedding": kernel((11, width), width),  # as Flax draws it: smaller in a wider network
        "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
        "attention": {
            "query": {"kernel": kernel((width, 4, width // 4), width), "bias": jnp.zeros((4, width // 4))},
            "out": {"kernel": kernel((4, width // 4, width), width)},
        },
        "dense": {"kernel": kernel((width, 2 * width), width)},
        "head": {"kernel": kernel((2 * width, 5), 2 * width), "bias": jnp.zeros(5)},
    }


def test_what_grows_decides_the_factors_for_adam():
    factors = lrx.mup_factors(init_fn, (16, 64))
    assert factors.leaves["embedding"] == MupLeaf("input", (11, 16), (11, 64), 1.0, 2.0)
    assert factors.leaves["norm/scale"] == MupLeaf("input", (16,), (64,), 1.0, 1.0)
    assert factors.leaves["dense/kernel"] == MupLeaf("hidden", (16, 32), (64, 128), 0.25, 1.0)
    assert factors.leaves["attention/out/kernel"] == MupLeaf("hidden", (4, 4, 16), (4, 16, 64), 0.25, 1.0)
    assert factors.leaves["head/kernel"] == MupLeaf("output", (32, 5), (128, 5), 0.25, 0.5)
    assert factors.leaves["head/bias"] == MupLeaf("fixed", (5,), (5,), 1.0, 1.0)
    # 1 / sqrt(d) of attention becomes 1 / d: a query is half as large, and moves half as far.
    assert factors.leaves["attention/query/kernel"] == MupLeaf("query", (16, 4, 4), (64, 4, 16), 0.125, 0.5)
    assert factors.leaves["attention/query/bias"] == MupLeaf("query", (4, 4), (4, 16), 0.5, 0.5)


def test_the_rates_of_sgd_grow_with_the_outputs():
    factors = lrx.mup_factors(init_fn, (16, 64), optimizer="sgd")
    rates = {path: leaf.rate for path, leaf in factors.leaves.items()}
    assert rates["embedding"] == rates["norm/bias"] == 4
    assert rates["dense/kernel"] == 1
    assert rates["head/kernel"] == 0.25
    assert rates["attention/query/kernel"] == 0.25  # twice the square root: of the value and of the gradient


def test_heads_that_grow_in_number_leave_the_scale_of_attention_alone():
    def init_fn(key, width):
        return {"query": {"kernel": jnp.ones((width, width // 8, 8)) / width**0.5}}

    leaf = lrx.mup_factors(init_fn, (16, 64)).leaves["query/kernel"]
    assert (leaf.kind, leaf.rate, leaf.initial) == ("query", 0.25, 1.0)


def test_kernels_with_outputs_first_are_told_by_the_axis():
    def init_fn(key, width):
        return {
            "first": jnp.ones((width, 8)),
            "second": jnp.ones((3 * width, width)) / width**0.5,
            "last": jnp.ones((5, width)) / width**0.5,
        }

    factors = lrx.mup_factors(init_fn, (16, 64), filter_axis=0)
    assert {path: leaf.kind for path, leaf in factors.leaves.items()} == {
        "first": "input",
        "second": "hidden",
        "last": "output",
    }
    assert [leaf.rate for leaf in factors.leaves.values()] == [1, 0.25, 0.25]


def test_the_base_width_has_factors_of_1_and_the_groups_of_the_others():
    factors = lrx.mup_factors(init_fn, (16, 16))
    assert {leaf.rate for leaf in factors.leaves.values()} == {leaf.initial for leaf in factors.leaves.values()} == {1}
    assert factors.leaves["dense/kernel"].kind == "hidden"
    params = init_fn(jax.random.key(0), 16)
    np.testing.assert_array_equal(factors.scale_initial(params)["dense"]["kernel"], params["dense"]["kernel"])


def test_rates_and_initial_values_are_multiplied():
    factors = lrx.mup_factors(init_fn, (16, 64))
    params = init_fn(jax.random.key(1), 64)
    scaled = factors.scale_initial(params)
    np.testing.assert_allclose(scaled["head"]["kernel"], params["head"]["kernel"] / 2, rtol=1e-6)
    np.testing.assert_allclose(scaled["embedding"], params["embedding"] * 2, rtol=1e-6)
    tx = factors.scale_rates(lrx.sgd(0.1))
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params))
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.025, rtol=1e-6)
    np.testing.assert_allclose(updates["attention"]["query"]["kernel"], -0.0125, rtol=1e-6)
    assert lrx.learning_rate(state, "hidden") == pytest.approx(0.025)
    assert lrx.learning_rate(state, "query x 0.5") == pytest.approx(0.05)
    assert "head/kernel" in str(factors)
    assert "width 16 to 64, adam" in repr(factors)


def test_a_workload_begins_with_the_scaled_values():
    workload = lrx.Workload.from_functions(
        lambda params, batch, key: jnp.sum(params["head"]["kernel"] ** 2) + jnp.mean(batch),
        lambda key: init_fn(key, 64),
        lrx.Batches(np.zeros(4, np.float32), 2),
    )
    factors = lrx.mup_factors(init_fn, (16, 64))
    params, model_state = factors.scale_workload(workload).init(jax.random.key(3))
    expected = factors.scale_initial(init_fn(jax.random.key(3), 64))
    np.testing.assert_allclose(params["head"]["kernel"], expected["head"]["kernel"], rtol=1e-6)
    assert model_state == ()


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (3, {}, TypeError, "init_fn must be a function"),
        (init_fn, {"widths": 64}, ValueError, "widths must be two"),
        (init_fn, {"widths": (16, 0)}, ValueError, r"widths\[1\] must be a whole number of units >= 1"),
        (init_fn, {"optimizer": "lion"}, ValueError, "optimizer must be one of 'adam', 'sgd'"),
        (lambda key, width: {"w": jnp.ones((4, 4))}, {}, ValueError, "init_fn must return larger arrays at a larger"),
        (
            lambda key, width: {"w": jnp.ones(width), **({"b": jnp.ones(1)} if width > 16 else {})},
            {},
            ValueError,
            "init_fn must return the same leaves at both widths, but only one has b",
        ),
        (
            lambda key, width: {"w": jnp.ones((width,) * (1 + width // 32))},
            {},
            ValueError,
            "init_fn must return the same axes at both widths",
        ),
        (lambda key, width: {"w": jnp.ones((width,) * 3)}, {}, ValueError, "at most two axes of a leaf may grow"),
    ],
)
def test_bad_arguments_are_refused(function, options, error, message):
    arguments = {"widths": (16, 64), **options}
    with pytest.raises(error, match=message):
        lrx.mup_factors(function, arguments.pop("widths"), **arguments)


def test_parameters_of_another_width_are_refused():
    factors = lrx.mup_factors(init_fn, (16, 64))
    with pytest.raises(ValueError, match=r"width 64, got \(4, 4, 16\) at 'attention/out/kernel', where"):
        factors.scale_initial(init_fn(jax.random.key(0), 16))
    with pytest.raises(ValueError, match="path must be one of the parameters that the factors were made for, got 'x'"):
        factors.label_of("x")
