"""The laws of DESIGN.md, 1 to 8, over every public transformation.

A factory for which no case is written down fails the suite, and so does a hyperparameter that no case sweeps and an
argument that nothing refuses. Law 9 is read by people, law 10 is in the tests of each method.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from problems import (
    STREAM,
    assert_trees_close,
    assert_trees_equal,
    gradient_stream,
    mixed_params,
    reference,
    signature_of,
    value_stream,
    vector_params,
)

import lrx
import lrx.controllers
import lrx.optimizers
import lrx.schedules

INT32_MAX = 2**31 - 1
PACKAGES: tuple[ModuleType, ...] = (lrx.schedules, lrx.optimizers, lrx.controllers)
NOT_TRANSFORMATIONS = {
    "eval_params": "reads a state and parameters and gives parameters; it has no init and update",
    "scale_for_batch_size": "takes a number to a number",
}


def itself(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to call a factory, and the values over which each traced hyperparameter is swept."""

    make: Callable[..., Any]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    build: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)  # number -> argument
    tolerance: float = 1e-6  # law 5
    end: int | None = None  # the step from which on a schedule holds its end
    needs_params: bool = False  # for weight decay, which also moves parameters that have no gradient

    def __call__(self, **numbers: Any) -> Any:
        changed = {name: self.build.get(name, itself)(value) for name, value in numbers.items()}
        return self.make(**{**self.arguments, **changed})

    @property
    def needs_value(self) -> bool:
        return self in CONTROLLED and self.arguments.get("feedback", "value") == "value"

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
OPTIMIZERS: dict[str, Case] = {
    "sgd": Case(lrx.sgd, {"learning_rate": 0.1}, {"learning_rate": RATES}),
    "sgd with momentum": Case(
        lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": RATES, "momentum": DECAYS}
    ),
    "sgd with nesterov": Case(lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, {"momentum": DECAYS}),
    "scale_by_momentum": Case(lrx.scale_by_momentum, {"momentum": 0.9}, {"momentum": DECAYS}),
    "heavy_ball": Case(
        lrx.heavy_ball, {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": RATES, "momentum": DECAYS}
    ),
    "heavy_ball with correction": Case(
        lrx.heavy_ball, {"learning_rate": 0.1, "momentum_correction": True}, {"momentum": DECAYS}
    ),
    "nesterov": Case(
        lrx.nesterov, {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": RATES, "momentum": DECAYS}
    ),
    "adam": Case(
        lrx.adam,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "b1": DECAYS, "b2": DECAYS, "eps": EPS},
    ),
    "scale_by_adam": Case(lrx.scale_by_adam, {}, {"b1": DECAYS, "b2": DECAYS, "eps": EPS}),
    "adam with scheduled decays": Case(
        lrx.adam,
        {"learning_rate": 0.1, "b1": lrx.linear_decay(0.9, 4), "b2": lrx.interpolate({0: 0.9, 3: 0.99})},
        {"eps": EPS},
    ),
    "adamw": Case(
        lrx.adamw,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "b1": DECAYS, "b2": DECAYS, "eps": EPS, "weight_decay": (0.0, 0.1, 1.0)},
        needs_params=True,
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
    "group_rates": Case(
        lrx.group_rates,
        {"tx": lrx.heavy_ball(0.1), "labels": lambda path, leaf: len(path) % 2, "factors": lambda label: 0.5 + label},
        {"factors": RATES},
        {"factors": lambda factor: lambda label: factor + label},
    ),
}

CONTROLLERS: dict[str, Case] = {
    "reduce_on_plateau": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 1},
        {
            "factor": (0.1, 0.3, 0.9),
            "patience": (0, 1, 3),
            "rtol": (0.0, 0.1, 0.9),
            "atol": (0.0, 0.1, 0.6),
            "cooldown": (0, 1, 3),
            "min_scale": (0.0, 0.4, 1.0),
            "accumulation_size": (1, 2, 3),
        },
    ),
    "reduce_on_plateau, observed": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 0, "feedback": "observed"},
        {"factor": (0.1, 0.3, 0.9)},
    ),
}


def _plateau(feedback: str = "value") -> Any:
    return lrx.reduce_on_plateau(factor=0.5, patience=0, feedback=feedback)


