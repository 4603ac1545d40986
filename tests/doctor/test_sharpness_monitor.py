"""The sharpness of a run is recorded at its own interval, beside the limit of its rate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.training import Batches, Workload

CURVATURES = jnp.array([1.0, 3.0, 0.5])


def loss_fn(params, batch, key):
    return 0.5 * jnp.sum(CURVATURES * params["w"] ** 2) + 0 * jnp.sum(batch)


BOWL = Workload.from_functions(loss_fn, lambda key: {"w": jnp.ones(3)}, Batches(jnp.zeros(4), 4), name="bowl")
FALLING = lrx.sgd(lrx.linear_decay(0.4, 8))


def test_sharpness_and_limit_are_recorded_at_the_monitors_own_interval():
    monitor = lrx.sharpness_monitor(BOWL, every=3)
    assert repr(monitor) == "SharpnessMonitor(every 3 steps, nothing measured yet)"
    other = []
    history = lrx.train(BOWL, FALLING, steps=8, callback=[monitor, other.append], callback_every=4)
    np.testing.assert_array_equal(monitor.steps, [3, 6, 8])
    np.testing.assert_allclose(monitor.sharpness, 3, rtol=1e-3)
    assert np.all(monitor.residuals <= 3e-2)
    np.testing.assert_allclose(monitor.limits, 2 / history.rate[[2, 5, 7]], rtol=1e-6)
    assert [moment.step for moment in other] == [4, 8]
    np.testing.assert_array_equal(np.concatenate([moment.losses for moment in other]), history.loss)
    alone = lrx.train(BOWL, FALLING, steps=8)
    jax.tree.map(np.testing.assert_array_equal, alone.params, history.params)


def test_an_adaptive_method_is_measured_over_its_preconditioner():
    monitor = lrx.sharpness_monitor(BOWL, every=5, tol=1e-4)
    history = lrx.train(BOWL, lrx.rmsprop(0.01, eps=0.1), steps=5, callback=monitor)
    over = lrx.preconditioner_of(history.opt_state)["w"]
    np.testing.assert_allclose(monitor.sharpness, [jnp.max(CURVATURES / over)], rtol=1e-4)
    np.testing.assert_allclose(monitor.limits, [200], rtol=1e-5)


def test_a_resumed_run_continues_the_record_and_another_run_begins_it_anew(tmp_path):
    def monitor():
        return lrx.sharpness_monitor(BOWL, every=2, path=tmp_path / "sharpness.json")

    folder = tmp_path / "run"
    lrx.train(BOWL, lrx.sgd(0.1), steps=4, callback=monitor(), checkpoint=folder)
    resumed = monitor()
    np.testing.assert_array_equal(resumed.steps, [2, 4])
    lrx.train(BOWL, lrx.sgd(0.1), steps=8, callback=resumed, checkpoint=folder)
    np.testing.assert_array_equal(resumed.steps, [2, 4, 6, 8])
    complete = monitor()
    lrx.train(BOWL, lrx.sgd(0.1), steps=8, callback=complete, checkpoint=folder)
    np.testing.assert_array_equal(complete.steps, [2, 4, 6, 8])
    lrx.train(BOWL, lrx.sgd(0.1), steps=2, callback=complete)
    np.testing.assert_array_equal(complete.steps, [2])
    (tmp_path / "sharpness.json").write_text("{")
    with pytest.raises(ValueError, match=r"^path must be a file that a sharpness_monitor has written"):
        monitor()


def test_the_record_is_drawn():
    monitor = lrx.sharpness_monitor(BOWL, every=2)
    with pytest.raises(ValueError, match=r"^nothing was measured yet"):
        monitor.plot()
    lrx.train(BOWL, lrx.sgd(0.7), steps=4, callback=monitor)  # 3 is above 2 / 0.7
    assert "2 measurements, 2 of them above the limit" in repr(monitor)
    axes = monitor.plot(title="bowl").axes[0]
    assert [line.get_label() for line in axes.lines] == ["sharpness", "stability limit"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), monitor.limits)


def test_what_cannot_be_monitored_is_refused():
    for every in (0, 2.5):
        with pytest.raises(ValueError, match=r"^every must be a whole number of steps >= 1"):
            lrx.sharpness_monitor(BOWL, every=every)
    with pytest.raises(ValueError, match=r"^tol must be a finite number > 0"):
        lrx.sharpness_monitor(BOWL, every=1, tol=0.0)
    with pytest.raises(TypeError, match=r"^workload must be an lrx\.Workload"):
        lrx.sharpness_monitor(loss_fn, every=1)
    with pytest.raises(ValueError, match="got MomoState"):
        lrx.train(BOWL, lrx.momo(0.1), steps=2, callback=lrx.sharpness_monitor(BOWL, every=1))


def test_a_callback_whose_interval_is_not_a_number_of_steps_is_refused():
    class Often:
        every = 0.5

        def __call__(self, moment):
            pass

    with pytest.raises(ValueError, match=r"^callback\.every must be a whole number of steps >= 1"):
        lrx.train(BOWL, lrx.sgd(0.1), steps=2, callback=Often())
