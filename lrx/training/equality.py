"""Which functions compute the same: keys by which a compiled program is found again.

A program depends on the functions that it was traced from and on the values that they hold. A lambda that is written in
a cell of a notebook is another object each time the cell runs, so functions are compared by their code and by what they
hold: closures, defaults, the globals that they name, and so on. Wherever a value might change unseen, as an attribute
of an object might, or be found in a way that the code does not show, nothing is decided: the caller then traces the
function and compares what it computes, or compiles it again.
"""

from __future__ import annotations

import collections
import dataclasses
import dis
import functools
import inspect
import sys
import threading
import types
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import numpy as np

from lrx.training.code import CONTAINERS, PLAIN, is_own, names_used
from lrx.transformations import Built

SMALL = 2**14  # bytes: smaller arrays are compared by their contents, larger ones by identity
# What a trace depends on besides its functions and arguments.
SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_debug_nans", "jax_debug_infs", "jax_disable_jit"),
)
# Values that never change, compared by identity.
_CONSTANT: tuple[type, ...] = (types.ModuleType, types.BuiltinFunctionType, np.ufunc)
_CONSTANT += (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_CONSTANT += (type(vars(collections.namedtuple("_", "x"))["x"]),)

# Names by which code finds values that are not in its closure or globals.
_UNSEEN = {"__import__", "compile", "eval", "exec", "getattr", "globals", "input", "locals", "open", "vars"}
_UNSEEN |= {"__dict__", "environ", "getenv", "import_module"}
# Modules whose functions return other values each time.
_CHANGING_MODULES = {"datetime", "numpy.random", "os", "random", "secrets", "time"}
_CONTAINERS = (tuple, list, dict, set, frozenset, collections.deque)
_JITTED = type(jax.jit(lambda: None))

Result = TypeVar("Result")


class UndecidedError(Exception):
    """A value holds something that may change without a trace in its key."""


class Same:
    """Equal to what holds the same object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def key_of(value: Any) -> Hashable:
    """Return a key that is equal for values that compute the same.

    Args:
      value: a function, or a tree of functions, arrays and other values.

    Raises:
      UndecidedError: if that cannot be decided.
    """
    return _Keys().key(value)


def settings_key() -> Hashable:
    """Return a key of the settings of JAX that a trace depends on."""
    return tuple(str(getattr(jax.config, name, None)) for name in SETTINGS)


def compile_once(maxsize: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Cache a function's results for its latest arguments, which are compared by `key_of`.

    Nothing is cached if no key can be decided on.

    Args:
      maxsize: results that are kept, those that were used last.
    """

    def decorate(build: Callable[..., Result]) -> Callable[..., Result]:
        cache = Cache(maxsize)

        @functools.wraps(build)
        def find(*parts: Any) -> Result:
            try:
                key = tuple(map(key_of, parts))
            except UndecidedError:
                return build(*parts)
            return cache.find(key, lambda: build(*parts))

        return find

    return decorate


class Cache:
    """Results by key; only the most recently used are kept.

    Args:
      maxsize: how many are kept.
    """

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self._results: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable, build: Callable[[], Result]) -> Result:
        """Return the result of a key, and build it if there is none."""
        key = (settings_key(), key)
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = build()  # outside of the lock, since it may take long or use this cache again
        with self._lock:
            self._results[key] = result
            while len(self._results) > self.maxsize:
                self._results.popitem(last=False)
        return result


