"""Whether the devices of a compiled step agree: copies, data, gradients and the rate, at the cost of one small sum.

Each device reduces what it holds to a few numbers: a fingerprint of every array, and the projection of the gradients on
fixed signs. One sum over the devices makes these numbers known to all, so a check moves a few bytes for each array,
whatever its size.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lrx import _checks
from lrx._paths import named_leaves, write_path

TOLERANCE = 1e-3  # relative, of a mean of gradients or a rate; rounding is far below
MULTIPLIER = np.uint32(2654435761)  # odd, so that a change of one word always changes the fingerprint
OFFSET = np.uint32(0x9E3779B9)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("made", "prints", "numbers", "batch_prints", "projections", "rates"),
    meta_fields=("paths", "axis", "batch_sizes"),
)
@dataclasses.dataclass(frozen=True, repr=False)
class ParallelCheck:
    """What the devices hold, in a few numbers each; the same on all of them.

    Attributes:
      made: () bool, whether the check was made at this step.
      prints: (devices, arrays) uint32, fingerprints of the arrays of `state`.
      numbers: (devices, arrays) float32, the scalars among them, and of other arrays the mean magnitude.
      batch_prints: (devices,) uint32, fingerprints of the shares of the batch; or (devices, 0).
      projections: (devices, 2) float32, of the gradients of the share and of those that were applied; or (devices, 0).
      rates: (devices, 2) float32, the rate that was applied and the one expected; or (devices, 0).
      paths: paths of the arrays.
      axis: name of the axis of the mesh.
      batch_sizes: examples in the batch of all devices, and those that the base rate is for; or ().
    """

    made: jax.Array
    prints: jax.Array
    numbers: jax.Array
    batch_prints: jax.Array
    projections: jax.Array
    rates: jax.Array
    paths: tuple[str, ...]
    axis: str
    batch_sizes: tuple[int, ...]

    def findings(self) -> tuple[str, ...]:
        """Return what is wrong, in words; nothing if all is well or the check was not made."""
        if not bool(self.made):
            return ()
        prints, numbers = np.asarray(self.prints), np.asarray(self.numbers)
        found = [self._disagreement(place, prints, numbers) for place in range(len(self.paths))]
        found += [self._same_data(), self._gradients(), self._rate()]
        return tuple(text for text in found if text)

    @property
    def consistent(self) -> bool:
        """True if nothing was found."""
        return not self.findings()

    def __repr__(self) -> str:
        if not bool(self.made):
            return "ParallelCheck(not made at this step)"
        if self.consistent:
            return f"ParallelCheck(consistent: {len(self.paths)} arrays on {len(self.prints)} devices)"
        return "ParallelCheck(not consistent)\n  " + "\n  ".join(self.findings())

    def _disagreement(self, place: int, prints: np.ndarray, numbers: np.ndarray) -> str:
        usual, _ = collections.Counter(prints[:, place].tolist()).most_common(1)[0]
        others = np.flatnonzero(prints[:, place] != usual)
        if not len(others):
            return ""
        first = int(np.flatnonzero(prints[:, place] == usual)[0])
        one, other = (float(str(numbers[device, place])) for device in (first, others[0]))
        return (
            f"{self.paths[place]}: {one!r} on device {first} of axis {self.axis!r}, {other!r} on device {others[0]} "
            f"(fingerprints {prints[first, place]:08x} and {prints[others[0], place]:08x}; {len(others)} of "
            f"{len(prints)} devices differ)"
        )

    def _same_data(self) -> str:
        places = collections.defaultdict(list)
        for device, text in enumerate(np.asarray(self.batch_prints).ravel().tolist()):
            places[text].append(device)
        same = [devices for devices in places.values() if len(devices) > 1]
        if not same:
            return ""
        return (
            f"batch: devices {', '.join(map(str, same[0]))} of axis {self.axis!r} have the same examples: give each "
            "process its own share of the data"
        )

    def _gradients(self) -> str:
        if not self.projections.size:
            return ""
        own, applied = np.asarray(self.projections).T
        devices, mean = len(own), float(np.mean(own, dtype=np.float64))
        scale = float(np.max(np.abs(own)))  # of which the mean may be a small part, so rounding is relative to it
        off = np.abs(applied - mean)
        if np.all(off <= TOLERANCE * scale):
            return ""
        where = int(np.argmax(off))
        if np.all(np.abs(applied - devices * mean) <= TOLERANCE * scale * devices):
            return (
                f"gradients: summed over the {devices} devices of axis {self.axis!r}, not averaged (projection "
                f"{applied[where]:.6g}, mean {mean:.6g}): use jax.lax.pmean, or divide the loss"
            )
        if np.all(np.abs(applied - own) <= TOLERANCE * scale):
            return (
                f"gradients: each device of axis {self.axis!r} applies its own (projection {applied[where]:.6g} on "
                f"device {where}, mean {mean:.6g}): average them, jax.lax.pmean"
            )
        return (
            f"gradients: not the mean over axis {self.axis!r} (projection {applied[where]:.6g} on device {where}, mean "
            f"{mean:.6g})"
        )

    def _rate(self) -> str:
        if not self.rates.size:
            return ""
        applied, expected = (float(str(rate)) for rate in np.asarray(self.rates)[0])
        if abs(applied - expected) <= TOLERANCE * abs(expected):
            return ""
        size, base = self.batch_sizes
        return (
            f"rate: {applied!r} at a global batch of {size:,} examples, expected {expected!r}: scale a base rate for "
            f"{base:,} examples with the batch of all devices, lrx.scale_for_batch_size"
        )


def check_parallel_step(
    state: Any,
    axis: str,
    *,
    batch: Any = None,
    gradients: tuple[Any, Any] | None = None,
    rate: tuple[Any, Any] | None = None,
    base_batch_size: int | None = None,
    rule: str = "linear",
    count: Any = None,
    every: int = 1,
) -> ParallelCheck:
    """Check within a `shard_map` that the devices of a data-parallel step agree.

    The mistakes that it finds do not stop a run, which only trains worse: copies of parameters, rates, counts or
    scales that drift apart; data in another order on each process, or the same data on all; gradients that are summed
    where they should be averaged; a rate that was not scaled with the global batch. `lrx.check_consistency` finds the
    place at which two copies differ.

    An array a of words a_i has the fingerprint `sum_i m_i a_i mod 2^32` with odd m_i, which differs if one word
    differs, and otherwise with a probability of 1 - 2^-32. The gradient g has the projection `sum_i s_i g_i`, with
    signs s_i from the index. The projection of the applied gradient must be the mean of those of the shares.

    Args:
      state: a pytree of what must be equal on all devices: parameters, optimizer state, the order of the examples.
      axis: name of the axis of the mesh, or a tuple of names.
      batch: this device's share of the batch, which must differ from those of the others.
      gradients: a pair, the gradients of this device's share and those that the optimizer is given.
      rate: a pair, the rate that was applied, `lrx.learning_rate(state)`, and the base rate of the same step.
      base_batch_size: the batch size that the base rate is for; needed with `rate`, as is `batch`.
      rule: how the rate is scaled, "linear" or "sqrt", as by `lrx.scale_for_batch_size`.
      count: () int32, completed steps; needed for `every` above 1.
      every: how often the check is made, in steps; at other steps nothing is computed.

    Returns:
      A `ParallelCheck`, equal on all devices (`out_specs=PartitionSpec()`). Outside of the compiled function
      `findings()` lists what is wrong, with path, devices and both values.

    Raises:
      ValueError: if `every` is not a whole number >= 1 or has no `count`, `rate` has no `batch` or `base_batch_size`,
        or `rule` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from jax.sharding import Mesh, PartitionSpec as P
      >>> mesh = Mesh(jax.devices(), ("data",))
      >>> def step(w, x):
      ...     return lrx.diagnostics.check_parallel_step({"w": w}, "data", batch=x)
      >>> check = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))
      >>> check(jnp.ones(3), jnp.arange(8.0 * jax.device_count())).consistent
      True
    """
    _checks.steps("every", every)
    _checks.one_of("rule", rule, ("linear", "sqrt"))
    if every > 1 and count is None:
        raise ValueError(f"count must be given with every={every}: pass the number of completed steps.")
    if rate is not None and (batch is None or base_batch_size is None):
        raise ValueError("rate needs batch and base_batch_size, by which the base rate is scaled: pass both.")
    named = named_leaves(state)
    devices = lax.axis_size(axis)
    leaves = [leaf for _, leaf in named]

    sizes: tuple[int, ...] = ()
    if rate is not None and base_batch_size is not None:
        sizes = (devices * jax.tree.leaves(batch)[0].shape[0], base_batch_size)
        factor = sizes[0] / sizes[1] if rule == "linear" else (sizes[0] / sizes[1]) ** 0.5
        rate = (jnp.asarray(rate[0], jnp.float32), jnp.asarray(rate[1], jnp.float32) * factor)

    def measure() -> tuple[jax.Array, ...]:
        mine = [
            _stack([_fingerprint(leaf) for leaf in leaves]),
            _stack([_bits(_number(leaf)) for leaf in leaves]),
            _stack([] if batch is None else [_fingerprint_of_tree(batch)]),
            _stack([] if gradients is None else [_bits(_projection(tree)) for tree in gradients]),
            _stack([] if rate is None else [_bits(number) for number in rate]),
        ]
        lengths = np.cumsum([len(part) for part in mine])[:-1]
        # A sum in which each device fills its own row: it is equal on all devices, and known to be so.
        row = jnp.arange(devices) == lax.axis_index(axis)
        words = lax.psum(jnp.where(row[:, None], jnp.concatenate(mine)[None, :], jnp.uint32(0)), axis)
        return tuple(jnp.split(words, lengths, axis=1))

    if every == 1:
        made, parts = jnp.bool_(True), measure()
    else:
        made = jnp.asarray(count) % every == 0
        shapes = jax.eval_shape(measure)
        parts = lax.cond(made, measure, lambda: tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes))
    prints, numbers, batch_prints, projections, rates = parts
    return ParallelCheck(
        made,
        prints,
        _floats(numbers),
        batch_prints,
        _floats(projections),
        _floats(rates),
        tuple(write_path(path) for path, _ in named),
        axis if isinstance(axis, str) else "/".join(axis),
        sizes,
    )


def _stack(numbers: list[jax.Array]) -> jax.Array:
    return jnp.stack(numbers) if numbers else jnp.zeros(0, jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)


def _floats(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.float32)


def _words(x: Any) -> jax.Array:
    """Return the bits of an array as (n,) uint32."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = jnp.ravel(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if jnp.iscomplexobj(x):
        return jnp.concatenate([_words(x.real), _words(x.imag)])
    size = x.dtype.itemsize
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    return jnp.ravel(lax.bitcast_convert_type(x, narrow)).astype(jnp.uint32)


