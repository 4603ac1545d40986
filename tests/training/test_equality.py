"""Which functions count as equal, so that their programs are found again, and which do not."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import os
import random
import time
import types
import weakref
from typing import Any, ClassVar, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training.equality import UndecidedError, key_of
from lrx.transformations import Transformation

DECAY = 0.1
settings = types.ModuleType("settings")  # a module of the user's own
settings.decay = 0.1  # type: ignore[attr-defined]


class Config:
    decay = 0.1


class Holder:
    def __init__(self, decay: float) -> None:
        self.decay = decay


@dataclasses.dataclass
class Options:
    decay: float


def by_closure(decay: Any) -> Any:
    return lambda rate: lrx.adamw(rate, weight_decay=decay)


def by_global() -> Any:
    return lambda rate: lrx.adamw(rate, weight_decay=DECAY)


def by_module() -> Any:
    return lambda rate: lrx.adamw(rate, weight_decay=settings.decay)


def by_class() -> Any:
    return lambda rate: lrx.adamw(rate, weight_decay=Config.decay)


def by_default(decay: float) -> Any:
    return lambda rate, decay=decay: lrx.adamw(rate, weight_decay=decay)


def nested(decay: float) -> Any:
    inner = by_closure(decay)
    return lambda rate: inner(2.0 * rate)


MADE = {
    "closure": by_closure,
    "default": by_default,
    "nested": nested,
    "partial": lambda decay: functools.partial(lrx.adamw, weight_decay=decay),
    "tuple": lambda decay: by_closure((decay, 1)),
    "array": lambda decay: by_closure(np.array([decay])),
    "array on a device": lambda decay: by_closure(jnp.array([decay])),
    "dataclass": lambda decay: by_closure(Options(decay)),
    "transformation": lambda decay: lrx.adamw(lrx.cosine_decay(decay, 10)),
    "with a function": lambda decay: lrx.adamw(decay, mask=lambda params: True),
    "optax": lambda decay: optax.chain(optax.clip(1.0), optax.adam(decay)),
    "chain": lambda decay: optax.chain(optax.clip(1.0), lrx.sgd(0.1, momentum=decay)),
    "jitted": lambda decay: jax.jit(by_closure(decay)),
    "not a number": lambda decay: by_closure(float("nan") if decay == 0.1 else decay),
}


@pytest.mark.parametrize("kind", MADE)
def test_functions_made_anew_are_equal_if_what_they_hold_is(kind):
    make = MADE[kind]
    assert key_of(make(0.1)) == key_of(make(0.1))
    assert hash(key_of(make(0.1))) == hash(key_of(make(0.1)))
    assert key_of(make(0.1)) != key_of(make(0.2))


@pytest.mark.parametrize("kind", ["global", "module", "class"])
def test_a_value_that_is_changed_later_makes_another_function(kind, monkeypatch):
    make = {"global": by_global, "module": by_module, "class": by_class}[kind]
    before, function = key_of(make()), make()
    assert key_of(function) == before
    owner, name = {"global": (None, "DECAY"), "module": (settings, "decay"), "class": (Config, "decay")}[kind]
    if owner is None:
        monkeypatch.setitem(globals(), name, 0.2)
    else:
        monkeypatch.setattr(owner, name, 0.2)
    assert key_of(make()) != before
    assert key_of(function) != before  # the very same object computes something else now


def test_what_might_change_unseen_is_not_decided():
    calls: list[int] = []

    def counting(rate: Any) -> Any:
        calls.append(1)
        return lrx.sgd(rate)

    class Table(dict):  # type: ignore[type-arg]
        pass

    class Wrapper:
        def __init__(self, function: Any, scale: float) -> None:
            functools.update_wrapper(self, function)
            self.scale = scale

    table = Table(decay=0.1)
    table.scale = 2.0  # type: ignore[attr-defined]
    partial = functools.partial(len)
    partial.scale = 2.0  # type: ignore[attr-defined]
    held = (Holder(0.1), np.zeros(10_000), table, partial, Wrapper(len, 2.0), settings)
    for function in (*map(by_closure, held), counting):
        with pytest.raises(UndecidedError):
            key_of(function)


def class_with_a_jitted_call(scale: float) -> Any:
    @dataclasses.dataclass(frozen=True)
    class Loss:
        weight: float

        @functools.partial(jax.jit, static_argnums=0)
        def __call__(self, x: Any) -> Any:
            return scale * self.weight * x

    return Loss(3.0)


def class_with_a_new(scale: float) -> Any:
    class Scaled(tuple):  # type: ignore[type-arg]
        __slots__ = ()

        def __new__(cls, x: float) -> Any:
            return super().__new__(cls, (scale * x,))

    return lambda rate: lrx.sgd(Scaled(rate)[0])


def class_of_an_installed_base(scale: float) -> Any:
    class Table(collections.UserDict if scale == 0.1 else collections.UserList):  # type: ignore[misc, type-arg]
        pass

    return lambda: Table


def with_a_default(scale: float) -> Any:
    table: Any = collections.defaultdict(lambda: scale)
    return lambda rate: lrx.sgd(rate * table["decay"])


def array_with_an_attribute(scale: float) -> Any:
    class Array(np.ndarray):  # type: ignore[type-arg]
        pass

    array: Any = np.ones(2).view(Array)
    array.scale = scale
    return by_closure(array)


def number_with_an_attribute(scale: float) -> Any:
    class Number(float):
        pass

    number: Any = Number(1.0)
    number.scale = scale
    return by_closure(number)


def list_with_a_slot(scale: float) -> Any:
    class Items(list):  # type: ignore[type-arg]
        __slots__ = ("scale",)

    items = Items([1])
    items.scale = scale
    return by_closure(items)


def date(scale: float) -> Any:
    return by_closure(np.datetime64(1, "D" if scale == 0.1 else "s"))


def frozen_dict(scale: float) -> Any:
    return by_closure(flax.core.FrozenDict(a=1 if scale == 0.1 else True))


def functions_of_a_factory(scale: float) -> Any:
    return Transformation(*lrx.sgd(scale))


def length_of_a_queue(scale: float) -> Any:
    return by_closure(collections.deque([1], maxlen=round(10 * scale)))


def class_of_a_wrapper(scale: float) -> Any:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return scale * nn.Dense(1)(x)

    return nn.remat(Block)().apply


def class_that_is_made(scale: float) -> Any:
    made = dataclasses.make_dataclass("Made", ["weight"], namespace={"loss": lambda self, x: scale * self.weight * x})
    return made(1.0).loss


def order_of_fields(scale: float) -> Any:
    names = ("a", "b") if scale == 0.1 else ("b", "a")
    return by_closure(np.zeros(2, [(name, "f4") for name in names]))


def structure_with_a_function(scale: float) -> Any:
    return jax.tree.structure(jax.tree_util.Partial(by_closure(scale), 1.0))


def key_of_random_numbers(scale: float) -> Any:
    return by_closure(jax.random.key(round(10 * scale)))


LIKE = [class_of_a_wrapper, class_that_is_made, order_of_fields, structure_with_a_function, key_of_random_numbers]
LIKE += [class_with_a_jitted_call, class_with_a_new, class_of_an_installed_base, with_a_default, date, frozen_dict]
LIKE += [array_with_an_attribute, number_with_an_attribute, list_with_a_slot]
LIKE += [functions_of_a_factory, length_of_a_queue]


@pytest.mark.parametrize("make", LIKE, ids=lambda make: make.__name__)
def test_what_looks_alike_is_not_taken_for_equal(make):
    with contextlib.suppress(UndecidedError):
        assert key_of(make(0.1)) != key_of(make(0.2))


class Looks:
    """Objects that stay the same while what they return changes."""

    table: ClassVar[dict[str, float]] = {"decay": 0.1}
    array = np.ones(2)


@functools.wraps(optax.sgd)
def wrapped(learning_rate: float) -> Any:
    return optax.sgd(DECAY * learning_rate)


def double(x: float) -> float:
    return DECAY * x


METHODS = {
    "a method of a dict": lambda: Looks.table.get,
    "a method of an array": lambda: Looks.array.item,
    "a wrapped function": lambda: wrapped,
    "a function for arrays": lambda: np.frompyfunc(double, 1, 1),
    "a function for arrays of JAX": lambda: jnp.frompyfunc(double, 1, 1),
    "a weak reference": lambda: weakref.ref(Looks),
}


@pytest.mark.parametrize("kind", METHODS)
def test_what_a_method_returns_is_part_of_its_key(kind, monkeypatch):
    held = METHODS[kind]()
    function = lambda rate: held(rate)  # noqa: E731
    with contextlib.suppress(UndecidedError):
        before = key_of(function)
        monkeypatch.setitem(Looks.table, "decay", 0.2)
        monkeypatch.setattr(Looks, "table", Looks.table)
        monkeypatch.setitem(globals(), "DECAY", 0.2)
        Looks.array[:] += 1
        assert key_of(function) != before


@pytest.mark.parametrize("held", [random.random, time.time, datetime.datetime, os.getenv, np.random.normal])
def test_what_returns_another_value_each_time_is_not_decided(held):
    with pytest.raises(UndecidedError):
        key_of(lambda: held)


class Buffers(NamedTuple):
    scale: Any
    maxlen: Any


class Kind(enum.IntEnum):
    ONE = 1
    TWO = 2


def test_ordinary_values_are_decided():
    kept = [jax.tree_util.Partial(jnp.mean, 1.0), jnp.maximum, Kind.ONE, Buffers(1.0, np.ones(2)), jax.random.key(0)]
    for value in kept:
        assert key_of(by_closure(value)) == key_of(by_closure(value))
    assert key_of(by_closure(Kind.ONE)) != key_of(by_closure(Kind.TWO))


answering = types.ModuleType("answering")  # a module of the user's own that answers to every name
answering.__getattr__ = lambda name: DECAY  # type: ignore[method-assign, assignment]


def test_what_a_module_answers_and_what_is_drawn_inside_is_not_decided():
    def drawn(rate: float) -> float:
        import numpy as np

        return rate * float(np.random.normal())  # noqa: NPY002

    for function in (drawn, lambda rate: rate * answering.decay, lambda rate: rate * hasattr(answering, "decay")):
        with pytest.raises(UndecidedError):
            key_of(function)


def test_keys_are_found_while_something_else_is_traced():
    held, found = by_closure(jax.random.key(0)), []
    jax.make_jaxpr(lambda x: (found.append(key_of(held)), x)[1])(1.0)
    assert found == [key_of(held)]


def test_what_is_nested_too_deeply_is_not_decided():
    function: Any = lambda x: x  # noqa: E731
    for _ in range(1000):
        function = functools.partial(function)
        function = by_closure(function)
    with pytest.raises(UndecidedError):
        key_of(function)


def test_sets_are_decided_only_of_plain_values():
    assert key_of({1, "a"}) == key_of({"a", 1}) != key_of({1, "b"})
    with pytest.raises(UndecidedError):
        key_of({by_closure(0.1), by_closure(0.1)})


def test_code_that_differs_is_another_function():
    assert key_of(lambda x: x + 1) != key_of(lambda x: x + 2)
    assert key_of(lambda x: x + 1) != key_of(lambda x: x - 1)
    assert key_of(lambda x: [x + i for i in range(2)]) != key_of(lambda x: [x - i for i in range(2)])
    assert key_of(1) != key_of(True) != key_of(1.0)
    assert key_of(0.0) != key_of(-0.0)


def test_functions_may_refer_to_each_other():
    def make(step: int) -> Any:
        def even(n: int) -> bool:
            return n == 0 or odd(n - step)

        def odd(n: int) -> bool:
            return n != 0 and even(n - step)

        return even

    assert key_of(make(1)) == key_of(make(1)) != key_of(make(2))
