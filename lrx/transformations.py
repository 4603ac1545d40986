"""Transformations that remember the call that made them.

The decorator `@factory` adds a `repr` that rebuilds the transformation, pickling, and equality: two calls with equal
arguments make equal transformations. Arguments are read once, when the factory is called. Lists, dictionaries and NumPy
arrays are copied, so changing one later does not change a transformation. A scalar of NumPy is taken as the Python
number that it equals.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
import optax

from lrx import _checks

P = ParamSpec("P")
T = TypeVar("T")

_TOLD = ("text", "_key", "_identities", "_hash")  # attributes of what is `Built` that follow from the others
SHOWN = 1_000  # numbers of a table that a repr writes out; a longer one is abbreviated, as by NumPy


class Built:
    """An object that remembers the factory that made it, and the arguments."""

    factory: Callable[..., Any] | None = None  # the function that made it; None if no factory did
    arguments: Mapping[str, Any]  # of that call
    text: str | None  # its repr, if that is not the call

    def remember(self, factory: Callable[..., Any], arguments: Mapping[str, Any], text: str | None = None) -> None:
        """Record the call that makes it again."""
        self.factory, self.arguments, self.text = factory, arguments, text

    def duplicate(self) -> Any:
        """Return a copy, which will remember another call."""
        raise NotImplementedError

    def compared(self) -> dict[str, Any]:
        """Return the arguments by which it is compared with another: an int as the float that it equals."""
        return {name: _as_float(value) for name, value in self.arguments.items()}

    def parts(self) -> dict[str, Any]:
        """Return what it computes with, by which it is compared if no factory made it."""
        own = {name: value for name, value in vars(self).items() if name not in _TOLD}
        return {"functions": (self.init, self.update), **own}  # type: ignore[attr-defined]

    @property
    def family(self) -> str:
        """Return the name of the factory that made it, such as `cosine_decay`."""
        return getattr(self.factory, "__name__", repr(self.factory))

    @functools.cached_property
    def _key(self) -> Any:
        if self.factory is None:
            return id(self)
        return self.factory, tuple((name, _key(value)) for name, value in self.compared().items())

    @functools.cached_property
    def _identities(self) -> tuple[Any, ...]:
        if self.factory is None:
            return (self,)
        return tuple(_identities(self._key[1]))

    @property
    def by_value(self) -> bool:
        """Return whether an equal call makes an equal object: no argument is compared by identity."""
        return not self._identities

    @property
    def is_traced(self) -> bool:
        """Return whether an argument is a tracer, so that the object belongs to one program."""
        return not all(_checks.is_concrete(value) for value in self._identities)

    @functools.cached_property
    def _hash(self) -> int:
        return hash((type(self), self._key))

    def __repr__(self) -> str:
        if self.factory is None:
            return f"<{type(self).__name__}>"
        return self.text or write_call(self.family, self.arguments, _signature(self.factory))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.factory is None:
            raise TypeError(
                f"{self!r} must be made by a factory to be copied or pickled: put @factory before its maker."
            )
        return (rebuild, (self.factory, dict(self.arguments)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        # Never NotImplemented: a tuple on the other side would then decide.
        return self is other or (type(self) is type(other) and self._key == other._key)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _refuse_arithmetic(self: Any, other: Any) -> Any:
    del other
    raise TypeError(
        f"a transformation has no arithmetic, got {self!r}: multiply the rate that it is given, "
        "lrx.sgd(0.5 * lrx.cosine_decay(0.1, 100)), or chain transformations with optax.chain."
    )


@jax.tree_util.register_static
class Transformation(Built, optax.GradientTransformationExtraArgs):
    """A gradient transformation that was made by one of lrx's factories.

    It is optax's pair of `init` and `update`, with a short `repr`. It pickles if its arguments do. Equal calls make
    equal transformations, so nothing compiles twice. `jax.jit` takes it as an argument, as a whole.

    Example:
      >>> import lrx, pickle
      >>> tx = lrx.adam(lrx.cosine_decay(0.1, 100), b1=0.8)
      >>> tx
      adam(cosine_decay(0.1, 100), b1=0.8)
      >>> tx == pickle.loads(pickle.dumps(tx)) == lrx.adam(lrx.cosine_decay(0.1, 100), b1=0.8)
      True
    """

    def duplicate(self) -> Transformation:
        """Return a copy, which will remember another call."""
        return Transformation(self.init, self.update)

    def _replace(self, **functions: Any) -> optax.GradientTransformationExtraArgs:
        # With another function it is not the transformation that the factory makes.
        return optax.GradientTransformationExtraArgs(*self)._replace(**functions)

    # A tuple would be repeated or concatenated.
    __mul__ = __rmul__ = __add__ = __radd__ = _refuse_arithmetic


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that the transformation it returns remembers the call.

    Args:
      function: returns a gradient transformation that depends on the arguments alone, and on a number by its value: 1
        and 1.0 are the same argument, as for `functools.lru_cache`.

    Returns:
      The function, with the same signature. The error for a call that does not fit names the arguments that would.

    Example:
      >>> import lrx, optax
      >>> from lrx.transformations import factory
      >>> @factory
      ... def clipped_sgd(learning_rate, *, max_norm=1.0):
      ...     return optax.chain(optax.clip_by_global_norm(max_norm), lrx.sgd(learning_rate))
      >>> clipped_sgd(0.1, max_norm=0.5)
      clipped_sgd(0.1, max_norm=0.5)
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            raise TypeError(_misfit(function.__name__, signature, args, kwargs)) from None
        bound.arguments = {name: _snapshot(value) for name, value in bound.arguments.items()}
        built = function(*bound.args, **bound.kwargs)
        bound.apply_defaults()
        return _with_call(built, build, bound.arguments)

    return build


def _with_call(built: Any, made_by: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return a copy that remembers this call; the function may have returned the result of another call."""
    copy = built.duplicate() if isinstance(built, Built) else Transformation(built.init, built.update)
    copy.remember(made_by, arguments)
    return copy


