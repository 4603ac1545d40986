"""Warm-up and decay with one total."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from units import (
    INF,
    NAN,
    Case,
    reference,
    refuse,
    refuse_rates,
    refuse_steps,
)

import lrx

STEPS = np.arange(130)
MAKERS = {"cosine": lrx.warmup_cosine_decay, "linear": lrx.warmup_linear_decay}
both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_the_warmup_is_part_of_the_total(name: str) -> None:
    decay = {"cosine": lrx.cosine_decay, "linear": lrx.linear_decay}[name]
    schedule = MAKERS[name](0.3, 20, 120, init_value=0.05, end_value=0.01)
    np.testing.assert_array_equal(
        schedule(STEPS), lrx.warmup(decay(0.3, 100, end_value=0.01), 20, init_value=0.05)(STEPS)
    )
    assert float(schedule(20)) == np.float32(0.3)
    assert float(schedule(120)) == np.float32(0.01)
    assert float(schedule(119)) > 0.01


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_what_hugging_face_s_schedules_with_warmup_are(name: str) -> None:
    def factor(step: int, warmup: int = 12, total: int = 120) -> float:
        if step < warmup:
            return step / max(1, warmup)
        if name == "linear":
            return max(0.0, (total - step) / max(1, total - warmup))
        progress = (step - warmup) / max(1, total - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress))) if step < total else 0.0

    np.testing.assert_allclose(
        MAKERS[name](1.0, 12, 120)(STEPS), [factor(step) for step in STEPS], rtol=1e-6, atol=1e-7
    )


@both
@pytest.mark.parametrize(
    ("share", "total", "steps"),
    [
        (0.1, 1000, 100),
        (0.07, 100, 7),
        (0.05, 1, 0),
        (0.5, 3, 2),
        (np.float32(0.1), 1000, 100),
        (0.0, 10, 0),
        (0.25, 2, 0),
    ],
)
def test_a_share_of_the_total_is_rounded_to_a_step(make: Any, share: Any, total: int, steps: int) -> None:
    counts = np.arange(total + 2)
    expected = make(0.3, steps, total)(counts)
    np.testing.assert_array_equal(make(0.3, share, total)(counts), expected)
    traced = jax.jit(lambda share, total: make(0.3, share, total)(counts))
    np.testing.assert_allclose(traced(jnp.float32(share), total), expected, rtol=1e-6)
    np.testing.assert_allclose(traced(jnp.int32(steps), total), expected, rtol=1e-6)
    np.testing.assert_allclose(traced(jnp.float32(steps), total), expected, rtol=1e-6)


@both
def test_its_repr_is_the_call_and_its_peak_is_known(make: Any) -> None:
    assert repr(make(0.3, 0.1, 1000)) == f"{make.__name__}(0.3, 0.1, 1000)"
    assert make(0.3, 0.1, 1000).peak == 0.3
    assert lrx.adamw(make(0.3, 0.1, 1000), decoupling="schedule") == lrx.adamw(
        make(0.3, 0.1, 1000), decoupling="schedule"
    )


@both
@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(100, 100), (101, 100), (1, 1), (0.999, 10)])
def test_a_warmup_that_leaves_nothing_is_refused(make: Any, warmup_steps: Any, total_steps: int) -> None:
    with pytest.raises(ValueError, match=r"warmup_steps must be < total_steps, got warmup_steps=.*the total includes"):
        make(0.3, warmup_steps, total_steps)


# ---------------------------------------------------------------------- what the laws hold it to


def warmup_decay_formula(falls: Callable[..., lrx.Schedule]) -> Callable[..., np.ndarray]:
    def rates(
        t: np.ndarray, *, peak_value: Any, warmup_steps: Any, total_steps: Any, init_value: Any, end_value: Any
    ) -> np.ndarray:
        climb = int(warmup_steps) if float(warmup_steps) >= 1 else round(float(warmup_steps) * int(total_steps))
        start, peak, length = float(init_value), float(peak_value), int(total_steps) - climb
        after = reference(falls(peak, length, end_value=end_value), np.maximum(t - climb, 0))
        return np.where(t < climb, start + (peak - start) * np.minimum(t, climb) / max(climb, 1), after)

    return rates


CASES = {
    **{
        f"{make.__name__}, {kind}": Case(
            make,
            {"peak_value": 0.3, "warmup_steps": start, "total_steps": 7, "end_value": 0.01},
            {
                "peak_value": (0.0, 0.1, 2.0),
                "init_value": (0.0, 0.1, 2.0),
                "end_value": (0.0, 0.2, 1.0),
                **sweep,
            },
            end=7,
            within=("warmup_steps",),
        )
        for make in (lrx.warmup_cosine_decay, lrx.warmup_linear_decay)
        for kind, start, sweep in (
            ("in steps", 2, {"warmup_steps": (0, 1, 5)}),
            ("as a share", 0.3, {"warmup_steps": (0.1, 0.5, 0.75), "total_steps": (1, 9, 10_000)}),
        )
    },
}


REFUSED = [
    *refuse_rates(lrx.warmup_cosine_decay, "peak_value"),
    *refuse_rates(lrx.warmup_cosine_decay, "init_value"),
    *refuse_rates(lrx.warmup_cosine_decay, "end_value"),
    *refuse_steps(lrx.warmup_cosine_decay, "total_steps"),
    *refuse(
        lrx.warmup_cosine_decay,
        "warmup_steps",
        (-1, -0.1, 1.5, 2**31, NAN, INF),
        ValueError,
        "must be a whole number of steps >= 0 and < 2\\^31, or a fraction of total_steps in \\(0, 1\\), got {0}=",
    ),
    *refuse(
        lrx.warmup_cosine_decay,
        "warmup_steps",
        (7, 8, 0.99),
        ValueError,
        "must be < total_steps, got {0}=.*the total incl",
    ),
    *refuse_rates(lrx.warmup_linear_decay, "peak_value"),
    *refuse_rates(lrx.warmup_linear_decay, "init_value"),
    *refuse_rates(lrx.warmup_linear_decay, "end_value"),
    *refuse_steps(lrx.warmup_linear_decay, "total_steps"),
    *refuse(
        lrx.warmup_linear_decay,
        "warmup_steps",
        (-1, -0.1, 1.5, 2**31, NAN, INF),
        ValueError,
        "must be a whole number of steps >= 0 and < 2\\^31, or a fraction of total_steps in \\(0, 1\\), got {0}=",
    ),
    *refuse(
        lrx.warmup_linear_decay,
        "warmup_steps",
        (7, 8, 0.99),
        ValueError,
        "must be < total_steps, got {0}=.*the total incl",
    ),
]


REFERENCE = {
    "warmup_cosine_decay": warmup_decay_formula(lrx.cosine_decay),
    "warmup_linear_decay": warmup_decay_formula(lrx.linear_decay),
}
