"""Hashes of traced programs, with all the constants in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lrx._paths import leaves_by_key

MOST_NUMBERS = 64  # of a program, that are kept to name a difference
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+|\b0x[0-9a-f]{6,}")
# A program's name, placement and printing options do not affect its numbers.
_UNIMPORTANT = {"name", "debug_info", "ctx_mesh", "in_layouts", "out_layouts", "inline", "keep_unused"}


def program_identity(function: Callable[..., Any], *arguments: Any) -> dict[str, Any] | None:
    """Return a hash of what a function computes at these shapes, and the numbers in it; None if it cannot be traced.

    The names of its results are part of what it computes. With `calls_back` it calls functions of the host, of which
    the hash knows the names alone.
    """
    try:
        program, results = jax.make_jaxpr(function, return_shape=True)(*arguments)
    except Exception:  # training says it, with the message that belongs there
        return None
    hashing = Hashing()
    digest = digest_of("\0".join([hashing.program(program), *leaves_by_key(results)]).encode())
    numbers = sorted(hashing.numbers, key=lambda text: (text == "nan", float(text)))
    found = {"digest": digest, "numbers": numbers[:MOST_NUMBERS]}
    return found | {"calls_back": True} if hashing.calls_back else found


class Hashing:
    """Hashes programs and everything in them, and collects the numbers."""

    def __init__(self) -> None:
        self.numbers: set[str] = set()
        self.calls_back = False  # whether a program calls functions of the host, of which the name alone is hashed
        self.has_rules = False  # whether a function has a derivative of its own, of which the name alone is hashed
        self._known: dict[int, str] = {}  # by identity, since an inner program is often called many times
        self._kept: list[Any] = []  # so that identities stay unique

    def program(self, program: Any) -> str:
        """Hash a jaxpr, closed or open, with variables numbered in the order in which they appear."""
        if id(program) in self._known:
            return self._known[id(program)]
        inner, constants = (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())
        hasher = hashlib.blake2b(digest_size=12)
        number: dict[Any, int] = {}

        def feed(*texts: str) -> None:
            hasher.update("\0".join(texts).encode() + b"\1")

        def atom(x: Any) -> str:
            if hasattr(x, "val"):
                return f"literal {self.value(x.val)} {x.aval}"
            return f"{number.setdefault(x, len(number))}:{x.aval}"

        feed("constants", *map(self.value, constants))
        feed("inputs", *map(atom, [*inner.constvars, *inner.invars]))
        for equation in inner.eqns:
            parameters = sorted((k, v) for k, v in equation.params.items() if k not in _UNIMPORTANT)
            self.calls_back |= "callback" in equation.primitive.name
            self.has_rules |= equation.primitive.name.startswith(("custom_jvp", "custom_vjp"))
            feed(equation.primitive.name, *(f"{k}={self.value(v)}" for k, v in parameters))
            feed("in", *map(atom, equation.invars))
            feed("out", *map(atom, equation.outvars))
        feed("outputs", *map(atom, inner.outvars))
        self._known[id(program)] = hasher.hexdigest()
        self._kept.append(program)
        return self._known[id(program)]

    def value(self, value: Any) -> str:
        """Return a text that is the same for the same constant or parameter of an equation, in every process."""
        if isinstance(value, bool | str | bytes | type(None) | type):
            return repr(value)
        if isinstance(value, int | float | complex | np.generic) or (
            isinstance(value, np.ndarray | jax.Array) or hasattr(value, "__array__")
        ):
            return self._array(value)
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            return self.program(value)
        if isinstance(value, Mapping):
            return "{" + ",".join(sorted(f"{self.value(k)}:{self.value(v)}" for k, v in value.items())) + "}"
        if isinstance(value, set | frozenset):
            return "{" + ",".join(sorted(map(self.value, value))) + "}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}({','.join(map(self.value, value))})"
        if callable(value):
            return f"function {getattr(value, '__qualname__', type(value).__qualname__)}"
        return ADDRESS.sub("", repr(value))

    def _array(self, value: Any) -> str:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.ndim == 0 and array.dtype.kind in "iuf":
            self.numbers.add(f"{float(array):.6g}")
        if array.dtype.hasobject:
            return ADDRESS.sub("", repr(value))
        # A Python number and its array are the same constant.
        kind = type(value).__name__ if isinstance(value, int | float | complex) else str(array.dtype)
        return f"{kind}{list(array.shape)} {digest_of(np.ravel(array).view(np.uint8).data if array.size else b'')}"


def digest_of(content: Any) -> str:
    """Return a hash of bytes."""
    return hashlib.blake2b(content, digest_size=12).hexdigest()
