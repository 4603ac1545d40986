"""What a reader changes in a reproduction: settings of its size, arms of their own, and another result drawn beside it.

A size is a NamedTuple or a dataclass of numbers and names, or a tuple of such parts, one for each task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lrx import _checks
from lrx.records import Result

Arms = tuple[str, ...]  # the keys of a dict of arms in `Result.curves`; "*" stands for any


def settings_of(size: Any) -> dict[str, Any]:
    """Return the settings of a size, by the names that `replace_settings` takes.

    Example:
      >>> from lrx.papers import load
      >>> settings_of(load("duchi_2011").scales["demo"].size)
      {'features': 2000, 'examples': 8000}
    """
    found: dict[str, Any] = {}
    for part in reversed(_parts(size)):
        found |= {".".join(path): value for path, value in _leaves(part)}
    return found


def replace_settings(size: Any, settings: Mapping[str, Any]) -> Any:
    """Return a size in which some settings are replaced; in a tuple of parts, those of every part that has them.

    Args:
      size: the size of a scale.
      settings: name to value, as `settings_of` shows them; an inner setting is named with a dot, `lengths.fixed`.

    Raises:
      ValueError: if a name is unknown, or a number is negative or not finite.
      TypeError: if a value is of another type than the present one.

    Example:
      >>> from lrx.papers import load
      >>> replace_settings(load("duchi_2011").scales["demo"].size, {"examples": 640})
      Size(features=2000, examples=640)
    """
    for name, value in settings.items():
        path = name.split(".")
        parts = _parts(size)
        having = [place for place, part in enumerate(parts) if _holds(part, path)]
        if not having:
            _checks.known("settings", name, settings_of(size))
        new = _as_any(name, value, [_get(parts[place], path) for place in having])
        changed = tuple(_replace(part, path, new) if place in having else part for place, part in enumerate(parts))
        size = changed if _is_parts(size) else changed[0]
    return size


def overlay(
    result: Result, beside: Mapping[str, Result], where: tuple[Arms, ...]
) -> tuple[Result, dict[str, tuple[str, str]]]:
    """Return a result that also holds the arms of other results, and the labels that it has gained.

    An arm `Adam` of the result named `old` becomes `Adam, old`.

    Args:
      result: the result whose axes, settings and claims count.
      beside: name to result, of the same paper.
      where: where its arms are; see `lrx.papers.Paper`.

    Returns:
      The result; and each new label with its arm and the name of its result.

    Raises:
      ValueError: if a result is of another paper, or was measured at other steps.
    """
    curves = result.curves
    gained: dict[str, tuple[str, str]] = {}
    for name, other in beside.items():
        if other.name != result.name:
            raise ValueError(f"beside[{name!r}] must be a result of {result.name}, got one of {other.name}.")
        for pattern in where:
            for path in _paths(result.curves, pattern):
                arms = _at(other.curves, path)
                if not isinstance(arms, Mapping):
                    continue
                _require_same_steps(name, _at(result.curves, path[:-1]), _at(other.curves, path[:-1]))
                new = {f"{label}, {name}": arm for label, arm in arms.items()}
                gained |= {f"{label}, {name}": (label, name) for label in arms}
                curves = _with(curves, path, _at(curves, path) | new)
    return dataclasses.replace(result, curves=curves), gained


def _require_same_steps(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Check that what arms share, such as the steps of their curves, is the same in both results."""
    for key, value in ours.items():
        if "steps" in key and not isinstance(value, Mapping) and theirs.get(key) != value:
            raise ValueError(
                f"beside[{name!r}] must be measured at the same {key} as the result, since one axis shows both: "
                "reproduce it again with the same settings of lengths."
            )


def _is_parts(size: Any) -> bool:
    return isinstance(size, tuple) and not hasattr(size, "_fields")


def _parts(size: Any) -> tuple[Any, ...]:
    return size if _is_parts(size) else (size,)


def _fields(part: Any) -> dict[str, Any]:
    """Return what a part holds by name, or nothing if it is a value."""
    if isinstance(part, Mapping):
        return {str(key): value for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_asdict"):
        return part._asdict()
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {}


def _leaves(part: Any, path: Arms = ()) -> Iterator[tuple[Arms, Any]]:
    for name, value in _fields(part).items():
        inner = list(_leaves(value, (*path, name)))
        yield from inner or [((*path, name), value)]


def _holds(part: Any, path: list[str]) -> bool:
    inner = _fields(part)
    return path[0] in inner and (len(path) == 1 or _holds(inner[path[0]], path[1:]))


def _get(part: Any, path: list[str]) -> Any:
    for name in path:
        part = _fields(part)[name]
    return part


def _replace(part: Any, path: list[str], value: Any) -> Any:
    new = _replace(_fields(part)[path[0]], path[1:], value) if len(path) > 1 else value
    if isinstance(part, Mapping):
        return {**part, path[0]: new}
    replace: Any = part._replace if hasattr(part, "_replace") else partial(dataclasses.replace, part)
    return replace(**{path[0]: new})


def _as_any(name: str, value: Any, present: list[Any]) -> Any:
    """Return a value in the type of what it replaces in one of the parts: an image count may be None in another."""
    for place, each in enumerate(present):
        try:
            return _as_present(name, value, each)
        except TypeError:
            if place == len(present) - 1:
                raise
    raise AssertionError


def _as_present(name: str, value: Any, present: Any) -> Any:
    """Return a value in the type of the present one."""
    if isinstance(present, tuple | list) and isinstance(value, tuple | list):
        return tuple(_as_present(name, item, present[0]) if present else item for item in value)
    if isinstance(present, float) and isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
    alike = present is None or isinstance(value, type(present)) or (isinstance(present, Mapping) and not _fields(value))
    if not alike or isinstance(value, bool) != isinstance(present, bool):
        raise TypeError(f"settings[{name!r}] must be of the type of {present!r}, which it replaces, got {value!r}.")
    if isinstance(value, int | float) and (not math.isfinite(value) or value < 0 <= (present or 0)):
        raise ValueError(f"settings[{name!r}] must be finite and not negative, like {present!r}, got {value!r}.")
    return value


def _at(curves: Any, path: Arms) -> Any:
    for key in path:
        curves = curves.get(key) if isinstance(curves, Mapping) else None
    return curves


def _paths(curves: Any, pattern: Arms) -> list[Arms]:
    """Return the paths of a pattern that lead to a dict."""
    if not isinstance(curves, Mapping):
        return []
    if not pattern:
        return [()]
    keys = curves if pattern[0] == "*" else [pattern[0]] if pattern[0] in curves else []
    return [(key, *rest) for key in keys for rest in _paths(curves[key], pattern[1:])]


def _with(curves: Mapping[str, Any], path: Arms, value: Any) -> dict[str, Any]:
    return {**curves, path[0]: _with(curves[path[0]], path[1:], value) if len(path) > 1 else value}
