"""When the host acts in a run: evaluations, checkpoints and callbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from lrx.training.callbacks import Callback, interval_of
from lrx.training.following import BestBy


@dataclasses.dataclass(frozen=True)
class Settings:
    """The steps at which the host acts."""

    total: int
    evaluate_every: int
    checkpoint_every: int | None = None
    callback_every: int | None = None
    callbacks: tuple[Callback, ...] = ()
    feedback_metric: Any = None
    best_by: BestBy | None = None
    stop_on_nonfinite: bool = True

    def next_stop(self, step: int, others: Iterable[int] = ()) -> int:
        """Return the next step after which the host has something to do, one of `others` included."""
        own = [interval_of(callback) for callback in self.callbacks]
        shared = self.callback_every if None in own else None
        intervals = (self.evaluate_every, self.checkpoint_every, shared, *own)
        return min(
            self.total,
            *((step // every + 1) * every for every in intervals if every),
            *(other for other in others if other > step),
        )
