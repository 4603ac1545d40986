"""Which devices train, and where arrays are put on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lrx.training.batches import Batches


def local_devices() -> tuple[jax.Device, ...]:
    """Return the devices of this process, or only `jax_default_device` if it is set."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (chosen,) if isinstance(chosen, jax.Device) else tuple(jax.local_devices(backend=chosen))


def batch_devices(batches: Batches) -> tuple[jax.Device, ...]:
    """Return the devices that a batch is split over: all of them if their number divides the batch size."""
    devices = local_devices()
    return devices if batches.batch_size % len(devices) == 0 else devices[:1]


class Placement(NamedTuple):
    """Where arrays are put on several devices."""

    everywhere: Sharding  # a copy on each device
    along: Callable[[int], Sharding]  # an axis of the array is split over the devices
    mesh: Mesh | None  # with the axis "devices"; None for a single device


def placement(devices: tuple[jax.Device, ...]) -> Placement:
    """Return where arrays are put on these devices."""
    if len(devices) == 1:
        single = SingleDeviceSharding(devices[0])
        return Placement(single, lambda axis: single, None)  # noqa: ARG005
    mesh = Mesh(np.array(devices), ("devices",))

    def along(axis: int) -> Sharding:
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "devices"))

    return Placement(NamedSharding(mesh, PartitionSpec()), along, mesh)
