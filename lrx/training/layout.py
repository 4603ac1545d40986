"""Where a run lies on a mesh: its batch split, its parameters as asked for, its optimizer state with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lrx._paths import Path, is_tree_of, named_leaves, spread, write_path
from lrx.training.batches import Batches, first_of
from lrx.training.checks import initial_shapes
from lrx.training.history import Best
from lrx.training.placement import Placement, batch_devices, mesh_placement, placement
from lrx.training.records import Records
from lrx.training.step import State
from lrx.training.workload import Workload

FSDP = "fsdp"


class Layout(NamedTuple):
    """Where the arrays of a run are put."""

    places: Placement
    devices: tuple[jax.Device, ...]
    is_given: bool  # whether the caller gave a mesh: the run then stays on it, evaluations included
    specs: tuple[tuple[Path, tuple[int, ...], PartitionSpec], ...]  # path, shape and axes of each parameter; () if all
    # have a copy on each device

    @property
    def key(self) -> Hashable:
        """What distinguishes the programs for two layouts."""
        mesh = self.places.mesh
        shape = None if mesh is None else (mesh.axis_names, mesh.devices.shape)
        return self.devices, shape, self.is_given, self.specs

    @property
    def spans_processes(self) -> bool:
        """Whether the run belongs to several processes, which then have to act alike."""
        return len({device.process_index for device in self.devices}) > 1

    def of_state(self, state: State) -> Any:
        """Return the sharding of each leaf of a state, or one for all leaves.

        A leaf of the optimizer state, or of the best parameters, follows a parameter if its path ends with that of the
        parameter and its shape ends with the parameter's shape.
        """
        if not self.specs:
            return self.places.everywhere
        known = {path: (shape, spec) for path, shape, spec in self.specs}
        mesh = self.places.mesh
        assert mesh is not None

        def follow(tree: Any) -> Any:
            found = [NamedSharding(mesh, _spec_of(path, leaf.shape, known)) for path, leaf in named_leaves(tree)]
            return jax.tree.unflatten(jax.tree.structure(tree), found)

        def copy(tree: Any) -> Any:
            return jax.tree.map(lambda _: self.places.everywhere, tree)

        best = state.best
        if isinstance(best, Best):
            best = Best(copy(best.step), follow(best.params), copy(best.model_state))
        return State(follow(state.params), copy(state.model_state), follow(state.opt_state), best)


def _spec_of(
    path: Path, shape: Sequence[int], known: dict[Path, tuple[tuple[int, ...], PartitionSpec]]
) -> PartitionSpec:
    for start in range(len(path) + 1):
        of_parameter, spec = known.get(path[start:], (None, None))
        if of_parameter is not None and spec is not None:
            before = len(shape) - len(of_parameter)
            if before >= 0 and tuple(shape[before:]) == of_parameter:
                return PartitionSpec(*[None] * before, *spec)
            return PartitionSpec()
    return PartitionSpec()


def layout_of(workload: Workload, mesh: Any = None, param_sharding: Any = None) -> Layout:
    """Return where a run of a workload lies.

    Args:
      workload: what is trained.
      mesh: as for `train`.
      param_sharding: as for `train`.

    Raises:
      ValueError: if the mesh does not divide the batch or a parameter, or an axis is not one of the mesh.
      TypeError: if an argument is of the wrong type.
    """
    if mesh is None:
        if param_sharding is not None:
            raise ValueError(
                f"param_sharding needs a mesh to split the parameters over, got param_sharding={param_sharding!r} and "
                'mesh=None: give mesh=jax.make_mesh((jax.device_count(),), ("data",)).'
            )
        devices = batch_devices(workload.batches)
        return Layout(placement(devices), devices, False, ())
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got mesh={mesh!r}: make one, "
            'jax.make_mesh((jax.device_count(),), ("data",)).'
        )
    processes = {device.process_index for device in mesh.devices.flat}
    if 1 < len(processes) < jax.process_count():
        raise ValueError(
            f"mesh must have devices of one process or of all {jax.process_count()}, got those of {len(processes)}: "
            "make it of jax.devices()."
        )
    # Shardings are not part of the types in a run, so that every loss_fn and every optax transformation traces.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    _require_divided(workload.batches, mesh)
    devices = tuple(mesh.devices.ravel().tolist())
    return Layout(mesh_placement(mesh), devices, True, _read_specs(workload, mesh, param_sharding))


def _require_divided(batches: Batches, mesh: Mesh) -> None:
    axis = mesh.axis_names[0]
    number, size = mesh.shape[axis], batches.examples_per_step
    if size % number:
        nearest = [n for n in (size // number * number, -(-size // number) * number) if n]
        raise ValueError(
            f"batch_size must be a multiple of the {number} devices along the first axis of the mesh, {axis!r}, got "
            f"batch_size={size}: give {' or '.join(map(str, nearest))}, or a mesh whose first axis divides {size}."
        )


def put_data(batches: Batches, layout: Layout) -> Callable[[Any], Any]:
    """Return a function that puts the arrays of a run on its devices.

    Examples have a copy on each device, since each step draws from all of them. Minibatches that were whole already are
    split over the devices. Of records, each process of several has its share, which goes to its own devices.
    """
    number = len(layout.devices) if layout.places.mesh is None else layout.places.mesh.devices.shape[0]
    if layout.spans_processes and isinstance(batches, Records):
        return lambda arrays: jax.tree.map(lambda x: _join_shares(x, batches.process[1], layout.places), arrays)

    def sharding_of(x: Any) -> Sharding:
        is_split = layout.is_given and batches.transform is first_of and np.ndim(x) > 1 and x.shape[1] % number == 0
        return layout.places.along(1) if is_split else layout.places.everywhere

    return lambda arrays: put(arrays, jax.tree.map(sharding_of, arrays))


def _join_shares(share: np.ndarray, processes: int, places: Placement) -> jax.Array:
    """Return the minibatches of all processes, (steps, batch, ...), of which this one has a share."""
    shape = (share.shape[0], share.shape[1] * processes, *share.shape[2:])
    return jax.make_array_from_process_local_data(places.along(1), share, shape)


def require_shares(batches: Records, layout: Layout, total: int) -> None:
    """Check that the processes of a run read what their devices need, in all of its steps.

    Raises:
      ValueError: if the shares are those of another number of processes, the rows of the mesh along its first axis do
        not belong to one process each, as many to every process, or their number does not divide a batch size.
    """
    batches.require_processes(jax.process_count() if layout.spans_processes else 1)
    mesh = layout.places.mesh
    if not layout.spans_processes or mesh is None:
        return
    by_row = mesh.devices.reshape(len(mesh.devices), -1)
    rows = [sorted({device.process_index for device in row}) for row in by_row]
    counts = np.bincount([row[0] for row in rows], minlength=jax.process_count())
    if any(len(row) > 1 for row in rows) or np.ptp(counts):
        raise ValueError(
            "mesh must have rows along its first axis that belong to one process each, as many to every process, since "
            f"each process reads a part of every minibatch, got rows of the processes {rows}: make it by "
            'jax.make_mesh((jax.device_count(),), ("data",)), or with further axes within a process.'
        )
    step = 0
    while step < total:
        size, steps = batches.sizes.at(step)
        if size % len(rows):
            raise ValueError(
                f"batch_size must be a multiple of the {len(rows)} devices along the first axis of the mesh at every "
                f"step, since each process reads its share, got {size} at step {step}: give "
                f"{max(1, size // len(rows)) * len(rows)}."
            )
        step += steps


def put(tree: Any, shardings: Any) -> Any:
    """Put arrays where they belong; a mesh of several processes takes from each the part for its devices.

    Args:
      tree: arrays; if the mesh belongs to several processes, each of them has the whole arrays.
      shardings: a tree of shardings, or one for all.
    """
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    return jax.tree.map(_put_share, tree, shardings)


def _put_share(x: Any, sharding: Sharding) -> jax.Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        words = np.asarray(jax.random.key_data(x))
        whole = jax.make_array_from_callback(words.shape, sharding, lambda index: words[index])
        return jax.random.wrap_key_data(whole, impl=jax.random.key_impl(x))
    # `device_put` would send the array to the other processes, to compare it.
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


# --- the layout of parameters


def _read_specs(
    workload: Workload, mesh: Mesh, param_sharding: Any
) -> tuple[tuple[Path, tuple[int, ...], PartitionSpec], ...]:
    """Return path, shape and axes of each parameter.

    Raises:
      ValueError: if a specification does not fit its parameter or the mesh.
      TypeError: if something else than specifications is given.
    """
    if param_sharding is None:
        return ()
    params, _ = initial_shapes(workload)
    leaves = named_leaves(params)
    if isinstance(param_sharding, str):
        if param_sharding != FSDP:
            raise ValueError(
                f"param_sharding must be {FSDP!r}, a function of a path and a shape, or PartitionSpecs, got "
                f"param_sharding={param_sharding!r}."
            )
        axis = mesh.axis_names[0]
        found = {path: split_longest(leaf.shape, axis, mesh.shape[axis]) for path, leaf in leaves}
    elif not is_tree_of(param_sharding, (PartitionSpec, NamedSharding)):
        found = {path: param_sharding(write_path(path), leaf) for path, leaf in leaves}
    else:
        found = spread("param_sharding", param_sharding, params)
    for path, leaf in leaves:
        _require_fits(write_path(path), leaf.shape, found[path], mesh)
    return tuple((path, tuple(leaf.shape), _spec(found[path])) for path, leaf in leaves)


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec | NamedSharding)


def _spec(given: Any) -> PartitionSpec:
    return given.spec if isinstance(given, NamedSharding) else given


def split_longest(shape: Sequence[int], axis: str, number: int) -> PartitionSpec:
    """Return the specification that splits the longest dimension that `number` divides; a copy if there is none."""
    divided = [place for place, length in enumerate(shape) if length and length % number == 0]
    if not divided:
        return PartitionSpec()
    longest = max(divided, key=lambda place: shape[place])
    return PartitionSpec(*[None] * longest, axis)


def _require_fits(path: str, shape: Sequence[int], given: Any, mesh: Mesh) -> None:
    where = f"param_sharding of {path!r}" if path else "param_sharding"
    if not _is_spec(given):
        raise TypeError(f"{where} must be a jax.sharding.PartitionSpec, got {given!r}.")
    spec = _spec(given)
    if len(spec) > len(shape):
        raise ValueError(
            f"{where} must have at most {len(shape)} entries for a parameter of shape {tuple(shape)}, got {spec}: give "
            "PartitionSpec() for a copy on each device."
        )
    for length, entry in zip(shape, spec, strict=False):
        axes = () if entry is None else (entry if isinstance(entry, tuple) else (entry,))
        unknown = [axis for axis in axes if axis not in mesh.shape]
        if unknown:
            raise ValueError(f"{where} must name axes of the mesh, {list(mesh.axis_names)}, got {unknown[0]!r}.")
        number = math.prod(mesh.shape[axis] for axis in axes)
        if length % number:
            raise ValueError(
                f"{where} must split a dimension that the mesh divides, got {spec} for shape {tuple(shape)}: {number} "
                f"devices do not divide {length}. Split another dimension, or give PartitionSpec() for a copy on each "
                "device."
            )
