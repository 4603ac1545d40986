"""Law 2 of DESIGN.md for bad values: each is refused with the argument, the rule and what was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest
from cases import CASES, public_factories

import lrx

NAN, INF = float("nan"), float("inf")
NUMBER = r"must be a finite number >= 0, got {0}="
STEPS = r"must be a whole number of steps >= 1 and < 2\^31, got {0}="


def _refusals(factory: Callable[..., Any], name: str, values: tuple[Any, ...], error: type, rule: str) -> list[Any]:
    return [(factory, {name: value}, error, rf"^{name} {rule}".replace("{0}", name)) for value in values]


def _rates_refused(factory: Callable[..., Any], name: str) -> list[Any]:
    return [
        *_refusals(factory, name, (-0.1, NAN, INF, 1e39, np.float32(-1)), ValueError, NUMBER),
        *_refusals(factory, name, ("0.1", True, None, 1j), TypeError, "must be a "),
    ]


def _fractions_refused(factory: Callable[..., Any], name: str, interval: str, values: tuple[Any, ...]) -> list[Any]:
    escaped = interval.translate(str.maketrans({symbol: f"\\{symbol}" for symbol in "[]()"}))
    return [
        *_refusals(factory, name, (*values, NAN, INF), ValueError, rf"must be in {escaped}, got {{0}}="),
        *_refusals(factory, name, ("0.5", False), TypeError, "must be a number, got"),
    ]


def _steps_refused(factory: Callable[..., Any], name: str, *, at_least: int = 1) -> list[Any]:
    rule = STEPS.replace(">= 1", f">= {at_least}")
    return [
        *_refusals(factory, name, (at_least - 1, -5, 2.5, 2**31, NAN, INF), ValueError, rule),
        *_refusals(factory, name, ("10", True, [[]]), (TypeError, ValueError), "must be"),
    ]


def _learning_rates_refused(factory: Callable[..., Any]) -> list[Any]:
    name = "learning_rate"
    return [
        *_refusals(factory, name, (-0.1, NAN, INF), ValueError, NUMBER),
        *_refusals(factory, name, ("0.1", None, True, optax.sgd(0.1)), TypeError, "must be a number, a Rate"),
        *_refusals(factory, name, (lrx.reduce_on_plateau(),), TypeError, "must be a rate, got the factor reduce_on"),
    ]


def _flags_refused(factory: Callable[..., Any], name: str) -> list[Any]:
    return _refusals(factory, name, (1, None, "yes"), TypeError, r"must be True or False, got {0}=")


def _words_refused(factory: Callable[..., Any], name: str) -> list[Any]:
    return _refusals(factory, name, ("nonsense", None, 1), ValueError, r"must be one of '.*got {0}=")


_following_feedback = 0.1 * lrx.reduce_on_plateau()
_not_a_schedule = "must be a Schedule, got the feedback-driven"

# Factory, arguments beside those of its first case, the error, and what its message says.
REFUSED: list[tuple[Callable[..., Any], dict[str, Any], Any, str]] = [
    *_rates_refused(lrx.constant, "value"),
    *_rates_refused(lrx.linear_decay, "init_value"),
    *_rates_refused(lrx.linear_decay, "end_value"),
    *_steps_refused(lrx.linear_decay, "decay_steps"),
    *_rates_refused(lrx.cosine_decay, "init_value"),
    *_rates_refused(lrx.cosine_decay, "end_value"),
    *_steps_refused(lrx.cosine_decay, "decay_steps"),
    *_rates_refused(lrx.step_decay, "init_value"),
    *_steps_refused(lrx.step_decay, "step_size"),
    *_fractions_refused(lrx.step_decay, "factor", "(0, 1]", (0.0, -0.5, 1.1)),
    *_rates_refused(lrx.cyclical, "min_value"),
    *_rates_refused(lrx.cyclical, "max_value"),
    (
        lrx.cyclical,
        {"max_value": 0.05},
        ValueError,
        "^min_value must be <= max_value, got min_value=0.1, max_value=0.05: swap",
    ),
    *_steps_refused(lrx.cyclical, "half_period_steps"),
    *_refusals(lrx.cyclical, "down_steps", (0, -5, 2.5, 2**31, NAN), ValueError, STEPS),
    *_words_refused(lrx.cyclical, "mode"),
    *_fractions_refused(lrx.cyclical, "decay_rate", "(0, 1]", (0.0, -0.5, 1.1)),
    (lrx.cyclical, {"decay_rate": 0.9}, ValueError, "^decay_rate must be 1 in mode='triangular', got decay_rate=0.9"),
    *_refusals(lrx.warmup, "schedule", (-0.1, NAN), ValueError, NUMBER),
    *_refusals(lrx.warmup, "schedule", ("0.1", None), TypeError, "must be a number, a Rate"),
    *_refusals(lrx.warmup, "schedule", (_following_feedback,), TypeError, _not_a_schedule),
    *_steps_refused(lrx.warmup, "warmup_steps", at_least=0),
    *_rates_refused(lrx.warmup, "init_value"),
    (lrx.warmup, {"init_value": 0.0, "mode": "exponential"}, ValueError, "^init_value must be a finite number > 0"),
    *_words_refused(lrx.warmup, "mode"),
    *(
        refusal
        for make in (lrx.warmup_cosine_decay, lrx.warmup_linear_decay)
        for refusal in (
            *_rates_refused(make, "peak_value"),
            *_rates_refused(make, "init_value"),
            *_rates_refused(make, "end_value"),
            *_steps_refused(make, "total_steps"),
            *_refusals(
                make,
                "warmup_steps",
                (-1, -0.1, 1.5, 2**31, NAN, INF),
                ValueError,
                r"must be a whole number of steps >= 0 and < 2\^31, or a fraction of total_steps in \(0, 1\), got {0}=",
            ),
            *_refusals(
                make, "warmup_steps", (7, 8, 0.99), ValueError, "must be < total_steps, got {0}=.*the total incl"
            ),
        )
    ),
    (lrx.join, {"schedules": [], "boundaries": []}, ValueError, "^boundaries must be one fewer than schedules"),
    (lrx.join, {"schedules": [0.1, -0.1]}, ValueError, r"^schedules\[1\] must be a finite number >= 0"),
    (lrx.join, {"schedules": [0.1, _following_feedback]}, TypeError, rf"^schedules\[1\] {_not_a_schedule}"),
    (lrx.join, {"schedules": lrx.constant(0.1)}, TypeError, "^schedules must be a list of schedules"),
    (lrx.join, {"schedules": 0.1}, TypeError, "^schedules must be a list of schedules"),
    (lrx.join, {"boundaries": [2, 4]}, ValueError, "^boundaries must be one fewer than schedules"),
    (lrx.join, {"boundaries": [0]}, ValueError, r"^boundaries\[0\] must be a whole number of steps >= 1"),
    (lrx.join, {"boundaries": [2.5]}, ValueError, r"^boundaries\[0\] must be a whole number of steps >= 1"),
    (lrx.join, {"schedules": [0.1] * 3, "boundaries": [4, 4]}, ValueError, "^boundaries must increase strictly"),
    (lrx.join, {"schedules": [0.1] * 3, "boundaries": [4, 2]}, ValueError, "^boundaries must increase strictly"),
    *_rates_refused(lrx.piecewise_constant, "init_value"),
    *[
        (factory, {name: value}, error, message)
        for factory, name, what in (
            (lrx.piecewise_constant, "boundaries_and_factors", "factor"),
            (lrx.interpolate, "points", "rate"),
        )
        for value, error, message in (
            ({5: 0.1, 2: 0.1}, ValueError, rf"^{name} must increase strictly, got {name}=\[5, 2\]: sort them"),
            ([(2, 0.1), (2, 0.1)], ValueError, f"^{name} must increase strictly"),
            ({2: -0.5}, ValueError, rf"^{name}\[2\] must be a finite number >= 0, got {name}\[2\]=-0.5"),
            ({2: NAN}, ValueError, rf"^{name}\[2\] must be a finite number >= 0"),
            ({-1: 0.1}, ValueError, rf"^{name}\[0\] must be a whole number of steps"),
            ({2.5: 0.1}, ValueError, rf"^{name}\[0\] must be a whole number of steps"),
            ({2: "0.1"}, TypeError, rf"^{name}\[2\] must be a number"),
            ([2, 0.1], TypeError, rf"^{name} must be a dict {{step: {what}, ...}} or a list of such pairs"),
            (0.1, TypeError, f"^{name} must be a dict"),
        )
    ],
    (lrx.interpolate, {"points": {}}, ValueError, "^points must hold at least one point"),
    *_words_refused(lrx.interpolate, "kind"),
    *_rates_refused(lrx.exponential_decay, "init_value"),
    *_fractions_refused(lrx.exponential_decay, "decay_rate", "(0, 1]", (0.0, -0.5, 1.1)),
    *_steps_refused(lrx.exponential_decay, "transition_steps"),
    *_flags_refused(lrx.exponential_decay, "staircase"),
    *_rates_refused(lrx.exponential_decay, "end_value"),
    (
        lrx.exponential_decay,
        {"end_value": 0.4},
        ValueError,
        "^end_value must be <= init_value, got end_value=0.4, init",
    ),
    *_rates_refused(lrx.polynomial_decay, "init_value"),
    *_steps_refused(lrx.polynomial_decay, "decay_steps"),
    *_rates_refused(lrx.polynomial_decay, "end_value"),
    *_refusals(lrx.polynomial_decay, "power", (0.0, -1.0, NAN), ValueError, "must be a finite number > 0, got {0}="),
    *_rates_refused(lrx.inverse_time_decay, "init_value"),
    *_rates_refused(lrx.inverse_time_decay, "decay_rate"),
    *_refusals(lrx.inverse_time_decay, "power", (0.0, -1.0, NAN), ValueError, "must be a finite number > 0, got {0}="),
    *_rates_refused(lrx.inverse_sqrt_decay, "peak_value"),
    *_steps_refused(lrx.inverse_sqrt_decay, "warmup_steps"),
    *_rates_refused(lrx.cosine_restarts, "init_value"),
    *_steps_refused(lrx.cosine_restarts, "period_steps"),
    *_refusals(lrx.cosine_restarts, "period_mult", (0.5, 0, NAN, INF), ValueError, "must be a finite number >= 1, got"),
    *_rates_refused(lrx.cosine_restarts, "end_value"),
    *_fractions_refused(lrx.cosine_restarts, "restart_mult", "(0, 1]", (0.0, -0.5, 1.1)),
    *_rates_refused(lrx.one_cycle, "peak_value"),
    *_refusals(lrx.one_cycle, "div_factor", (0.5, -1.0, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *_refusals(lrx.one_cycle, "final_div_factor", (0.5, INF), ValueError, "must be a finite number >= 1, got {0}="),
    *[
        refusal
        for factory in (lrx.one_cycle, lrx.one_cycle_momentum)
        for refusal in (
            *_steps_refused(factory, "total_steps"),
            *_fractions_refused(factory, "pct_start", "(0, 1)", (0.0, 1.0, -0.5, 30)),
            (factory, {"three_phase": True, "pct_start": 0.6}, ValueError, r"^pct_start must be in \(0, 0.5\], got"),
            *_words_refused(factory, "anneal"),
            *_flags_refused(factory, "three_phase"),
        )
    ],
    *_fractions_refused(lrx.one_cycle_momentum, "min_value", "[0, 1)", (-0.1, 1.0)),
    *_fractions_refused(lrx.one_cycle_momentum, "max_value", "[0, 1)", (-0.1, 1.0)),
    (
        lrx.one_cycle_momentum,
        {"min_value": 0.96},
        ValueError,
        "^min_value must be <= max_value, got min_value=0.96, max",
    ),
    *_rates_refused(lrx.warmup_stable_decay, "peak_value"),
    *_steps_refused(lrx.warmup_stable_decay, "warmup_steps", at_least=0),
    *_steps_refused(lrx.warmup_stable_decay, "stable_steps", at_least=0),
    *_steps_refused(lrx.warmup_stable_decay, "decay_steps"),
    *_rates_refused(lrx.warmup_stable_decay, "end_value"),
    (
        lrx.warmup_stable_decay,
        {"decay": "exponential", "end_value": 0.0},
        ValueError,
        "^end_value must be a finite number > 0, got end_value=0.0: an exponential cannot reach 0",
    ),
    *_words_refused(lrx.warmup_stable_decay, "decay"),
    *[
        (factory, {name: value}, error, message)
        for factory, name in ((lrx.tabulated, "values"), (lrx.refined, "grad_norms"))
        for value, error, message in (
            ([], ValueError, rf"^{name} must be a list of at least one number, got {name} of shape \(0,\)"),
            (0.1, ValueError, f"^{name} must be a list of at least one number"),
            (np.ones((2, 2)), ValueError, f"^{name} must be a list of at least one number"),
            ([0.1, -0.1], ValueError, rf"^{name}\[1\] must be a finite number >= 0, got {name}\[1\]=-0.1"),
            ([NAN], ValueError, rf"^{name}\[0\] must be a finite number >= 0"),
            (["0.1"], TypeError, f"^{name} must be a number"),
        )
    ],
    (lrx.refined, {"grad_norms": [1.0]}, ValueError, "^grad_norms must be at least two numbers > 0, got 1"),
    (
        lrx.refined,
        {"grad_norms": [1.0, 0.0]},
        ValueError,
        "^grad_norms must be at least two numbers > 0, got 2 of which 1",
    ),
    *_rates_refused(lrx.refined, "peak_value"),
    *_words_refused(lrx.refined, "norm"),
    *_fractions_refused(lrx.refined, "smoothing", "[0, 1]", (-0.1, 1.1)),
    *_learning_rates_refused(lrx.sgd),
    *_fractions_refused(lrx.sgd, "momentum", "[0, 1)", (-0.1, 1.0)),
    *_flags_refused(lrx.sgd, "nesterov"),
    (lrx.sgd, {"nesterov": True}, ValueError, "^nesterov needs momentum, got nesterov=True, momentum=None"),
    *_fractions_refused(lrx.scale_by_momentum, "momentum", "[0, 1)", (-0.1, 1.0)),
    *_flags_refused(lrx.scale_by_momentum, "nesterov"),
    *_learning_rates_refused(lrx.heavy_ball),
    *_fractions_refused(lrx.heavy_ball, "momentum", "[0, 1)", (-0.1, 1.0)),
    *_flags_refused(lrx.heavy_ball, "momentum_correction"),
    *_learning_rates_refused(lrx.nesterov),
    *_fractions_refused(lrx.nesterov, "momentum", "[0, 1)", (-0.1, 1.0)),
    *_learning_rates_refused(lrx.adam),
    *[
        refusal
        for factory in (lrx.adam, lrx.scale_by_adam)
        for refusal in (
            *_fractions_refused(factory, "b1", "[0, 1)", (-0.1, 1.0)),
            *_fractions_refused(factory, "b2", "[0, 1)", (-0.1, 1.0)),
            *_rates_refused(factory, "eps"),
        )
    ],
    *[
        refusal
        for factory in (lrx.adam, lrx.scale_by_adam, lrx.adamw, lrx.hypergradient_adam)
        for refusal in _rates_refused(factory, "eps_root")
    ],
    *[
        refusal
        for factory in (
            *(lrx.adam, lrx.scale_by_adam, lrx.adamw, lrx.hypergradient_adam),
            *(lrx.sgd, lrx.scale_by_momentum, lrx.heavy_ball, lrx.nesterov),
            *(lrx.d_adaptation, lrx.prodigy, lrx.momo, lrx.momo_adam),
        )
        for refusal in _refusals(
            factory,
            "moment_dtype",
            ("int32", "float8_e4m3fn", "complex64", "nonsense", 3),
            ValueError,
            "must be a floating-point type of at least 16 bits, got {0}=",
        )
    ],
    *[
        refusal
        for factory in (lrx.adamw,)
        for refusal in (
            *_learning_rates_refused(factory),
            *_fractions_refused(factory, "b1", "[0, 1)", (-0.1, 1.0)),
            *_fractions_refused(factory, "b2", "[0, 1)", (-0.1, 1.0)),
            *_rates_refused(factory, "eps"),
            *_rates_refused(factory, "weight_decay"),
            *_words_refused(factory, "decoupling"),
            (factory, {"base_rate": 0.1}, ValueError, '^base_rate must be left out with decoupling="rate", got'),
            (
                factory,
                {"decoupling": "schedule", "base_rate": 0.0},
                ValueError,
                "^base_rate must be a finite number > 0",
            ),
            (
                factory,
                {"decoupling": "schedule", "learning_rate": lambda count: 0.1 / (1 + count)},
                ValueError,
                '^base_rate must be given with decoupling="schedule" for .*got base_rate=None',
            ),
            (factory, {"mask": {"a": 1}}, TypeError, "^mask must hold True and False only"),
            (factory, {"b1": lrx.constant(1.5)}, ValueError, r"^b1 must be in \[0, 1\), got b1=1.5"),
            (
                factory,
                {"weight_decay": _following_feedback},
                TypeError,
                "^weight_decay must be a number or a Schedule, got",
            ),
        )
    ],
    *_learning_rates_refused(lrx.adagrad),
    *_learning_rates_refused(lrx.rmsprop),
    *[
        refusal
        for factory in (lrx.adagrad, lrx.scale_by_adagrad, lrx.rmsprop, lrx.scale_by_rmsprop)
        for refusal in (*_rates_refused(factory, "eps"), *_flags_refused(factory, "eps_root"))
    ],
    *_rates_refused(lrx.adagrad, "initial_accumulator"),
    *_rates_refused(lrx.scale_by_adagrad, "initial_accumulator"),
    *_fractions_refused(lrx.rmsprop, "decay", "[0, 1)", (-0.1, 1.0)),
    *_fractions_refused(lrx.scale_by_rmsprop, "decay", "[0, 1)", (-0.1, 1.0)),
    *[
        (factory, {"tx": tx}, TypeError, "^tx must be a gradient transformation, got tx=")
        for factory in (lrx.accumulate, lrx.group_rates)
        for tx in (0.1, None, lrx.sgd)
    ],
    *_refusals(
        lrx.accumulate, "every", (0, -2, 2.5, NAN), ValueError, "must be a whole number of gradients >= 1 and.*got {0}="
    ),
    (
        lrx.accumulate,
        {"every": 4.0 * lrx.reduce_on_plateau()},
        TypeError,
        "^every must be a Schedule, got the feedback",
    ),
    (lrx.group_rates, {"labels": None}, TypeError, "^labels must be a tree of labels or a function"),
    (lrx.group_rates, {"factors": {"x": -1.0}}, ValueError, r"^factors\['x'\] must be a finite number >= 0, got"),
    (lrx.group_rates, {"factors": {"x": "1"}}, TypeError, r"^factors\['x'\] must be a number, got"),
    (lrx.group_rates, {"factors": 0.5}, TypeError, "^factors must be a dict or a function of the label"),
    *_fractions_refused(lrx.reduce_on_plateau, "factor", "(0, 1)", (0.0, -0.5, 1.0)),
    *_steps_refused(lrx.reduce_on_plateau, "patience", at_least=0),
    *_fractions_refused(lrx.reduce_on_plateau, "rtol", "[0, 1)", (-0.1, 1.0)),
    *_rates_refused(lrx.reduce_on_plateau, "atol"),
    *_steps_refused(lrx.reduce_on_plateau, "cooldown", at_least=0),
    *_fractions_refused(lrx.reduce_on_plateau, "min_scale", "[0, 1]", (-0.1, 2.0)),
    *[
        refusal
        for factory in (lrx.reduce_on_plateau, lrx.early_stopping)
        for refusal in _refusals(
            factory, "accumulation_size", (0, -5, 2.5, NAN), ValueError, "must be a whole number of losses >= 1"
        )
    ],
    *[
        refusal
        for factory in (
            *(lrx.reduce_on_plateau, lrx.early_stopping, lrx.greedy, lrx.pid, lrx.relative_adaptation),
            lrx.cumulative_path,
        )
        for refusal in _refusals(
            factory, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"
        )
    ],
    *_words_refused(lrx.reduce_on_plateau, "mode"),
    *_words_refused(lrx.reduce_on_plateau, "feedback"),
    *[
        refusal
        for factory in (
            *(lrx.d_adaptation, lrx.prodigy, lrx.dog, lrx.dowg, lrx.momo, lrx.momo_adam),
            *(lrx.schedule_free_sgd, lrx.schedule_free_adamw, lrx.hypergradient_sgd, lrx.hypergradient_adam),
            lrx.warmup_until,
        )
        for refusal in _learning_rates_refused(factory)
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, name) for name in ("eps", "weight_decay")),
            *((lrx.prodigy, name) for name in ("eps", "weight_decay")),
            *((lrx.mechanic, "weight_decay"), (lrx.momo, "weight_decay")),
            *((lrx.momo_adam, "weight_decay"), (lrx.schedule_free_adamw, "eps")),
            *((lrx.schedule_free_sgd, name) for name in ("weight_decay", "r", "weight_power")),
            *((lrx.schedule_free_adamw, name) for name in ("weight_decay", "r", "weight_power")),
            *((lrx.hypergradient_sgd, name) for name in ("hyper_rate", "min_value")),
            *((lrx.hypergradient_adam, name) for name in ("hyper_rate", "min_value", "eps")),
            *((lrx.pid, name) for name in ("kp", "ki", "kd", "significance")),
            *((lrx.relative_adaptation, name) for name in ("creep", "tolerance")),
            *((lrx.early_stopping, "min_delta"), (lrx.warmup_until, "warmup_value")),
        )
        for refusal in _rates_refused(factory, name)
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, "d0"), (lrx.prodigy, "d0"), (lrx.prodigy, "d_coef")),
            *((lrx.dog, "reps_rel"), (lrx.dog, "eps"), (lrx.dowg, "r0"), (lrx.dowg, "eps")),
            *((lrx.cocob, "alpha"), (lrx.cocob, "eps"), (lrx.mechanic, "s_init"), (lrx.mechanic, "eps")),
            *((lrx.momo_adam, "eps"), (lrx.polyak, "c"), (lrx.polyak, "max_rate"), (lrx.armijo, "max_rate")),
            *((lrx.cumulative_path, "damping"), (lrx.pid, "set_point"), (lrx.rollback_on_divergence, "explode")),
        )
        for refusal in _refusals(
            factory, name, (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="
        )
    ],
    *[
        refusal
        for factory, name, low in (
            *((lrx.polyak, "growth", 1), (lrx.armijo, "growth", 1), (lrx.cumulative_path, "max_factor", 1)),
            *((lrx.greedy, "max_factor", 1), (lrx.pid, "max_factor", 1), (lrx.relative_adaptation, "max_factor", 1)),
        )
        for refusal in _refusals(factory, name, (0.9, NAN), ValueError, f"must be a finite number >= {low}, got {{0}}=")
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, "growth_rate"), (lrx.prodigy, "growth_rate"), (lrx.relative_adaptation, "growth")),
        )
        for refusal in _refusals(factory, name, (1.0, NAN), ValueError, "must be a finite number > 1, got {0}=")
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.momo, "lower_bound"), (lrx.momo_adam, "lower_bound")),
            *((lrx.polyak, "f_min"), (lrx.warmup_until, "threshold")),
        )
        for refusal in _refusals(factory, name, (NAN, INF), ValueError, "must be a finite number, got {0}=")
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, "b1"), (lrx.prodigy, "b1"), (lrx.momo, "momentum"), (lrx.momo_adam, "b1")),
            *((lrx.momo_adam, "b2"), (lrx.schedule_free_adamw, "b2"), (lrx.hypergradient_sgd, "momentum")),
            *((lrx.hypergradient_adam, "b1"), (lrx.hypergradient_adam, "b2"), (lrx.greedy, "smoothing")),
            *((lrx.pid, "smoothing"), (lrx.relative_adaptation, "smoothing")),
        )
        for refusal in _fractions_refused(factory, name, "[0, 1)", (-0.1, 1.0))
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, "b2"), (lrx.prodigy, "b2"), (lrx.prodigy, "b3"), (lrx.armijo, "c")),
            *((lrx.armijo, "backtrack"), (lrx.greedy, "factor"), (lrx.relative_adaptation, "backoff")),
            *((lrx.relative_adaptation, "target"), (lrx.cumulative_path, "c"), (lrx.rollback_on_divergence, "factor")),
        )
        for refusal in _fractions_refused(factory, name, "(0, 1)", (0.0, 1.0))
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.schedule_free_sgd, "b1"), (lrx.schedule_free_adamw, "b1"), (lrx.greedy, "min_factor")),
            *((lrx.pid, "min_factor"), (lrx.relative_adaptation, "min_factor"), (lrx.cumulative_path, "min_factor")),
        )
        for refusal in _fractions_refused(factory, name, "(0, 1]", (0.0, 1.1))
    ],
    *[
        refusal
        for factory, name in (
            *((lrx.d_adaptation, "bias_correction"), (lrx.prodigy, "bias_correction")),
            *((lrx.prodigy, "safeguard_warmup"), (lrx.dog, "layerwise"), (lrx.momo, "adapt_lower_bound")),
            *((lrx.momo_adam, "adapt_lower_bound"), (lrx.hypergradient_sgd, "nesterov")),
        )
        for refusal in _flags_refused(factory, name)
    ],
    (
        lrx.hypergradient_sgd,
        {"nesterov": True, "momentum": None},
        ValueError,
        "^nesterov needs momentum, got nesterov=True, momentum=None",
    ),
    *[
        refusal
        for factory in (
            *(lrx.momo, lrx.momo_adam, lrx.polyak, lrx.rollback_on_divergence, lrx.greedy, lrx.pid),
            *(lrx.relative_adaptation, lrx.early_stopping, lrx.warmup_until),
        )
        for refusal in _words_refused(factory, "feedback")
    ],
    *_words_refused(lrx.early_stopping, "mode"),
    *[
        (factory, {"tx": tx}, TypeError, "^tx must be a gradient transformation, got tx=")
        for factory in (lrx.mechanic, lrx.rollback_on_divergence, lrx.averaged, lrx.master_weights)
        for tx in (0.1, None, lrx.sgd)
    ],
    (lrx.mechanic, {"betas": (0.9, 1.0)}, ValueError, r"^betas must be numbers in \[0, 1\), got betas="),
    *_refusals(lrx.averaged, "decay", (-0.1, 1.0, NAN), ValueError, r"must be in \[0, 1\), got {0}="),
    (lrx.averaged, {"decay": None, "half_life": 0.0}, ValueError, "^half_life must be a finite number > 0, got"),
    (lrx.averaged, {"half_life": 10}, ValueError, "^decay must be left out with half_life, got decay="),
    *_refusals(lrx.averaged, "start_after", (-1, 2.5), ValueError, "must be a whole number of updates >= 0"),
    *_refusals(lrx.dog, "averaging", (-0.1, NAN), ValueError, "must be a finite number >= 0, got {0}="),
    (lrx.mechanic, {"betas": ()}, ValueError, "^betas must be a list of at least one number"),
    (lrx.pid, {"error": 0.1}, TypeError, "^error must be a function of the loss, got error=0.1"),
    (lrx.warmup_until, {"metric": "not a name"}, TypeError, "^metric must be the name of an argument, got metric="),
    *_steps_refused(lrx.greedy, "patience", at_least=0),
    *_refusals(lrx.armijo, "max_evaluations", (0, 2.5, NAN), ValueError, "must be a whole number of evaluations >= 1"),
    *_refusals(lrx.early_stopping, "patience", (-1, 2.5), ValueError, "must be a whole number of losses >= 0"),
    *_refusals(
        lrx.rollback_on_divergence, "max_rollbacks", (-1, 2.5), ValueError, "must be a whole number of rollbacks >= 0"
    ),
]


@pytest.mark.parametrize(
    ("factory", "arguments", "error", "message"),
    REFUSED,
    ids=[f"{factory.__name__}-{'-'.join(arguments)}-{index}" for index, (factory, arguments, *_) in enumerate(REFUSED)],
)
def test_law_2_bad_values_are_refused_with_argument_rule_and_value(factory, arguments, error, message):
    usual = next(case.arguments for case in CASES.values() if case.make is factory)
    with pytest.raises(error, match=message):
        factory(**{**usual, **arguments})


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_parameter_of_a_factory_has_a_refused_value(name):
    factory = public_factories()[name]
    refused = {parameter for made, arguments, _, _ in REFUSED if made is factory for parameter in arguments}
    assert set(inspect.signature(factory).parameters) <= refused
