"""The noise scale of a problem whose value is known, and its interval."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.diagnostics import NoiseScale
from lrx.diagnostics.noise_scale import _estimate, _student_quantile

SIZE, BATCH = 40, 8


def loss(params, batch):
    """Half the squared distance: the gradient of an example is params - x, so its covariance is that of x."""
    return 0.5 * jnp.mean(jnp.sum((params["w"][None] - batch) ** 2, axis=-1))


PARAMS = {"w": jnp.zeros(SIZE), "steps": 3}


def examples(number, trace, square, seed=0):
    """Return (number, BATCH, SIZE) examples of covariance trace `trace`, with mean of squared norm `square`."""
    drawn = np.random.default_rng(seed).normal(size=(number, BATCH, SIZE)) * np.sqrt(trace / SIZE)
    return (drawn + np.sqrt(square / SIZE)).astype(np.float32)


@pytest.mark.parametrize(("trace", "square"), [(40.0, 1.0), (1.0, 1.0), (1e-6, 1.0), (4e8, 1e6)])
def test_a_known_noise_scale_is_found_within_ten_percent(trace, square):
    found = lrx.noise_scale(loss, PARAMS, examples(400, trace, square))
    assert found.resolved
    assert found.noise_scale == pytest.approx(trace / square, rel=0.1)
    assert found.critical_batch_size == found.noise_scale
    assert found.noise_trace == pytest.approx(trace, rel=0.05)
    assert found.gradient_square == pytest.approx(square, rel=0.1)
    assert found.interval[0] < trace / square < found.interval[1]
    assert (found.batch_size, found.num_batches) == (BATCH, 400)


def drawn(trace, square, number, runs, seed=0):
    """Return what the noise scale would be made of, for many runs at once: the terms of `_estimate`."""
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        gradients = np.sqrt(square / SIZE) + rng.normal(size=(number, SIZE)) * np.sqrt(trace / SIZE / BATCH)
        mean = gradients.mean(axis=0)
        apart = gradients - mean
        yield _estimate(float(mean @ mean), (apart**2).sum(axis=1), apart @ mean, BATCH)


def test_both_terms_are_unbiased_and_the_interval_covers_the_value():
    found = list(drawn(40.0, 1.0, 30, 2000))
    for name, true in (("noise_trace", 40.0), ("gradient_square", 1.0)):
        values = np.array([getattr(each, name) for each in found])
        assert abs(values.mean() - true) < 4 * values.std() / np.sqrt(len(values))
    errors = np.array([each.gradient_square_error for each in found])
    assert errors.mean() == pytest.approx(np.std([each.gradient_square for each in found]), rel=0.1)
    covered = np.mean([each.interval[0] < 40 < each.interval[1] for each in found if each.resolved])
    assert np.mean([each.resolved for each in found]) > 0.95
    assert 0.9 < covered < 0.98


def test_leaving_one_out_is_what_the_formulas_say():
    data = examples(6, 40.0, 4.0)
    gradients = -data.mean(axis=1).astype(np.float64)

    def terms(rows):
        mean = rows.mean(axis=0)
        noise = ((rows - mean) ** 2).sum() / (len(rows) - 1)
        return noise, mean @ mean - noise / len(rows)

    without = np.array([terms(np.delete(gradients, index, axis=0)) for index in range(6)])
    found = lrx.noise_scale(loss, PARAMS, data)
    expected = np.sqrt(5 / 6 * np.sum((without[:, 1] - without[:, 1].mean()) ** 2))
    assert found.gradient_square_error == pytest.approx(expected, rel=1e-3)
    logs = np.log(without[:, 0] / without[:, 1])
    width = np.sqrt(5 / 6 * np.sum((logs - logs.mean()) ** 2)) * _student_quantile(5)
    assert np.log(found.interval[1] / found.noise_scale) == pytest.approx(width, rel=1e-3)


def test_the_quantiles_are_those_of_tables():
    for freedom, value in ((3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)):
        assert _student_quantile(freedom) == pytest.approx(value, rel=0.02)


def test_without_a_gradient_nothing_is_resolved_but_a_lower_bound():
    found = lrx.noise_scale(loss, PARAMS, examples(20, 40.0, 0.0))
    assert not found.resolved
    assert np.isnan(found.noise_scale)
    assert 0 < found.interval[0] < found.interval[1] == np.inf
    assert repr(found).startswith("NoiseScale(not resolved: above ")
    with pytest.raises(ValueError, match=r"^the noise scale must be resolved to scale a rate, got \|G\|\^2 ="):
        found.scale_rate(0.1, 16)
    with pytest.raises(ValueError, match=r"^the noise scale must be resolved to be drawn, got Noise"):
        found.plot()


def test_batches_may_be_arrays_a_list_or_an_iterator():
    data = examples(10, 1.0, 1.0)
    expected = lrx.noise_scale(loss, PARAMS, data)
    for batches in (jnp.asarray(data), list(data), iter(data)):
        assert lrx.noise_scale(loss, PARAMS, batches) == expected
    labelled = lrx.noise_scale(
        lambda params, batch: batch["weight"] * loss(params, batch["x"]), PARAMS, {"x": data, "weight": jnp.ones(10)}
    )
    assert labelled.noise_scale == pytest.approx(expected.noise_scale, rel=1e-5)
    tokens = lrx.noise_scale(loss, PARAMS, data, batch_size=80)
    assert tokens.noise_scale == pytest.approx(10 * expected.noise_scale, rel=1e-6)


def test_the_rate_is_proportional_to_small_batches_and_constant_for_large_ones():
    found = NoiseScale(1000.0, (900.0, 1100.0), True, 1000.0, 1.0, 0.1, 10, 50)
    assert found.scale_rate(0.1, 20) == pytest.approx(0.2, rel=0.02)
    assert found.scale_rate(0.1, 1e9) == pytest.approx(0.1 * 101, rel=1e-3)
    assert found.scale_rate(0.1, 40, power=0.5) == pytest.approx(0.2, rel=0.02)
    figure = found.plot()
    steps, images = (line.get_ydata() for line in figure.axes[0].lines[:2])
    sizes = figure.axes[0].lines[0].get_xdata()
    crossing = int(np.argmin(np.abs(np.log(steps / images))))
    assert sizes[crossing] == pytest.approx(1000, rel=0.1)
    assert steps[crossing] == pytest.approx(2, rel=0.1)


DATA = np.ones((4, BATCH, SIZE), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((loss, PARAMS, DATA[:2]), ValueError, "^batches must be at least 3 minibatches, got 2"),
        ((loss, PARAMS, []), ValueError, "^batches must be at least 3 minibatches, got none"),
        ((loss, PARAMS, 3), TypeError, "^batches must be arrays or an iterable of minibatches, got batches=3"),
        ((loss, PARAMS, {"x": DATA, "y": np.ones(3)}), ValueError, "^batches must have one leading axis that counts"),
        (
            (loss, PARAMS, [DATA[0], DATA[0], DATA[0][:3]]),
            ValueError,
            "^batches must all have one size, got 8 and then 3",
        ),
        ((lambda p, b: b, PARAMS, DATA), ValueError, r"^loss must return a scalar, got one of shape \(8, 40\)"),
        ((loss, {"w": np.arange(SIZE)}, DATA), ValueError, "^params must hold at least one floating-point number"),
        ((loss, PARAMS, DATA * np.nan), ValueError, "^the gradients must be finite, got a mean whose squared norm"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        lrx.noise_scale(*arguments)


def test_other_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"^batch_size must be a whole number of examples >= 1"):
        lrx.noise_scale(loss, PARAMS, DATA, batch_size=0)
    found = NoiseScale(1.0, (1.0, 1.0), True, 1.0, 1.0, 0.1, 1, 3)
    for arguments, message in (
        ((-0.1, 8), "^learning_rate must be a finite number >= 0"),
        ((0.1, 0), "^batch_size must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            found.scale_rate(*arguments)
    with pytest.raises(ValueError, match=r"^power must be in \(0, 1\]"):
        found.scale_rate(0.1, 8, power=2)
