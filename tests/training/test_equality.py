"""Which functions count as equal, so that their programs are found again, and which do not."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training.equality import Cache, UndecidedError, compile_once, key_of, key_or_itself

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

    for function in (by_closure(Holder(0.1)), by_closure(np.zeros(10_000)), counting):
        with pytest.raises(UndecidedError):
            key_of(function)
        assert key_or_itself(function) == key_or_itself(function)
    assert key_or_itself(by_closure(Holder(0.1))) != key_or_itself(by_closure(Holder(0.1)))


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


def test_a_cache_is_bounded_and_forgets_what_was_used_longest_ago():
    cache, built = Cache(2), []

    def find(key: str) -> str:
        return cache.find(key, lambda: built.append(key) or key)

    for key in "abacab":
        assert find(key) == key
    assert "".join(built) == "abcb"


def test_settings_of_jax_are_part_of_every_key():
    built = []
    build = compile_once(4)(lambda x: built.append(x))
    build(1)
    build(1)
    with jax.numpy_rank_promotion("allow"):
        build(1)
    with jax.default_matmul_precision("float32"):
        build(1)
    assert len(built) == 3