def rebuild(made_by: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a factory again with the arguments that an object remembers, to unpickle it."""
    bound = _signature(made_by).bind_partial()
    bound.arguments.update(arguments)
    return made_by(*bound.args, **bound.kwargs)


@functools.lru_cache(maxsize=1024)
def _signature(made_by: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(made_by)


def write(value: Any) -> str:
    """Write an argument as an expression in lrx's own names, if there is one."""
    if isinstance(value, Built):
        return repr(value)
    if isinstance(value, optax.GradientTransformation):
        return f"<{type(value).__name__}>"
    if isinstance(value, jax.Array | np.ndarray | np.generic) and _checks.is_concrete(value):
        value = value.tolist()
    if type(value) in (list, tuple):
        parts = [write(part) for part in value]
        if len(parts) > SHOWN:
            parts = [*parts[:3], "...", *parts[-3:]]
        written = ", ".join(parts)
        return f"[{written}]" if type(value) is list else f"({written}{',' if len(parts) == 1 else ''})"
    if type(value) is dict:
        return f"{{{', '.join(f'{write(key)}: {write(part)}' for key, part in value.items())}}}"
    if isinstance(value, np.dtype) or (isinstance(value, type) and hasattr(value, "dtype")):  # jnp.bfloat16
        return repr(np.dtype(value).name)
    if _names_a_dtype(value):
        return repr(jax.numpy.dtype(value).name)
    if inspect.isroutine(value) or isinstance(value, type):
        return value.__name__
    return repr(value)


def write_call(name: str, arguments: Mapping[str, Any], signature: inspect.Signature) -> str:
    """Write the call that made an object, without arguments at their defaults."""
    parts, complete = [], True  # every argument before this one was written
    for key, parameter in signature.parameters.items():
        value, default = arguments[key], parameter.default
        text = write(value)
        if default is not parameter.empty and (value is default or text == write(default)):
            complete = False
            continue
        positional = complete and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        parts.append(text if positional else f"{key}={text}")
    return f"{name}({', '.join(parts)})"


def _names_a_dtype(value: Any) -> bool:
    """Return whether a value is a type of numbers: `jnp.bfloat16`, `np.float32` or `jnp.dtype("float32")`."""
    of_jax = type(jax.numpy.float32)
    return isinstance(value, np.dtype | of_jax) or (isinstance(value, type) and issubclass(value, np.generic))


class _Identity:
    """A wrapper that is equal to itself only, for values that cannot be compared."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _as_float(value: Any) -> Any:
    """Return the float that an int equals, and anything else as it is."""
    if type(value) is not int:
        return value
    try:
        number = float(value)
    except OverflowError:
        return value
    return number if number == value else value


def _key(value: Any) -> Any:
    """Return a key that is equal for arguments that make equal transformations; other values equal only themselves."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return type(value), repr(value)  # 1 is not True, nor 0.0 -0.0; not-a-number is itself
    if _names_a_dtype(value):
        return _key(jax.numpy.dtype(value).name)  # as the word that is taken in its place
    if isinstance(value, Built):
        return value
    if type(value) in (list, tuple):
        return (type(value), *map(_key, value))
    if type(value) is dict:
        return (dict, *((_key(name), _key(part)) for name, part in value.items()))
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return type(value), value.dtype, value.shape, value.tobytes()
    if isinstance(value, jax.Array) and _checks.is_concrete(value) and _is_readable(value):
        return jax.Array, value.dtype, value.weak_type, value.shape, np.asarray(value).tobytes()
    return _Identity(value)


def _identities(key: Any) -> Iterator[Any]:
    """Yield the values that a key compares by identity, also within the keys of its parts."""
    if isinstance(key, _Identity):
        yield key.value
    elif isinstance(key, Built):
        yield from key._identities
    elif type(key) is tuple:
        for part in key:
            yield from _identities(part)


def _is_readable(array: jax.Array) -> bool:
    return (
        array.is_fully_addressable
        and not array.is_deleted()
        and not jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended)
    )


