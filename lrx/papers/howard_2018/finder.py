"""The finder, as fastai calls it: one short run through all rates, which leaves the arrays of the caller alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.training import Workload
from lrx.training.sampling import keys_of

# The defaults of fastai; lrx's differ in the end of the ladder, which is the same for all seeds.
FINDER: dict[str, Any] = {"min_rate": 1e-7, "max_rate": 10.0, "num_steps": 100, "extend": False}


def run_finder(workload: Workload, tx: Callable[[Any], Any], seed: int) -> tuple[lrx.tuning.RangeTest, int, int]:
    """Run the finder from a caller's own arrays; return it, the number of arrays that it changed, and of all arrays."""
    given = jax.jit(workload.init)(keys_of(seed).init)
    before = jax.tree.map(jnp.copy, given)
    found = lrx.range_test(dataclasses.replace(workload, init=lambda key: given), tx=tx, seeds=[seed], **FINDER)  # noqa: ARG005
    same = jax.tree.leaves(jax.tree.map(is_unchanged, given, before))
    return found, same.count(False), len(same)


def is_unchanged(array: jax.Array, before: Any) -> bool:
    """Check that an array still exists and holds the same bits."""
    return not array.is_deleted() and np.asarray(array).tobytes() == np.asarray(before).tobytes()
