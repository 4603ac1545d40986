"""Argument checks: concrete values raise, tracers pass.

Every message has the same four parts: the argument, the rule, the value that was given, and the way out. A check
never changes a value and never looks into a tracer, so that every hyperparameter can be swept under `jax.vmap` or
passed through `jax.jit`. The shape of a tracer is known, and must be that of a scalar.
"""

from __future__ import annotations

import difflib
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

INT32_MAX = 2**31 - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


def is_concrete(value: Any) -> bool:
    """Return whether the value is known now, as a tracer's is not."""
    return not isinstance(value, jax.core.Tracer)


def _numbers(name: str, value: Any) -> np.ndarray:
    if isinstance(value, (bool | np.bool_, str | bytes)) or value is None:
        raise TypeError(f"{name} must be a number, got {name}={value!r}.")
    try:
        numbers = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} must be a number, got {name}={value!r}.") from error
    if not (np.issubdtype(numbers.dtype, np.number) or numbers.dtype.name == "bfloat16"):
        raise TypeError(f"{name} must be a number, got {name}={value!r} of type {type(value).__name__}.")
    if np.issubdtype(numbers.dtype, np.complexfloating):
        raise TypeError(f"{name} must be a real number, got {name}={value!r}.")
    return numbers.astype(np.float64)


def _require(
    name: str, value: Any, holds: Callable[[np.ndarray], Any], rule: str, hint: str, *, scalar: bool = True
) -> None:
    numbers = _numbers(name, value) if is_concrete(value) else None
    if scalar and np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got {name} of shape {np.shape(value)}: for several at once put jax.vmap around "
            "the function that uses one, for one each of several groups use optax.partition."
        )
    if numbers is None:
        return
    # An infinity satisfies most orderings and a NaN none. Neither is ever meant, so both fail here. So does a number
    # that is finite in Python but infinite in float32, in which every rate is computed.
    if not np.all(np.abs(numbers) <= FLOAT32_MAX) or not np.all(holds(numbers)):
        raise ValueError(f"{name} must be {rule}, got {name}={value}{': ' + hint if hint else ''}.")


def _wide(name: str, value: Any, rounds: str) -> None:
    """Refuse a type too narrow to hold the value that is meant; also for a tracer, whose type is known."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.numpy.floating) and jax.numpy.finfo(dtype).bits < 32:
        raise TypeError(
            f"{name} must not be narrower than float32, got {name} of type {dtype}, {rounds}: optax.inject_hyperparams "
            "takes hyperparam_dtype=jnp.float32."
        )


def near_one(name: str, value: Any) -> None:
    """Require a type that keeps numbers near 1 apart from 1: in bfloat16, 1 is the next number after 0.996.

    For arguments that are raised to powers, or that mean something else at 1.
    """
    _wide(name, value, "which rounds 0.999 to 1")


def finite(name: str, value: Any, hint: str = "") -> None:
    """Require a finite value of either sign."""
    _require(name, value, lambda x: np.full(x.shape, True), "a finite number", hint)


def non_negative(name: str, value: Any, hint: str = "") -> None:
    """Require a finite value >= 0."""
    _require(name, value, lambda x: x >= 0, "a finite number >= 0", hint)


def non_negative_array(name: str, value: Any, hint: str = "") -> None:
    """Require finite values >= 0, in an array of any shape."""
    rule = "an array of finite numbers >= 0" if np.ndim(value) else "a finite number >= 0"
    _require(name, value, lambda x: x >= 0, rule, hint, scalar=False)


def positive(name: str, value: Any, hint: str = "") -> None:
    """Require a finite value > 0."""
    _require(name, value, lambda x: x > 0, "a finite number > 0", hint)


def in_interval(name: str, value: Any, interval: str, hint: str = "") -> None:
    """Require a value in `interval`, written as in mathematics: `"[0, 1)"`.

    If 1 is an end that is left out, a type that rounds its neighbours to 1 is refused, whatever the value.
    """
    if interval.endswith(" 1)") or interval.startswith("(1,"):
        near_one(name, value)
    low, high = (float(part) for part in interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    _require(name, value, lambda x: above(x, low) & below(x, high), f"in {interval}", hint)


def decay(name: str, value: Any) -> None:
    """Require a decay rate in [0, 1)."""
    in_interval(name, value, "[0, 1)", "at 1 nothing is ever forgotten")


def float_type(name: str, value: Any) -> None:
    """Require a floating-point type of at least 16 bits that JAX supports, or `None`."""
    if value is None:
        return
    try:
        dtype = jax.numpy.dtype(value)
        known = jax.numpy.issubdtype(dtype, jax.numpy.floating) and jax.numpy.finfo(dtype).bits >= 16
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{name} must be a floating-point type of at least 16 bits, got {name}={value!r}: give None.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name} must be a type that JAX has, got {name}={dtype}: enable jax_enable_x64.")


def at_least(name: str, value: Any, low: float, hint: str = "") -> None:
    """Require a finite value >= low."""
    _require(name, value, lambda x: x >= low, f"a finite number >= {low}", hint)


def above(name: str, value: Any, low: float, hint: str = "") -> None:
    """Require a finite value > low; if `low` is 1, also a type that keeps numbers near 1 apart from it."""
    if low == 1:
        near_one(name, value)
    _require(name, value, lambda x: x > low, f"a finite number > {low}", hint)


def factor_bounds(min_factor: Any, max_factor: Any) -> None:
    """Require bounds that contain 1, where a factor starts."""
    in_interval("min_factor", min_factor, "(0, 1]", "it bounds a factor that starts at 1")
    at_least("max_factor", max_factor, 1, "it bounds a factor that starts at 1")


def transformation(tx: Any) -> None:
    """Require a gradient transformation, not the function that makes one."""
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be a gradient transformation, got tx={tx!r}: give lrx.sgd(0.1).")


def steps(name: str, value: Any, *, at_least: int = 1, hint: str = "", unit: str = "steps") -> None:
    """Require a whole number of optimizer steps, from `at_least` to 2^31 - 1."""
    _wide(name, value, "in which 1001 is another number")
    _require(
        name,
        value,
        lambda x: (x == np.floor(x)) & (x >= at_least) & (x <= INT32_MAX),
        f"a whole number of {unit} >= {at_least} and < 2^31",
        hint,
    )


def steps_or_fraction(name: str, value: Any, total_name: str) -> None:
    """Require a whole number of optimizer steps, from 0 to 2^31 - 1, or a fraction of a total, in (0, 1)."""
    _wide(name, value, "in which 1001 is another number")
    _require(
        name,
        value,
        lambda x: ((x == np.floor(x)) & (x >= 0) & (x <= INT32_MAX)) | ((x > 0) & (x < 1)),
        f"a whole number of steps >= 0 and < 2^31, or a fraction of {total_name} in (0, 1)",
        "",
    )


def seed(value: Any) -> None:
    """Require the seed of a run."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= INT32_MAX:
        raise ValueError(f"seed must be a whole number from 0 to 2^31 - 1, got seed={value!r}.")


