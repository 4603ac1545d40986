"""Short runs and gradients at chosen parameters: the measurements of a diagnosis, each compiled once for a workload.

A branch is a run of a few steps whose rate in each step is an argument, so that one program serves every schedule and
every rate. Pilot runs go through the whole schedule in these steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx._paths import named_leaves, write_path
from lrx.doctor.optimizer_parts import OptimizerParts
from lrx.extra_args import tolerant_update
from lrx.run_state import apply_updates
from lrx.training.checks import workload_key
from lrx.training.equality import Same, UndecidedError, key_of
from lrx.training.program_cache import Cache, signature_of
from lrx.training.sampling import Sampling, keys_of
from lrx.training.workload import Workload

_PROGRAMS = Cache(maxsize=64)
LABELS = ("label", "labels", "target", "targets", "y")  # keys of a dict of arrays


class Start(NamedTuple):
    """Where branches begin: parameters, model state, and the state of the optimizer."""

    params: Any
    model_state: Any
    opt_state: Any


class Branches(NamedTuple):
    """What branches show; the leading axis of each is that of the branches."""

    losses: np.ndarray  # (branches, steps)
    gradient_norms: np.ndarray  # (branches, steps)
    update_rms: np.ndarray  # (branches, steps, leaves): root mean square of a leaf's update
    ends: list[Start]  # on the device


class Gradients(NamedTuple):
    """The gradients of several minibatches at the same parameters, leaf by leaf: (leaves,) each."""

    largest: Any  # largest absolute entries over the minibatches, a tree on the device
    paths: list[str]
    rms: np.ndarray  # root mean square of a gradient's entries
    silent_units: np.ndarray  # share of the last axis without any gradient
    not_finite: np.ndarray  # number of entries that are not finite, over all minibatches
    losses: np.ndarray  # (minibatches,)
    products: np.ndarray  # (minibatches, minibatches), inner products of whole gradients
    half_losses: np.ndarray  # (2,) of the halves of the first minibatch; NaN if it cannot be divided
    param_rms: np.ndarray
    dimensions: np.ndarray  # number of axes


@dataclasses.dataclass
class Probe:
    """The programs of a workload and an optimizer, and the steps that they have taken.

    Args:
      workload: what is trained.
      parts: the optimizer.
      seed: seed of the initial parameters, and of the minibatches.
    """

    workload: Workload
    parts: OptimizerParts
    seed: int = 0

    def __post_init__(self) -> None:
        batches = self.workload.batches
        self.sampling: Sampling = batches.sampling
        self.arrays = batches.arrays
        self.steps_used = 0
        self.keys = keys_of(self.seed)
        self._rng = np.random.default_rng(self.seed)
        self._order: list[np.ndarray] = []
        self.hyper = {name: np.float32(value) for name, value in self.parts.hyper.items()}
        try:
            self._loss_key: Any = key_of((self.workload.loss_fn, self.sampling))
        except UndecidedError:
            self._loss_key = workload_key(self.workload)  # traces it
        self._key = (self._loss_key, _key_or_own(self._tx_key))

    def _tx_key(self) -> Any:
        if not self.parts.rebuilt:
            return key_of(self.parts.tx)
        # The rate and what is tuned are arguments: the program is the same for all of their values.
        neutral = self.parts.with_rate(1.0, dict.fromkeys(self.hyper, 0.5))
        return (key_of(neutral), *self.hyper)

    def start(self) -> Start:
        """Return the beginning of the run: that of `lrx.train` with the same seed."""
        params, model_state = _compiled_init(self.workload, self.keys.init)
        return Start(params, model_state, self._init_tx(params))

    def _init_tx(self, params: Any) -> Any:
        def make() -> Callable[..., Any]:
            return lambda params, hyper: self._make(jnp.float32(1.0), hyper).init(params)

        return _run(("init", self._key), make, params, self.hyper)

    def _make(self, rate: Any, hyper: Mapping[str, Any]) -> optax.GradientTransformation:
        return self.parts.with_rate(rate, hyper) if self.parts.rebuilt else self.parts.tx

    def draw(self, number: int) -> np.ndarray:
        """Return the examples of the next minibatches, (number, batch_size)."""
        size, examples = self.sampling.batch_size, self.workload.batches.num_examples
        while sum(len(part) for part in self._order) < number:
            order = self._rng.permutation(examples) if self.sampling.shuffle else np.arange(examples)
            whole = len(order) // size
            self._order.append(order[: whole * size].reshape(whole, size).astype(np.int32))
        rows = np.concatenate(self._order)
        self._order = [rows[number:]]
        return rows[:number]

    @property
    def has_labels(self) -> bool:
        """Whether the arrays have a part that is known to be the labels."""
        return any(jax.tree.leaves(_label_flags(self.arrays)))

    def run(
        self,
        starts: Sequence[Start],
        rates: np.ndarray,
        rows: np.ndarray,
        *,
        hyper: Mapping[str, np.ndarray] | None = None,
    ) -> Branches:
        """Run branches, one after the other, all with the program of one.

        Args:
          starts: where each begins.
          rates: (branches, steps), the rate of each step. For an optimizer that cannot be built again, the factor of
            its own rate.
          rows: (steps, batch_size), the examples of each step.
          hyper: values of the tuned hyperparameters, (branches,) each; by default the optimizer's own.
        """
        found, order = [], jnp.asarray(rows)
        for place, (start, own) in enumerate(zip(starts, np.asarray(rates, np.float32), strict=True)):
            each = self.hyper | {name: np.float32(values[place]) for name, values in (hyper or {}).items()}
            given = start, own, each, order, self.arrays, self.keys.step
            found.append(_run(("run", self._key), self._branch, *given))
        self.steps_used += int(np.size(rates))
        losses, norms, moved = (np.array([each[place] for each in found], np.float64) for place in (1, 2, 3))
        return Branches(losses, norms, moved, [each[0] for each in found])

    def _branch(self) -> Callable[..., Any]:
        make, rebuilt = self._make, self.parts.rebuilt
        loss_fn, transform = self.workload.loss_fn, self.sampling.transform

        def branch(start: Start, rates: Any, hyper: Any, rows: Any, arrays: Any, key: Any) -> Any:
            def body(carry: Start, inputs: Any) -> Any:
                rate, row, count = inputs
                transform_key, loss_key = jax.random.split(jax.random.fold_in(key, count))
                batch = transform(jax.tree.map(lambda x: x[row], arrays), transform_key)

                def loss_of(params: Any) -> Any:
                    return loss_fn(params, carry.model_state, batch, loss_key)

                (loss, model_state), grads = jax.value_and_grad(loss_of, has_aux=True)(carry.params)
                update = tolerant_update(make(rate, hyper))
                updates, opt_state = update(
                    grads, carry.opt_state, carry.params, value=loss, grad=grads,
                    value_fn=lambda params: loss_of(params)[0],
                    grad_fn=lambda params, _: jax.grad(lambda p: loss_of(p)[0])(params),
                )  # fmt: skip
                if not rebuilt:
                    updates = jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates)
                params = apply_updates(carry.params, updates, opt_state)
                moved = _stacked(lambda u: jnp.sqrt(jnp.sum(jnp.abs(u) ** 2) / max(u.size, 1)), updates)
                return Start(params, model_state, opt_state), (
                    loss.astype(jnp.float32), optax.tree.norm(grads), moved,
                )  # fmt: skip

            steps = jnp.arange(rates.shape[0], dtype=jnp.int32)
            end, (losses, norms, moved) = jax.lax.scan(body, start, (rates, rows, steps))
            return end, losses, norms, moved

        return branch

    def gradients(self, at: Start, rows: np.ndarray) -> Gradients:
        """Measure the gradients of minibatches at the same parameters."""
        given = at.params, at.model_state, jnp.asarray(rows), self.arrays, self.keys.step
        found = _run(("gradients", self._loss_key), self._gradients, *given)
        self.steps_used += len(rows)
        largest, numbers = found
        known = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        leaves = named_leaves(at.params)
        return Gradients(
            largest=largest,
            paths=[write_path(path) for path, _ in leaves],
            dimensions=np.array([np.ndim(leaf) for _, leaf in leaves]),
            **known,
        )

    def _gradients(self) -> Callable[..., Any]:
        loss_fn, transform = self.workload.loss_fn, self.sampling.transform

        def measure(params: Any, model_state: Any, rows: Any, arrays: Any, key: Any) -> Any:
            def batch_of(row: Any) -> Any:
                return transform(jax.tree.map(lambda x: x[row], arrays), key)

            def one(row: Any) -> Any:
                loss, grads = jax.value_and_grad(lambda p: loss_fn(p, model_state, batch_of(row), key)[0])(params)
                return loss.astype(jnp.float32), jax.tree.map(lambda g: g.astype(jnp.float32), grads)

            losses, grads = jax.lax.map(one, rows)
            largest = jax.tree.map(lambda g: jnp.max(jnp.abs(g), axis=0), grads)
            numbers = {
                "rms": _stacked(lambda g: jnp.sqrt(jnp.sum(g**2) / max(g.size, 1)), grads),
                "silent_units": _stacked(_silent_share, largest),
                "not_finite": _stacked(lambda g: jnp.sum(~jnp.isfinite(g)), grads),
                "losses": losses,
                "products": _products(grads),
                "half_losses": _half_losses(
                    lambda batch: loss_fn(params, model_state, batch, key)[0], batch_of(rows[0]), rows.shape[1]
                ),
                "param_rms": _stacked(lambda p: jnp.sqrt(jnp.mean(jnp.abs(p.astype(jnp.float32)) ** 2)), params),
            }
            return largest, numbers

        return measure

    def label_products(self, at: Start, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inner products of what labels add to the gradients of minibatches, and of the gradients themselves.

        What labels add is the difference of the gradient and of that with the labels of other examples.
        If labels do not depend on the inputs, these differences have the mean 0.

        Returns:
          Two arrays, (minibatches, minibatches) each.
        """

        def make() -> Callable[..., Any]:
            loss_fn, transform = self.workload.loss_fn, self.sampling.transform
            flags = _label_flags(self.arrays)

            def products(params: Any, model_state: Any, rows: Any, others: Any, arrays: Any, key: Any) -> Any:
                def gradient(row: Any, other: Any) -> Any:
                    raw = jax.tree.map(lambda x, label: x[other if label else row], arrays, flags)
                    grads = jax.grad(lambda p: loss_fn(p, model_state, transform(raw, key), key)[0])(params)
                    return jax.tree.map(lambda g: g.astype(jnp.float32), grads)

                def with_difference(pair: Any) -> Any:
                    row, other = pair
                    own = gradient(row, row)
                    return jax.tree.map(jnp.subtract, own, gradient(row, other)), own

                differences, gradients = jax.lax.map(with_difference, (rows, others))
                return _products(differences), _products(gradients)

            return products

        others = self._rng.permutation(rows.ravel()).reshape(rows.shape)
        self.steps_used += 2 * len(rows)
        given = at.params, at.model_state, rows, others, self.arrays, self.keys.step
        found = _run(("labels", self._loss_key), make, *given)
        return np.asarray(found[0], np.float64), np.asarray(found[1], np.float64)

    def loss_at(self, at: Start, row: np.ndarray, scale: float = 1.0, noise: np.ndarray | None = None) -> float:
        """Return the loss of a minibatch at changed parameters.

        Args:
          at: the parameters.
          row: (batch_size,) the examples.
          scale: factor of the parameters.
          noise: (leaves,) standard deviations of normal numbers that are added; None for none.
        """
        noisy = noise is not None  # a program of its own: drawing numbers takes the compiler long

        def make() -> Callable[..., Any]:
            loss_fn, transform = self.workload.loss_fn, self.sampling.transform

            def loss(params: Any, model_state: Any, scale: Any, noise: Any, row: Any, arrays: Any, key: Any) -> Any:
                leaves, structure = jax.tree.flatten(params)
                changed = [(scale * leaf).astype(leaf.dtype) for leaf in leaves]
                if noisy:
                    keys = jax.random.split(key, len(leaves))
                    changed = [
                        (leaf + noise[i] * jax.random.normal(keys[i], leaf.shape)).astype(leaf.dtype)
                        for i, leaf in enumerate(changed)
                    ]
                batch = transform(jax.tree.map(lambda x: x[row], arrays), key)
                return loss_fn(jax.tree.unflatten(structure, changed), model_state, batch, key)[0]

            return loss

        added = jnp.asarray(noise if noisy else 0.0, jnp.float32)
        row = np.asarray(row, np.int32)
        self.steps_used += 1
        given = at.params, at.model_state, jnp.float32(scale), added, row, self.arrays, self.keys.step
        return float(_run(("loss", self._loss_key, noisy), make, *given))

    def hessian_times(self, at: Start, vector: Any, row: np.ndarray) -> tuple[Any, Any]:
        """Return the gradient of the loss of some examples, and the product of its Hessian with a vector."""

        def make() -> Callable[..., Any]:
            loss_fn, transform = self.workload.loss_fn, self.sampling.transform

            def product(params: Any, model_state: Any, vector: Any, row: Any, arrays: Any, key: Any) -> Any:
                batch = transform(jax.tree.map(lambda x: x[row], arrays), key)
                return jax.jvp(jax.grad(lambda p: loss_fn(p, model_state, batch, key)[0]), (params,), (vector,))

            return product

        given = at.params, at.model_state, vector, row, self.arrays, self.keys.step
        found: tuple[Any, Any] = _run(("hessian", self._loss_key), make, *given)
        return found

    def update_sizes(self, at: Start, gradient: Any, rate: float) -> np.ndarray:
        """Return the largest change of each leaf by an update with a gradient and a rate, (leaves,)."""

        def make() -> Callable[..., Any]:
            def sizes(at: Start, gradient: Any, rate: Any, hyper: Any) -> Any:
                update = tolerant_update(self._make(rate, hyper))
                zero = lambda _: jnp.float32(0)  # noqa: E731
                opt_state, moved = at.opt_state, jax.tree.map(zero, gradient)
                for _ in range(self.parts.every):
                    updates, opt_state = update(
                        gradient, opt_state, at.params, value=jnp.float32(1), grad=gradient, value_fn=zero,
                        grad_fn=lambda *_: gradient,
                    )  # fmt: skip
                    moved = jax.tree.map(lambda m, u: jnp.maximum(m, jnp.max(jnp.abs(u), initial=0.0)), moved, updates)
                return _stacked(lambda m: m, moved)

            return sizes

        gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, at.params)
        return np.asarray(_run(("update", self._key), make, at, gradient, jnp.float32(rate), self.hyper), np.float64)


