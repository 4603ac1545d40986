"""Compiled programs that are kept: each is found again by a key, and traced with the functions of its latest caller."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import jax

from lrx.training.equality import UndecidedError, key_of

# What a trace depends on besides its functions and arguments.
SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_debug_nans", "jax_debug_infs", "jax_disable_jit"),
)

Result = TypeVar("Result")
Parts = TypeVar("Parts")


def signature_of(arguments: Any) -> Hashable:
    """Return the structure, shapes and types of arguments: a function is traced once for each."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple(map(jax.typeof, leaves))


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

    def find_program(self, key: Hashable, parts: Parts, build: Callable[[Latest[Parts]], Result]) -> Result:
        """Return the program of a key, which is built of a `Latest` and takes its parts while it is traced.

        Args:
          key: equal for parts that compute the same.
          parts: the caller's.
          build: returns functions that are not traced yet, such as `jax.jit` of one.
        """

        def built() -> tuple[Latest[Parts], Result]:
            latest = Latest(parts)
            return latest, build(latest)

        latest, program = self.find(key, built)
        latest.parts = parts
        return program


class Latest(Generic[Parts]):
    """The functions that a kept program is traced with: those of the latest caller whose key is equal.

    A program is traced again for arguments of other shapes. The functions of an earlier caller may compute something
    else by then: the variable of a loop that they name, or a dict that they hold, has changed.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