# The algebra's own objects: what a schedule, a controller and a number make of each other.
CONTROLLED_COMPOSITIONS: dict[str, Case] = {
    "schedule * controller": Case(
        lambda value, feedback: value * lrx.linear_decay(1.0, 9) * _plateau(feedback),
        {"value": 0.3, "feedback": "value"},
        {"value": RATES},
    ),
    "controller * controller": Case(
        lambda factor, feedback: (
            _plateau(feedback) * lrx.reduce_on_plateau(factor=factor, patience=1, feedback=feedback)
        ),
        {"factor": 0.3, "feedback": "value"},
        {"factor": (0.1, 0.3, 0.9)},
    ),
    "heavy_ball of a controlled rate": Case(
        lambda value, feedback: lrx.heavy_ball(value * _plateau(feedback)),
        {"value": 0.3, "feedback": "value"},
        {"value": RATES},
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

CONTROLLED: tuple[Case, ...] = (*CONTROLLERS.values(), *CONTROLLED_COMPOSITIONS.values())
CASES: dict[str, Case] = {**SCHEDULES, **OPTIMIZERS, **CONTROLLERS, **COMPOSITIONS, **CONTROLLED_COMPOSITIONS}

all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
all_schedules = pytest.mark.parametrize("case", SCHEDULES.values(), ids=SCHEDULES)
all_optimizers = pytest.mark.parametrize("case", OPTIMIZERS.values(), ids=OPTIMIZERS)
all_sweeps = pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in CASES.values() for name in case.sweep],
    ids=[f"{label}-{name}" for label, case in CASES.items() for name in case.sweep],
)


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


# ----------------------------------------------------------------------------------------------- found by inspection


def test_every_public_name_is_a_factory_with_a_case_or_is_excluded_with_a_reason():
    public = {name for package in PACKAGES for name in package.__all__}
    factories = public_factories()
    assert public == set(factories) | set(NOT_TRANSFORMATIONS)
    assert all(reason for reason in NOT_TRANSFORMATIONS.values())
    cased = {case.make for case in CASES.values()}
    missing = sorted(name for name, factory in factories.items() if factory not in cased)
    assert not missing, f"no case is written down for {missing}"


def test_packages_export_all_they_define_and_lrx_re_exports_it():
    for package in PACKAGES:
        functions = {
            name for name, member in vars(package).items() if inspect.isfunction(member) and not name.startswith("_")
        }
        assert functions == set(package.__all__)
        for name in package.__all__:
            assert getattr(lrx, name) is getattr(package, name)
            assert name in lrx.__all__


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_hyperparameter_of_a_factory_is_swept_by_a_case(name):
    factory = public_factories()[name]
    swept = {parameter for case in CASES.values() if case.make is factory for parameter in case.sweep}
    assert traceable_parameters(factory) <= swept


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_parameter_of_a_factory_has_a_refused_value(name):
    factory = public_factories()[name]
    refused = {parameter for made, arguments, _, _ in REFUSED if made is factory for parameter in arguments}
    assert set(inspect.signature(factory).parameters) <= refused


@all_cases
def test_cases_make_transformations(case):
    tx = case()
    assert isinstance(tx, optax.GradientTransformation)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


# ------------------------------------------------------------------------------------- one program for each case


class Program:
    """The compiled update of a case on the mixed tree, shared by the tests of one process."""

    def __init__(self, case: Case):
        self.tx = case()
        self.traces = 0

        def update(gradients: Any, state: Any, params: Any, value: Any) -> Any:
            self.traces += 1
            return self.tx.update(gradients, state, params, value=value)

        self.update = jax.jit(update)

    def run(self, params: Any, state: Any, stream: list[Any], values: list[float]) -> list[tuple[Any, Any, Any]]:
        """Give (updates, state, params) after each step; a case with observed feedback sees no value here."""
        rows = []
        for gradients, value in zip(stream, values, strict=True):
            updates, state = self.update(gradients, state, params, jnp.asarray(value, jnp.float32))
            params = optax.apply_updates(params, updates)
            rows.append((updates, state, params))
        return rows


@functools.cache
def program(case: Case) -> Program:
    return Program(case)


def eager_run(tx: Any, params: Any, stream: list[Any], values: list[float], *, moving: bool = False) -> tuple[Any, Any]:
    """Give all updates and the last state, without compiling anything; observed feedback is given as well."""
    tx = optax.with_extra_args_support(tx)
    state, rows = tx.init(params), []
    for gradients, value in zip(stream, values, strict=True):
        state = observed(state, value)
        updates, state = tx.update(gradients, state, params, value=value)
        rows.append(updates)
        params = optax.apply_updates(params, updates) if moving else params
    return rows, state


def observed(state: Any, value: Any) -> Any:
    """Give a state an observation where it holds a controller."""
    try:
        return lrx.observe(state, value=value)
    except ValueError as error:
        if "no controller" not in str(error):
            raise
        return state


def is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def has_nan(tree: Any) -> bool:
    return any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------- law 1: pure and compiled once


