"""How the runs of a search are compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from lrx import _checks
from lrx.training.plan import STRATEGIES

NUM_POINTS = 100  # of the curve of each run, by default


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the runs of `sweep` and `successive_halving` are compiled; their numbers do not depend on it.

    Attributes:
      strategy: "vmap" runs one step of all runs at once, "map" all steps of one run, then of the next, in one program;
        "auto" measures both.
      chunk_size: members that are trained at a time; None for as many as fit into free memory.
      mesh: the devices, of this process, over which the members are split, or the seeds of a single member; None for
        those that the data were put on, or else all of this process.

    Raises:
      ValueError: if a field is out of its range, or the mesh has devices of other processes.
      TypeError: if `mesh` is not a mesh.

    Example:
      >>> from lrx.tuning import Execution
      >>> Execution("vmap")
      Execution(strategy='vmap', chunk_size=None, mesh=None)
    """

    strategy: str = "auto"
    chunk_size: int | None = None
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        _checks.one_of("strategy", self.strategy, ("auto", *STRATEGIES))
        if self.chunk_size is not None:
            _checks.steps("chunk_size", self.chunk_size, unit="members")
        require_local_mesh(self.mesh)

    @property
    def devices(self) -> tuple[jax.Device, ...] | None:
        """The devices of the mesh; None if there is none."""
        return devices_of(self.mesh)


def devices_of(mesh: Mesh | None) -> tuple[jax.Device, ...] | None:
    """Return the devices over which runs are split; None for no choice."""
    return None if mesh is None else tuple(mesh.devices.ravel().tolist())


def require_local_mesh(mesh: Any) -> None:
    """Check an argument that is a mesh, or None, over which runs are split.

    Raises:
      TypeError: if it is something else.
      ValueError: if it has devices of other processes.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got mesh={mesh!r}: make one, "
            'jax.make_mesh((jax.local_device_count(),), ("runs",)).'
        )
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            "mesh must have devices of this process only, got some of others: make it of jax.local_devices(), and let "
            "processes share a sweep by its storage=, or an Optuna study by lrx.tuning.optuna_objective."
        )


AUTO = Execution()


def require_execution(execution: object) -> None:
    """Check that an argument is an `Execution`."""
    if not isinstance(execution, Execution):
        raise TypeError(
            f"execution must be an lrx.tuning.Execution, got execution={execution!r}: give "
            'lrx.tuning.Execution("vmap").'
        )
