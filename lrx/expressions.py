"""Parse chains that are written as text; nothing is evaluated.

`parse("sgd(warmup(cosine_decay(0.1, 2000), 200), momentum=0.9)")` returns what the same Python would. The text is read
into a syntax tree, and the few kinds of nodes that make up a chain are interpreted one by one: calls of the names
below, numbers and arithmetic on them, text, lists, tuples, dicts, and products of rates. Everything else is refused
with a message that points at the place.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from lrx import _checks, controllers, guards, optimizers, schedules
from lrx.optimizers import of_optax
from lrx.rates import Controller, Rate, Schedule
from lrx.reading import NoRateError, learning_rates

_MOST_CHARACTERS = 2_000
_MOST_DEPTH = 30
_MOST_LISTED = 20  # names in a message
_LARGEST = 1e15  # bound on intermediate numbers: no schedule is longer, and huge powers take forever

_OPTAX_LINKS = (
    "add_decayed_weights",
    "adaptive_grad_clip",
    "centralize",
    "clip",
    "clip_by_global_norm",
    "scale_by_amsgrad",
    "scale_by_lion",
    "scale_by_rms",
    "trace",
)
_NO_LINKS = ("group_rates",)  # which needs a tree or a function
_OPERATIONS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Pow: ("**", operator.pow),
}


class ExpressionError(ValueError):
    """The text is not a chain. The message shows the text, points at the place and names the way out."""


def names() -> dict[str, Callable[..., Any]]:
    """Return the names that an expression may call, each with its function."""
    return {name: function for members in groups().values() for name, function in members.items()}


def groups() -> dict[str, dict[str, Callable[..., Any]]]:
    """Return the names that an expression may call, grouped by kind."""
    known: dict[str, dict[str, Callable[..., Any]]] = {
        "links": {"chain": _chain, "lion": of_optax.lion, "muon": of_optax.muon}
        | {name: getattr(optax, name) for name in _OPTAX_LINKS}
    }
    for package in (schedules, optimizers, controllers, guards):
        members = {name: getattr(package, name) for name in package.__all__ if name not in _NO_LINKS}
        known[package.__name__.rpartition(".")[2]] = members
    return known


def _chain(*links: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply links one after the other, as `optax.chain` does."""
    if not links:
        raise ValueError("at least one link must be given, such as chain(clip(1.0), sgd(0.1)).")
    for number, link in enumerate(links, 1):
        if not isinstance(link, optax.GradientTransformation):
            raise TypeError(f"link {number} must be a transformation, got {link!r}: for a rate, write constant(0.1).")
    return optax.chain(*links)


