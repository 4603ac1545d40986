"""Every public transformation, with arguments: what the laws are held to.

A factory for which no case is written down fails the suite, and so does a hyperparameter that no case sweeps.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import lrx
import lrx.controllers
import lrx.guards
import lrx.optimizers
import lrx.schedules

PACKAGES: tuple[ModuleType, ...] = (lrx.schedules, lrx.optimizers, lrx.controllers, lrx.guards)
NOT_TRANSFORMATIONS = {
    "scale_for_batch_size": "takes a number to a number",
}


def itself(value: Any) -> Any:
    return value


def bowl(params: Any) -> jax.Array:
    """A loss for what searches along a line; the gradients of the laws are not its own."""
    leaves = [leaf for leaf in map(jnp.asarray, jax.tree.leaves(params)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return (
        0.7 + sum((jnp.mean(jnp.abs(leaf).astype(jnp.float32)) for leaf in leaves if leaf.size), jnp.float32(0.0)) / 20
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to call a factory, and the values over which each traced hyperparameter is swept."""

    make: Callable[..., Any]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    build: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)  # number -> argument
    tolerance: float = 1e-6  # law 5
    end: int | None = None  # the step from which on a schedule holds its end
    within: tuple[str, ...] = ()  # durations that are parts of another one
    needs_params: bool = False
    needs_value: bool = False  # unless built with observed feedback
    decays: bool = False  # moves parameters that have no gradient
    coupled: bool = False  # a statistic of all coordinates acts on each
    rolls_on: bool = False  # what is under way goes on at a rate of 0
    recovers: bool = False  # a gradient that is not finite never arrives
    searches: bool = False  # evaluates a loss function, which no wrapper may drop
    values: tuple[float, ...] = (1.0, 1.0, 0.95, 1.0, 1.0, 0.9, 1.0, 1.0)  # over which every sweep shows

    @property
    def durations(self) -> list[str]:
        """The hyperparameters that are numbers of steps and may have any length."""
        return [
            name
            for name, values in self.sweep.items()
            if name not in self.within and all(isinstance(value, int) for value in values)
        ]

    def complete(self, tx: Any) -> Any:
        """Add the loss function to the updates of what searches."""
        if not self.searches:
            return tx

        def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
            return tx.update(updates, state, params, **{"value_fn": bowl, **extra_args})

        return optax.GradientTransformationExtraArgs(tx.init, update)

    def __call__(self, **numbers: Any) -> Any:
        changed = {name: self.build.get(name, itself)(value) for name, value in numbers.items()}
        return self.complete(self.make(**{**self.arguments, **changed}))

    __hash__ = object.__hash__
    __eq__ = object.__eq__


