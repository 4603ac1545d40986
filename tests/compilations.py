"""Count what JAX compiles and traces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
TRACED = "/jax/core/compile/jaxpr_trace_duration"


class Counter:
    """What was compiled and traced, by the names of the functions."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def listen(self, event: str, duration: float, **about: Any) -> None:
        del duration
        if event in (COMPILED, TRACED):
            self.events.append((event, about.get("fun_name")))

    def names(self, event: str) -> list[Any]:
        return [name for found, name in self.events if found == event]


@contextlib.contextmanager
def counting() -> Iterator[Counter]:
    counter = Counter()
    jax.monitoring.register_event_duration_secs_listener(counter.listen)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter.listen)