def _stacked(function: Callable[..., Any], *trees: Any) -> jax.Array:
    """Return a number of each leaf, (leaves,) float32."""
    found = jax.tree.leaves(jax.tree.map(function, *trees))
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in found]) if found else jnp.zeros(0)


def _products(trees: Any) -> jax.Array:
    """Return the inner products of trees that are stacked along the first axis of their leaves, (number, number)."""
    rows = [x.reshape(x.shape[0], -1) for x in jax.tree.leaves(trees)]
    return jnp.sum(jnp.stack([x @ x.T for x in rows]), axis=0)


def _key_or_own(key: Callable[[], Any]) -> Any:
    """Return a key, or one that is equal to nothing if it cannot be decided which functions compute the same."""
    try:
        return key()
    except UndecidedError:
        return Same(object())


def _compiled_init(workload: Workload, key: jax.Array) -> Any:
    function = _key_or_own(lambda: key_of(workload.init))
    # A new function, since JAX keeps the traces of a function, and a global that it names may have changed.
    return _run(("params", function), lambda: lambda key: workload.init(key), key)


def _run(key: Hashable, make: Callable[[], Callable[..., Any]], *arguments: Any) -> Any:
    """Return the result of the program of a key for arguments of these shapes, traced when it is first needed."""
    program = _PROGRAMS.find((key, signature_of(arguments)), lambda: jax.jit(make()))
    return program(*arguments)


