"""Is the compiled optimizer step as fast as the same chain written with optax, and does it compile as fast?

    python -m lrx.benchmarks.optimizer_step
    python -m lrx.benchmarks.optimizer_step --trees resnet110 --chains adam adam-scheduled --program

The step is `tx.update` and `optax.apply_updates`, compiled with parameters and state donated, on finished gradients;
nothing else is in it. It is timed within a compiled loop, as training runs it, and called from Python, where each
array that is handed over takes its time, and those of a rate that can be read are some more. Both libraries' are timed
in turn, so that other load hits both alike, and each goes first as often. Printed are the median times, and the median
and the quartiles, over the rounds, of the ratio of ours to optax's. To compile is to trace, lower and compile, with
empty caches. `--program` counts what the compiled programs consist of.
"""

from __future__ import annotations

import argparse
import gc
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrx
from lrx.workloads.resnet import ResNet

RATE, WARMUP_STEPS, TOTAL_STEPS = 1e-3, 1_000, 1_000_000
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4

LIBRARIES = ("lrx", "optax")


def residual_network(depth: int) -> Any:
    """Give the shapes of a CIFAR ResNet's parameters."""
    network = nnx.eval_shape(lambda: ResNet((32, 32, 3), 10, depth=depth, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def transformer(width: int = 512, layers: int = 8, vocabulary: int = 256, positions: int = 512) -> Any:
    """Give the shapes of the parameters of a transformer on bytes: 25.6 million in 132 leaves."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def dense(before: int, after: int) -> dict[str, Any]:
        return {"kernel": array(before, after), "bias": array(after)}

    def layer() -> dict[str, Any]:
        norm = {"scale": array(width), "bias": array(width)}
        attention = {name: dense(width, width) for name in ("query", "key", "value", "output")}
        return {
            "attention": attention,
            "attention_norm": norm,
            "expand": dense(width, 4 * width),
            "contract": dense(4 * width, width),
            "norm": norm,
        }

    embeddings = {"tokens": array(vocabulary, width), "positions": array(positions, width)}
    last = {"scale": array(width), "bias": array(width)}
    return {"embeddings": embeddings, "layers": {str(i): layer() for i in range(layers)}, "norm": last}


TREES: dict[str, Callable[[], Any]] = {
    "resnet20": lambda: residual_network(20),
    "resnet110": lambda: residual_network(110),
    "transformer": transformer,
}

METHODS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "sgd": {
        "lrx": lambda rate: lrx.sgd(rate, momentum=MOMENTUM),
        "optax": lambda rate: optax.sgd(rate, momentum=MOMENTUM),
    },
    "adam": {"lrx": lambda rate: lrx.adam(rate), "optax": lambda rate: optax.adam(rate)},
    "adamw": {
        "lrx": lambda rate: lrx.adamw(rate, weight_decay=WEIGHT_DECAY),
        "optax": lambda rate: optax.adamw(rate, weight_decay=WEIGHT_DECAY),
    },
}
CHAINS = [*METHODS, *(f"{name}-scheduled" for name in METHODS)]


def transformation(library: str, chain: str) -> Any:
    """Make a chain, such as "adam" or "adam-scheduled", anew."""
    method, _, scheduled = chain.partition("-")
    if not scheduled:
        rate: Any = RATE
    elif library == "lrx":
        rate = lrx.warmup(lrx.cosine_decay(RATE, TOTAL_STEPS - WARMUP_STEPS), WARMUP_STEPS)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, RATE, WARMUP_STEPS, TOTAL_STEPS)
    return METHODS[method][library](rate)


def stepper(tx: Any) -> Any:
    """Make the step to be compiled."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def arrays_like(shapes: Any, scale: float) -> Any:
    """Draw a tree of normal numbers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), x.dtype), shapes)


class Run:
    """The training state and the compiled step of a chain."""

    def __init__(self, tx: Any, shapes: Any) -> None:
        self.params, self.grads, self.step = arrays_like(shapes, 1.0), arrays_like(shapes, 0.01), stepper(tx)
        self.state = tx.init(self.params)

        def loop(params: Any, state: Any, grads: Any, steps: jax.Array) -> tuple[Any, Any]:
            return jax.lax.fori_loop(0, steps, lambda _, carry: self.step(*carry, grads), (params, state))

        self.loop = jax.jit(loop, donate_argnums=(0, 1))

    def seconds(self, steps: int, *, looped: bool = False) -> float:
        """Make steps, on arrays put somewhere else in memory: where they lie is luck, and worth several per cent."""
        arrays = jax.tree.map(jnp.copy, (self.params, self.state, self.grads))
        (self.params, self.state), self.grads = self.step(*arrays), arrays[2]
        jax.block_until_ready((self.params, self.state))
        began = time.perf_counter()
        if looped:
            self.params, self.state = self.loop(self.params, self.state, self.grads, steps)
        else:
            for _ in range(steps):
                self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))
        return time.perf_counter() - began


def compile_seconds(library: str, chain: str, shapes: Any) -> tuple[float, float]:
    """Compile as a fresh process would: the seconds of tracing and lowering, and those of XLA."""
    tx = transformation(library, chain)
    state = jax.eval_shape(tx.init, shapes)
    jax.clear_caches()
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    lowered = stepper(tx).lower(shapes, state, shapes)
    middle = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    gc.enable()
    return middle - began, ended - middle


def in_turn(measure: Callable[..., Any], rounds: int, *arguments: Any) -> dict[str, np.ndarray]:
    """Call `measure(library, *arguments)` for both libraries in every round, each of them first as often."""
    results: dict[str, list[Any]] = {library: [] for library in LIBRARIES}
    for index in range(rounds):
        for library in LIBRARIES if index % 2 == 0 else LIBRARIES[::-1]:
            results[library].append(measure(library, *arguments))
    return {library: np.array(values) for library, values in results.items()}


def step_seconds(library: str, runs: dict[str, Run], steps: int, looped: bool) -> float:
    """Give the seconds of a step, the mean of several."""
    return runs[library].seconds(steps, looped=looped) / steps


def against_optax(times: dict[str, np.ndarray], unit: float) -> str:
    """Write the median times in a unit, the ratio of the medians, and the quartiles of the ratio of each round."""
    ours, theirs = (times[library] for library in LIBRARIES)
    low, high = np.percentile(ours / theirs, [25, 75])
    medians = np.median(ours), np.median(theirs)
    return f"{medians[0] / unit:9.1f} {medians[1] / unit:9.1f} {medians[0] / medians[1]:6.3f} ({low:.3f} to {high:.3f})"


OPERATIONS = ("fusion", "copy", "convert", "multiply", "divide", "select")


def program_counts(library: str, chain: str, shapes: Any) -> list[int]:
    """Count the arguments, the instructions that run one by one, and kinds of operations anywhere in the program."""
    tx = transformation(library, chain)
    state = jax.eval_shape(tx.init, shapes)
    text = stepper(tx).lower(shapes, state, shapes).compile().as_text()
    computations = re.split(r"\n(?=ENTRY )", text)
    operations = re.findall(r"= (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", text)
    entry = re.findall(r"= (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", computations[-1])
    arguments = entry.count("parameter")
    running = len(entry) - sum(entry.count(free) for free in ("parameter", "constant", "tuple", "get-tuple-element"))
    return [arguments, running, *(operations.count(name) for name in OPERATIONS)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", nargs="+", choices=TREES, default=list(TREES))
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=CHAINS)
    parser.add_argument("--rounds", type=int, default=40, help="timings of the step of each library")
    parser.add_argument("--compilations", type=int, default=5, help="of the step of each library")
    parser.add_argument("--program", action="store_true", help="count the operations of the compiled programs instead")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    for tree in options.trees:
        shapes = TREES[tree]()
        leaves = jax.tree.leaves(shapes)
        print(f"\n{tree}: {len(leaves)} leaves, {sum(math.prod(leaf.shape) for leaf in leaves):,} parameters")
        if options.program:
            print(f"{'':16} {'':5} arguments  run " + " ".join(f"{name:>8}" for name in OPERATIONS))
            for chain in options.chains:
                for library in LIBRARIES:
                    arguments, running, *counts = program_counts(library, chain, shapes)
                    print(f"{chain:16} {library:5} {arguments:9} {running:4} " + " ".join(f"{n:8}" for n in counts))
            continue
        header = f"{'lrx':>9} {'optax':>9}  ratio (quartiles)   "
        print(f"{'':16} {'step in a compiled loop, us':45} step called from Python, us\n{'':16} {header:45} {header}")
        for chain in options.chains:
            runs = {library: Run(transformation(library, chain), shapes) for library in LIBRARIES}
            cells = []
            for looped in (True, False):
                for run in runs.values():
                    run.seconds(3, looped=looped)  # compiles
                slowest = max(run.seconds(20, looped=looped) for run in runs.values()) / 20
                steps = max(5, math.ceil(0.03 / slowest))
                cells.append(against_optax(in_turn(step_seconds, options.rounds, runs, steps, looped), 1e-6))
            print(f"{chain:16} {cells[0]:45} {cells[1]}", flush=True)
        if not options.compilations:
            continue
        print(f"{'':16} to compile, ms (of it, tracing and lowering)\n{'':16} {header}")
        for chain in options.chains:
            compile_seconds(LIBRARIES[0], chain, shapes)
            pairs = in_turn(compile_seconds, options.compilations, chain, shapes)
            whole = {library: pair.sum(axis=1) for library, pair in pairs.items()}
            lowering = {library: pair[:, 0] for library, pair in pairs.items()}
            print(f"{chain:16} {against_optax(whole, 1e-3)}   {against_optax(lowering, 1e-3)}", flush=True)


if __name__ == "__main__":
    main()