def non_negative_list(name: str, values: Any) -> np.ndarray | None:
    """Require a list of one or more finite numbers >= 0; return it in float64, or None if it is traced."""
    entries = values if isinstance(values, list | tuple) else [values]
    traced = not all(is_concrete(value) for value in entries)
    shape = (len(values),) if traced and isinstance(values, list | tuple) else np.shape(values)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"{name} must be a list of at least one number, got {name} of shape {shape}.")
    if traced:
        return None
    numbers = _numbers(name, values)
    wrong = ~((numbers >= 0) & (numbers <= FLOAT32_MAX))
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise ValueError(f"{name}[{first}] must be a finite number >= 0, got {name}[{first}]={numbers[first]}.")
    return numbers


def increasing_steps(name: str, values: Sequence[Any], *, at_least: int = 1) -> None:
    """Require strictly increasing whole numbers of steps."""
    for index, value in enumerate(values):
        steps(f"{name}[{index}]", value, at_least=at_least)
    known = [int(value) for value in values if is_concrete(value)]
    if any(later <= earlier for earlier, later in itertools.pairwise(known)):
        raise ValueError(f"{name} must increase strictly, got {name}={list(values)}: sort them and drop repetitions.")


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Require one of a few words."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, got {name}={value!r}.")


def nearest(value: Any, choices: Iterable[str], *, cutoff: float = 0.0) -> str | None:
    """Return the choice that is most like a misspelt one, or None if none is as similar as `cutoff`, from 0 to 1."""
    found = difflib.get_close_matches(str(value), list(choices), n=1, cutoff=cutoff)
    return found[0] if found else None


def known(name: str, value: Any, choices: Iterable[str]) -> None:
    """Require one of several names, and propose the nearest.

    Example:
      >>> from lrx import _checks
      >>> _checks.known("model", "rasnet20", ["mlp", "resnet8", "resnet20"])
      Traceback (most recent call last):
      ValueError: model must be one of mlp, resnet8, resnet20, got model='rasnet20': did you mean 'resnet20'?
    """
    names = list(choices)
    if value not in names:
        raise ValueError(
            f"{name} must be one of {', '.join(names)}, got {name}={value!r}: did you mean {nearest(value, names)!r}?"
        )


def flag(name: str, value: Any) -> None:
    """Require `True` or `False`: a switch changes the program, so it cannot be traced."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {name}={value!r}.")


def not_above(name: str, value: Any, bound_name: str, bound: Any, hint: str = "") -> None:
    """Require a scalar that is not above another one, if both are known."""
    # Compared by float: within jit, JAX would trace a comparison of arrays even if both are known.
    if is_concrete(value) and is_concrete(bound) and float(value) > float(bound):
        given = f"{name}={value}, {bound_name}={bound}"
        raise ValueError(f"{name} must be <= {bound_name}, got {given}{': ' + hint if hint else ''}.")


def pairs_of_steps(name: str, pairs: Any, *, at_least: int, what: str) -> tuple[list[Any], list[Any]]:
    """Require `{step: number, ...}`, or such pairs if a step is traced, sorted; return the steps and the numbers."""
    items = list(pairs.items()) if isinstance(pairs, Mapping) else pairs
    if not isinstance(items, list | tuple) or not all(
        isinstance(item, list | tuple) and len(item) == 2 for item in items
    ):
        raise TypeError(f"{name} must be a dict {{step: {what}, ...}} or a list of such pairs, got {name}={pairs!r}.")
    begins, numbers = [step for step, _ in items], [number for _, number in items]
    increasing_steps(name, begins, at_least=at_least)
    for step, number in items:
        non_negative(f"{name}[{step}]", number)
    return begins, numbers