def _label_flags(arrays: Any) -> Any:
    """Return a tree of bools: which arrays are labels, the last of a pair or what is called so in a dict."""
    parts: list[tuple[Any, bool]] = [(arrays, False)]
    if isinstance(arrays, tuple | list) and len(arrays) > 1:
        parts = [(part, place == len(arrays) - 1) for place, part in enumerate(arrays)]
    elif isinstance(arrays, dict):  # whose leaves come in the order of its keys
        parts = [(arrays[name], name.lower() in LABELS) for name in sorted(arrays)]
    flags = [is_label for part, is_label in parts for _ in jax.tree.leaves(part)]
    return jax.tree.unflatten(jax.tree.structure(arrays), flags)


def _silent_share(largest: jax.Array) -> jax.Array:
    """Return the share of units, along the last axis, that no entry has a gradient for; of a vector, all or nothing."""
    if largest.size == 0:
        return jnp.float32(0)
    if largest.ndim < 2:
        return (jnp.max(largest) == 0).astype(jnp.float32)
    return jnp.mean(jnp.max(largest, axis=tuple(range(largest.ndim - 1))) == 0)


def _half_losses(loss: Callable[[Any], Any], batch: Any, size: int) -> jax.Array:
    """Return the losses of the two halves of a batch; NaN if its leaves have no axis of examples."""
    half = size // 2
    if half == 0 or any(jnp.ndim(leaf) == 0 or leaf.shape[0] != size for leaf in jax.tree.leaves(batch)):
        return jnp.full(2, jnp.nan)
    parts = [jax.tree.map(lambda x, start=start: x[start : start + half], batch) for start in (0, half)]
    return jnp.stack([loss(part).astype(jnp.float32) for part in parts])
