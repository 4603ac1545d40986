"""Equal to PyTorch and to optax, step by step, where the definitions agree.

What PyTorch does was recorded in float64 by references/make_torch.py, so PyTorch is not a dependency; optax is one, and
runs beside lrx. Two tables map PyTorch calls to lrx calls: their builders take PyTorch's arguments by name.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx

RECORDED = json.loads(Path(__file__).with_name("references").joinpath("torch.json").read_text())
GRADIENTS = np.asarray(RECORDED["gradients"], np.float32)  # (steps, 4), exact: they were made in float32
THETA = np.asarray(RECORDED["theta"], np.float32)
RATES = {case["id"]: case for case in RECORDED["schedulers"]}
PATHS = {case["id"]: case for case in RECORDED["optimizers"]}


def warmup_before_another(rate, schedulers, milestones):
    """Join a LinearLR and another schedule as SequentialLR does."""
    (first, ramp), (family, arguments) = schedulers
    assert (first, ramp["end_factor"], [ramp["total_iters"]]) == ("LinearLR", 1.0, milestones)
    after = schedule_of(family, rate, arguments)
    return lrx.warmup(after, milestones[0], init_value=rate * ramp["start_factor"])


def cyclical(rate, base_lr, max_lr, step_size_up, mode, step_size_down=None, gamma=1.0, cycle_momentum=False):
    return lrx.cyclical(base_lr, max_lr, step_size_up, down_steps=step_size_down, mode=mode, decay_rate=gamma)


def one_cycle(rate, max_lr, total_steps, pct_start, anneal_strategy, three_phase, div_factor, final_div_factor, **_):
    return lrx.one_cycle(
        max_lr,
        total_steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal={"cos": "cosine", "linear": "linear"}[anneal_strategy],
        three_phase=three_phase,
    )


def one_cycle_momentum(total_steps, pct_start, anneal_strategy, three_phase, base_momentum, max_momentum, **_):
    return lrx.one_cycle_momentum(
        total_steps,
        min_value=base_momentum,
        max_value=max_momentum,
        pct_start=pct_start,
        anneal={"cos": "cosine", "linear": "linear"}[anneal_strategy],
        three_phase=three_phase,
    )


# PyTorch's scheduler: the lrx schedules that equal it, each from the optimizer's rate and the scheduler's arguments.
SCHEDULES = {
    "StepLR": {
        "step_decay": lambda rate, step_size, gamma: lrx.step_decay(rate, step_size, factor=gamma),
        "staircase": lambda rate, step_size, gamma: lrx.exponential_decay(
            rate, gamma, transition_steps=step_size, staircase=True
        ),
    },
    "MultiStepLR": {
        "piecewise_constant": lambda rate, milestones, gamma: lrx.piecewise_constant(
            rate, dict.fromkeys(milestones, gamma)
        ),
    },
    "ConstantLR": {
        "warmup": lambda rate, factor, total_iters: lrx.warmup(
            rate, total_iters, init_value=rate * factor, mode="constant"
        ),
        "join": lambda rate, factor, total_iters: lrx.join([rate * factor, rate], [total_iters]),
    },
    "LinearLR": {
        "warmup": lambda rate, start_factor, end_factor, total_iters: lrx.warmup(
            rate * end_factor, total_iters, init_value=rate * start_factor
        ),
        "linear_decay": lambda rate, start_factor, end_factor, total_iters: lrx.linear_decay(
            rate * start_factor, total_iters, end_value=rate * end_factor
        ),
        "interpolate": lambda rate, start_factor, end_factor, total_iters: lrx.interpolate(
            {0: rate * start_factor, total_iters: rate * end_factor}
        ),
    },
    "ExponentialLR": {"exponential_decay": lambda rate, gamma: lrx.exponential_decay(rate, gamma)},
    "PolynomialLR": {
        "polynomial_decay": lambda rate, total_iters, power: lrx.polynomial_decay(rate, total_iters, power=power),
    },
    "CosineAnnealingLR": {
        "cosine_decay": lambda rate, T_max, eta_min=0.0: lrx.cosine_decay(rate, T_max, end_value=eta_min),  # noqa: N803
        "interpolate": lambda rate, T_max, eta_min=0.0: lrx.interpolate(  # noqa: N803
            {0: rate, T_max: eta_min}, kind="cosine"
        ),
    },
    "CosineAnnealingWarmRestarts": {
        "cosine_restarts": lambda rate, T_0, T_mult, eta_min: lrx.cosine_restarts(  # noqa: N803
            rate, T_0, period_mult=T_mult, end_value=eta_min
        ),
    },
    "CyclicLR": {"cyclical": cyclical},
    "OneCycleLR": {"one_cycle": one_cycle},
    "SequentialLR": {"warmup": warmup_before_another},
}

# PyTorch's optimizer: the lrx optimizer that equals it, from a rate or a schedule and the other arguments.
OPTIMIZERS = {
    "SGD": lambda lr, **options: lrx.sgd(lr, **options),
    "Adagrad": lambda lr, eps: lrx.adagrad(lr, eps=eps, eps_root=False),
    "RMSprop": lambda lr, alpha, eps: lrx.rmsprop(lr, decay=alpha, eps=eps, eps_root=False),
    "Adam": lambda lr, betas, eps: lrx.adam(lr, b1=betas[0], b2=betas[1], eps=eps),
    "AdamW": lambda lr, betas, eps, weight_decay: lrx.adamw(
        lr, b1=betas[0], b2=betas[1], eps=eps, weight_decay=weight_decay
    ),
}


def schedule_of(family, rate, arguments, counterpart=None):
    """Build the lrx schedule that equals PyTorch's, the first or the one named."""
    builders = SCHEDULES[family]
    return builders[counterpart or next(iter(builders))](rate, **arguments)