def parse(
    text: str, namespace: Mapping[str, Callable[..., Any]] | None = None, values: Mapping[str, Any] | None = None
) -> Any:
    """Build the object that an expression describes.

    Args:
      text: such as `"sgd(warmup(cosine_decay(0.1, 2000), 200), momentum=0.9)"`.
      namespace: the names that may be called; `names()` by default.
      values: names that stand for a value, as they are.

    Returns:
      The transformation, schedule, controller or number.

    Raises:
      ExpressionError: if the text is not such an expression, calls an unknown name, or calls one wrongly.

    Example:
      >>> from lrx.expressions import parse
      >>> parse("0.5 * warmup(cosine_decay(0.1, 20 * 100), 200)")
      0.5 * warmup(cosine_decay(0.1, 2000), 200)
    """
    if len(text) > _MOST_CHARACTERS:
        raise ExpressionError(f"the expression must have at most {_MOST_CHARACTERS:,} characters, got {len(text):,}.")
    reader = _Reader(text, names() if namespace is None else namespace, values or {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, about spellings that are refused or harmless here
            tree = ast.parse(reader.text, mode="eval")
    except SyntaxError as error:
        raise reader.error(error.offset or 1, f"this is not an expression: {error.msg}.", error.lineno or 1) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise reader.error(1, f"this is not an expression: {error}.") from None
    return reader.value(tree.body, 0)


def parse_schedule(text: str) -> Schedule:
    """Build a schedule; a number is a constant one.

    Raises:
      ExpressionError: also for an optimizer, or a rate that follows feedback, which have no value at a step.
    """
    value, reader = parse(text), _Reader(text, {})
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = schedules.constant(value)
        except ValueError as error:
            raise reader.error(1, str(error)) from None
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Rate | Controller):
        why = "it follows feedback, so it has no value at a step: give the schedule alone."
    elif isinstance(value, optax.GradientTransformation):
        why = "this is a transformation: give the schedule inside of it."
    else:
        why = f"this is {_kind(value)}: call one, such as cosine_decay(0.1, 1000)."
    raise reader.error(1, f"a schedule must stand here, but {why}")


def parse_rate_function(text: str) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    """Build a function of the rate from an optimizer that contains the word `rate`: `"sgd(rate, momentum=0.9)"`.

    Raises:
      ExpressionError: also if `rate` is not in the text, or the text does not describe an optimizer.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrx.expressions import parse_rate_function
      >>> tx = parse_rate_function("sgd(rate)")(0.5)
      >>> print(tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0])
      [-0.5 -0.5]
    """
    parse_optimizer(text, {"rate": 0.1})
    if not any(isinstance(node, ast.Name) and node.id == "rate" for node in ast.walk(ast.parse(text.strip()))):
        why = "the word rate must stand where the rate belongs, as sgd(rate, momentum=0.9)."
        raise _Reader(text, {}).error(1, why)
    return lambda rate: optax.with_extra_args_support(parse(text, values={"rate": rate}))


def parse_optimizer(text: str, values: Mapping[str, Any] | None = None) -> optax.GradientTransformationExtraArgs:
    """Build an optimizer: a transformation whose updates, scaled by one learning rate, can be added to parameters.

    Args:
      text: the expression.
      values: names that stand for a value, as they are.

    Raises:
      ExpressionError: also for a number, for a rate or controller alone, and for a chain in which no rate, or more than
        one, applies the sign: its updates may ascend.
    """
    value, reader = parse(text, values=values), _Reader(text, {})
    inner = reader.text
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, Controller):
        why = f"this is a factor: say what it multiplies, as sgd(0.1 * {inner})."
    elif isinstance(value, Rate) or number:
        why = f"this is a rate: say what it drives, as sgd({inner})."
    elif not isinstance(value, optax.GradientTransformation):
        why = f"this is {_kind(value)}: call one, such as sgd(0.1)."
    else:
        why = _no_single_rate(value)
    if why:
        raise reader.error(1, f"an optimizer must stand here, but {why}")
    return optax.with_extra_args_support(value)


def _kind(value: Any) -> str:
    return str(value) if value is None or isinstance(value, bool) else f"a {type(value).__name__}"


def _no_single_rate(tx: optax.GradientTransformation) -> str:
    """Return the fault in the rates of a transformation, or ""."""
    try:
        state = tx.init(jnp.zeros(()))
    except Exception:  # it needs parameters of another shape, and will raise its own error if the real ones do not fit
        return ""
    try:
        learning_rates(state)
    except NoRateError:
        return "no rate turns its direction downhill: end the chain with one, as chain(..., cosine_decay(0.1, 1000))."
    except ValueError as error:
        return str(error)
    return ""


