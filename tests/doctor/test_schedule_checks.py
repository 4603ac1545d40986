"""A schedule is compared with the length of the run, whatever its family."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.doctor.decay_checks import check_decay, measure_decay
from lrx.doctor.optimizer_changes import apply_change
from lrx.doctor.optimizer_parts import read_optimizer
from lrx.doctor.schedule_checks import check_schedule, measure_schedule
from lrx.doctor.thresholds import THRESHOLDS

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
STEPS = 300


def found(tx, steps=STEPS):
    parts = read_optimizer(tx, PARAMS)
    evidence = measure_schedule(parts, steps)
    findings = [] if evidence is None else check_schedule(evidence, THRESHOLDS)
    return parts, findings


@pytest.mark.parametrize(
    "rate",
    [
        0.1,
        lrx.cosine_decay(0.1, STEPS),
        lrx.warmup(lrx.cosine_decay(0.1, 270), 30),
        lrx.warmup_linear_decay(0.1, 15, STEPS),
        lrx.one_cycle(0.1, STEPS),
        lrx.cosine_restarts(0.1, 100),
        lrx.cyclical(0.01, 0.1, 50),
        lrx.inverse_sqrt_decay(0.1, 20),
        lrx.step_decay(0.1, 100),
        lrx.warmup_stable_decay(0.1, warmup_steps=10, stable_steps=200, decay_steps=90),
        lrx.cosine_decay(0.1, STEPS) * lrx.reduce_on_plateau(patience=5),
    ],
    ids=repr,
)
def test_usual_schedules_of_the_runs_length_are_fine(rate):
    assert found(lrx.sgd(rate))[1] == []


@pytest.mark.parametrize(
    ("rate", "code", "mended"),
    [
        (lrx.cosine_decay(0.1, 100), "schedule-ends-early", "lrx.sgd(lrx.cosine_decay(0.1, 300))"),
        (lrx.exponential_decay(0.1, 0.9), "schedule-ends-early", None),
        (lrx.cosine_decay(0.1, 1000), "schedule-never-ends", "lrx.sgd(lrx.cosine_decay(0.1, 300))"),
        (lrx.one_cycle(0.1, 600), "schedule-never-ends", None),
        (lrx.warmup(0.1, 500), "warmup-too-long", "lrx.sgd(lrx.warmup(0.1, 15))"),
        (lrx.warmup_cosine_decay(0.1, 200, STEPS), "warmup-too-long", "lrx.sgd(lrx.warmup_cosine_decay(0.1, 15, 300))"),
        (
            lrx.warmup(lrx.cosine_decay(0.1, 100), 200),
            "warmup-too-long",
            "lrx.sgd(lrx.warmup(lrx.cosine_decay(0.1, 285), 15))",
        ),
        (lrx.cosine_restarts(0.1, 90), "restart-cut", "lrx.sgd(lrx.cosine_restarts(0.1, 100))"),
        (lrx.cosine_restarts(0.1, 190), "restart-cut", "lrx.sgd(lrx.cosine_restarts(0.1, 300))"),  # after 58 % of one
        (lrx.cyclical(0.01, 0.1, 40), "restart-cut", None),
        (lambda step: 0.1 * jnp.maximum(1 - step / 100, 0), "schedule-ends-early", None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_schedule_that_does_not_fit_is_named_and_mended(rate, code, mended):
    parts, findings = found(lrx.sgd(rate))
    assert [finding.code for finding in findings] == [code]
    made = apply_change(parts, findings[0].remedy.change, STEPS)
    if callable(rate) and not isinstance(rate, lrx.Schedule | optax.GradientTransformation):
        assert made is None  # a function of one's own cannot be built again
        return
    tx, text = made
    assert mended is None or text == mended
    assert found(tx)[1] == []


def test_a_schedule_in_minibatches_within_an_accumulation_is_named():
    rate = lrx.cosine_decay(0.1, STEPS)
    parts, (first, *_) = found(lrx.accumulate(lrx.adam(rate), 4))
    assert first.code == "schedule-counts-minibatches"
    assert apply_change(parts, first.remedy.change, 75)[1] == "lrx.accumulate(lrx.adam(lrx.cosine_decay(0.1, 75)), 4)"
    assert found(lrx.accumulate(lrx.adam(lrx.cosine_decay(0.1, 75)), 4))[1] == []
    multi = optax.MultiSteps(optax.adam(optax.cosine_decay_schedule(0.1, STEPS)), 4)
    assert found(multi.gradient_transformation())[1][0].code == "schedule-counts-minibatches"


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.clip_by_global_norm(1.0), lrx.adamw(lrx.cosine_decay(0.1, 100))),
        optax.adamw(lrx.cosine_decay(0.1, 100)),
        optax.adamw(optax.cosine_decay_schedule(0.1, 100)),
    ],
    ids=["chain", "schedule in optax", "optax"],
)
def test_the_schedule_is_found_within_optax_s_transformations(tx):
    assert [finding.code for finding in found(tx)[1]] == ["schedule-ends-early"]


def test_an_optimizer_without_a_schedule_has_no_evidence():
    assert measure_schedule(read_optimizer(optax.adam(1e-3), PARAMS), STEPS) is None


@pytest.mark.parametrize(
    ("weight_decay", "codes"),
    [(100.0, ["weight-decay-too-strong"]), (1.0, []), (1e-3, ["weight-decay-without-effect"])],
)
def test_the_time_scale_of_the_weight_decay_is_compared_with_the_run(weight_decay, codes):
    parts = read_optimizer(lrx.adamw(lrx.cosine_decay(1e-3, STEPS), weight_decay=weight_decay), PARAMS)
    evidence = measure_decay(parts, STEPS, 40.0)
    # The mean of a cosine decay is half of its peak.
    np.testing.assert_allclose(evidence.exponent, 0.5e-3 * weight_decay * STEPS, rtol=5e-3)
    findings = check_decay(evidence, THRESHOLDS)
    assert [finding.code for finding in findings] == codes
    for finding in findings:
        tx, _ = apply_change(parts, finding.remedy.change, STEPS)
        assert check_decay(measure_decay(read_optimizer(tx, PARAMS), STEPS, 40.0), THRESHOLDS) == []


def test_a_decay_that_follows_the_schedule_is_not_multiplied_by_the_rate():
    tx = lrx.adamw(lrx.cosine_decay(1e-3, STEPS), weight_decay=1e-2, decoupling="schedule")
    np.testing.assert_allclose(measure_decay(read_optimizer(tx, PARAMS), STEPS, 40.0).exponent, 1.5, rtol=5e-3)
