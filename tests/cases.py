"""Every public transformation with its cases, refused values and references, collected from the files of the units.

`units.py` describes what a unit provides. A factory without a case fails the laws, and so does a
hyperparameter that no case sweeps, or a parameter without a refused value.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from units import RATES, Case, Refusal, reference

import lrx
import lrx.controllers
import lrx.guards
import lrx.optimizers
import lrx.schedules

PACKAGES: tuple[ModuleType, ...] = (lrx.schedules, lrx.optimizers, lrx.controllers, lrx.guards)
NOT_TRANSFORMATIONS = {
    "scale_for_batch_size": "takes a number to a number",
}


def units_of(package: ModuleType) -> list[ModuleType]:
    """Import the test files that provide something for the laws, in the order of their names."""
    folder = Path(__file__).parent / package.__name__.rpartition(".")[2]
    return [
        importlib.import_module(f"{folder.name}.{path.stem}")
        for path in sorted(folder.glob("test_*.py"))
        if "\nCASES = {" in path.read_text()
    ]


def collected(package: ModuleType) -> dict[str, Case]:
    """Return the cases of a package by their labels, which are unique."""
    cases = [pair for unit in units_of(package) for pair in unit.CASES.items()]
    assert len(dict(cases)) == len(cases), "two units have cases of one label"
    return dict(cases)


UNITS = [unit for package in PACKAGES for unit in units_of(package)]
SCHEDULES = collected(lrx.schedules)
OPTIMIZERS = {**collected(lrx.optimizers), **collected(lrx.guards)}
CONTROLLERS = collected(lrx.controllers)
METHODS_OF_UNITS = [unit for package in PACKAGES[1:] for unit in units_of(package)]
REFUSED: list[Refusal] = [row for unit in UNITS for row in unit.REFUSED]

# The formulas of schedules by their families, and of what products and quotients make of them.
FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    name: formula for unit in units_of(lrx.schedules) for name, formula in unit.REFERENCE.items()
} | {
    "_multiply": lambda t, *, left, right: reference(left, t) * reference(right, t),
    "_divide": lambda t, *, left, right: reference(left, t) / float(right),
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


def parametrized_sweeps(cases: Mapping[str, Case]) -> pytest.MarkDecorator:
    """Hand each case to a test; the first tier has those that sweep a hyperparameter which no earlier case sweeps."""
    swept: set[tuple[Any, str]] = set()
    rows = []
    for label, case in cases.items():
        pairs = {(case.make, name) for name in case.sweep}
        rows.append(pytest.param(case, id=label, marks=[] if pairs - swept else [pytest.mark.slow]))
        swept |= pairs
    return pytest.mark.parametrize("case", rows)


all_cases = parametrized(CASES, variants=True)
all_state_sweeps = parametrized_sweeps(STATES)
all_schedule_sweeps = parametrized_sweeps({label: case for label, case in SCHEDULES.items() if case.sweep})
all_schedules = parametrized(SCHEDULES, variants=True)
all_optimizers = parametrized(OPTIMIZERS, variants=False)
all_states = parametrized(STATES, variants=False)


def public_factories() -> dict[str, Callable[..., Any]]:
    """Return every public function of the packages that builds a transformation, by name."""
    found = {}
    for package in PACKAGES:
        for name in package.__all__:
            if name not in NOT_TRANSFORMATIONS and inspect.isfunction(getattr(package, name)):
                found[name] = getattr(package, name)
    return found


def traceable_parameters(factory: Callable[..., Any]) -> set[str]:
    """Return the hyperparameters that may be tracers: those annotated as array-like."""
    signature = inspect.signature(factory)
    return {name for name, parameter in signature.parameters.items() if "ArrayLike" in str(parameter.annotation)}
