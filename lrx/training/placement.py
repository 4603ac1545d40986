"""Which devices train, and where arrays are put on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lrx._paths import leaves_by_key
from lrx.training.batches import Batches
from lrx.training.stream import Stream


def local_devices() -> tuple[jax.Device, ...]:
    """Return the devices of this process, or only `jax_default_device` if it is set."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (chosen,) if isinstance(chosen, jax.Device) else tuple(jax.local_devices(backend=chosen))


def data_devices(batches: Batches) -> tuple[jax.Device, ...]:
    """Return the devices on which the data of a run are used: those they were put on, or else the local ones.

    As in JAX itself, `jax.device_put(arrays, device)` decides, also against `jax_default_device`.

    Raises:
      ValueError: if the arrays were put on different devices.
    """
    found: dict[tuple[jax.Device, ...], str] = {}
    for name, leaf in () if isinstance(batches, Stream) else leaves_by_key(batches.arrays).items():
        if isinstance(leaf, jax.Array) and leaf.committed and leaf.is_fully_addressable:
            found.setdefault(tuple(sorted(leaf.devices(), key=lambda device: device.id)), f"arrays{name}")
    if len(found) > 1:
        places = " and ".join(f"{name} on {', '.join(map(str, devices))}" for devices, name in found.items())
        raise ValueError(
            f"arrays must be on the same devices, got {places}: put all of them on one, with one device_put."
        )
    return next(iter(found), None) or local_devices()


def batch_devices(batches: Batches) -> tuple[jax.Device, ...]:
    """Return the devices that a batch is split over: all of the data's if their number divides the batch size."""
    devices = data_devices(batches)
    return devices if batches.batch_size % len(devices) == 0 else devices[:1]


class Placement(NamedTuple):
    """Where arrays are put on several devices."""

    everywhere: Sharding  # a copy on each device
    along: Callable[[int], Sharding]  # an axis of the array is split over the first axis of the mesh
    mesh: Mesh | None  # None for a single device


def placement(devices: tuple[jax.Device, ...]) -> Placement:
    """Return where arrays are put on these devices."""
    if len(devices) == 1:
        single = SingleDeviceSharding(devices[0])
        return Placement(single, lambda axis: single, None)  # noqa: ARG005
    return mesh_placement(Mesh(np.array(devices), ("devices",)))


def mesh_placement(mesh: Mesh) -> Placement:
    """Return where arrays are put on a mesh, along whose first axis they are split."""

    def along(axis: int) -> Sharding:
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names[0]))

    return Placement(NamedSharding(mesh, PartitionSpec()), along, mesh)