class _Reader:
    """Interprets the nodes of one text."""

    def __init__(
        self, text: str, namespace: Mapping[str, Callable[..., Any]], values: Mapping[str, Any] | None = None
    ) -> None:
        self.text, self.namespace, self.values = text.strip(), namespace, values or {}

    def _lines(self) -> list[str]:
        # Not splitlines, which also splits at characters such as a form feed, at which the parser does not.
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    def error(self, column: int, message: str, line: int = 1) -> ExpressionError:
        """Point at a column, counted from 1."""
        lines = self._lines()
        shown = lines[min(line, len(lines)) - 1]
        return ExpressionError(f"{shown}\n{' ' * (min(column, len(shown) + 1) - 1)}^ {message}")

    def at(self, node: ast.AST, message: str) -> ExpressionError:
        # The parser counts bytes.
        line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        before = self._lines()[line - 1].encode()[:offset].decode(errors="replace")
        return self.error(len(before) + 1, message, line)

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise self.at(node, f"the expression must not be nested deeper than {_MOST_DEPTH}.")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                if isinstance(node.value, int | float) and not abs(node.value) <= _LARGEST:
                    # As written, because the largest whole numbers are beyond floats and could not be formatted.
                    written = ast.get_source_segment(self.text, node) or ""
                    shown = written if len(written) <= 20 else f"{len(written)} digits"
                    raise self.at(node, f"a number must be at most {_LARGEST:g} in size, got {shown}.")
                return node.value
            case ast.Name(id=name):
                if name in self.values:
                    return self.values[name]
                if name in self.namespace:
                    raise self.at(node, f"{name} must be called: {name}{_signature(self.namespace[name])}.")
                raise self.at(node, self._unknown("name", name, {**self.values, **self.namespace}))
            case ast.Call():
                return self._call(node, depth)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                number = self.value(operand, depth + 1)
                if isinstance(number, bool) or not isinstance(number, int | float):
                    raise self.at(node, "a sign belongs to a number; a rate is never negative.")
                return -number if isinstance(node.op, ast.USub) else number
            case ast.BinOp():
                return self._operation(node, depth)
            case ast.List(elts=items):
                return [self.value(item, depth + 1) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item, depth + 1) for item in items)
            case ast.Dict(keys=keys, values=values):
                if any(key is None for key in keys):
                    raise self.at(node, "a dict must be written out, {step: factor, ...}.")
                try:
                    return {
                        self.value(key, depth + 1): self.value(item, depth + 1)
                        for key, item in zip(keys, values, strict=True)
                        if key is not None
                    }
                except TypeError as error:
                    raise self.at(node, f"{error}.") from None
        raise self.at(node, "only calls, numbers, text, lists, tuples, dicts and * between rates may stand here.")

    def _call(self, node: ast.Call, depth: int) -> Any:
        if not isinstance(node.func, ast.Name):
            if isinstance(node.func, ast.Attribute) and node.func.attr in self.namespace:
                raise self.at(node.func, f"names stand here without a prefix: {node.func.attr}(...).")
            raise self.at(node.func, "only a name may be called, such as cosine_decay(0.1, 1000).")
        name = node.func.id
        if name not in self.namespace:
            raise self.at(node.func, self._unknown("name", name, self.namespace))
        function = self.namespace[name]
        signature = inspect.signature(function)
        variadic = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.at(keyword.value, "arguments must be written out, not unpacked.")
            if keyword.arg not in signature.parameters and not variadic:
                raise self.at(keyword, self._unknown(f"argument of {name}", keyword.arg, signature.parameters))
            if keyword.arg in keywords:
                raise self.at(keyword, f"{keyword.arg} is given twice.")
            keywords[keyword.arg] = self.value(keyword.value, depth + 1)
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                raise self.at(argument, "arguments must be written out, not unpacked.")
        positional = [self.value(argument, depth + 1) for argument in node.args]
        try:
            signature.bind(*positional, **keywords)
        except TypeError as error:
            raise self.at(node, f"{error}: it is {name}{_signature(function)}.") from None
        try:
            return function(*positional, **keywords)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self.at(node, f"{name}: {error}") from None

    def _operation(self, node: ast.BinOp, depth: int) -> Any:
        if type(node.op) not in _OPERATIONS:
            raise self.at(node, f"only {' '.join(symbol for symbol, _ in _OPERATIONS.values())} may stand here.")
        symbol, operation = _OPERATIONS[type(node.op)]
        left, right = self.value(node.left, depth + 1), self.value(node.right, depth + 1)
        numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (left, right))
        rates = all(
            isinstance(side, int | float | Rate | Controller) and not isinstance(side, bool) for side in (left, right)
        )
        quotient = rates and symbol == "/" and isinstance(right, int | float)
        if not numbers and not quotient and not (rates and symbol == "*"):
            between = {"*": ", or between rates", "/": ", or between a rate and a number"}.get(symbol, "")
            raise self.at(node.right, f"{symbol} stands between numbers{between}.")
        try:
            # Estimated first: a tower of powers would not come back.
            if symbol == "**" and abs(left) > 1 and abs(right) * math.log10(abs(left)) > 15:
                raise OverflowError("the power is too large")
            result = operation(left, right)
            if isinstance(result, complex):
                raise ArithmeticError("the root of a negative number is not real")
            if numbers and not abs(result) <= _LARGEST:
                raise OverflowError("the result is too large")
        except (ArithmeticError, TypeError, ValueError) as error:
            raise self.at(node, f"{error}.") from None
        return result

    @staticmethod
    def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
        if f"scale_by_{name}" in known:
            hint = f"give the direction a rate, chain(scale_by_{name}(), constant(1e-3))."
        elif nearest := _checks.nearest(name, known, cutoff=0.6):
            hint = f"did you mean {nearest}?"
        elif len(known) <= _MOST_LISTED:
            hint = f"known are {', '.join(known)}."
        else:
            hint = "`lrx names` lists all, and so does lrx.expressions.names()."
        return f"{name} is no {kind}: {hint}"


def _signature(function: Callable[..., Any]) -> str:
    """Write an argument list without its types."""
    parts, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        prefix = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parts.append(f"{prefix}{parameter.name}{default}")
    return f"({', '.join(parts)})"
