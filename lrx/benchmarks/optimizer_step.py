"""Is the compiled optimizer step as fast as the same chain written with optax, and does it compile as fast?

    lrx bench optimizer_step
    lrx bench optimizer_step --tree resnet110

The step consists of only `tx.update` and `optax.apply_updates`, compiled with parameters and state donated, on given
gradients. It is timed within a compiled loop, as training runs it, and called from Python, where each array that is
passed takes time; a rate that can be read adds a few arrays. The libraries are timed in turn. The output shows the
median times, and the median and the quartiles, over rounds, of the ratio of the time of lrx to that of optax.
Compilation means tracing, lowering and compiling with empty caches. --program counts the operations of the compiled
programs.
"""

from __future__ import annotations

import functools
import gc
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax import nnx

import lrx
from lrx._checks import known
from lrx.benchmarks.timing import compare, describe_machine, in_turn
from lrx.workloads.resnet import ResNet

RATE, WARMUP_STEPS, TOTAL_STEPS = 1e-3, 1_000, 1_000_000
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4

LIBRARIES = ("lrx", "optax")


def residual_network(depth: int) -> Any:
    """Return the shapes of a CIFAR ResNet's parameters."""
    network = nnx.eval_shape(lambda: ResNet((32, 32, 3), 10, depth=depth, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def transformer(width: int = 512, layers: int = 8, vocabulary: int = 256, positions: int = 512) -> Any:
    """Return the shapes of the parameters of a transformer on bytes: 25.6 million in 132 leaves."""

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
    """Build a chain, such as "adam" or "adam-scheduled"."""
    method, _, scheduled = chain.partition("-")
    if not scheduled:
        rate: Any = RATE
    elif library == "lrx":
        rate = lrx.warmup(lrx.cosine_decay(RATE, TOTAL_STEPS - WARMUP_STEPS), WARMUP_STEPS)
    else:
        rate = optax.warmup_cosine_decay_schedule(0.0, RATE, WARMUP_STEPS, TOTAL_STEPS)
    return METHODS[method][library](rate)


def stepper(tx: Any) -> Any:
    """Build the compiled step."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def arrays_like(shapes: Any, scale: float) -> Any:
    """Draw normal numbers in a tree of these shapes."""
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
        """Time steps on arrays that are first moved in memory, since addresses change times by several per cent."""
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
    """Compile as a fresh process would, and return the seconds of tracing and lowering, and those of XLA."""
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


def beside_optax(times: dict[str, np.ndarray], unit: float) -> str:
    """Return a line: the median times in a unit, and the median and the quartiles of the ratio to optax's."""
    ours, theirs = (compare(times, "optax")[library] for library in LIBRARIES)
    return f"{ours.median / unit:9.1f} {theirs.median / unit:9.1f} {ours}"


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


def main(
    trees: Annotated[list[str], typer.Option("--tree", help=f"Of {', '.join(TREES)}; once for each.")] = list(TREES),  # noqa: B006
    chains: Annotated[list[str], typer.Option("--chain", help=f"Of {', '.join(CHAINS)}; once for each.")] = CHAINS,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of the step of each library.")] = 40,
    compilations: Annotated[int, typer.Option(min=0, help="Timings of the compilation by each library.")] = 5,
    program: Annotated[
        bool, typer.Option("--program", help="Count the operations of the compiled programs instead.")
    ] = False,
) -> None:
    """Measure and print."""
    for tree in trees:
        known("--tree", tree, TREES)
    for chain in chains:
        known("--chain", chain, CHAINS)
    jax.config.update("jax_enable_compilation_cache", False)
    print(describe_machine())
    for tree in trees:
        shapes = TREES[tree]()
        leaves = jax.tree.leaves(shapes)
        print(f"\n{tree}: {len(leaves)} leaves, {sum(math.prod(leaf.shape) for leaf in leaves):,} parameters")
        if program:
            print_programs(chains, shapes)
            continue
        print_step_times(chains, shapes, rounds)
        if compilations:
            print_compile_times(chains, shapes, compilations)


HEADER = f"{'lrx':>9} {'optax':>9}  ratio (quartiles)   "


def print_programs(chains: Sequence[str], shapes: Any) -> None:
    """Print what the compiled steps of both libraries consist of."""
    print(f"{'':16} {'':5} arguments  run " + " ".join(f"{name:>8}" for name in OPERATIONS))
    for chain in chains:
        for library in LIBRARIES:
            arguments, running, *counts = program_counts(library, chain, shapes)
            print(f"{chain:16} {library:5} {arguments:9} {running:4} " + " ".join(f"{n:8}" for n in counts))


def print_step_times(chains: Sequence[str], shapes: Any, rounds: int) -> None:
    """Print the times of a step in a compiled loop, and called from Python."""
    print(f"{'':16} {'step in a compiled loop, us':45} step called from Python, us\n{'':16} {HEADER:45} {HEADER}")
    for chain in chains:
        runs = {library: Run(transformation(library, chain), shapes) for library in LIBRARIES}
        cells = []
        for looped in (True, False):
            for run in runs.values():
                run.seconds(3, looped=looped)  # compiles
            slowest = max(run.seconds(20, looped=looped) for run in runs.values()) / 20
            steps = max(5, math.ceil(0.03 / slowest))
            contestants = {
                library: functools.partial(run.seconds, steps, looped=looped) for library, run in runs.items()
            }
            times = {library: each / steps for library, each in in_turn(contestants, rounds).items()}
            cells.append(beside_optax(times, 1e-6))
        print(f"{chain:16} {cells[0]:45} {cells[1]}", flush=True)


def print_compile_times(chains: Sequence[str], shapes: Any, compilations: int) -> None:
    """Print the times of tracing, lowering and compiling the step."""
    print(f"{'':16} to compile, ms (of it, tracing and lowering)\n{'':16} {HEADER}")
    for chain in chains:
        compile_seconds(LIBRARIES[0], chain, shapes)  # loads the compiler
        contestants = {library: functools.partial(compile_seconds, library, chain, shapes) for library in LIBRARIES}
        pairs = in_turn(contestants, compilations)
        whole = {library: pair.sum(axis=1) for library, pair in pairs.items()}
        lowering = {library: pair[:, 0] for library, pair in pairs.items()}
        print(f"{chain:16} {beside_optax(whole, 1e-3)}   {beside_optax(lowering, 1e-3)}", flush=True)
