"""The defaults: what a method has in common with optax's, it calls by the same name and sets to the same value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import optax
import pytest
from optax import contrib

import lrx

PAIRS: dict[str, Callable[..., Any]] = {
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "cocob": contrib.cocob,
    "d_adaptation": contrib.dadapt_adamw,
    "dog": contrib.dog,
    "dowg": contrib.dowg,
    "mechanic": contrib.mechanize,
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "polyak": optax.polyak_sgd,
    "prodigy": contrib.prodigy,
    "reduce_on_plateau": contrib.reduce_on_plateau,
    "rmsprop": optax.rmsprop,
    "scale_by_adam": optax.scale_by_adam,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "schedule_free_sgd": contrib.schedule_free_sgd,
    "sgd": optax.sgd,
}
OTHERS = {
    ("adagrad", "eps"): 1e-8,  # optax has 1e-7
    ("adamw", "weight_decay"): 0.01,  # PyTorch's
    ("reduce_on_plateau", "accumulation_size"): None,  # chosen by the noise of the loss
    ("rmsprop", "decay"): 0.99,  # PyTorch's
    ("schedule_free_sgd", "weight_decay"): 0.0,  # optax has None for it
}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


@pytest.mark.parametrize("name", PAIRS)
def test_shared_defaults_are_those_of_optax(name):
    own, theirs = defaults(getattr(lrx, name)), defaults(PAIRS[name])
    expected = {key: OTHERS.get((name, key), theirs[key]) for key in own if key in theirs}
    assert {key: own[key] for key in expected} == expected
    assert expected