def curve(schedule, steps):
    return np.asarray(jax.jit(lambda counts: schedule(counts))(jnp.arange(steps)), np.float64)


def updates_of(tx):
    """Return every update, and the parameters after it, of the optimizer under the recorded gradients."""

    def step(carry, gradient):
        theta, state = carry
        updates, state = tx.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), (updates, theta)

    theta = jnp.asarray(THETA)
    _, (updates, path) = jax.jit(lambda carry, stream: jax.lax.scan(step, carry, stream))(
        (theta, tx.init(theta)), jnp.asarray(GRADIENTS)
    )
    return np.asarray(updates, np.float64), np.asarray(path, np.float64)


def test_every_recorded_class_has_its_counterpart():
    assert {case["class"] for case in RATES.values()} == set(SCHEDULES)
    assert {case["class"] for case in PATHS.values()} == set(OPTIMIZERS)


# Law 5: a schedule is right to 1e-6, powers and exponentials to 5e-6, and below 1e-12 of its peak absolutely. PyTorch
# multiplies its way from rate to rate, which costs it less than 1e-13 in these few hundred steps of float64.
POWERS = {"StepLR", "ExponentialLR", "PolynomialLR", "CyclicLR"}
COUNTERPARTS = [(name, counterpart) for name, case in RATES.items() for counterpart in SCHEDULES[case["class"]]]


@pytest.mark.parametrize(("name", "counterpart"), COUNTERPARTS)
def test_schedule_equals_pytorchs_at_every_step(name, counterpart):
    case = RATES[name]
    schedule = schedule_of(case["class"], case["lr"], case["arguments"], counterpart)
    expected = np.asarray(case["rates"])
    rtol = 5e-6 if case["class"] in POWERS else 1e-6
    np.testing.assert_allclose(
        curve(schedule, len(expected)), expected, rtol=rtol, atol=1e-12 * expected.max(), err_msg=case["call"]
    )


@pytest.mark.parametrize("name", [name for name, case in RATES.items() if "momenta" in case])
def test_momentum_of_one_cycle_equals_pytorchs_at_every_step(name):
    case = RATES[name]
    momenta = curve(one_cycle_momentum(**case["arguments"]), len(case["momenta"]))
    np.testing.assert_allclose(momenta, case["momenta"], rtol=1e-6, err_msg=case["call"])


