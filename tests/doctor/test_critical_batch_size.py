"""Branches are runs with larger batches on the same examples, and noise decides how far the batch may grow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx
from lrx.diagnostics import NoiseScale
from lrx.doctor.batch_branches import CriticalBatchSize

rng = np.random.default_rng(0)
X = rng.normal(size=(96, 3)).astype(np.float32)
Y = (X @ np.ones(3) + rng.normal(size=96)).astype(np.float32)


def squares(params, batch, key):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def line(noise=1.0, batch_size=4):
    """Return a regression whose targets have that much noise."""
    y = Y if noise else X @ np.ones(3, np.float32)
    init = {"w": jnp.full(3, 4.0)}
    return lrx.Workload.from_functions(squares, lambda key: dict(init), lrx.Batches((X, y), batch_size), name="line")


TX = lrx.adam(lrx.constant(0.05))


@pytest.fixture(scope="module")
def history():
    return lrx.train(line(), TX, steps=12)


@pytest.fixture(scope="module")
def found(history):
    return lrx.critical_batch_size(line(), history, tx=TX, multiples=(1, 2, 4), updates=3, seeds=[5, 6], measure_on=24)


def loss_on_all(params):
    return float(np.mean((X @ np.asarray(params["w"]) - Y) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("place", first_tier_has([1], range(3)))
def test_a_branch_is_the_run_with_that_batch_and_rate_from_the_state(history, found, place):
    multiple = 2**place
    scaled = lrx.scale_learning_rate(history.opt_state, multiple**0.5)
    # One update of the largest batch lies in the last quarter of three: that at the end.
    larger = lrx.train(
        line(batch_size=4 * multiple), TX, steps=12 // multiple, seed=5, init=(history.params, (), scaled)
    )
    # 24 minibatches of 4 are all examples.
    assert found.losses[place, 0] == pytest.approx(loss_on_all(larger.params), rel=1e-5)
    assert found.factors[place] == pytest.approx(multiple**0.5)
    assert found.losses.shape == (3, 2)
    assert found.losses[place, 0] != found.losses[place, 1]


@pytest.mark.slow
def test_the_loss_is_a_mean_over_the_last_quarter_of_the_updates(history):
    options = {"tx": TX, "multiples": (1, 2), "seeds": [5], "measure_on": 24, "updates": 8}
    found = lrx.critical_batch_size(line(), history, **options)
    expected = [
        loss_on_all(lrx.train(line(), TX, steps=steps, seed=5, init=(history.params, (), history.opt_state)).params)
        for steps in (14, 16)
    ]
    assert found.losses[0, 0] == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.slow
def test_the_noise_scale_is_that_of_the_start(history, found):
    batches = X.reshape(24, 4, 3), Y.reshape(24, 4)
    own = lrx.noise_scale(lambda params, batch: squares(params, batch, None), history.params, batches)
    # Both from all examples, in minibatches of other examples.
    assert found.noise.gradient_square == pytest.approx(own.gradient_square, rel=0.2)
    assert found.noise.batch_size == 4
    assert found.noise.num_batches == 24


def test_the_start_may_be_a_tuple_and_the_rule_linear(history, found):
    start = history.params, history.model_state, history.opt_state
    options = {"tx": TX, "multiples": (1, 2, 4), "updates": 3, "seeds": [5, 6], "measure_on": 24}
    same = lrx.critical_batch_size(line(), start, **options)
    np.testing.assert_array_equal(same.losses, found.losses)
    np.testing.assert_array_equal(same.curves, found.curves)
    linear = lrx.critical_batch_size(line(), start, rule="linear", **options)
    np.testing.assert_array_equal(linear.factors, [1, 2, 4])
    np.testing.assert_array_equal(linear.losses[0], found.losses[0])
    assert not np.allclose(linear.losses[2], found.losses[2], rtol=1e-3)


@pytest.mark.slow
def test_with_noise_the_batch_may_grow_and_without_it_may_not():
    tx = lrx.sgd(0.01)
    results = {}
    for noise in (1.0, 0.0):
        w = np.linalg.lstsq(X, line(noise).batches.arrays[1])[0] if noise else np.full(3, 4.0)
        params = {"w": jnp.asarray(w, jnp.float32)}
        results[noise] = lrx.critical_batch_size(
            line(noise), (params, (), tx.init(params)), tx=tx, multiples=(1, 2, 4), updates=4, measure_on=24
        )
    assert results[1.0].batch_size == 16
    assert not results[1.0].is_reached
    assert "at least 16 examples" in repr(results[1.0])
    assert results[0.0].batch_size == 4
    assert results[0.0].is_reached


def example(losses):
    number = len(losses)
    return CriticalBatchSize(
        noise=NoiseScale(24.0, (20.0, 30.0), True, 24.0, 1.0, 0.1, 8, 32),
        multiples=2 ** np.arange(number),
        factors=np.sqrt(2.0 ** np.arange(number)).astype(np.float32),
        examples=8,
        losses=np.array(losses, np.float32),
        tolerance=0.01,
        curves=np.ones((number, 2, 5), np.float32),
        steps=np.arange(5),
        rule="sqrt",
    )


def test_the_multiple_is_the_last_one_before_the_first_that_is_above_the_tolerance(tmp_path):
    found = example([[1.0, 1.0], [1.0, 1.01], [1.1, 1.3], [1.0, 1.0], [np.inf, 1.0]])
    assert found.multiple == 2
    assert found.batch_size == 16
    assert found.is_reached
    assert found.excess[2] == pytest.approx(0.2, rel=1e-5)
    assert found.excess_error[2] == pytest.approx(0.1, rel=1e-5)
    lines = str(found).splitlines()
    assert "+20.00 %     10.00 %" in lines[3]
    assert "diverged" in lines[5]
    assert lines[-1] == "noise scale:         24 examples (95 % from 20 to 30)"
    assert lines[-2] == "critical batch size: 16 examples (excess up to 1 %, 2 seeds)"
    found.plot(title="an example").savefig(tmp_path / "batches.png")


def test_a_branch_that_diverges_has_no_finite_loss(history):
    tx = lrx.sgd(0.4)
    params = history.params
    found = lrx.critical_batch_size(
        line(),
        (params, (), tx.init(params)),
        tx=tx,
        multiples=(1, 64),
        rule="linear",
        updates=12,
        seeds=1,
        measure_on=3,
    )
    assert np.isfinite(found.losses[0, 0])
    assert found.losses[1, 0] == np.inf
    assert np.isnan(found.excess_error).all()
    assert found.multiple == 1


def test_bad_arguments_are_refused(history):
    fixed = line()
    cases = [
        ({"workload": 3}, TypeError, "workload must be an lrx.Workload"),
        ({"start": history.params}, TypeError, "start must be a History, a Moment or"),
        ({"tx": lrx.sgd(0.1)}, ValueError, "start must hold a state of tx, got another"),
        ({"tx": lrx.adam}, TypeError, "tx must be a gradient transformation"),
        ({"multiples": (2, 4)}, ValueError, r"multiples must begin with 1 and hold more, got multiples=\(2, 4\)"),
        ({"multiples": (1,)}, ValueError, "multiples must begin with 1 and hold more"),
        ({"multiples": 8}, ValueError, "multiples must begin with 1 and hold more"),
        ({"multiples": (1, 4, 2)}, ValueError, "multiples must increase strictly"),
        ({"rule": "square"}, ValueError, "rule must be one of 'sqrt', 'linear'"),
        ({"updates": 0}, ValueError, "updates must be a whole number of updates >= 1"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be a finite number > 0"),
        ({"measure_on": 2}, ValueError, "measure_on must be a whole number of minibatches >= 3"),
        ({"seeds": 0}, ValueError, "seeds must be a whole number of runs >= 1"),
    ]
    for change, error, message in cases:
        arguments = {"workload": fixed, "start": history, "tx": TX, **change}
        with pytest.raises(error, match=message):
            lrx.critical_batch_size(arguments.pop("workload"), arguments.pop("start"), **arguments)


def test_a_state_without_a_rate_is_refused_before_anything_is_trained(history):
    import optax

    tx = optax.adam(0.1)
    start = history.params, (), tx.init(history.params)
    with pytest.raises(ValueError, match="rate"):
        lrx.critical_batch_size(line(), start, tx=tx)
    assert jax.tree.leaves(history.params)  # nothing was donated