def _snapshot(value: Any) -> Any:
    """Return the value in new containers, NumPy arrays as read-only copies, and NumPy scalars as Python numbers."""
    if type(value) in (list, tuple):
        return type(value)(_snapshot(part) for part in value)
    if type(value) is dict:
        return {_snapshot(name): _snapshot(part) for name, part in value.items()}
    if isinstance(value, np.bool_ | np.integer | np.float32 | np.float64):  # narrower floats are refused by some
        return value.item()
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.setflags(write=False)
    return value


def _misfit(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Write why a call does not fit a signature, and which call would."""
    parameters = signature.parameters.values()
    ordered = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    named = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    for given in kwargs:
        if given not in signature.parameters:
            close = _checks.nearest(given, signature.parameters, cutoff=0.5)
            hint = f"did you mean {close}=?" if close else f"there are {', '.join(signature.parameters)}."
            return f"{name} must be given arguments that it has, got {given}={write(kwargs[given])}: {hint}"
    if len(args) > len(ordered):
        first = f"only {', '.join(ordered)}" if ordered else "nothing"
        beyond = ", ".join(write(value) for value in args[len(ordered) :])
        return (
            f"{name} must be given {first} by position, got {len(args)} positional argument{'s' * (len(args) > 1)}: "
            f"name {beyond}, which may be {', '.join(f'{each}=' for each in named if each not in kwargs)}."
        )
    twice = [each for each in ordered[: len(args)] if each in kwargs]
    if twice:
        return f"{name} must be given {twice[0]} once, got it by position and by name: leave one out."
    missing = [
        each
        for index, each in enumerate(signature.parameters)
        if signature.parameters[each].default is inspect.Parameter.empty
        and each not in kwargs
        and not (each in ordered and index < len(args))
    ]
    return f"{name} must be given {', '.join(missing)}, got none: call {name}{_example(signature)}."


def _example(signature: inspect.Signature) -> str:
    """Write the required arguments of a call, by name."""
    required = [
        (each.name, each.kind) for each in signature.parameters.values() if each.default is inspect.Parameter.empty
    ]
    return (
        f"({', '.join(n if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD else f'{n}=...' for n, kind in required)})"
    )
