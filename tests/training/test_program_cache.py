"""Programs that are kept: which call finds one again, and with whose functions it is traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.training import Batches, Evaluation, Workload
from lrx.training.checks import workload_key
from lrx.training.program_cache import Cache, compile_once


class Model:
    """An object whose attributes may change: what its methods compute is known from their trace alone."""

    def __init__(self) -> None:
        self.scale = 1.0

    def loss(self, slope: Any, x: Any, key: Any) -> Any:
        return jnp.mean((self.scale * slope - x) ** 2)


def test_a_kept_program_is_traced_with_the_functions_of_its_caller():
    def experiment(number: int) -> list[list[Any]]:
        found, x = [], np.linspace(-1.0, 1.0, number, dtype=np.float32)
        for scale in (1.0, 2.0):  # which all functions of the loop name, and which is 2 when it has ended
            workload = Workload.from_functions(
                lambda slope, x, key: jnp.mean((scale * slope * x - x) ** 2),  # noqa: B023
                lambda key: jnp.float32(0.5),
                Batches(x, batch_size=16, shuffle=False),
                evaluate=Evaluation(lambda slope, x: {"scale": scale * jnp.sum(x) / jnp.sum(x)}, np.ones(number)),  # noqa: B023
            )
            history = lrx.train(workload, lrx.sgd(0.1), steps=2, evaluate_every=2)
            swept = lrx.sweep(workload, lrx.sgd, {"learning_rate": [0.1]}, num_steps=2)
            found.append([history.loss[0], history.evaluations["scale"][-1], swept.initial_loss[0, 0]])
        return found

    experiment(32)
    small, large = experiment(64)
    assert small[0] > 0.01
    assert large[0] == large[2] == 0.0
    assert small[2] > 0.01
    assert (small[1], large[1]) == (1.0, 2.0)


def test_an_undecided_workload_is_traced_and_compiles_once():
    compiled = []
    workload = Workload.from_functions(
        Model().loss, lambda key: jnp.float32(0.0), Batches(jnp.ones(4), batch_size=4, shuffle=False)
    )

    def listen(event: str, duration: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about)

    for _ in range(2):
        compiled.clear()
        jax.monitoring.register_event_duration_secs_listener(listen)
        lrx.sweep(workload, lrx.sgd, {"learning_rate": [1.0]}, num_steps=2)
        lrx.train(workload, lrx.sgd(1.0), steps=1)
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_the_key_of_an_undecided_workload_traces_init_once():
    calls = []

    class Initial(Model):
        def __call__(self, key: Any) -> Any:
            calls.append(key)
            return jnp.float32(self.scale)

    workload = Workload.from_functions(Model().loss, Initial(), Batches(jnp.ones(4), batch_size=4, shuffle=False))
    calls.clear()
    workload_key(workload)
    assert len(calls) == 1


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
