"""What calls any transformation gives it the extra arguments that it takes, and no others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.direction import require_descent
from lrx.extra_args import tolerant_update
from lrx.training import Batches, Workload, train
from lrx.training.identity import differences, optimizer_identity


def sam(rho=0.05, rate=0.1, opaque_mode=False):
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    return optax.contrib.sam(optax.sgd(rate), adversary, sync_period=2, opaque_mode=opaque_mode)


def bowl():
    return Workload.from_functions(
        lambda params, batch, key: jnp.sum((params["w"] - jnp.mean(batch, axis=0)) ** 2) / 2,
        lambda key: {"w": jnp.ones(2)},
        Batches(jnp.zeros((4, 2)), batch_size=4),
        name="bowl",
    )


def test_sam_trains_alone_and_in_a_chain():
    alone = train(bowl(), sam(), steps=4)
    in_a_chain = train(bowl(), optax.chain(optax.clip_by_global_norm(10.0), sam()), steps=4)
    np.testing.assert_allclose(alone.params["w"], in_a_chain.params["w"], rtol=1e-6)
    # Two steps uphill by the adversary, of which each is taken back by an update from there.
    rho, w = 0.05, 1.0
    for _ in range(2):
        w -= 0.1 * (w + rho / np.sqrt(2.0))
    np.testing.assert_allclose(alone.params["w"], w, rtol=1e-5)
    # One step of the opaque form is two of the other.
    np.testing.assert_allclose(train(bowl(), sam(opaque_mode=True), steps=2).params["w"], w, rtol=1e-5)


def test_what_refuses_arguments_is_probed_and_compared():
    params = {"w": jnp.zeros(2)}
    assert differences(optimizer_identity(sam(), params), optimizer_identity(sam(rho=0.1), params))
    require_descent(sam(), params)
    for ascends in (sam(rate=-0.1), sam(rate=-0.1, opaque_mode=True)):
        with pytest.raises(ValueError, match="must descend"):
            require_descent(ascends, params)


def test_an_argument_that_one_link_refuses_and_another_needs_is_named():
    rate = 0.1 * lrx.reduce_on_plateau()
    tx = optax.chain(sam(), lrx.group_rates(optax.identity(), lambda path, leaf: "all", {"all": 1.0}))
    update = tolerant_update(tx)
    grads = {"w": jnp.ones(2)}
    update(grads, tx.init(grads), grads, value=jnp.float32(1.0))
    tx = optax.chain(optax.contrib.sam(optax.identity(), optax.identity()), lrx.sgd(rate))
    with pytest.raises(TypeError, match=r"one link of it refuses value .*needs the loss.* Hide them from the link"):
        tolerant_update(tx)(grads, tx.init(grads), grads, value=jnp.float32(1.0))


def test_a_type_error_that_has_another_cause_is_raised_as_it_is():
    def update(updates, state, params=None, **extra_args):
        raise TypeError("got an unexpected keyword argument 'axis'")

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    with pytest.raises(TypeError, match=r"^got an unexpected keyword argument 'axis'$"):
        tolerant_update(tx)(jnp.ones(2), (), None, value=jax.numpy.float32(1.0))
