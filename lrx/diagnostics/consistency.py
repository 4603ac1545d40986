"""Whether devices agree: values that should be copies of each other, compared bit by bit."""

from __future__ import annotations

import collections
import dataclasses
import math
import zlib
from typing import Any

import jax
import numpy as np

from lrx import _checks
from lrx._paths import named_leaves, write_path
from lrx.training.turns import gather


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """A value of which two devices hold different copies.

    Attributes:
      path: path of the array in the state, such as "params/lin/bias".
      place: index of the first number that differs, in the whole array; () for a scalar.
      devices: the device whose copy most others share, and the one that differs.
      values: what they hold there.
      number: how many numbers of this copy differ.
      size: numbers in the copy.
      largest: the largest difference, NaN if one of the values is not finite.
    """

    path: str
    place: tuple[int, ...]
    devices: tuple[str, str]
    values: tuple[Any, Any]
    number: int
    size: int
    largest: float

    def __str__(self) -> str:
        where = f"{self.path}{list(self.place)}" if self.place else self.path
        (ours, theirs), (one, other) = self.devices, self.values
        return (
            f"{where}: {one!r} on {ours}, {other!r} on {theirs} ({self.number:,} of {self.size:,} numbers differ, by "
            f"at most {self.largest:.3g})"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Consistency:
    """Whether the devices of this host, and the processes of a run, hold equal copies.

    Attributes:
      disagreements: what differs, in the order of the state.
      replicated: number of arrays of which several devices hold the same part.
      arrays: number of arrays that were looked at.
    """

    disagreements: tuple[Disagreement, ...]
    replicated: int
    arrays: int

    @property
    def consistent(self) -> bool:
        """True if no copies differ."""
        return not self.disagreements

    def __repr__(self) -> str:
        of = f"{self.replicated:,} of {self.arrays:,} arrays have copies"
        if self.consistent:
            return f"Consistency(consistent: {of})"
        paths = len({each.path for each in self.disagreements})
        lines = "\n  ".join(map(str, self.disagreements))
        return f"Consistency(not consistent: {of}, those of {paths:,} differ)\n  {lines}"


def check_consistency(state: Any, *, max_reported: int = 20) -> Consistency:
    """Check that devices hold equal copies of what is replicated.

    With data parallelism, parameters and optimizer state have a copy on each device. They are computed separately, and
    can drift apart: by a random number that depends on the device, an operation whose result differs between devices, a
    missing sum over gradients, or faulty memory. The loss of such a run looks right for a long time. The copies are
    compared bit by bit, so 0 and -0 differ, and equal NaNs do not.

    The parts that an array is divided into are compared only with copies of the same part. All copies are fetched to
    the host, one array at a time: call it every few thousand steps, not at each. `lrx.diagnostics.check_parallel_step`
    checks within a compiled step.

    If `jax.distributed` has joined several processes, all of them must call it with states of the same structure. Each
    sends a checksum of what it holds, and of copies that differ the copies. An array that each process has for itself,
    such as the order of its examples, is taken for a copy of those of the others.

    Args:
      state: a pytree of arrays, such as `{"params": params, "opt_state": opt_state}`; what is not a JAX array is passed
        over.
      max_reported: largest number of disagreements to list, >= 1; further ones are not compared.

    Returns:
      A `Consistency`: `consistent`, and for each copy that differs its path, both devices and both values.

    Raises:
      ValueError: if `max_reported` is not a whole number >= 1.
      TypeError: if the state is traced, or holds no JAX arrays.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> lrx.check_consistency({"w": jnp.ones(3), "b": jnp.zeros(())})
      Consistency(consistent: 0 of 2 arrays have copies)
    """
    _checks.steps("max_reported", max_reported, unit="disagreements")
    found: list[Disagreement] = []
    arrays = replicated = 0
    for path, leaf in named_leaves(state):
        if not _checks.is_concrete(leaf):
            raise TypeError("state must hold arrays, got a traced one: check it outside of the compiled function.")
        if not isinstance(leaf, jax.Array):
            continue
        arrays += 1
        copies = [part for part in _parts(leaf) if len(part.shards) > 1]
        replicated += bool(copies)
        for part in copies:
            if len(found) < max_reported:
                found += _compare(write_path(path), part)[: int(max_reported) - len(found)]
    if jax.process_count() > 1:
        found += _compare_processes(state, int(max_reported) - len(found))
    if not arrays:
        raise TypeError(
            f"state must hold JAX arrays, got a {type(state).__name__} without any: give params or an optimizer state."
        )
    return Consistency(tuple(found), replicated, arrays)


@dataclasses.dataclass(frozen=True)
class _Process:
    """A process, named as a device is."""

    id: int
    platform: str = "process"


@dataclasses.dataclass(frozen=True)
class _Copy:
    """What a process holds of a part."""

    device: _Process
    data: np.ndarray


def _compare_processes(state: Any, most: int) -> list[Disagreement]:
    """Compare the copies of different processes; those within a process have been compared."""
    found: list[Disagreement] = []
    for path, leaf in named_leaves(state):
        if not isinstance(leaf, jax.Array):
            continue
        leaf = _plain_array(leaf)
        mine = {part.start: np.asarray(part.shards[0].data) for part in _parts(leaf)}
        starts = sorted({_start(index) for index in leaf.sharding.devices_indices_map(leaf.shape).values()})
        sums = [
            (start in mine, np.uint32(zlib.crc32(mine[start].tobytes()) if start in mine else 0)) for start in starts
        ]
        of_all = gather([[held, checksum.view(np.int32)] for held, checksum in sums])
        for place, start in enumerate(starts):
            holders = np.flatnonzero(of_all[:, place, 0])
            if len(set(of_all[holders, place, 1].tolist())) > 1 and len(found) < most:
                shape = leaf.sharding.shard_shape(leaf.shape)
                own = mine.get(start, np.zeros(shape, leaf.dtype))
                # Bytes in words, for they are sent as numbers of one type.
                text = own.tobytes()
                words = np.frombuffer(text + bytes(-len(text) % 4), np.int32)
                texts = [row.tobytes()[: len(text)] for row in gather(words)]
                copies = [
                    _Copy(_Process(int(process)), np.frombuffer(texts[process], own.dtype).reshape(own.shape))
                    for process in holders
                ]
                found += _compare(write_path(path), _Part(start, copies))[: most - len(found)]
    return found


@dataclasses.dataclass(frozen=True)
class _Part:
    """The copies of one part of an array."""

    start: tuple[int, ...]  # of the part in the whole array
    shards: list[Any]


def _parts(leaf: jax.Array) -> list[_Part]:
    """Return the parts of an array that this host holds, each with its copies in the order of the devices."""
    leaf = _plain_array(leaf)
    parts: dict[tuple[int, ...], list[Any]] = collections.defaultdict(list)
    for shard in leaf.addressable_shards:
        parts[_start(shard.index)].append(shard)
    return [_Part(start, sorted(shards, key=lambda each: each.device.id)) for start, shards in parts.items()]


def _plain_array(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _start(index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(each.start or 0 for each in index)


def _compare(path: str, part: _Part) -> list[Disagreement]:
    copies = [np.asarray(shard.data) for shard in part.shards]
    texts = [copy.tobytes() for copy in copies]
    if len(set(texts)) == 1:
        return []
    usual = texts.index(collections.Counter(texts).most_common(1)[0][0])
    return [
        _difference(path, part, copies, usual, other) for other in range(len(copies)) if texts[other] != texts[usual]
    ]


def _difference(path: str, part: _Part, copies: list[np.ndarray], usual: int, other: int) -> Disagreement:
    one, two = copies[usual], copies[other]
    width = one.dtype.itemsize
    bits = [np.frombuffer(copy.tobytes(), np.uint8).reshape(-1, width) for copy in (one, two)]
    unlike = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    place = np.unravel_index(unlike[0], one.shape) if one.ndim else ()
    wide = [copy.ravel()[unlike].astype(np.complex128 if copy.dtype.kind == "c" else np.float64) for copy in (one, two)]
    with np.errstate(invalid="ignore"):
        apart = np.abs(wide[0] - wide[1])
    return Disagreement(
        path,
        tuple(int(start + index) for start, index in zip(part.start, place, strict=True)),
        (_name(part.shards[usual].device), _name(part.shards[other].device)),
        (_plain(one.ravel()[unlike[0]]), _plain(two.ravel()[unlike[0]])),
        len(unlike),
        one.size,
        float(np.max(apart)) if np.all(np.isfinite(apart)) else math.nan,
    )


def _name(device: Any) -> str:
    return f"{device.platform}:{device.id}"  # the text of a device depends on the version of JAX


def _plain(number: Any) -> Any:
    """Return a number of Python's, rounded to the digits that its type has."""
    if number.dtype.kind in "biuc":
        return number.item()
    return float(str(np.float32(number))) if number.dtype.itemsize <= 4 else float(number)
