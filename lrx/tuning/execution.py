"""How the runs of a search are compiled."""

from __future__ import annotations

import dataclasses

from lrx import _checks
from lrx.training.plan import STRATEGIES

NUM_POINTS = 100  # of the curve of each run, by default


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the runs of `sweep` and `successive_halving` are compiled; their numbers do not depend on it.

    Attributes:
      strategy: "vmap" runs one step of all runs at once, "map" all steps of one run, then of the next, in one program;
        "auto" measures both. Over several devices the members are split.
      chunk_size: members that are trained at a time; None for as many as fit into free memory.

    Raises:
      ValueError: if a field is out of its range.

    Example:
      >>> from lrx.tuning import Execution
      >>> Execution("vmap")
      Execution(strategy='vmap', chunk_size=None)
    """

    strategy: str = "auto"
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        _checks.one_of("strategy", self.strategy, ("auto", *STRATEGIES))
        if self.chunk_size is not None:
            _checks.steps("chunk_size", self.chunk_size, unit="members")


AUTO = Execution()


def require_execution(execution: object) -> None:
    """Check that an argument is an `Execution`."""
    if not isinstance(execution, Execution):
        raise TypeError(
            f"execution must be an lrx.tuning.Execution, got execution={execution!r}: give "
            'lrx.tuning.Execution("vmap").'
        )