SCHEDULES: dict[str, Case] = {
    "constant": Case(lrx.constant, {"value": 0.3}, {"value": (0.0, 0.1, 2.0)}),
    "linear_decay": Case(
        lrx.linear_decay,
        {"init_value": 0.3, "decay_steps": 4, "end_value": 0.01},
        {"init_value": (0.0, 0.1, 2.0), "decay_steps": (1, 3, 10_000), "end_value": (0.0, 0.2, 1.0)},
        end=4,
    ),
    "cosine_decay": Case(
        lrx.cosine_decay,
        {"init_value": 0.3, "decay_steps": 4, "end_value": 0.01},
        {"init_value": (0.0, 0.1, 2.0), "decay_steps": (1, 3, 10_000), "end_value": (0.0, 0.2, 1.0)},
        end=4,
    ),
    "step_decay": Case(
        lrx.step_decay,
        {"init_value": 0.3, "step_size": 2, "factor": 0.3},
        {"init_value": (0.0, 0.1, 2.0), "step_size": (1, 3, 10_000), "factor": (0.1, 0.5, 1.0)},
        tolerance=5e-6,
    ),
    "triangular": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 3, "down_steps": 2},
        {
            "min_value": (0.0, 0.1, 0.7),
            "max_value": (0.1, 0.2, 1.0),
            "half_period_steps": (1, 3, 10_000),
            "down_steps": (1, 3, 10_000),
        },
    ),
    "triangular2": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 2, "mode": "triangular2"},
        {"half_period_steps": (1, 3, 10_000)},
        tolerance=5e-6,
    ),
    "exp_range": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 2, "mode": "exp_range", "decay_rate": 0.999},
        {"decay_rate": (0.5, 0.9999, 1.0)},
        tolerance=5e-6,
    ),
    "warmup": Case(
        lrx.warmup,
        {"schedule": lrx.linear_decay(0.3, 3), "warmup_steps": 2},
        {"warmup_steps": (0, 1, 10_000), "init_value": (0.0, 0.1, 2.0)},
        end=5,
    ),
    "warmup of a float": Case(
        lrx.warmup,
        {"schedule": 0.3, "warmup_steps": 3, "init_value": 0.1, "mode": "constant"},
        {"schedule": (0.0, 0.1, 2.0), "warmup_steps": (0, 1, 10_000)},
        end=3,
    ),
    "exponential warmup": Case(
        lrx.warmup,
        {"schedule": 0.3, "warmup_steps": 4, "init_value": 1e-4, "mode": "exponential"},
        {"schedule": (0.1, 0.2, 2.0), "init_value": (1e-6, 0.1, 2.0), "warmup_steps": (0, 1, 10_000)},
        tolerance=5e-6,
        end=4,
    ),
    "join": Case(
        lrx.join,
        {"schedules": [0.1, lrx.linear_decay(0.4, 2)], "boundaries": [2]},
        {"schedules": (0.0, 0.1, 2.0), "boundaries": (1, 3, 10_000)},
        {"schedules": lambda value: [value, lrx.linear_decay(0.4, 2)], "boundaries": lambda value: [value]},
        end=4,
    ),
    "piecewise_constant": Case(
        lrx.piecewise_constant,
        {"init_value": 0.3, "boundaries_and_factors": {2: 0.5, 4: 0.1}},
        {"init_value": (0.0, 0.1, 2.0), "boundaries_and_factors": (1, 3, 10_000)},
        {"boundaries_and_factors": lambda step: [(step, 0.5)]},
        end=4,
    ),
    "piecewise_constant with swept factors": Case(
        lrx.piecewise_constant,
        {"init_value": 0.3, "boundaries_and_factors": {1: 0.5, 5: 0.1}},
        {"boundaries_and_factors": (0.0, 0.1, 2.0)},
        {"boundaries_and_factors": lambda factor: {1: factor, 5: 0.1}},
        end=5,
    ),
    "exponential_decay": Case(
        lrx.exponential_decay,
        {"init_value": 0.3, "decay_rate": 0.9, "transition_steps": 2},
        {"init_value": (0.0, 0.1, 2.0), "decay_rate": (0.5, 0.9999, 1.0), "transition_steps": (1, 3, 10_000)},
        tolerance=5e-6,
    ),
    "exponential_decay in steps to a floor": Case(
        lrx.exponential_decay,
        {"init_value": 0.3, "decay_rate": 0.5, "transition_steps": 2, "staircase": True, "end_value": 0.1},
        {"end_value": (0.0, 0.1, 0.2), "transition_steps": (1, 3, 10_000)},
        tolerance=5e-6,
        end=4,
    ),
    "polynomial_decay": Case(
        lrx.polynomial_decay,
        {"init_value": 0.3, "decay_steps": 4, "power": 2.0, "end_value": 0.01},
        {
            "init_value": (0.0, 0.1, 2.0),
            "decay_steps": (1, 3, 10_000),
            "power": (0.5, 0.9, 3.0),
            "end_value": (0.0, 0.2, 1.0),
        },
        tolerance=5e-6,
        end=4,
    ),
    "inverse_time_decay": Case(
        lrx.inverse_time_decay,
        {"init_value": 0.3, "decay_rate": 0.1},
        {"init_value": (0.0, 0.1, 2.0), "decay_rate": (0.0, 1e-3, 1.0), "power": (0.5, 0.75, 1.0)},
        tolerance=5e-6,
    ),
    "inverse_sqrt_decay": Case(
        lrx.inverse_sqrt_decay,
        {"peak_value": 0.3, "warmup_steps": 3},
        {"peak_value": (0.0, 0.1, 2.0), "warmup_steps": (1, 3, 10_000)},
    ),
    "cosine_restarts": Case(
        lrx.cosine_restarts,
        {"init_value": 0.3, "period_steps": 2, "period_mult": 1.5, "end_value": 0.01, "restart_mult": 0.9},
        {
            "init_value": (0.0, 0.1, 2.0),
            "period_steps": (1, 3, 10_000),
            "period_mult": (1.0, 1.5, 3.0),
            "end_value": (0.0, 0.2, 1.0),
            "restart_mult": (0.5, 0.9, 1.0),
        },
        tolerance=5e-6,
    ),
    "one_cycle": Case(
        lrx.one_cycle,
        {"peak_value": 0.3, "total_steps": 10},
        {
            "peak_value": (0.0, 0.1, 2.0),
            "total_steps": (1, 3, 10_000),
            "pct_start": (0.1, 0.35, 0.5),
            "div_factor": (1.0, 5.0, 25.0),
            "final_div_factor": (1.0, 1e2, 1e4),
        },
        end=9,
    ),
    "one_cycle in three lines": Case(
        lrx.one_cycle,
        {"peak_value": 0.3, "total_steps": 8, "anneal": "linear", "three_phase": True},
        {"total_steps": (2, 7, 10_000), "pct_start": (0.1, 0.35, 0.5)},
        end=7,
    ),
    "one_cycle_momentum": Case(
        lrx.one_cycle_momentum,
        {"total_steps": 6},
        {
            "total_steps": (1, 3, 10_000),
            "min_value": (0.0, 0.5, 0.85),
            "max_value": (0.9, 0.95, 0.99),
            "pct_start": (0.1, 0.35, 0.5),
        },
        end=5,
    ),
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
    "warmup_stable_decay": Case(
        lrx.warmup_stable_decay,
        {"peak_value": 0.3, "warmup_steps": 2, "stable_steps": 1, "decay_steps": 3, "end_value": 0.01},
        {
            "peak_value": (0.0, 0.1, 2.0),
            "warmup_steps": (0, 1, 10_000),
            "stable_steps": (0, 1, 10_000),
            "decay_steps": (1, 3, 10_000),
            "end_value": (0.0, 0.2, 1.0),
        },
        end=6,
    ),
    **{
        f"warmup_stable_decay, {decay}": Case(
            lrx.warmup_stable_decay,
            {
                "peak_value": 0.3,
                "warmup_steps": 0,
                "stable_steps": 1,
                "decay_steps": 3,
                "end_value": 0.01,
                "decay": decay,
            },
            {"decay_steps": (1, 3, 10_000), "end_value": (0.001, 0.1, 1.0)},
            tolerance=5e-6 if decay == "exponential" else 1e-6,
            end=4,
        )
        for decay in ("cosine", "sqrt", "exponential")
    },
    "interpolate": Case(
        lrx.interpolate,
        {"points": {0: 0.0, 2: 0.4, 5: 0.1}},
        {"points": (1, 3, 10_000)},
        {"points": lambda step: [(0, 0.3), (step, 0.1)]},
        end=5,
    ),
    "interpolate along cosines": Case(
        lrx.interpolate,
        {"points": {1: 0.1, 4: 0.4, 5: 0.2}, "kind": "cosine"},
        {"points": (0.0, 0.1, 2.0)},
        {"points": lambda rate: {1: 0.1, 4: rate, 5: 0.2}},
        end=5,
    ),
    "tabulated": Case(
        lrx.tabulated,
        {"values": (0.3, 0.1, 0.2)},
        {"values": (0.0, 0.1, 2.0)},
        {"values": lambda rate: [rate, 0.2]},
        end=2,
    ),
    "refined": Case(
        lrx.refined,
        {"grad_norms": [3.0, 2.0, 1.5, 1.0, 4.0], "peak_value": 0.3},
        {"peak_value": (0.0, 0.1, 2.0)},
        end=4,
    ),
    "product": Case(
        lambda left, right: lrx.warmup(left, 2) * right * lrx.linear_decay(1.0, 5),
        {"left": 0.3, "right": 0.5},
        {"left": (0.0, 0.1, 2.0), "right": (0.0, 0.1, 2.0)},
        end=5,
    ),
}

