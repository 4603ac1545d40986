"""Chains written as text: parsed, never evaluated.

`parse("sgd(warmup(cosine_decay(0.1, 2000), 200), momentum=0.9)")` gives what the same Python would give. The text is
read into a syntax tree, and the few kinds of nodes that a chain is made of are interpreted one by one: calls of the
names below, numbers and arithmetic on them, text, lists, tuples, dicts, and products of rates. Everything else is
refused with a message that points at the place.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import optax

from lrx import controllers, optimizers, schedules
from lrx.rates import Controller, Rate, Schedule

_MOST_CHARACTERS = 2_000
_MOST_DEPTH = 30
_LARGEST = 1e15  # of a number in between: no schedule is longer, and huge powers take forever

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
_OPERATIONS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Pow: ("**", operator.pow),
}


class ExpressionError(ValueError):
    """The text is no chain; the message shows the text, points at the place and says what would do."""


def names() -> dict[str, Callable[..., Any]]:
    """Give the names that an expression may call, each with what it calls."""
    known: dict[str, Callable[..., Any]] = {"chain": optax.chain}
    known |= {name: getattr(optax, name) for name in _OPTAX_LINKS}
    for package in (schedules, optimizers, controllers):
        known |= {name: getattr(package, name) for name in package.__all__}
    del known["eval_params"]  # reads a state, makes no link
    return known


def parse(text: str, namespace: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Build what an expression describes.

    Args:
      text: such as `"sgd(warmup(cosine_decay(0.1, 2000), 200), momentum=0.9)"`.
      namespace: the names that may be called; `names()` by default.

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
    reader = _Reader(text, names() if namespace is None else namespace)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise reader.error(error.offset or 1, f"this is not an expression: {error.msg}.") from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise reader.error(1, f"this is not an expression: {error}.") from None
    return reader.value(tree.body, 0)


def parse_schedule(text: str) -> Schedule:
    """Build a schedule; a number is a constant one.

    Raises:
      ExpressionError: also for what has no value at a step: an optimizer, or a rate that follows feedback.
    """
    value = parse(text)
    if isinstance(value, int | float):
        value = schedules.constant(value)
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Rate | Controller):
        why = "follows feedback, so it has no value at a step: give the schedule alone."
    else:
        why = "is an optimizer: give the schedule inside of it."
    raise ExpressionError(f"{text.strip()}\nmust be a schedule, but {why}")


def parse_optimizer(text: str) -> optax.GradientTransformationExtraArgs:
    """Build an optimizer: something whose updates can be added to parameters.

    Raises:
      ExpressionError: also for a number, and for a rate or controller alone.
    """
    value = parse(text)
    if isinstance(value, Rate) or not isinstance(value, optax.GradientTransformation | Controller):
        inner = text.strip()
        raise ExpressionError(f"{inner}\nmust be an optimizer, but is a rate: say what it drives, as sgd({inner}).")
    if isinstance(value, Controller):
        raise ExpressionError(
            f"{text.strip()}\nmust be an optimizer, but is a factor: say what it multiplies, as "
            f"sgd(0.1 * {text.strip()})."
        )
    return optax.with_extra_args_support(value)


class _Reader:
    """Interprets the nodes of one text."""

    def __init__(self, text: str, namespace: Mapping[str, Callable[..., Any]]) -> None:
        self.text, self.namespace = text.strip(), namespace

    def error(self, column: int, message: str, line: int = 1) -> ExpressionError:
        """Point at a column, counted from 1."""
        lines = self.text.splitlines() or [""]
        shown = lines[min(line, len(lines)) - 1]
        return ExpressionError(f"{shown}\n{' ' * (min(column, len(shown) + 1) - 1)}^ {message}")

    def at(self, node: ast.AST, message: str) -> ExpressionError:
        # The parser counts bytes.
        line, offset = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        before = self.text.splitlines()[line - 1].encode()[:offset].decode(errors="replace")
        return self.error(len(before) + 1, message, line)

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise self.at(node, f"the expression must not be nested deeper than {_MOST_DEPTH}.")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                if isinstance(node.value, int | float) and not abs(node.value) <= _LARGEST:
                    raise self.at(node, f"a number must be at most {_LARGEST:g} in size, got {node.value:.3g}.")
                return node.value
            case ast.Name(id=name):
                if name in self.namespace:
                    raise self.at(node, f"{name} must be called: {name}{_signature(self.namespace[name])}.")
                raise self.at(node, self._unknown("name", name, self.namespace))
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
        if not numbers and not (rates and symbol == "*"):
            raise self.at(
                node.right, f"{symbol} stands between numbers{', or between rates' if symbol == '*' else ''}."
            )
        try:
            # Estimated first: a tower of powers would not come back.
            if symbol == "**" and abs(left) > 1 and abs(right) * math.log10(abs(left)) > 15:
                raise OverflowError("the power is too large")
            result = operation(left, right)
            if numbers and not (isinstance(result, int | float) and abs(result) <= _LARGEST):
                raise OverflowError("the result is too large")
        except (ArithmeticError, TypeError, ValueError) as error:
            raise self.at(node, f"{error}.") from None
        return result

    @staticmethod
    def _unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}."
        return f"{name} is no {kind}: {hint}"


def _signature(function: Callable[..., Any]) -> str:
    """An argument list without the types."""
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
