"""What else may be among parameters: integers, PRNG keys, and types too narrow to be updated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, OPTIMIZERS, all_states
from problems import gradient_stream, signature_of, vector_params

import lrx

INTEGERS = {"ids": jnp.arange(3), "key": jax.random.key(0)}


@all_states
@pytest.mark.parametrize("absent", ["none", "float0"])
def test_integers_and_keys_stay_where_there_is_no_gradient(case, absent):
    params = {**vector_params(), **INTEGERS}
    none = dict.fromkeys(INTEGERS, None if absent == "none" else np.zeros((), jax.dtypes.float0))
    tx = case()
    state = tx.init(params)
    plain = tx.init(vector_params())
    for gradients in gradient_stream(vector_params(), 2):
        updates, after = tx.update({**gradients, **none}, state, params, value=1.0)
        expected, plain = tx.update(gradients, plain, vector_params(), value=1.0)
        assert signature_of(after) == signature_of(state)
        for name, leaf in expected.items():
            np.testing.assert_allclose(updates[name], leaf, rtol=1e-5, atol=1e-7)
        assert all(updates[name] is none[name] for name in INTEGERS)
        state = after
    point = lrx.eval_params(state, params)
    assert point["key"] is params["key"]
    np.testing.assert_array_equal(point["ids"], params["ids"])
    assert point["ids"].dtype == params["ids"].dtype


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn])
def test_types_below_16_bits_are_refused_by_name_where_a_state_is_made(dtype):
    params = {"w": {"kernel": jnp.ones(2, dtype)}, "b": jnp.ones(2)}
    for label, case in CASES.items():
        if label == "group_rates that freezes":  # what is frozen may be of any type
            continue
        with pytest.raises(ValueError, match=rf"^params must be bfloat16, .* got {jnp.dtype(dtype)} at 'w/kernel'"):
            case().init(params)


def test_a_gradient_of_integers_by_jax_passes_through_an_update():
    params = {"w": jnp.ones(3), "ids": jnp.arange(3)}

    def loss(params):
        return jnp.sum(params["w"][params["ids"]] ** 2)

    gradients = jax.grad(loss, allow_int=True)(params)
    for label in ("sgd", "adam", "adamw", "prodigy", "schedule_free_adamw", "mechanic"):
        tx = OPTIMIZERS[label]()
        updates, _ = tx.update(gradients, tx.init(params), params, value=loss(params))
        assert bool(jnp.all(jnp.isfinite(updates["w"])))
        assert updates["ids"].dtype == jax.dtypes.float0
