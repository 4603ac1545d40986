"""Law 11: what lrx computes lowers for NVIDIA GPUs and TPUs, on any machine, and holds nothing that slows them down.

The lowered text holds no call back to the host, no float64 and no dynamic shape. With 64-bit types enabled and float32
parameters, rates, updates and states keep their types. The text then holds float64 scalars, because JAX writes Python
numbers so, but each is converted before anything is computed with it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import all_states
from problems import mixed_params

import lrx
from lrx.training import train

PLATFORMS = ("cuda", "tpu")
CALLBACK = re.compile(r"callback|infeed|outfeed|stablehlo\.send|stablehlo\.recv")
DYNAMIC = re.compile(r"tensor<[^>]*\?")
LOCATION = re.compile(r" loc\(.*")
# With 64-bit types, a float64 must be a scalar that is written, passed to a function or converted.
WIDE_ARRAY = re.compile(r"tensor<\d[^>]*f64>")
WITH_A_WIDE_SCALAR = re.compile(r"stablehlo\.(constant|convert)\b|\bcall @|\bfunc\.func\b|dense<")


def abstract(tree: Any) -> Any:
    """Return the shapes and types of a tree."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def lowered(function: Any, *arguments: Any) -> jax.export.Exported:
    """Lower a function, jitted or not, for every platform, and check that the text obeys the law."""
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    for line in exported.mlir_module().splitlines():
        line = LOCATION.sub("", line)
        for what, pattern in {"a host callback": CALLBACK, "a dynamic shape": DYNAMIC}.items():
            assert not pattern.search(line), f"{what}: {line.strip()}"
        if jax.config.jax_enable_x64:
            assert not WIDE_ARRAY.search(line), f"an array of float64: {line.strip()}"
            assert "f64" not in line or WITH_A_WIDE_SCALAR.search(line), f"arithmetic in float64: {line.strip()}"
        else:
            assert "f64" not in line, f"float64: {line.strip()}"
    return exported


def types(x64: bool) -> Any:
    return jax.enable_x64(True) if x64 else contextlib.nullcontext()


@pytest.mark.parametrize("x64", [pytest.param(False, id="32"), pytest.param(True, id="x64", marks=pytest.mark.slow)])
@all_states
def test_init_update_and_monitor_lower_for_accelerators(case, x64):
    with types(x64):
        tx, params = case(), abstract(mixed_params())

        def step(gradients: Any, params: Any, value: Any) -> Any:
            updates, state = tx.update(gradients, tx.init(params), params, value=value)
            return updates, state, lrx.monitor(state)

        exported = lowered(step, params, params, jax.ShapeDtypeStruct((), jnp.float32))
        assert all(jnp.dtype(aval.dtype).itemsize <= 4 for aval in exported.out_avals)
        if isinstance(tx, lrx.Schedule):
            curve = lowered(lambda counts: tx(counts), jax.ShapeDtypeStruct((8,), jnp.int32))
            assert [str(aval.dtype) for aval in curve.out_avals] == ["float32"]


CHOSEN: dict[str, Callable[[Any], Any]] = {
    "adamw of a schedule": lambda rate: lrx.adamw(lrx.warmup(lrx.cosine_decay(rate, 60), 4), weight_decay=1e-4),
    "controllers that judge and stop": lambda rate: lrx.sgd(
        rate * lrx.reduce_on_plateau(patience=1) * lrx.early_stopping(patience=3), momentum=0.9
    ),
    "a guard": lambda rate: lrx.rollback_on_divergence(lrx.schedule_free_adamw(rate)),
    "groups that accumulate": lambda rate: lrx.accumulate(
        lrx.group_rates(lrx.adam(rate), {"w": "slow", "b": "fast"}, {"slow": 0.1, "fast": 1.0}), 2
    ),
}
TOOLS: dict[str, Callable[[lrx.Workload, Callable[[Any], Any]], Any]] = {
    "train": lambda workload, make: train(workload, make(0.1), steps=6, seed=0),
    **{
        f"sweep by {strategy}": lambda workload, make, strategy=strategy: lrx.sweep(
            workload, make, {"rate": [0.03, 0.1]}, num_steps=6, seeds=2, execution=lrx.tuning.Execution(strategy)
        )
        for strategy in ("vmap", "map")
    },
}


def network() -> lrx.Workload:
    """Return a new workload, so that no program of an earlier test is found in place of a new one."""
    x = jax.random.normal(jax.random.key(0), (24, 3))

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        noise = 0.01 * jax.random.normal(key, batch[1].shape)
        return jnp.mean((jnp.tanh(batch[0] @ params["w"]) + params["b"] - batch[1] + noise) ** 2)

    def init_fn(key: jax.Array) -> Any:
        return {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0.0)}

    return lrx.Workload.from_functions(loss_fn, init_fn, lrx.Batches((x, x[:, 0]), batch_size=8))


class FoundError(Exception):
    """Raised in place of the run, once the program that makes its steps has been lowered."""


@pytest.fixture
def lowers_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check every program that is jitted from here on, up to the first with a loop."""
    jit = jax.jit

    def jit_and_lower(function: Any, **options: Any) -> Any:
        jitted = jit(function, **options)

        class Jitted:
            def __getattr__(self, name: str) -> Any:
                return getattr(jitted, name)

            def __call__(self, *arguments: Any) -> Any:
                self.hold_to_the_law(arguments)
                return jitted(*arguments)

            def lower(self, *arguments: Any) -> Any:
                self.hold_to_the_law(arguments)
                return jitted.lower(*arguments)

            def hold_to_the_law(self, arguments: Any) -> None:
                with monkeypatch.context() as patch:
                    patch.setattr(jax, "jit", jit)
                    if "stablehlo.while" in lowered(jitted, *abstract(arguments)).mlir_module():
                        raise FoundError

        return Jitted()

    monkeypatch.setattr(jax, "jit", jit_and_lower)


@pytest.mark.slow
@pytest.mark.usefixtures("lowers_programs")
@pytest.mark.parametrize("make", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_the_programs_of_train_and_sweep_lower_for_accelerators(tool, make):
    with pytest.raises(FoundError):
        tool(network(), lambda rate: make(rate))
