"""Hashes of functions that cannot be traced: of their code and of the data that they hold.

The code is that of the function, of what it calls in files of the same author, and of the methods of objects that it
holds: operations, names and constants. Packages that are installed are left out.
"""

from __future__ import annotations

import collections
import contextlib
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

from lrx.training.program_hash import Hashing, digest_of
from lrx.transformations import Built

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
CONTAINERS = (list, dict, set, collections.deque, np.ndarray)
_INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
)
# Modules whose functions return other values each time.
CHANGING_MODULES = {"datetime", "numpy.random", "os", "random", "secrets", "time"}
_CHANGING = {"add", "append", "appendleft", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
_ACTING = {"log", "next", "open", "print", "save", "savez", "write"}
_BEGINNING = ("__init__", "__post_init__", "__setattr__", "__new__")


def function_digest(function: Any) -> str:
    """Return a hash of what a function does and of the data that it holds.

    Data are the values of its closure, its defaults, the globals that it names, and the attributes of objects among
    them. What the code itself changes from call to call, for example a counter, is left out: variables and attributes
    that it assigns, and lists, dicts and sets that it changes.
    """
    gathering = _Gathering()
    gathering.add(function)
    return digest_of("\1".join(gathering.texts).encode())


def may_act(function: Any) -> bool:
    """Return whether a call may do more than compute, for example count, print or write a file.

    Such a function should not be traced for its program, because tracing calls it.
    """
    gathering = _Gathering()
    gathering.add(function)
    return gathering.acts


class _Gathering:
    def __init__(self) -> None:
        self.acts = False
        self.texts: list[str] = []
        self._seen: dict[int, Any] = {}  # holds what was seen, so that identities stay unique

    def add(self, value: Any) -> None:
        """Gather a value and what it holds."""
        if isinstance(value, PLAIN):
            self.texts.append(Hashing().value(value))
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, np.ndarray | jax.Array):
            self.texts.append(Hashing().value(value))
        elif isinstance(value, functools.partial):
            self._add_all((value.func, *value.args, *value.keywords, *value.keywords.values()))
        elif isinstance(value, Built):  # before tuples, which it says to be
            self._add_all(value.parts().values())
        elif isinstance(value, tuple | list | collections.deque):
            self._add_all(value)
        elif isinstance(value, set | frozenset):
            self.texts += sorted(Hashing().value(x) for x in value if isinstance(x, PLAIN))
        elif isinstance(value, dict):
            self._add_all((*value, *value.values()))
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif hasattr(value, "__func__"):  # a method
            self._add_all((value.__func__, value.__self__))
        elif isinstance(value, property):
            self.add(value.fget)
        elif isinstance(value, type):
            self._add_class(value)
        elif hasattr(value, "__wrapped__"):  # jax.jit
            self.add(value.__wrapped__)
        else:
            self._add_object(value)

    def _add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)

    def _add_unless(self, changed: bool, value: Any) -> None:
        """Gather a value that has a name, unless the code changes it."""
        if changed and isinstance(value, (*PLAIN, *CONTAINERS)):
            self.acts = True
        else:
            self.add(value)

    def _add_function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self.texts.append(_text_of(code, function.__doc__))
        names, changed = names_used(code)
        self.acts |= not _ACTING.isdisjoint(names)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # empty still
                self._add_unless(name in changed, cell.cell_contents)
        self._add_all(function.__defaults__ or ())
        self._add_all((function.__kwdefaults__ or {}).values())
        for name in names:
            held = function.__globals__.get(name)
            if isinstance(held, types.ModuleType) and is_own(held):
                # What is named after a module, such as `metrics.mae`.
                held = {x: vars(held)[x] for x in names if x in vars(held)}
                for x, member in held.items():
                    if _is_followed(member, function):
                        self._add_unless(x in changed, member)
            elif name in function.__globals__ and _is_followed(held, function):
                self._add_unless(name in changed, held)

    def _add_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if is_own(base) and (base is kind or id(base) not in self._seen):
                self._seen[id(base)] = base
                for name, member in vars(base).items():
                    member = getattr(member, "__func__", member)
                    if isinstance(member, (types.FunctionType, property, *PLAIN)) and name not in _OF_EVERY_CLASS:
                        self.add(member)

    def _add_object(self, value: Any) -> None:
        kind = type(value)
        if is_own(kind):
            self.add(kind)
        elif not dataclasses.is_dataclass(kind):
            return
        methods = [x for base in kind.__mro__ if is_own(base) for x in vars(base).items() if x[0] not in _BEGINNING]
        changed = {x for _, method in methods if hasattr(method, "__code__") for x in names_used(method.__code__)[1]}
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for name in dict.fromkeys([*fields, *getattr(value, "__dict__", ())]):
            self._add_unless(name in changed, getattr(value, name, None))


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


@functools.lru_cache(maxsize=4096)
def names_used(code: types.CodeType) -> tuple[list[str], set[str]]:
    """Return the names in some code; and which outer variables and attributes it assigns, or calls to change them.

    Every name on a line that assigns an item counts as changed.
    """
    names: dict[str, None] = {}
    changed: set[str] = set()
    for inner in _codes(code):
        names |= dict.fromkeys(inner.co_names)
        on_line: dict[int | None, set[str]] = {}
        assigning: set[int | None] = set()
        before = ""
        for operation in dis.get_instructions(inner):
            line = operation.positions.lineno if operation.positions is not None else None
            if operation.opname in ("STORE_DEREF", "STORE_GLOBAL", "STORE_ATTR"):
                changed.add(operation.argval)
            elif operation.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
                assigning.add(line)
            elif before and operation.argval in _CHANGING and operation.opname in ("LOAD_METHOD", "LOAD_ATTR"):
                changed.add(before)
            is_outer = operation.opname in ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_ATTR")
            before = operation.argval if is_outer else ""
            if is_outer:
                on_line.setdefault(line, set()).add(operation.argval)
        changed |= {name for line in assigning for name in on_line.get(line, ())}
    return list(names), changed


def _is_followed(value: Any, user: types.FunctionType) -> bool:
    """Return whether a value that a function names must be hashed; for installed packages the version suffices."""
    if isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
        return getattr(value, "__module__", None) == user.__module__ or is_own(value)
    return not isinstance(value, types.BuiltinFunctionType | types.ModuleType | np.ufunc)


def is_own(value: Any) -> bool:
    """Return whether a module, class or function is in no installed package."""
    if isinstance(value, types.FunctionType):  # `functools.wraps` copies the module of another function
        name = value.__globals__.get("__name__")
    else:
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if name == "builtins" or name in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(str(name)), "__file__", None)
    return file is None or not os.path.abspath(file).startswith(_INSTALLED)