@all_cases
def test_law_1_update_compiles_once_and_repeats_itself(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = p.tx.init(params)
    before = jax.tree.map(np.array, (params, state, stream))
    first = p.run(params, state, stream, values)
    second = p.run(params, p.tx.init(params), stream, values)
    assert_trees_equal(first, second)
    assert_trees_equal((params, state, stream), before)
    assert p.traces == 1


@all_cases
def test_law_1_state_is_a_stable_carry(case):
    tx = case()
    for params in (mixed_params(), vector_params(), jnp.asarray(1.0)):
        gradients = gradient_stream(params, 1)[0]
        state = tx.init(params)

        def body(state, gradients=gradients, params=params):
            return tx.update(gradients, state, params, value=0.5)[1]

        assert signature_of(state) == signature_of(jax.eval_shape(tx.init, params))
        assert signature_of(state) == signature_of(jax.eval_shape(body, state))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.tree.map(jax.typeof, state)))
        jax.eval_shape(lambda state: jax.lax.fori_loop(0, 2, lambda _, carry: body(carry), state), state)


@all_cases
def test_law_1_a_scan_equals_the_steps_one_by_one(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()

    def body(carry, feedback):
        gradients, value = feedback
        updates, state = p.tx.update(gradients, carry, params, value=value)
        return state, updates

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stream)
    state, updates = jax.jit(lambda *xs: jax.lax.scan(body, *xs))(p.tx.init(params), (stacked, jnp.asarray(values)))
    rows, state_by_step = [], p.tx.init(params)
    for gradients, value in zip(stream, values, strict=True):
        update, state_by_step = p.update(gradients, state_by_step, params, jnp.float32(value))
        rows.append(update)
    assert_trees_close(updates, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))
    assert_trees_close(state, state_by_step)


# ------------------------------------------------------------------------------------------------- law 2: sweepable


def sweep_values(case: Case, name: str) -> jax.Array:
    values = case.sweep[name]
    return jnp.asarray(values, jnp.int32 if all(isinstance(value, int) for value in values) else jnp.float32)


