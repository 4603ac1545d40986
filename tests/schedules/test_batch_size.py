"""Rates for other batch sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx


def test_goyals_rule_is_a_tenth_for_each_256_examples():
    assert lrx.scale_for_batch_size(0.1, 8192) == pytest.approx(3.2)
    assert lrx.scale_for_batch_size(0.1, 64) == pytest.approx(0.025)
    assert lrx.scale_for_batch_size(0.1, 128, base_batch_size=128) == 0.1
    assert lrx.scale_for_batch_size(0.1, 64, rule="sqrt") == pytest.approx(0.05)


def test_it_sweeps():
    sizes = jnp.asarray([64, 256, 1024])
    np.testing.assert_allclose(
        jax.vmap(lambda n: lrx.scale_for_batch_size(0.1, n))(sizes), [0.025, 0.1, 0.4], rtol=1e-6
    )
    linear = jax.jit(lambda rate: lrx.scale_for_batch_size(rate, 1024, rule="sqrt"))(0.1)
    np.testing.assert_allclose(linear, 0.2, rtol=1e-6)


def test_it_scales_a_schedule_by_a_product():
    schedule = lrx.cosine_decay(0.1, 10) * lrx.scale_for_batch_size(1.0, 512)
    np.testing.assert_allclose(schedule(0), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "^learning_rate must be a finite number >= 0, got learning_rate=-0.1"),
        (
            {"learning_rate": lrx.constant(0.1)},
            TypeError,
            r"^learning_rate must be a number, .*scale_for_batch_size\(1",
        ),
        ({"batch_size": 0}, ValueError, "^batch_size must be a whole number of examples >= 1 .*got batch_size=0"),
        ({"batch_size": 2.5}, ValueError, "^batch_size must be a whole number of examples"),
        ({"base_batch_size": -1}, ValueError, "^base_batch_size must be a whole number of examples"),
        ({"rule": "cubic"}, ValueError, "^rule must be one of 'linear', 'sqrt', got rule='cubic'"),
    ],
)
def test_bad_values_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        lrx.scale_for_batch_size(**{"learning_rate": 0.1, "batch_size": 128, **arguments})