RATES = (0.0, 0.01, 0.1)
DECAYS = (0.0, 0.5, 0.95)
EPS = (1e-8, 1e-3, 1.0)
OPEN = (0.5, 0.9, 0.99)
WEIGHTS = (0.0, 0.1, 1.0)
OPTIMIZERS: dict[str, Case] = {
    "sgd": Case(lrx.sgd, {"learning_rate": 0.1}, {"learning_rate": RATES}),
    "sgd with momentum": Case(
        lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": RATES, "momentum": DECAYS}
    ),
    "sgd with nesterov": Case(lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, {"momentum": DECAYS}),
    "scale_by_momentum": Case(lrx.scale_by_momentum, {"momentum": 0.9}, {"momentum": DECAYS}),
    "heavy_ball": Case(
        lrx.heavy_ball,
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": RATES, "momentum": DECAYS},
        rolls_on=True,
    ),
    "heavy_ball with correction": Case(
        lrx.heavy_ball, {"learning_rate": 0.1, "momentum_correction": True}, {"momentum": DECAYS}
    ),
    "nesterov": Case(
        lrx.nesterov,
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": RATES, "momentum": DECAYS},
        rolls_on=True,
    ),
    "adam": Case(
        lrx.adam,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "b1": DECAYS, "b2": DECAYS, "eps": EPS, "eps_root": EPS},
    ),
    "scale_by_adam": Case(lrx.scale_by_adam, {}, {"b1": DECAYS, "b2": DECAYS, "eps": EPS, "eps_root": EPS}),
    "adam with a narrow moment": Case(
        lrx.adam, {"learning_rate": 0.1, "moment_dtype": jnp.bfloat16, "eps": 0.0}, {"eps_root": EPS}
    ),
    "sgd with a wide velocity": Case(
        lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "moment_dtype": "float32"}, {"momentum": DECAYS}
    ),
    "adam with scheduled decays": Case(
        lrx.adam,
        {"learning_rate": 0.1, "b1": lrx.linear_decay(0.9, 4), "b2": lrx.interpolate({0: 0.9, 3: 0.99})},
        {"eps": EPS},
    ),
    "adamw": Case(
        lrx.adamw,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "eps_root": EPS,
            "weight_decay": (0.0, 0.1, 1.0),
        },
        needs_params=True,
        decays=True,
    ),
    "adamw of the paper": Case(
        lrx.adamw,
        {
            "learning_rate": lrx.warmup(0.1, 3),
            "weight_decay": lrx.linear_decay(0.1, 9),
            "decoupling": "schedule",
            "mask": lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params),
        },
        {"base_rate": (0.01, 0.1, 1.0)},
        needs_params=True,
        decays=True,
    ),
    "adagrad": Case(
        lrx.adagrad,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "eps": EPS, "initial_accumulator": (0.0, 0.1, 1.0)},
    ),
    "scale_by_adagrad": Case(
        lrx.scale_by_adagrad, {"eps_root": False}, {"eps": EPS, "initial_accumulator": (0.0, 0.1, 1.0)}
    ),
    "rmsprop": Case(lrx.rmsprop, {"learning_rate": 0.1}, {"learning_rate": RATES, "decay": DECAYS, "eps": EPS}),
    "scale_by_rmsprop": Case(lrx.scale_by_rmsprop, {"eps_root": False}, {"decay": DECAYS, "eps": EPS}),
    "accumulate": Case(
        lrx.accumulate, {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "every": 1}, {"every": (1, 2, 3)}
    ),
    "averaged": Case(
        lrx.averaged,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "decay": 0.5},
        {"decay": DECAYS, "start_after": (0, 1, 3)},
        needs_params=True,
    ),
    "averaged by half life": Case(
        lrx.averaged, {"tx": lrx.nesterov(0.1), "half_life": 2.0}, {"half_life": (0.5, 2.0, 9.0)}, needs_params=True
    ),
    "master_weights": Case(lrx.master_weights, {"tx": lrx.adam(0.1)}, needs_params=True),
    "group_rates": Case(
        lrx.group_rates,
        {"tx": lrx.heavy_ball(0.1), "labels": lambda path, leaf: len(path) % 2, "factors": lambda label: 0.5 + label},
        {"factors": RATES},
        {"factors": lambda factor: lambda label: factor + label},
    ),
    "accumulate a growing batch": Case(
        lrx.accumulate, {"tx": lrx.adam(0.1), "every": lambda applied: jnp.where(applied < 2, 1, 2)}
    ),
    "group_rates that freezes": Case(
        lrx.group_rates,
        {"tx": lrx.adamw(0.1), "labels": lambda path, leaf: len(path) % 2, "factors": lambda label: 2.0 * label},
        needs_params=True,
        decays=True,
    ),
    "d_adaptation": Case(
        lrx.d_adaptation,
        {"d0": 0.01},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": OPEN,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "d0": (1e-6, 1e-3, 0.1),
        },
        coupled=True,
        rolls_on=True,
    ),
    "d_adaptation with its switches": Case(
        lrx.d_adaptation,
        {"learning_rate": 1.0, "d0": 1e-3, "bias_correction": True, "weight_decay": 0.1, "growth_rate": 1.1},
        {"growth_rate": (1.01, 1.1, 2.0)},
        needs_params=True,
        decays=True,
        coupled=True,
        rolls_on=True,
    ),
    "prodigy": Case(
        lrx.prodigy,
        {"learning_rate": 1.0, "d0": 0.01},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": OPEN,
            "b3": OPEN,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "d0": (1e-6, 1e-3, 0.1),
            "d_coef": (0.1, 1.0, 10.0),
        },
        needs_params=True,
        coupled=True,
    ),
    "prodigy with its switches": Case(
        lrx.prodigy,
        {
            "learning_rate": 1.0,
            "d0": 1e-3,
            "bias_correction": True,
            "safeguard_warmup": True,
            "weight_decay": 0.1,
            "growth_rate": 1.1,
            "d_coef": 10.0,
        },
        {"growth_rate": (1.01, 1.1, 2.0)},
        needs_params=True,
        decays=True,
        coupled=True,
    ),
    "dog": Case(
        lrx.dog,
        {"learning_rate": 1.0, "reps_rel": 0.1},
        {"learning_rate": RATES, "reps_rel": (1e-6, 1e-2, 0.1), "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
    "dog by layers": Case(
        lrx.dog,
        {"learning_rate": 1.0, "reps_rel": 0.1, "layerwise": True, "averaging": None},
        {"learning_rate": RATES},
        needs_params=True,
        coupled=True,
    ),
    "dowg": Case(
        lrx.dowg,
        {"learning_rate": 1.0},
        {"learning_rate": RATES, "r0": (1e-3, 1e-2, 0.1), "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
    "cocob": Case(lrx.cocob, {}, {"alpha": (1.0, 10.0, 100.0), "eps": EPS}, needs_params=True),
    "mechanic": Case(
        lrx.mechanic,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "betas": (0.9, 0.99), "s_init": 0.1},
        {"s_init": (1e-6, 1e-3, 0.1), "weight_decay": WEIGHTS, "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
    "momo": Case(
        lrx.momo,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "momentum": DECAYS,
            "lower_bound": (0.0, 0.3, 0.6),
            "weight_decay": WEIGHTS,
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
    ),
    "momo with its switch": Case(
        lrx.momo,
        {"learning_rate": 1.0, "adapt_lower_bound": True, "weight_decay": 0.1},
        {"lower_bound": (-1.0, 0.0, 0.9)},
        needs_params=True,
        needs_value=True,
        decays=True,
        coupled=True,
    ),
    "momo_adam": Case(
        lrx.momo_adam,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "lower_bound": (0.0, 0.3, 0.6),
            "weight_decay": WEIGHTS,
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
    ),
    "schedule_free_sgd": Case(
        lrx.schedule_free_sgd,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": (0.5, 0.9, 1.0),
            "weight_decay": WEIGHTS,
            "r": (0.0, 1.0, 2.0),
        },
        needs_params=True,
        rolls_on=True,
    ),
    "schedule_free_sgd under a warmup": Case(
        lrx.schedule_free_sgd,
        {"learning_rate": lrx.warmup(0.1, 4)},
        {"weight_power": (0.0, 1.0, 2.0)},
        needs_params=True,
        rolls_on=True,
    ),
    "schedule_free_adamw": Case(
        lrx.schedule_free_adamw,
        {"learning_rate": lrx.warmup(0.1, 4)},
        {
            "learning_rate": RATES,
            "b1": (0.5, 0.9, 1.0),
            "b2": DECAYS,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "r": (0.0, 1.0, 2.0),
            "weight_power": (0.0, 1.0, 2.0),
        },
        needs_params=True,
        rolls_on=True,
    ),
    "hypergradient_sgd": Case(
        lrx.hypergradient_sgd,
        {"learning_rate": 0.1, "hyper_rate": 0.01, "momentum": 0.5, "nesterov": True},
        {
            "learning_rate": RATES,
            "hyper_rate": (0.0, 1e-3, 1e-2),
            "momentum": DECAYS,
            "min_value": (0.0, 0.09, 0.2),
        },
        coupled=True,
    ),
    "hypergradient_sgd without momentum": Case(
        lrx.hypergradient_sgd, {"learning_rate": 0.1, "hyper_rate": 0.01}, {"learning_rate": RATES}, coupled=True
    ),
    "hypergradient_adam": Case(
        lrx.hypergradient_adam,
        {"learning_rate": 0.1, "hyper_rate": 1e-3},
        {
            "learning_rate": RATES,
            "hyper_rate": (0.0, 1e-3, 1e-2),
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "eps_root": EPS,
            "min_value": (0.0, 0.09, 0.2),
        },
        coupled=True,
    ),
    "polyak": Case(
        lrx.polyak,
        {"max_rate": 10.0},
        {"c": (0.1, 0.5, 1.0), "max_rate": (1e-3, 0.1, 10.0), "f_min": (-1.0, 0.0, 0.9)},
        needs_value=True,
        coupled=True,
    ),
    "polyak with growth": Case(
        lrx.polyak,
        {"max_rate": 10.0, "f_min": 0.94, "growth": 1.1},
        {"growth": (1.0, 1.1, 2.0)},
        needs_value=True,
        coupled=True,
    ),
    "armijo": Case(
        lrx.armijo,
        {"max_evaluations": 5},
        {
            "c": (1e-3, 0.1, 0.9),
            "backtrack": (0.1, 0.5, 0.9),
            "max_rate": (0.01, 0.1, 1.0),
            "max_evaluations": (1, 5, 20),
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
        searches=True,
    ),
    "armijo with growth": Case(
        lrx.armijo,
        {"backtrack": 0.3, "growth": 2.0},
        {"growth": (1.0, 1.5, 3.0)},
        needs_params=True,
        needs_value=True,
        coupled=True,
        searches=True,
    ),
    "rollback_on_divergence": Case(
        lrx.rollback_on_divergence,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9)},
        {"factor": (0.1, 0.5, 0.9), "max_rollbacks": (0, 1, 3), "explode": (0.1, 5.0, 100.0)},
        needs_params=True,
        needs_value=True,
        coupled=True,
        recovers=True,
        values=(1.0, 1.0, 9.0, 1.0, 1.2, 9.0, 3.0, 1.0),
    ),
}

CONTROLLERS: dict[str, Case] = {
    "reduce_on_plateau": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 1, "accumulation_size": 1},
        {
            "factor": (0.1, 0.3, 0.9),
            "patience": (0, 1, 3),
            "rtol": (0.0, 0.1, 0.9),
            "atol": (0.0, 0.1, 0.6),
            "cooldown": (0, 1, 3),
            "min_scale": (0.0, 0.4, 1.0),
            "accumulation_size": (1, 2, 3),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
    ),
    "reduce_on_plateau, by noise": Case(
        lrx.reduce_on_plateau, {"factor": 0.5, "patience": 0}, {"rtol": (0.0, 0.1, 0.9)}, needs_value=True
    ),
    "reduce_on_plateau, observed": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 0, "feedback": "observed"},
        {"factor": (0.1, 0.3, 0.9)},
    ),
    "greedy": Case(
        lrx.greedy,
        {"factor": 0.5, "patience": 0, "smoothing": 0.5},
        {
            "factor": (0.1, 0.3, 0.9),
            "patience": (0, 1, 3),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.5, 9.0),
            "smoothing": (0.0, 0.5, 0.9),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
        values=(1.0, 0.5, 0.9, 0.8, 0.7, 0.6, 0.55, 0.52),
    ),
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
    "relative_adaptation": Case(
        lrx.relative_adaptation,
        {},
        {
            "smoothing": (0.0, 0.5, 0.9),
            "growth": (1.1, 1.2, 2.0),
            "creep": (0.0, 0.01, 0.1),
            "backoff": (0.1, 0.3, 0.9),
            "tolerance": (0.0, 0.1, 9.0),
            "target": (0.01, 0.1, 0.9),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.1, 9.0),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
        values=(5.0, 5.0, 5.0, 1.0) + (1.0,) * 19 + (0.5, 0.5, 0.4, 0.4, 3.0, 3.0),
    ),
    "early_stopping": Case(
        lrx.early_stopping,
        {"patience": 1, "accumulation_size": 1},
        {
            "patience": (0, 1, 3),
            "min_delta": (0.0, 0.02, 0.2),
            "accumulation_size": (1, 2, 3),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
    ),
    "early_stopping of an accuracy": Case(
        lrx.early_stopping,
        {"patience": 1, "mode": "max", "feedback": "observed"},
        {"patience": (0, 1, 9), "start_after": (0, 3, 5)},
    ),
    "cumulative_path": Case(
        lrx.cumulative_path,
        {"c": 0.5, "damping": 1.0},
        {
            "c": (0.1, 0.2, 0.9),
            "damping": (0.1, 1.0, 2.0),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.1, 9.0),
            "start_after": (0, 3, 5),
        },
        coupled=True,
    ),
    "cumulative_path with its own damping": Case(lrx.cumulative_path, {}, {"c": (0.1, 0.2, 0.9)}, coupled=True),
    "warmup_until": Case(
        lrx.warmup_until,
        {"learning_rate": lrx.linear_decay(0.3, 9), "warmup_value": 0.02, "threshold": 0.97},
        {"learning_rate": RATES, "warmup_value": RATES, "threshold": (0.5, 0.92, 2.0)},
        needs_value=True,
    ),
    "warmup_until, of a controlled rate": Case(
        lrx.warmup_until,
        {
            "learning_rate": 0.3 * lrx.reduce_on_plateau(patience=0, feedback="observed"),
            "warmup_value": 0.01,
            "threshold": 0.97,
            "feedback": "observed",
        },
        {"threshold": (0.5, 0.92, 2.0)},
    ),
}