def factors_shown(state: Any) -> list[jax.Array]:
    """Every rate and factor that the state shows."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_shows) if _shows(node)]
    return [node.rate if hasattr(node, "rate") else node.factor for node in found]


def _shows(node: Any) -> bool:
    return isinstance(node, lrx.rates.RateState | lrx.rates.FactorState)


@all_sweeps
def test_law_2_hyperparameters_are_swept_by_vmap_and_changed_without_recompiling(case, name):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)
    traces = 0

    def run(hyperparameter):
        nonlocal traces
        traces += 1
        rows, state = eager_run(case(**{name: hyperparameter}), params, stream, values)
        return rows, factors_shown(state)

    swept = sweep_values(case, name)
    by_argument = jax.jit(run)
    results = [by_argument(value) for value in swept]
    assert traces == 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    assert_trees_close(jax.vmap(run)(swept), stacked)
    concrete = [run(value) for value in case.sweep[name]]
    # A power of a traced base is right to 5e-6 only, and Adam divides what is left after cancellation in its moments.
    assert_trees_close(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *concrete), rtol=2e-5, atol=1e-6)
    for shown in results:
        assert all(bool(factor >= 0) and bool(jnp.isfinite(factor)) for factor in shown[1])


@all_sweeps
def test_law_2_a_sweep_changes_what_comes_out(case, name):
    # A hyperparameter that does nothing would pass every sweep: two of its values must differ in some update.
    params = vector_params()
    stream = gradient_stream(params, 8)
    # A loss that stands, falls a little, stands and falls again.
    values = [1.0, 1.0, 0.95, 1.0, 1.0, 0.9, 1.0, 1.0]
    first, *rest = (
        jax.tree.leaves(eager_run(case(**{name: value}), params, stream, values)[0]) for value in case.sweep[name]
    )
    assert any(not np.array_equal(a, b) for other in rest for a, b in zip(first, other, strict=True))


@all_schedules
def test_law_2_rates_are_finite_and_not_negative_for_any_traced_duration(case):
    durations = {
        name: jnp.asarray([0, 1, 2, 2**30, INT32_MAX], jnp.int32)
        for name in case.sweep
        if all(isinstance(value, int) for value in case.sweep[name])
    }
    counts = jnp.asarray([0, 1, 2, 3, 1000, 2**30, INT32_MAX], jnp.int32)
    for name, lengths in durations.items():
        rates = jax.vmap(lambda value, name=name: case(**{name: value})(counts))(lengths)
        assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0))), name


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
            (factory, {"weight_decay": _following_feedback}, TypeError, f"^weight_decay {_not_a_schedule}"),
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
    *_steps_refused(lrx.reduce_on_plateau, "accumulation_size"),
    *_words_refused(lrx.reduce_on_plateau, "mode"),
    *_words_refused(lrx.reduce_on_plateau, "feedback"),
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


# ------------------------------------------------------------------------------------------------ law 3: composable


@all_cases
def test_law_3_unknown_extra_args_are_ignored_and_value_is_keyword_only(case):
    params = vector_params()
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    plain = tx.update(gradients, tx.init(params), params, value=1.0)
    assert_trees_equal(plain, tx.update(gradients, tx.init(params), params, value=1.0, unheard_of=object()))
    with pytest.raises(TypeError):
        tx.update(gradients, tx.init(params), params, 1.0)


@all_cases
def test_law_3_what_is_missing_is_named_and_what_is_not_needed_is_not_asked_for(case):
    params = vector_params()
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    if case.needs_value:
        with pytest.raises(ValueError, match=r"needs the loss: pass it as tx.update\(.*value=loss\)"):
            tx.update(gradients, tx.init(params), params)
        with pytest.raises(ValueError, match="value must be a scalar"):
            tx.update(gradients, tx.init(params), params, value=jnp.ones(3))
        tx.update(gradients, tx.init(params), value=1.0)
    elif case.needs_params:
        with pytest.raises(ValueError, match=r"needs the parameters, .*: pass tx.update\(grads, state, params\)"):
            tx.update(gradients, tx.init(params))
    else:
        tx.update(gradients, tx.init(params))


def _labels(params: Any) -> Any:
    return dict.fromkeys(params, "first") | {"b": "second"}


def _injected(case: Case) -> Any:
    # Unless told not to, optax evaluates a function that is an argument, and passes on its value of the step.
    static = tuple(name for name, value in case.arguments.items() if callable(value))
    return optax.inject_hyperparams(case.make, static_args=static)(**case.arguments)


WRAPPERS: dict[str, Callable[[Case], Any]] = {
    "chain": lambda case: optax.chain(optax.identity(), optax.chain(case())),
    "partition": lambda case: optax.partition({"first": case(), "second": case()}, _labels),
    "masked": lambda case: optax.masked(case(), {"a": True, "b": True}),
    "apply_if_finite": lambda case: optax.apply_if_finite(case(), max_consecutive_errors=3),
    "inject_hyperparams": _injected,
    "named_chain": lambda case: optax.named_chain(("only", case())),
}


@all_cases
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_law_3_wrappers_of_optax_give_the_same_updates(case, wrapper):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    rows, _ = eager_run(case(), params, stream, values)
    tx = WRAPPERS[wrapper](case)
    if wrapper == "apply_if_finite":  # its branches are compiled at every call, so once for all is faster
        tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))
    wrapped, state = eager_run(tx, params, stream, values)
    assert_trees_close(wrapped, rows)
    assert signature_of(state) == signature_of(tx.init(params))


@all_cases
def test_law_3_multi_steps_applies_the_mean_of_the_gradients(case):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)
    rows, _ = eager_run(case(), params, stream, values)
    multi = optax.MultiSteps(case(), every_k_schedule=2)
    state = multi.init(params)
    update = jax.jit(lambda gradients, state, value: multi.update(gradients, state, params, value=value))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        state = observed(state, value)
        updates, state = update(jax.tree.map(lambda leaf: leaf + 0.5, gradients), state, value)
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
        updates, state = update(jax.tree.map(lambda leaf: leaf - 0.5, gradients), state, value)
        assert_trees_close(updates, row, rtol=1e-4, atol=1e-6)


@all_cases
def test_law_3_masked_leaves_pass_untouched(case):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    masked, _ = eager_run(optax.masked(case(), {"a": True, "b": False}), params, stream, values)
    alone, _ = eager_run(case(), {"a": params["a"]}, [{"a": gradients["a"]} for gradients in stream], values)
    for row, expected, gradients in zip(masked, alone, stream, strict=True):
        assert_trees_close(row, {"a": expected["a"], "b": gradients["b"]})


class _Model(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Param(vector_params()["a"])
        self.b = nnx.Param(vector_params()["b"])


@all_cases
def test_law_3_nnx_optimizer_gives_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, 4), value_stream(4)
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    model = _Model()
    optimizer = nnx.Optimizer(model, case(), wrt=nnx.Param)
    for gradients, value, row in zip(stream, values, rows, strict=True):
        state = nnx.state(model, nnx.Param)
        leaves = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(gradients))
        optimizer.opt_state = observed(optimizer.opt_state, value)
        optimizer.update(model, leaves, value=value)
        params = optax.apply_updates(params, row)
    assert_trees_close({"a": model.a[...], "b": model.b[...]}, params)


@all_cases
def test_law_3_train_state_gives_the_same_parameters_by_observed_feedback(case):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    feedback = {"feedback": "observed"} if case in CONTROLLED else {}
    train_state = TrainState.create(apply_fn=itself, params=params, tx=case(**feedback))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        train_state = train_state.replace(opt_state=observed(train_state.opt_state, value))
        train_state = train_state.apply_gradients(grads=gradients)
        params = optax.apply_updates(params, row)
    assert_trees_close(train_state.params, params)


class _Module(eqx.Module):
    a: jax.Array
    b: jax.Array
    table: jax.Array
    name: str = eqx.field(static=True)
    activation: Callable[..., Any] = jax.nn.relu


@all_cases
def test_law_3_equinox_models_give_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, 4), value_stream(4)
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    model = _Module(**params, table=jnp.arange(3), name="model")
    tx = case()
    # Made with the integer table, for which there is no gradient: where a leaf has none, the state keeps its place.
    state = tx.init(eqx.filter(model, eqx.is_array))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        grads = _Module(**gradients, table=None, name="model", activation=None)
        state = observed(state, value)
        updates, after = tx.update(grads, state, eqx.filter(model, eqx.is_array), value=value)
        assert signature_of(state) == signature_of(after)
        state, model = after, eqx.apply_updates(model, updates)
        params = optax.apply_updates(params, row)
    assert_trees_close({"a": model.a, "b": model.b}, params)
    assert_trees_equal(model.table, jnp.arange(3))


# --------------------------------------------------------------------------------------------- law 4: typed numbers


def _typed(tree: Any, dtypes: Mapping[str, Any]) -> Any:
    return {name: leaf.astype(dtypes[name]) for name, leaf in tree.items()}


NARROW, WIDE = jnp.bfloat16, jnp.float32
TYPES = {
    "all narrow": ({"a": NARROW, "b": NARROW}, {"a": NARROW, "b": NARROW}),
    "mixed tree": ({"a": NARROW, "b": WIDE}, {"a": NARROW, "b": WIDE}),
    "narrow gradients": ({"a": WIDE, "b": WIDE}, {"a": NARROW, "b": NARROW}),
    "wide gradients": ({"a": NARROW, "b": NARROW}, {"a": WIDE, "b": WIDE}),
    "crossed": ({"a": NARROW, "b": WIDE}, {"a": WIDE, "b": NARROW}),
    "half": ({"a": jnp.float16, "b": WIDE}, {"a": jnp.float16, "b": jnp.float16}),
}


@all_cases
@pytest.mark.parametrize("types", TYPES)
def test_law_4_updates_have_the_type_of_their_gradient(case, types):
    of_params, of_gradients = TYPES[types]
    params = _typed(vector_params(), of_params)
    gradients = _typed(gradient_stream(vector_params(), 1)[0], of_gradients)
    tx = case()
    state = tx.init(params)
    updates, after = jax.eval_shape(lambda *xs: tx.update(*xs, value=1.0), gradients, state, params)
    assert {name: leaf.dtype for name, leaf in updates.items()} == of_gradients
    assert signature_of(state) == signature_of(after)
    scalars = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == ()]
    assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.floating)} <= {jnp.dtype(jnp.float32)}
    assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.integer)} <= {jnp.dtype(jnp.int32)}


@all_cases
def test_law_4_narrow_updates_are_the_wide_ones_rounded(case):
    params = vector_params()
    gradients = _typed(gradient_stream(params, 1)[0], {"a": NARROW, "b": NARROW})
    tx = case()
    narrow, narrow_state = tx.update(gradients, tx.init(params), params, value=1.0)
    wide, wide_state = tx.update(_typed(gradients, {"a": WIDE, "b": WIDE}), tx.init(params), params, value=1.0)
    # A chain rounds between its links, so that an update may be one rounding apart.
    assert_trees_close(narrow, _typed(wide, {"a": NARROW, "b": NARROW}))
    assert_trees_equal(narrow_state, wide_state)


@all_cases
def test_law_4_arithmetic_mixes_no_types_silently(case):
    params = {**vector_params(), "narrow": jnp.ones(2, jnp.bfloat16)}
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    state = tx.init(params)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(tx.init, params)
        jax.eval_shape(lambda *xs: tx.update(*xs, value=jnp.bfloat16(1.0)), gradients, state, params)


@all_cases
@pytest.mark.parametrize(
    "params",
    [{}, (), None, {"gone": None}, 1.5, np.float32(2.0), jnp.asarray(1.0), [jnp.zeros((0, 3))]],
    ids=["empty dict", "empty tuple", "none", "none leaf", "float", "numpy scalar", "jax scalar", "empty array"],
)
def test_law_4_empty_trees_none_leaves_and_scalars_pass(case, params):
    tx = case()
    state = tx.init(params)
    for _ in range(2):
        updates, after = tx.update(params, state, params, value=1.0)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert signature_of(after) == signature_of(state)
        assert is_finite(updates)
        state = after


@all_cases
def test_law_4_counts_stay_at_their_largest_value(case):
    params = vector_params()
    tx = case()

    def at_the_end(path, leaf):
        name = jax.tree_util.keystr(path)
        return jnp.asarray(INT32_MAX, jnp.int32) if name.endswith("count") else leaf

    state = jax.tree.map_with_path(at_the_end, tx.init(params))
    last = [leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")]
    for gradients in gradient_stream(params, 2):
        updates, state = tx.update(gradients, observed(state, 1.0), params, value=1.0)
        assert is_finite(updates)
        counts = [
            leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")
        ]
        assert_trees_equal(counts, last)
        integers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
        assert all(bool(leaf >= 0) for leaf in integers)


# --------------------------------------------------------------------------------------------- law 5: exact in time

COUNTS = np.concatenate([np.arange(10_001), [2**24 - 1, 2**24 + 1, 10**9, INT32_MAX - 1, INT32_MAX]])
# Long durations of every sort, at which float32 time would be off by many steps.
LONG = (7_777, 16_777_259, 1_500_000_001)
ENDLESS = {
    "constant",
    "cosine_restarts",
    "cyclical",
    "exponential_decay",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "step_decay",
}


def assert_exact(case: Case, rates: Any, schedule: Any, counts: np.ndarray = COUNTS) -> None:
    expected = reference(schedule, counts)
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(rates, np.float64), expected, rtol=case.tolerance, atol=1e-12 * expected[0])


@all_schedules
def test_law_5_rates_are_exact_at_every_step_for_known_arguments(case):
    schedule = case()
    assert_exact(case, schedule(COUNTS), schedule)
    for name, values in case.sweep.items():
        for value in values[1:]:
            schedule = case(**{name: value})
            assert_exact(case, schedule(COUNTS), schedule)


@all_schedules
def test_law_5_rates_are_exact_at_every_step_for_traced_arguments(case):
    traced = jax.jit(lambda arguments, counts: case(**arguments)(counts))
    for index in (1, 2):
        arguments = {name: case.sweep[name][index] for name in case.sweep}
        rates = traced({name: jnp.asarray(value) for name, value in arguments.items()}, COUNTS.astype(np.int32))
        rounded = {
            name: value if isinstance(value, int) else float(np.float32(value)) for name, value in arguments.items()
        }
        assert_exact(case, rates, case(**rounded))


@all_schedules
def test_law_5_rates_are_exact_over_long_durations(case):
    durations = [name for name, values in case.sweep.items() if all(isinstance(value, int) for value in values)]
    for name in durations:
        traced = jax.jit(lambda value, counts, name=name: case(**{name: value})(counts))
        for length in LONG:
            near = np.asarray([0, 1, length // 3, length // 2, length - 2, length - 1, length, length + 1])
            schedule = case(**{name: length})
            rates = traced(jnp.asarray(length), near.astype(np.int32))
            # Only the duration is traced: the other arguments are as given, and as exact as before.
            assert_exact(case, rates, schedule, near)


@all_schedules
def test_law_5_the_update_at_a_step_uses_the_schedule_there(case):
    schedule = case()
    state = schedule.init(None)
    assert state.rate == schedule(0)
    for count in (0, 1, 2, 5, 10_000, 2**24 + 1, INT32_MAX):
        updates, after = schedule.update(jnp.ones(2), state._replace(count=jnp.asarray(count, jnp.int32)))
        np.testing.assert_array_equal(np.asarray(updates), -np.full(2, schedule(count)))
        assert after.rate == schedule(count)


@all_schedules
def test_law_5_a_schedule_that_ends_holds_its_end_value(case):
    if case.end is None:
        family = case().family
        assert family in ENDLESS, f"no end is written down for {family}"
        return
    rates = np.asarray(case()(COUNTS))
    np.testing.assert_array_equal(rates[case.end :], rates[case.end])
    assert rates[case.end - 1] != rates[case.end]


# ------------------------------------------------------------------------------------------------ law 6: resumable


@pytest.fixture(scope="module")
def checkpointer():
    orbax = pytest.importorskip("orbax.checkpoint")
    with orbax.StandardCheckpointer() as saver:
        yield saver


@all_cases
def test_law_6_a_run_stopped_at_any_step_continues_bit_for_bit(case, checkpointer, tmp_path):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = observed(p.tx.init(params), 0.7)  # with an observation on its way
    rows = p.run(params, state, stream, values)
    stops = {"0": (params, state), **{str(step): row[1:][::-1] for step, row in enumerate(rows[:-1], 1)}}
    checkpointer.save(tmp_path / "run", stops)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "run", jax.tree.map(jnp.zeros_like, stops))
    for step in range(STREAM):
        resumed = p.run(*restored[str(step)], stream[step:], values[step:])
        assert_trees_equal(resumed, rows[step:])
    assert p.traces == 1


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_law_6_checkpoints_of_constant_and_scheduled_rates_swap(case):
    params = mixed_params()
    gradients = gradient_stream(params, 1)[0]
    rates = [0.1, lrx.constant(0.1), lrx.warmup(lrx.cosine_decay(0.1, 5), 2), lrx.cyclical(0.1, 0.2, 3) * 2.0]
    states = [case(learning_rate=rate).init(params) for rate in rates]
    assert len({str(signature_of(state)) for state in states}) == 1
    for rate in rates:
        tx = case(learning_rate=rate)
        for state in states:
            _, after = tx.update(gradients, state, params)
            assert signature_of(after) == signature_of(state)


@all_schedules
def test_law_6_all_schedules_have_one_state_tree(case):
    assert signature_of(case().init(None)) == signature_of(lrx.constant(0.1).init(None))


# ----------------------------------------------------------------------------------------------------- law 7: safe


@all_cases
def test_law_7_zero_gradients_move_nothing(case):
    p = program(case)
    params = mixed_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    rows = p.run(params, p.tx.init(params), [zeros] * STREAM, value_stream())
    for updates, state, _ in rows:
        assert case.needs_params or not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(updates))
        assert not has_nan((updates, state))


@all_cases
@pytest.mark.parametrize("size", [3e38, 1e30, 1e-30, 1e-44])
def test_law_7_no_finite_gradient_makes_nan(case, size):
    p = program(case)
    params = mixed_params()
    for signs in ([1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1]):
        stream = [jax.tree.map(lambda leaf, sign=sign: jnp.full_like(leaf, sign * size), params) for sign in signs]
        rows = p.run(params, p.tx.init(params), stream, value_stream())
        assert not has_nan([row[:2] for row in rows])


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_law_7_a_rate_of_zero_moves_nothing_and_harms_nothing(case):
    params = vector_params()
    stream = gradient_stream(params, 8)
    tx = case(learning_rate=lrx.join([lrx.warmup(lrx.linear_decay(0.1, 2), 2), 0.0, 0.1], [4, 6]))
    state = tx.init(params)
    for step, gradients in enumerate(stream):
        updates, state = tx.update(gradients, state, params)
        assert is_finite((updates, state))
        moved = any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(updates))
        # With the rate inside the velocity, what is in it rolls on.
        rolls_on = case.make in (lrx.heavy_ball, lrx.nesterov) and not case.arguments.get("momentum_correction")
        if step == 0 or (step in (4, 5) and not rolls_on):
            assert not moved, step
        if step in (1, 2, 6, 7):
            assert moved, step
    assert is_finite(optax.apply_updates(params, updates))


@all_schedules
def test_law_7_runs_of_one_step_are_finite(case):
    durations = [name for name, values in case.sweep.items() if all(isinstance(value, int) for value in values)]
    schedule = case(**dict.fromkeys(durations, 1))
    rates = schedule(np.asarray([0, 1, 2, 3, INT32_MAX]))
    assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0)))
    assert_exact(case, rates, schedule, np.asarray([0, 1, 2, 3, INT32_MAX]))


@all_optimizers
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_law_7_a_non_finite_gradient_stays_in_its_own_coordinate(case, bad):
    params = vector_params()
    stream = gradient_stream(params, 3)
    clean, _ = eager_run(case(), params, stream, [1.0] * 3)
    poisoned = [{**stream[0], "a": stream[0]["a"].at[1].set(bad)}, *stream[1:]]
    rows, _ = eager_run(case(), params, poisoned, [1.0] * 3)
    assert not is_finite(rows[0])
    for row, expected in zip(rows, clean, strict=True):
        assert_trees_equal(row["b"], expected["b"])
        assert_trees_equal(row["a"][::2], expected["a"][::2])


@all_cases
def test_law_7_apply_if_finite_skips_a_non_finite_gradient(case):
    params = vector_params()
    stream = gradient_stream(params, 3)
    bad = jax.tree.map(lambda leaf: leaf * NAN, stream[0])
    tx = optax.with_extra_args_support(optax.apply_if_finite(case(), max_consecutive_errors=3))
    update = jax.jit(tx.update)
    expected, state = update(stream[0], tx.init(params), params, value=1.0)
    skipped, kept = update(bad, state, params, value=1.0)
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(skipped))
    assert_trees_equal(kept.inner_state, state.inner_state)
    assert is_finite(expected)


@pytest.mark.parametrize("case", CONTROLLED, ids=[*CONTROLLERS, *CONTROLLED_COMPOSITIONS])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_law_7_a_non_finite_value_changes_nothing_but_the_count(case, bad):
    params, tx = vector_params(), case()
    gradients = gradient_stream(params, 1)[0]

    def memories(values):
        state = tx.init(params)
        for value in values:
            _, state = tx.update(gradients, observed(state, value), params, value=value)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, lrx.rates.ControllerState))
        return [(node.factor, node.memory) for node in nodes if isinstance(node, lrx.rates.ControllerState)]

    assert memories([1.0])
    assert_trees_equal(memories([1.0, bad, 1.0, bad, 1.0]), memories([1.0, 1.0, 1.0]))


def _buffers(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.size]


@all_cases
def test_law_7_parameters_and_state_can_both_be_donated(case):
    # Hyperparameters as arrays, the user's own, which must outlive the donation as well.
    # Strongly typed, since a conversion would make the copy that is asked for.
    numbers = {name: sweep_values(case, name)[1] for name in case.sweep}
    params = vector_params()
    tx = case(**numbers)
    state = tx.init(params)
    stream, values = gradient_stream(params, 3), value_stream(3)
    buffers = _buffers((params, state, numbers))
    assert len(set(buffers)) == len(buffers)
    # An update outside jit leaves a state that can be donated too.
    _, eager = tx.update(stream[0], observed(tx.init(params), 1.0), params, value=1.0)
    assert len(set(_buffers((params, eager, numbers)))) == len(_buffers((params, eager, numbers)))

    def step(params, state, gradients, value):
        # Every leaf of the state is used, or JAX would drop it and donate nothing.
        probe = sum(jnp.sum(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(state))
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state, probe

    donating = jax.jit(step, donate_argnums=(0, 1))
    plain_params, plain_state = jax.tree.map(jnp.array, (params, state))
    for gradients, value in zip(stream, values, strict=True):
        plain_params, plain_state, _ = step(plain_params, plain_state, gradients, value)
        given = (params, state)
        params, state, _ = donating(params, state, gradients, value)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_trees_close((params, state), (plain_params, plain_state))
    assert not any(number.is_deleted() for number in numbers.values())


# --------------------------------------------------------------------------------------------------- law 8: sharded


def check_sharded() -> None:
    """Compare every case on two devices with the same on one; runs in a process that has two."""
    devices = jax.devices("cpu")
    assert len(devices) == 2
    mesh = jax.sharding.Mesh(np.asarray(devices), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = {"a": jnp.arange(8, dtype=jnp.float32).reshape(4, 2) / 8, "b": jnp.ones(6, jnp.bfloat16)}
    stream, values = gradient_stream(params, 3), value_stream(3)
    shardings = {"a": split, "b": split}
    transformations = {label: case() for label, case in CASES.items()}

    def init(params):
        return {label: tx.init(params) for label, tx in transformations.items()}

    @jax.jit  # all cases in one program, since compiling is what takes the time
    def update(gradients, states, params, value):
        return {
            label: tx.update(gradients, states[label], params, value=value) for label, tx in transformations.items()
        }

    def run(params, states, stream):
        rows = []
        for gradients, value in zip(stream, values, strict=True):
            rows.append(update(gradients, states, params, jnp.float32(value)))
            states = {label: state for label, (_, state) in rows[-1].items()}
        return rows

    expected = run(params, init(params), stream)
    sharded = jax.device_put(params, shardings)
    gradients = [jax.device_put(leaf, shardings) for leaf in stream]
    for make in (init, jax.jit(init)):
        states = make(sharded)
        rows = run(sharded, states, gradients)
        for path, leaf in jax.tree.leaves_with_path((states, rows)):
            if leaf.shape in {(4, 2), (6,)}:
                where = jax.tree_util.keystr(path)
                assert leaf.sharding.is_equivalent_to(split, leaf.ndim), f"{where} lies on {leaf.sharding}"
        assert_trees_close(rows, expected, rtol=1e-6)
    print("sharded:", len(CASES))


@pytest.mark.slow
def test_law_8_two_devices_give_the_results_of_one_and_states_lie_where_their_parameters_do():
    # A process of its own: with two devices in this one, the training loop would split every batch of its tests.
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", "import test_laws; test_laws.check_sharded()"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == f"sharded: {len(CASES)}"