def _fingerprint(x: Any) -> jax.Array:
    words = _words(jnp.asarray(x))
    index = lax.iota(jnp.uint32, len(words))
    return jnp.sum(words * ((index * MULTIPLIER + OFFSET) | jnp.uint32(1)), dtype=jnp.uint32)


def _fingerprint_of_tree(tree: Any) -> jax.Array:
    prints: Sequence[jax.Array] = [_fingerprint(leaf) for leaf in jax.tree.leaves(tree)]
    return _fingerprint(jnp.stack(prints))


def _number(x: Any) -> jax.Array:
    """Return a scalar as it is, and of an array the mean magnitude, as float32; NaN of a key."""
    x = jnp.asarray(x)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) or not x.size:
        return jnp.float32(jnp.nan)
    if x.ndim == 0 and not jnp.iscomplexobj(x):
        return x.astype(jnp.float32)
    return jnp.mean(jnp.abs(x.astype(jnp.float32) if not jnp.iscomplexobj(x) else x), dtype=jnp.float32)


def _projection(tree: Any) -> jax.Array:
    """Return the sum of all numbers, each with a sign that its index determines."""
    total = jnp.float32(0)
    for leaf in jax.tree.leaves(tree):
        index = lax.iota(jnp.uint32, leaf.size)
        is_negative = ((index * MULTIPLIER + OFFSET) >> 16) & jnp.uint32(1) == 1
        flat = jnp.ravel(jnp.real(leaf)).astype(jnp.float32)
        total += jnp.sum(jnp.where(is_negative, -flat, flat))
    return total
