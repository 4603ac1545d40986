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
import enum
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training.code import CHANGING_MODULES, CONTAINERS, PLAIN, is_own, names_used
from lrx.transformations import Built

SMALL = 2**14  # bytes: smaller arrays are compared by their contents, larger ones by identity
# Values that never change, compared by identity.
_CONSTANT: tuple[type, ...] = (types.ModuleType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
_CONSTANT += (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_CONSTANT += (type(vars(collections.namedtuple("_", "x"))["x"]),)

# Names by which code finds values that are not in its closure or globals.
_UNSEEN = {"__import__", "compile", "eval", "exec", "getattr", "globals", "input", "locals", "open", "vars"}
_UNSEEN |= {"__dict__", "environ", "getenv", "import_module", "modules", "attrgetter", "methodcaller"}
_UNSEEN |= {"hasattr", "__getattribute__", "_getframe", "currentframe"}
_UNSEEN |= {"fromfile", "load", "loadtxt", "genfromtxt", "memmap", "read_bytes", "read_text"}
_CONTAINERS = (tuple, list, dict, set, frozenset, collections.deque)
_EXACT = (tuple, list, dict, collections.OrderedDict, set, frozenset, collections.deque)  # types that hold items alone
# What Python writes into a class, beside what its author did.
_OF_EVERY_CLASS = {"__module__", "__doc__", "__qualname__", "__dict__", "__weakref__", "__annotations__", "_abc_impl"}
_OF_EVERY_CLASS |= {"__dataclass_fields__", "__dataclass_params__", "__match_args__", "__parameters__", "__hash__"}
_OF_EVERY_CLASS |= {"__abstractmethods__", "__firstlineno__", "__static_attributes__", "__annotate__"}
_OF_EVERY_CLASS |= {"__annotate_func__", "__annotations_cache__", "__classdictcell__", "__orig_bases__"}
_OF_EVERY_CLASS |= {"__repr__", "__str__"}
_UFUNCS = ((np.ufunc, np), (jnp.ufunc, jnp))
_JITTED = type(jax.jit(lambda: None))


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
    try:
        return _Keys().key(value)
    except RecursionError:
        raise UndecidedError from None


class _Keys:
    """Keys of values, which may refer to each other in circles."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[int, Any]] = {}  # holds what was begun, so that identities stay unique
        self._modules: set[tuple[Any, ...]] = set()  # with the names that were looked up in them

    def key(self, value: Any) -> Hashable:
        if isinstance(value, np.generic) and not is_own(type(value)):
            return self._class_key(type(value)), value.dtype, value.tobytes()
        if type(value) in PLAIN:
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
        if type(value) is np.ndarray:
            if value.dtype.hasobject or value.nbytes > SMALL:
                raise UndecidedError  # it may be changed in place
            return np.ndarray, value.dtype, value.shape, value.tobytes()
        if isinstance(value, Built):  # before tuples, which it says to be
            return self._built_key(value)
        if type(value) in (functools.partial, jax.tree_util.Partial) and not vars(value):
            return type(value), self.key(value.func), self.key(value.args), self.key(value.keywords)
        if issubclass(type(value), _CONTAINERS) and not _holds_items_alone(value):
            raise UndecidedError
        if isinstance(value, tuple | list | collections.deque):
            length = value.maxlen if isinstance(value, collections.deque) else None
            return self._class_key(type(value)), length, *map(self.key, value)
        if isinstance(value, set | frozenset):
            if not all(type(item) in PLAIN for item in value):
                raise UndecidedError  # its items come in any order, on which references to what was begun depend
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
        if isinstance(value, types.BuiltinFunctionType):
            return self._builtin_key(value)
        if any(
            isinstance(value, kind) and getattr(of, getattr(value, "__name__", ""), None) is value
            for kind, of in _UFUNCS
        ):
            return Same(value)
        if isinstance(value, enum.Enum):
            return self._class_key(type(value)), value.name
        if isinstance(value, jax.tree_util.PyTreeDef):
            return self._structure_key(value)
        if isinstance(value, staticmethod | classmethod):
            return type(value), self.key(value.__func__)
        if isinstance(value, property):
            return property, self.key(value.fget)
        if isinstance(value, _JITTED):  # other wrappers may hold more, for example the rule of a gradient
            return "jit", self.key(inspect.unwrap(value, stop=lambda inner: not isinstance(inner, _JITTED)))
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            held = dict.fromkeys([*fields, *getattr(value, "__dict__", ())])
            if any(base.__module__ == "flax.linen.module" for base in inspect.getmro(type(value))):
                raise UndecidedError  # it has a number of its own
            if isinstance(value, int | float | complex | str | bytes):
                raise UndecidedError  # it is a number beside its fields
            return self._class_key(type(value)), *((name, self.key(getattr(value, name, None))) for name in held)
        return self._value_key(value)

    def _array_key(self, value: jax.Array) -> Hashable:
        if value.is_deleted() or not value.is_fully_addressable:
            raise UndecidedError
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            with jax.ensure_compile_time_eval():  # a key may be compared while something else is traced
                return "key", str(jax.random.key_impl(value)), self._array_key(jax.random.key_data(value))
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended) or value.nbytes > SMALL:
            return Same(value)
        return jax.Array, value.dtype.name, value.aval.weak_type, value.shape, np.asarray(value).tobytes()

    def _built_key(self, value: Built) -> Hashable:
        if is_own(type(value)):
            raise UndecidedError  # a class of the user's own may compute with more
        if value.factory is not None:
            return Same(value.factory), self.key(value.compared())
        return Same(type(value)), self.key(value.parts())

    def _builtin_key(self, value: types.BuiltinFunctionType) -> Hashable:
        """Return a key of a function of C, or of a method of C and the object that it belongs to."""
        owner = value.__self__
        if _changes(value):
            raise UndecidedError
        if owner is None or isinstance(owner, types.ModuleType):
            return Same(value)
        return types.BuiltinFunctionType, value.__name__, self.key(owner)

    def _structure_key(self, structure: Any) -> Hashable:
        """Return a key of a pytree's structure, whose nodes may hold functions and other values of their own."""
        node = structure.node_data()
        if node is None:
            return str(structure)
        return self.key(node[0]), self.key(node[1]), *map(self._structure_key, structure.children())

    def _value_key(self, value: Any) -> Hashable:
        """Return the value itself if its class says by which values it is equal to another."""
        kind = type(value)
        if isinstance(value, Mapping) and _is_installed(kind):  # its class may call 1 and 1.0 equal
            return Same(kind), *((self.key(name), self.key(part)) for name, part in value.items())
        if callable(value) or isinstance(value, weakref.ReferenceType):
            raise UndecidedError  # it may hold what changes
        if not _is_installed(kind) or kind.__eq__ is object.__eq__ or kind.__hash__ is object.__hash__:
            raise UndecidedError
        try:
            hash(value)
        except Exception:
            raise UndecidedError from None
        return kind, repr(value), value

    def _function_key(self, function: types.FunctionType) -> Hashable:
        code = function.__code__
        names, changed = names_used(code)
        own = is_own(function)
        if vars(function).keys() - {"__wrapped__"} or _changes(function) or (own and _finds_unseen(code)):
            raise UndecidedError
        held: list[Hashable] = []
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                contents = cell.cell_contents
            except ValueError:  # empty still
                raise UndecidedError from None
            held.append(self._key_unless_changed(name in changed, contents))
        held += [self.key(function.__defaults__), self.key(function.__kwdefaults__)]
        if own:
            for name in names:
                if name in function.__globals__:
                    held.append((name, self._global_key(function.__globals__[name], names, changed, name)))
        return "function", code, function.__globals__.get("__name__"), *held

    def _global_key(self, value: Any, names: list[str], changed: set[str], name: str) -> Hashable:
        if not isinstance(value, types.ModuleType):
            return self._key_unless_changed(name in changed, value)
        if value.__name__ in CHANGING_MODULES or (value is np and "random" in names):
            raise UndecidedError
        if not is_own(value):
            return Same(value)
        if type(value) is not types.ModuleType or "__getattr__" in vars(value):
            raise UndecidedError
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
        if _changes(kind):
            raise UndecidedError
        if _is_installed(kind):
            return Same(kind)
        members: list[Hashable] = [self.key(type(kind))]
        for base in kind.__mro__:
            if not _is_installed(base):
                members += [
                    (name, self.key(member)) for name, member in vars(base).items() if name not in _OF_EVERY_CLASS
                ]
            else:
                members.append(Same(base))
        return "class", kind.__qualname__, *members


def _is_installed(kind: type) -> bool:
    """Return whether an installed package defines a class; a wrapper makes one while the program runs."""
    if any(map(is_own, kind.__mro__)):
        return False
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind or not any(isinstance(member, types.FunctionType) for member in vars(kind).values())


def _holds_items_alone(value: Any) -> bool:
    """Return whether a container computes with nothing beside its items: a plain one, or a tuple with names."""
    kind = type(value)
    if issubclass(kind, tuple) and kind is not tuple:
        return not getattr(value, "__dict__", None)
    return kind in _EXACT and not getattr(value, "__dict__", None)


def _changes(value: Any) -> bool:
    """Return whether a function or a class belongs to a module that returns other values each time."""
    return getattr(value, "__module__", None) in CHANGING_MODULES


@functools.lru_cache(maxsize=4096)
def _finds_unseen(code: types.CodeType) -> bool:
    """Return whether code looks for values where its closure and its globals do not show them."""
    if not _UNSEEN.isdisjoint(code.co_names):
        return True
    for operation in dis.get_instructions(code):
        if operation.opname == "IMPORT_NAME":
            imported = sys.modules.get(operation.argval)
            if imported is None or is_own(imported) or imported.__name__ in CHANGING_MODULES:
                return True
            if imported is np and "random" in code.co_names:
                return True
    return any(_finds_unseen(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