class _Keys:
    """Keys of values, which may refer to each other in circles."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[int, Any]] = {}  # holds what was begun, so that identities stay unique
        self._modules: set[tuple[Any, ...]] = set()  # with the names that were looked up in them

    def key(self, value: Any) -> Hashable:
        if isinstance(value, np.generic):
            return type(value), value.tobytes()
        if isinstance(value, PLAIN):
            return type(value), repr(value)  # 1 is not True, nor 0.0 -0.0; not-a-number is itself
        if id(value) in self._begun:
            return "again", self._begun[id(value)][0]
        self._begun[id(value)] = len(self._begun), value
        return self._compound_key(value)

    def _compound_key(self, value: Any) -> Hashable:
        if isinstance(value, jax.core.Tracer):
            raise UndecidedError
        if isinstance(value, jax.Array):
            return self._array_key(value)
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject or value.nbytes > SMALL:
                raise UndecidedError  # it may be changed in place
            return np.ndarray, value.dtype.str, value.shape, value.tobytes()
        if isinstance(value, Built):  # before tuples, which it says to be
            if value.factory is not None:
                return Same(value.factory), self.key(value.compared())
            return Same(type(value)), self.key(value.parts())
        if isinstance(value, functools.partial) and not vars(value):
            return functools.partial, self.key(value.func), self.key(value.args), self.key(value.keywords)
        if issubclass(type(value), _CONTAINERS) and getattr(value, "__dict__", None):
            raise UndecidedError  # a container with attributes beside its items
        if isinstance(value, tuple | list | collections.deque):
            return self._class_key(type(value)), *map(self.key, value)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(map(self.key, value))
        if isinstance(value, dict):
            return type(value), *((self.key(name), self.key(part)) for name, part in value.items())
        if isinstance(value, types.FunctionType):
            return self._function_key(value)
        if isinstance(value, types.MethodType):
            return types.MethodType, self.key(value.__func__), self.key(value.__self__)
        if isinstance(value, type):
            return self._class_key(value)
        if isinstance(value, types.ModuleType) and is_own(value):
            raise UndecidedError  # its values are hashed where code names them
        if isinstance(value, _CONSTANT):
            return Same(value)
        if isinstance(value, staticmethod | classmethod):
            return type(value), self.key(value.__func__)
        if isinstance(value, property):
            return property, self.key(value.fget)
        if isinstance(value, _JITTED):  # other wrappers may hold more, for example the rule of a gradient
            return "jit", self.key(inspect.unwrap(value, stop=lambda inner: not isinstance(inner, _JITTED)))
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            held = dict.fromkeys([*fields, *getattr(value, "__dict__", ())])
            return self._class_key(type(value)), *((name, self.key(getattr(value, name, None))) for name in held)
        return self._value_key(value)

    def _array_key(self, value: jax.Array) -> Hashable:
        if value.is_deleted() or not value.is_fully_addressable:
            raise UndecidedError
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended) or value.nbytes > SMALL:
            return Same(value)
        return jax.Array, value.dtype.name, value.aval.weak_type, value.shape, np.asarray(value).tobytes()

    def _value_key(self, value: Any) -> Hashable:
        """Return the value itself if its class says by which values it is equal to another."""
        kind = type(value)
        is_structure = isinstance(value, jax.tree_util.PyTreeDef)  # a class of no module
        if not is_structure and (is_own(kind) or kind.__eq__ is object.__eq__ or kind.__hash__ is object.__hash__):
            raise UndecidedError
        try:
            hash(value)
        except TypeError:
            raise UndecidedError from None
        return value

    def _function_key(self, function: types.FunctionType) -> Hashable:
        code = function.__code__
        names, changed = names_used(code)
        if vars(function).keys() - {"__wrapped__"} or (is_own(function) and _finds_unseen(code)):
            raise UndecidedError
        held: list[Hashable] = []
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                contents = cell.cell_contents
            except ValueError:  # empty still
                raise UndecidedError from None
            held.append(self._key_unless_changed(name in changed, contents))
        held += [self.key(function.__defaults__), self.key(function.__kwdefaults__)]
        if is_own(function):
            for name in names:
                if name in function.__globals__:
                    held.append((name, self._global_key(function.__globals__[name], names, changed, name)))
        return "function", code, function.__module__, *held

    def _global_key(self, value: Any, names: list[str], changed: set[str], name: str) -> Hashable:
        if not isinstance(value, types.ModuleType):
            return self._key_unless_changed(name in changed, value)
        if value.__name__ in _CHANGING_MODULES or (value is np and "random" in names):
            raise UndecidedError
        if not is_own(value):
            return Same(value)
        if (value, *names) in self._modules:  # modules may name each other
            return "module", value.__name__
        self._modules.add((value, *names))
        # What is named after a module, such as `settings.rate` or `package.settings.rate`.
        members = [(x, vars(value)[x]) for x in names if x in vars(value)]
        return tuple((x, self._global_key(member, names, changed, x)) for x, member in members)

    def _key_unless_changed(self, changed: bool, value: Any) -> Hashable:
        if changed and isinstance(value, (*PLAIN, *CONTAINERS)):
            raise UndecidedError  # the code itself changes it between calls
        return self.key(value)

    def _class_key(self, kind: type) -> Hashable:
        if not is_own(kind):
            return Same(kind)
        members: list[Hashable] = []
        for base in kind.__mro__:
            if is_own(base):
                members += [
                    (name, self.key(member)) for name, member in vars(base).items() if _is_written(name, member)
                ]
        return "class", kind.__qualname__, *members


@functools.lru_cache(maxsize=4096)
def _finds_unseen(code: types.CodeType) -> bool:
    """Return whether code looks for values where its closure and its globals do not show them."""
    if not _UNSEEN.isdisjoint(code.co_names):
        return True
    for operation in dis.get_instructions(code):
        if operation.opname == "IMPORT_NAME":
            imported = sys.modules.get(operation.argval)
            if imported is None or is_own(imported) or imported.__name__ in _CHANGING_MODULES:
                return True
    return any(_finds_unseen(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))


def _is_written(name: str, member: Any) -> bool:
    """Return whether a member of a class may affect numbers: Python did not add it, and it is not a repr."""
    if isinstance(member, types.FunctionType):
        return name not in ("__repr__", "__str__")
    return not (name.startswith("__") or name == "_abc_impl")