# Forty updates in float32 against float64: each rounds theta once, by at most 2^-24 relative, which makes 2.4e-6 if all
# forty err the same way, and its own size by a few times that; the absolute part is for a coordinate that comes near 0.
# The coordinate with the smallest gradients moves by 5e-4 or more, 600 times its tolerance.
@pytest.mark.parametrize("name", PATHS)
def test_optimizer_takes_pytorchs_path(name):
    case = PATHS[name]
    arguments = dict(case["arguments"])
    if case["scheduler"] is not None:
        family, options = case["scheduler"]
        arguments["lr"] = schedule_of(family, arguments["lr"], options)
    _, path = updates_of(OPTIMIZERS[case["class"]](**arguments))
    np.testing.assert_allclose(path, case["path"], rtol=5e-6, atol=5e-7, err_msg=case["call"])


def decaying(rate):
    """Return one schedule as both libraries may take it."""
    return lrx.step_decay(rate, 12, factor=0.3)


# name: ours, optax's, and the relative tolerance. Both compute in float32, in another order: a few roundings of 6e-8.
# optax's 1 - b2^t cancels at first: of 1 - 0.999 it keeps 1e-5.
OPTAX_OPTIMIZERS = {
    "sgd": (lambda: lrx.sgd(decaying(0.02)), lambda: optax.sgd(decaying(0.02)), 1e-6),
    "sgd-momentum": (
        lambda: lrx.sgd(decaying(0.02), momentum=0.9),
        lambda: optax.sgd(decaying(0.02), momentum=0.9),
        2e-6,
    ),
    "sgd-nesterov": (
        lambda: lrx.sgd(decaying(0.02), momentum=0.9, nesterov=True),
        lambda: optax.sgd(decaying(0.02), momentum=0.9, nesterov=True),
        2e-6,
    ),
    "adagrad": (
        lambda: lrx.adagrad(decaying(0.1), eps=1e-8),
        lambda: optax.adagrad(decaying(0.1), initial_accumulator_value=0.0, eps=1e-8),
        2e-6,
    ),
    "adagrad-large-eps": (
        lambda: lrx.adagrad(0.1, eps=0.1),
        lambda: optax.adagrad(0.1, initial_accumulator_value=0.0, eps=0.1),
        2e-6,
    ),
    "rmsprop": (
        lambda: lrx.rmsprop(decaying(0.01), decay=0.99, eps=1e-8),
        lambda: optax.rmsprop(decaying(0.01), decay=0.99, eps=1e-8, eps_in_sqrt=True),
        5e-6,
    ),
    "rmsprop-large-eps": (
        lambda: lrx.rmsprop(0.05, decay=0.9, eps=0.1),
        lambda: optax.rmsprop(0.05, decay=0.9, eps=0.1, eps_in_sqrt=True),
        5e-6,
    ),
    "rmsprop-eps-outside": (
        lambda: lrx.rmsprop(0.05, decay=0.9, eps=0.1, eps_root=False),
        lambda: optax.rmsprop(0.05, decay=0.9, eps=0.1, eps_in_sqrt=False),
        5e-6,
    ),
    "adam": (lambda: lrx.adam(decaying(0.05)), lambda: optax.adam(decaying(0.05)), 2e-5),
    "adam-large-eps": (
        lambda: lrx.adam(0.05, b1=0.8, b2=0.95, eps=0.1),
        lambda: optax.adam(0.05, b1=0.8, b2=0.95, eps=0.1),
        5e-6,
    ),
    "adamw": (
        lambda: lrx.adamw(0.05, weight_decay=0.01),
        lambda: optax.adamw(0.05, weight_decay=0.01),
        2e-5,
    ),
    "adamw-scheduled": (
        lambda: lrx.adamw(decaying(0.05), weight_decay=0.1),
        lambda: optax.adamw(decaying(0.05), weight_decay=0.1),
        2e-5,
    ),
}