def _plateau(feedback: str = "value") -> Any:
    return lrx.reduce_on_plateau(factor=0.5, patience=0, accumulation_size=1, feedback=feedback)


# The algebra's own objects: what a schedule, a controller and a number make of each other.
CONTROLLED_COMPOSITIONS: dict[str, Case] = {
    "schedule * controller": Case(
        lambda value, feedback: value * lrx.linear_decay(1.0, 9) * _plateau(feedback),
        {"value": 0.3, "feedback": "value"},
        {"value": RATES},
        needs_value=True,
    ),
    "controller * controller": Case(
        lambda factor, feedback: (
            _plateau(feedback)
            * lrx.reduce_on_plateau(factor=factor, patience=1, accumulation_size=1, feedback=feedback)
        ),
        {"factor": 0.3, "feedback": "value"},
        {"factor": (0.1, 0.3, 0.9)},
        needs_value=True,
    ),
    "heavy_ball of a controlled rate": Case(
        lambda value, feedback: lrx.heavy_ball(value * _plateau(feedback)),
        {"value": 0.3, "feedback": "value"},
        {"value": RATES},
        needs_value=True,
    ),
}
COMPOSITIONS: dict[str, Case] = {
    "Schedule(function)": Case(
        lambda value: lrx.Schedule(lambda count: value / (1.0 + count.astype(jnp.float32))),
        {"value": 0.3},
        {"value": RATES},
    ),
    "multiplier": Case(lambda value: lrx.linear_decay(value, 9).multiplier(), {"value": 0.3}, {"value": RATES}),
    "adam of a schedule": Case(
        lambda value: lrx.adam(lrx.warmup(lrx.cosine_decay(value, 4), 2)), {"value": 0.3}, {"value": RATES}
    ),
}

