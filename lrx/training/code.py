"""What a function that cannot be traced computes: a hash of its code, and of the data that it holds.

The code is that of the function, of what it calls in files of the same author, and of the methods of objects that it
holds: operations, names and constants. Packages that are installed are left out.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from lrx.training.programs import Hashing, digest_of

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
)
_CHANGING = {"add", "append", "appendleft", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
_BEGINNING = ("__init__", "__post_init__", "__setattr__", "__new__")


def function_digest(function: Any) -> str:
    """Return a hash of what a function does and of the data that it holds.

    Data are the values of its closure, its defaults, the globals that it names, and the attributes of objects among
    them. What the code itself changes from call to call, such as a counter, is left out: variables and attributes that
    it assigns, and if it changes any list or dict, the plain numbers and strings in all lists and dicts.
    """
    gathering = _Gathering()
    gathering.add(function)
    return digest_of("\1".join(gathering.texts()).encode())


class _Gathering:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._in_containers: list[str] = []
        self._changes_containers = False
        self._seen: dict[int, Any] = {}  # holds what was seen, so that identities stay unique

    def texts(self) -> list[str]:
        return self._texts if self._changes_containers else [*self._texts, *self._in_containers]

    def add(self, value: Any, *, contained: bool = False) -> None:
        """Gather a value and what it holds; `contained` in a list or dict."""
        if isinstance(value, _PLAIN):
            (self._in_containers if contained else self._texts).append(Hashing().value(value))
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, np.ndarray | jax.Array):
            self._texts.append(Hashing().value(value))
        elif isinstance(value, functools.partial):
            self._add_all((value.func, *value.args, *value.keywords, *value.keywords.values()), contained)
        elif isinstance(value, tuple):
            self._add_all(value, contained)
        elif isinstance(value, list):
            self._add_all(value, True)
        elif isinstance(value, set | frozenset):
            self._in_containers += sorted(Hashing().value(x) for x in value if isinstance(x, _PLAIN))
        elif isinstance(value, dict):
            self._add_all((*value, *value.values()), True)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif hasattr(value, "__func__"):  # a method
            self._add_all((value.__func__, value.__self__), contained)
        elif isinstance(value, property):
            self._add_all((value.fget,), contained)
        elif isinstance(value, type):
            self._add_class(value)
        elif hasattr(value, "__wrapped__"):  # jax.jit
            self.add(value.__wrapped__)
        else:
            self._add_object(value, contained)

    def _add_all(self, values: Iterable[Any], contained: bool) -> None:
        for value in values:
            self.add(value, contained=contained)

    def _add_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._texts.append(_text_of(code, function.__doc__))
        names, assigned, changes = _uses(code)
        self._changes_containers |= changes
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # empty still
                continue
            if not (name in assigned and isinstance(held, _PLAIN)):
                self.add(held)
        self._add_all(function.__defaults__ or (), False)
        self._add_all((function.__kwdefaults__ or {}).values(), False)
        for name in names:
            if name not in function.__globals__ or name == "__builtins__":
                continue
            held = function.__globals__[name]
            if isinstance(held, types.ModuleType):
                if _is_own(held):
                    # What is named after a module, as `metrics.mae`.
                    self._add_all((vars(held)[x] for x in names if _is_followed(vars(held).get(x), function)), False)
            elif _is_followed(held, function) and not (name in assigned and isinstance(held, _PLAIN)):
                self.add(held)

    def _add_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if _is_own(base) and (base is kind or id(base) not in self._seen):
                self._seen[id(base)] = base
                for name, member in vars(base).items():
                    member = getattr(member, "__func__", member)
                    if isinstance(member, (types.FunctionType, property, *_PLAIN)) and name not in _OF_EVERY_CLASS:
                        self.add(member)

    def _add_object(self, value: Any, contained: bool) -> None:
        kind = type(value)
        if _is_own(kind):
            self.add(kind)
        elif not dataclasses.is_dataclass(kind):
            return
        methods = [x for base in kind.__mro__ if _is_own(base) for x in vars(base).items() if x[0] not in _BEGINNING]
        changed = {
            name
            for _, method in methods
            if isinstance(method, types.FunctionType)
            for name in _attributes_assigned(method.__code__)
        }
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for name in dict.fromkeys([*fields, *getattr(value, "__dict__", ())]):
            held = getattr(value, name, None)
            if not (name in changed and isinstance(held, _PLAIN)):
                self.add(held, contained=contained)


_OF_EVERY_CLASS = {"__module__", "__doc__", "__qualname__", "__firstlineno__"}


def _text_of(code: types.CodeType, doc: str | None = None) -> str:
    """Return operations, names and constants of a code object, those of inner functions too, without the docstring."""
    constants = [
        _text_of(constant) if isinstance(constant, types.CodeType) else Hashing().value(constant)
        for constant in code.co_consts
        if doc is None or not (isinstance(constant, str) and constant == doc)
    ]
    operations = (code.co_code, code.co_exceptiontable)
    return repr([*operations, code.co_names, code.co_freevars, code.co_argcount, constants])


def _codes(code: types.CodeType) -> Iterable[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _uses(code: types.CodeType) -> tuple[list[str], set[str], bool]:
    """Return the names in some code, the outer variables that it assigns, and whether it changes a list or dict."""
    names: dict[str, None] = {}
    assigned: set[str] = set()
    changes = False
    for inner in _codes(code):
        names |= dict.fromkeys(inner.co_names)
        for operation in dis.get_instructions(inner):
            if operation.opname in ("STORE_DEREF", "STORE_GLOBAL"):
                assigned.add(operation.argval)
            changes |= operation.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
    return list(names), assigned, changes or not _CHANGING.isdisjoint(names)


def _attributes_assigned(code: types.CodeType) -> set[str]:
    operations = (operation for inner in _codes(code) for operation in dis.get_instructions(inner))
    return {operation.argval for operation in operations if operation.opname == "STORE_ATTR"}


def _is_followed(value: Any, user: types.FunctionType) -> bool:
    """Return whether what a function names is part of what it computes; what is in packages has their versions."""
    if isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
        return getattr(value, "__module__", None) == user.__module__ or _is_own(value)
    return not isinstance(value, types.BuiltinFunctionType | types.ModuleType | np.ufunc)


def _is_own(value: Any) -> bool:
    """Return whether a module, class or function is in no installed package."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if name == "builtins" or name in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(str(name)), "__file__", None)
    return file is None or not os.path.abspath(file).startswith(_INSTALLED)