# What the guide on migration says of optax.contrib and of polyak_sgd, on a quadratic of which the loss is known.
OPTAX_FOLLOWING_A_LOSS = {
    "prodigy": (lambda: lrx.prodigy(bias_correction=True), optax.contrib.prodigy),
    "dadapt_adamw": (lambda: lrx.d_adaptation(bias_correction=True), optax.contrib.dadapt_adamw),
    "polyak_sgd": (lambda: lrx.polyak(c=1.0), optax.polyak_sgd),
    "reduce_on_plateau": (
        lambda: optax.chain(
            optax.sgd(0.7), lrx.reduce_on_plateau(factor=0.5, rtol=0.05, patience=3 - 1, accumulation_size=1)
        ),
        lambda: optax.chain(optax.sgd(0.7), optax.contrib.reduce_on_plateau(factor=0.5, rtol=0.05, patience=3)),
    ),
}


@pytest.mark.parametrize("name", OPTAX_FOLLOWING_A_LOSS)
def test_what_follows_a_loss_takes_optaxs_path(name):
    curvatures = jnp.array([1.0, 2.9, 0.3])

    def path_of(tx):
        def step(carry, _):
            theta, state = carry
            loss, gradient = jax.value_and_grad(lambda theta: jnp.sum(curvatures * theta**2) / 2)(theta)
            updates, state = tx.update(gradient, state, theta, value=loss)
            return (theta + updates, state), theta + updates

        start = jnp.array([1.0, -2.0, 0.5])
        return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), None, length=60)[1])()

    ours, theirs = OPTAX_FOLLOWING_A_LOSS[name]
    np.testing.assert_allclose(path_of(ours()), path_of(optax.with_extra_args_support(theirs())), atol=3e-4)


@pytest.mark.parametrize("name", OPTAX_OPTIMIZERS)
def test_optimizer_gives_optaxs_updates(name):
    ours, theirs, rtol = OPTAX_OPTIMIZERS[name]
    (our_updates, our_path), (their_updates, their_path) = updates_of(ours()), updates_of(theirs())
    # Sums of gradients cancel: an update smaller than those before it is right to a rounding of theirs.
    atol = rtol * np.abs(their_updates).max(axis=0)
    assert np.all(np.abs(our_updates - their_updates) <= rtol * np.abs(their_updates) + atol)
    np.testing.assert_allclose(our_path, their_path, rtol=rtol, atol=10 * rtol * np.abs(their_updates).max())


