"""What the test file of a unit provides for the laws: ways to call a factory, values that it refuses, and its formula.

`tests/<package>/test_<unit>.py` holds
- `CASES`: label -> `Case`; the first one of a factory is the usual one;
- `REFUSED`: rows of a factory, the arguments beside those of its first case, the error, and what its message says;
- `DESCENDS`: label -> a method at the rate that a user would begin with, the same on all problems of
  `laws/test_problems.py`, and tuned to a factor of 3 at most;
- `REFERENCE`: for a schedule, family -> its formula in NumPy and float64; for a method, label -> (transformation,
  its transcription on the noisy quadratic of `quadratic.py`), or factory -> the test of the file that has one.

`cases.py` collects them, and the laws fail for a public factory that has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx

NAN, INF = float("nan"), float("inf")

# Values over which hyperparameters are swept.
RATES = (0.0, 0.01, 0.1)
DECAYS = (0.0, 0.5, 0.95)
EPS = (1e-8, 1e-3, 1.0)
OPEN = (0.5, 0.9, 0.99)
WEIGHTS = (0.0, 0.1, 1.0)


def itself(value: Any) -> Any:
    return value


def bowl(params: Any) -> jax.Array:
    """Return a loss for what searches along a line; the gradients of the laws are not its own."""
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
    endless: bool = False  # a schedule that never ends
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
        """Return the hyperparameters that are numbers of steps and may have any length."""
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


# ------------------------------------------------------------------------------------------------------------ refusals

Refusal = tuple[Callable[..., Any], dict[str, Any], Any, str]

NUMBER = r"must be a finite number >= 0, got {0}="
WHOLE_STEPS = r"must be a whole number of steps >= 1 and < 2\^31, got {0}="
FOLLOWING_FEEDBACK = 0.1 * lrx.reduce_on_plateau()
NOT_A_SCHEDULE = "must be a Schedule, got the feedback-driven"


def refuse(factory: Callable[..., Any], name: str, values: tuple[Any, ...], error: type, rule: str) -> list[Refusal]:
    """Return the refusals of several values of one argument; `{0}` in the rule is its name."""
    return [(factory, {name: value}, error, rf"^{name} {rule}".replace("{0}", name)) for value in values]


def refuse_rates(factory: Callable[..., Any], name: str) -> list[Refusal]:
    """Refuse what is not a finite number >= 0."""
    return [
        *refuse(factory, name, (-0.1, NAN, INF, 1e39, np.float32(-1)), ValueError, NUMBER),
        *refuse(factory, name, ("0.1", True, None, 1j), TypeError, "must be a "),
    ]


def refuse_fractions(factory: Callable[..., Any], name: str, interval: str, values: tuple[Any, ...]) -> list[Refusal]:
    """Refuse what is not a number in an interval, with the values given, which lie outside."""
    escaped = interval.translate(str.maketrans({symbol: f"\\{symbol}" for symbol in "[]()"}))
    return [
        *refuse(factory, name, (*values, NAN, INF), ValueError, rf"must be in {escaped}, got {{0}}="),
        *refuse(factory, name, ("0.5", False), TypeError, "must be a number, got"),
    ]


def refuse_steps(factory: Callable[..., Any], name: str, *, at_least: int = 1) -> list[Refusal]:
    """Refuse what is not a whole number of steps."""
    rule = WHOLE_STEPS.replace(">= 1", f">= {at_least}")
    return [
        *refuse(factory, name, (at_least - 1, -5, 2.5, 2**31, NAN, INF), ValueError, rule),
        *refuse(factory, name, ("10", True, [[]]), (TypeError, ValueError), "must be"),
    ]


def refuse_learning_rates(factory: Callable[..., Any]) -> list[Refusal]:
    """Refuse what is neither a number nor a rate."""
    name = "learning_rate"
    return [
        *refuse(factory, name, (-0.1, NAN, INF), ValueError, NUMBER),
        *refuse(factory, name, ("0.1", None, True, optax.sgd(0.1)), TypeError, "must be a number, a Rate"),
        *refuse(factory, name, (lrx.reduce_on_plateau(),), TypeError, "must be a rate, got the factor reduce_on"),
    ]


def refuse_flags(factory: Callable[..., Any], name: str) -> list[Refusal]:
    """Refuse what is neither True nor False."""
    return refuse(factory, name, (1, None, "yes"), TypeError, r"must be True or False, got {0}=")


def refuse_moment_dtypes(factory: Callable[..., Any]) -> list[Refusal]:
    """Refuse types in which moments cannot be kept."""
    types = ("int32", "float8_e4m3fn", "complex64", "nonsense", 3)
    message = "must be a floating-point type of at least 16 bits, got {0}="
    return refuse(factory, "moment_dtype", types, ValueError, message)


def refuse_words(factory: Callable[..., Any], name: str) -> list[Refusal]:
    """Refuse what is not one of the known words."""
    return refuse(factory, name, ("nonsense", None, 1), ValueError, r"must be one of '.*got {0}=")


def refuse_links(factory: Callable[..., Any]) -> list[Refusal]:
    """Refuse what is not a gradient transformation as `tx`."""
    return refuse(factory, "tx", (0.1, None, lrx.sgd), TypeError, "must be a gradient transformation, got tx=")


def refuse_points(factory: Callable[..., Any], name: str, what: str) -> list[Refusal]:
    """Refuse what is not a table of steps and numbers in increasing order."""
    rows = (
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
    return [(factory, {name: value}, error, message) for value, error, message in rows]


def refuse_tables(factory: Callable[..., Any], name: str) -> list[Refusal]:
    """Refuse what is not a list of finite numbers >= 0."""
    rows = (
        ([], ValueError, rf"^{name} must be a list of at least one number, got {name} of shape \(0,\)"),
        (0.1, ValueError, f"^{name} must be a list of at least one number"),
        (np.ones((2, 2)), ValueError, f"^{name} must be a list of at least one number"),
        ([0.1, -0.1], ValueError, rf"^{name}\[1\] must be a finite number >= 0, got {name}\[1\]=-0.1"),
        ([NAN], ValueError, rf"^{name}\[0\] must be a finite number >= 0"),
        (["0.1"], TypeError, f"^{name} must be a number"),
    )
    return [(factory, {name: value}, error, message) for value, error, message in rows]


# ------------------------------------------------------------------------------------------------------------ formulas


def fractions(t: np.ndarray, steps: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of a duration that have passed and that are left, in float64."""
    passed = np.minimum(t, int(steps))
    return passed / int(steps), (int(steps) - passed) / int(steps)


def pairs(points: Any) -> list[tuple[int, float]]:
    """Return the pairs (step, number) of a dict or a list."""
    return [(int(step), float(number)) for step, number in (points.items() if isinstance(points, dict) else points)]


def reference(schedule: Any, counts: Any) -> np.ndarray:
    """Evaluate a schedule, or a number, in float64 at whole steps, by the formulas of the units.

    They are written from the docstrings and share no code with the library. They take the schedule itself (its family
    and arguments), so that compositions are followed to any depth.
    """
    from cases import FORMULAS  # which collects them from the files that import this one

    counts = np.asarray(counts, np.int64)
    if not hasattr(schedule, "family"):
        return np.full(counts.shape, float(schedule))
    return FORMULAS[schedule.family](counts, **schedule.arguments)