CASES: dict[str, Case] = {**SCHEDULES, **OPTIMIZERS, **CONTROLLERS, **COMPOSITIONS, **CONTROLLED_COMPOSITIONS}

# All schedules have one state tree and one update, as a test of law 1 shows: what depends on these alone is asked of
# two schedules, one of numbers and one of arrays, and of all other transformations.
ARRAYS = Case(lambda value, steps: lrx.linear_decay(jnp.asarray(value), jnp.asarray(steps)), {"value": 0.3, "steps": 4})
STATES: dict[str, Case] = {
    "cosine_decay": SCHEDULES["cosine_decay"],
    "linear_decay of arrays": ARRAYS,
    **{label: case for label, case in CASES.items() if label not in SCHEDULES},
}


assert not any("-" in label for label in CASES)  # pytest puts it between the parameters of a test (conftest.py)


def parametrized(cases: Mapping[str, Case], *, variants: bool) -> pytest.MarkDecorator:
    """Hand each case to a test; without variants the first tier has the first case of each factory alone."""
    seen: set[Any] = set()
    rows = []
    for label, case in cases.items():
        later = case.make in seen and not variants
        rows.append(pytest.param(case, id=label, marks=[pytest.mark.slow] if later else []))
        seen.add(case.make)
    return pytest.mark.parametrize("case", rows)


all_cases = parametrized(CASES, variants=True)
all_schedules = parametrized(SCHEDULES, variants=True)
all_optimizers = parametrized(OPTIMIZERS, variants=False)
all_states = parametrized(STATES, variants=False)


def public_factories() -> dict[str, Callable[..., Any]]:
    """Every public function of the packages that gives a transformation."""
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            if name not in NOT_TRANSFORMATIONS and inspect.isfunction(getattr(package, name)):
                found[name] = getattr(package, name)
    return found


def traceable_parameters(factory: Callable[..., Any]) -> set[str]:
    """The hyperparameters that may be tracers: those annotated as array-like."""
    signature = inspect.signature(factory)
    return {name for name, parameter in signature.parameters.items() if "ArrayLike" in str(parameter.annotation)}
