"""Initial states from earlier runs: leaves that fit are taken over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrx.restoring import CarriedOver, carry_over
from lrx.run_state import eval_params
from lrx.training.history import Best, History
from lrx.training.identity import checksums
from lrx.training.program import State


def begin_from(init: Any, fresh: State) -> tuple[State, list[str]]:
    """Return the state to begin with, and in words what could not be taken over.

    Args:
      init: a `History`, a `Best`, `(params, model_state, opt_state)`, or parameters.
      fresh: the state that the run would begin with otherwise.

    Raises:
      ValueError: if nothing of the parameters fits.
    """
    parts = _parts(init, fresh)
    notes: list[str] = []
    taken: dict[str, Any] = {}
    for name, old in parts.items():
        new = getattr(fresh, name)
        if not jax.tree.leaves(new) or not jax.tree.leaves(old):
            taken[name] = new
            continue
        try:
            carried = carry_over(old, new)
        except ValueError as error:
            if name == "params":
                raise ValueError(f"init must fit the model, got parameters of which nothing does: {error}") from error
            notes.append(f"{name} begins anew: nothing of what was there fits")
            taken[name] = new
            continue
        taken[name] = carried.state
        notes += _notes(name, carried)
    state = fresh._replace(**taken)
    if isinstance(state.best, Best):
        here = Best(jnp.int32(0), eval_params(state.opt_state, state.params), state.model_state)
        state = state._replace(best=jax.tree.map(jnp.copy, here))
    return state, notes


def checksum_of(init: Any) -> dict[str, str]:
    """Return what tells one beginning from another."""
    if isinstance(init, History):
        init = (init.params, init.model_state, init.opt_state)
    return checksums(init)


def _parts(init: Any, fresh: State) -> dict[str, Any]:
    if isinstance(init, History):
        return {"params": init.params, "model_state": init.model_state, "opt_state": init.opt_state}
    if isinstance(init, Best):
        return {"params": init.params, "model_state": init.model_state}
    structure: Any = jax.tree.structure(init)
    is_params = structure == jax.tree.structure(fresh.params)
    if type(init) is tuple and len(init) == 3 and not is_params:
        return dict(zip(("params", "model_state", "opt_state"), init, strict=True))
    return {"params": init}


def _notes(name: str, carried: CarriedOver) -> list[str]:
    pairs = (("begins anew", carried.fresh), ("has no place", carried.dropped))
    return [f"{name}: {title}: {'; '.join(lines)}" for title, lines in pairs if lines]
