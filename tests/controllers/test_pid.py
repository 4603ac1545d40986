"""The PID factor: its gains, its bounds and errors of one's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from units import (
    INF,
    NAN,
    Case,
    refuse,
    refuse_fractions,
    refuse_rates,
    refuse_words,
)

import lrx

CASES = {
    "pid": Case(
        lrx.pid,
        {"kp": 5.0, "set_point": 0.1},
        {
            "kp": (0.0, 1.0, 10.0),
            "ki": (0.0, 0.1, 1.0),
            "kd": (0.0, 0.1, 1.0),
            "set_point": (0.01, 0.1, 1.0),
            "smoothing": (0.0, 0.5, 0.9),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.2, 9.0),
            "significance": (0.0, 1.0, 9.0),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
        values=(1.0, 0.98, 0.99, 0.97, 1.5, 2.2, 3.0, 4.0),
    ),
}


REFUSED = [
    *refuse(lrx.pid, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"),
    *refuse_rates(lrx.pid, "kp"),
    *refuse_rates(lrx.pid, "ki"),
    *refuse_rates(lrx.pid, "kd"),
    *refuse_rates(lrx.pid, "significance"),
    *refuse(lrx.pid, "set_point", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.pid, "max_factor", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse_fractions(lrx.pid, "smoothing", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.pid, "min_factor", "(0, 1]", (0.0, 1.1)),
    *refuse_words(lrx.pid, "feedback"),
    (lrx.pid, {"error": 0.1}, TypeError, "^error must be a function of the loss, got error=0.1"),
]


DESCENDS = {
    "pid": lambda: lrx.sgd(0.03 * lrx.pid()),
}


REFERENCE = {
    "pid": "test_pid_follows_an_error_of_the_users_own",
}


def test_pid_without_gains_is_the_identity() -> None:
    controller = lrx.pid(kp=0.0, ki=0.0, kd=0.0)
    state = controller.init(None)
    for value in (1.0, 0.5, 3.0, NAN, 2.0):
        updates, state = controller.update(jnp.ones(2), state, value=value)
        np.testing.assert_array_equal(updates, np.ones(2))


def test_pid_settles_again_when_the_curvature_jumps_tenfold() -> None:
    tx = lrx.sgd(
        0.1 * lrx.pid(kp=0.05, ki=0.1, kd=0.0, set_point=0.5, smoothing=0.0, min_factor=1e-3, max_factor=100.0)
    )
    theta, state, rates = jnp.ones(2) * 1e6, tx.init(jnp.ones(2)), []
    update = jax.jit(tx.update)
    for step in range(240):
        curvature = 1.0 if step < 120 else 10.0
        if step == 120:  # far from underflow again
            theta = theta / jnp.abs(theta) * 1e6
        updates, state = update(curvature * theta, state, value=0.5 * curvature * jnp.sum(theta**2))
        theta = theta + updates
        rates.append(float(lrx.learning_rate(state)))
    before, after = rates[100:120], rates[220:]
    assert max(before) < 1.05 * min(before)
    assert max(after) < 1.05 * min(after)
    np.testing.assert_allclose(np.median(after), np.median(before) / 10, rtol=0.05)


def test_pid_does_not_wind_up_at_a_bound() -> None:
    controller = lrx.pid(kp=1.0, ki=0.1, kd=0.0, set_point=0.5, max_factor=10.0)
    state = controller.init(None)
    for _ in range(200):
        _, state = controller.update((), state, value=1.0)  # an error of 0.5 for ever
    report = lrx.monitor(state)
    np.testing.assert_allclose(report["pid/scale"], 10.0, rtol=0.05)
    # The integral stops where it and the proportional part reach the bound, up to one step of it.
    assert abs(float(report["pid/integral"]) - (np.log(10.0) - 0.5)) <= 0.05 + 1e-6


def test_pid_follows_an_error_of_the_users_own() -> None:
    controller = lrx.pid(kp=1.0, ki=0.0, kd=0.0, error=lambda loss: 1.0 - loss)
    _, state = controller.update((), controller.init(None), value=0.5)
    np.testing.assert_allclose(state.latest, np.exp(0.5), rtol=1e-6)