# name: ours, optax's. optax's one-cycles end their phases at p T and T, where PyTorch's and `one_cycle` end them at
# p T - 1 and T - 1: what equals them is `interpolate`.
OPTAX_SCHEDULES = {
    "constant": (lambda: lrx.constant(0.1), lambda: optax.constant_schedule(0.1)),
    "linear": (lambda: lrx.linear_decay(0.1, 90, end_value=0.02), lambda: optax.linear_schedule(0.1, 0.02, 90)),
    "polynomial": (
        lambda: lrx.polynomial_decay(0.1, 90, power=2.0, end_value=0.02),
        lambda: optax.polynomial_schedule(0.1, 0.02, power=2.0, transition_steps=90),
    ),
    "cosine": (
        lambda: lrx.cosine_decay(0.1, 90, end_value=0.003),
        lambda: optax.cosine_decay_schedule(0.1, 90, alpha=0.03),
    ),
    "exponential": (
        lambda: lrx.exponential_decay(0.1, 0.5, transition_steps=20, end_value=0.002),
        lambda: optax.exponential_decay(0.1, 20, 0.5, end_value=0.002),
    ),
    "exponential-staircase": (
        lambda: lrx.exponential_decay(0.1, 0.5, transition_steps=20, staircase=True),
        lambda: optax.exponential_decay(0.1, 20, 0.5, staircase=True),
    ),
    "piecewise-constant": (
        lambda: lrx.piecewise_constant(0.1, {30: 0.5, 80: 0.1}),
        lambda: optax.piecewise_constant_schedule(0.1, {30: 0.5, 80: 0.1}),
    ),
    "piecewise-linear": (
        lambda: lrx.interpolate({0: 0.1, 30: 0.05, 80: 0.2}),
        lambda: optax.piecewise_interpolate_schedule("linear", 0.1, {30: 0.5, 80: 4.0}),
    ),
    "piecewise-cosine": (
        lambda: lrx.interpolate({0: 0.1, 30: 0.05, 80: 0.2}, kind="cosine"),
        lambda: optax.piecewise_interpolate_schedule("cosine", 0.1, {30: 0.5, 80: 4.0}),
    ),
    "cosine-one-cycle": (
        lambda: lrx.interpolate({0: 0.1 / 25, 36: 0.1, 120: 0.1 / 25e4}, kind="cosine"),
        lambda: optax.cosine_onecycle_schedule(120, 0.1),
    ),
    "warmup-constant": (
        lambda: lrx.warmup(0.1, 20, init_value=0.01),
        lambda: optax.warmup_constant_schedule(0.01, 0.1, 20),
    ),
    "exponential that begins later": (
        lambda: lrx.join([0.1, lrx.exponential_decay(0.1, 0.9, transition_steps=10)], [20]),
        lambda: optax.exponential_decay(0.1, 10, 0.9, transition_begin=20),
    ),
    "exponential that grows": (
        lambda: lrx.Schedule(optax.exponential_decay(0.1, 10, 1.1)),
        lambda: optax.exponential_decay(0.1, 10, 1.1),
    ),
    "linear one-cycle with a final phase": (
        lambda: lrx.interpolate({0: 0.1 / 25, int(0.3 * 120): 0.1, int(0.85 * 120): 0.1 / 25, 120: 0.1 / 25e4}),
        lambda: optax.linear_onecycle_schedule(120, 0.1),
    ),
    "warm-up and cosine with a total": (
        lambda: lrx.warmup_cosine_decay(0.1, 20, 120, init_value=0.01, end_value=0.001),
        lambda: optax.warmup_cosine_decay_schedule(0.01, 0.1, 20, 120, end_value=0.001),
    ),
    "warmup-cosine": (
        lambda: lrx.warmup(lrx.cosine_decay(0.1, 100, end_value=0.001), 20),
        lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 120, end_value=0.001),
    ),
    "warmup-exponential": (
        lambda: lrx.warmup(lrx.exponential_decay(0.1, 0.5, transition_steps=30), 20, init_value=0.01),
        lambda: optax.warmup_exponential_decay_schedule(0.01, 0.1, 20, 30, 0.5),
    ),
    "join": (
        lambda: lrx.join([0.05, lrx.linear_decay(0.1, 40), lrx.cosine_decay(0.02, 50)], [10, 60]),
        lambda: optax.join_schedules(
            [optax.constant_schedule(0.05), optax.linear_schedule(0.1, 0.0, 40), optax.cosine_decay_schedule(0.02, 50)],
            [10, 60],
        ),
    ),
    "restarts": (
        lambda: lrx.cosine_restarts(0.1, 20, period_mult=2, end_value=0.001),
        lambda: optax.sgdr_schedule(
            [
                {
                    "init_value": 0.1,
                    "peak_value": 0.1,
                    "warmup_steps": 0,
                    "decay_steps": 20 * 2**period,
                    "end_value": 0.001,
                }
                for period in range(4)
            ]
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX_SCHEDULES)
def test_schedule_equals_optaxs_at_every_step(name):
    ours, theirs = OPTAX_SCHEDULES[name]
    expected = np.asarray(jax.jit(jax.vmap(theirs()))(jnp.arange(150)), np.float64)
    # optax's 1 + cos and 1 - t/T cancel in float32 near the end, so what it gives is right to a rounding of the peak.
    np.testing.assert_allclose(curve(ours(), 150), expected, rtol=2e-6, atol=3e-7 * expected.max())
