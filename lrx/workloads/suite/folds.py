"""All tasks of the suite, their kinds, and the folds in which rules are found on some kinds and judged on others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from lrx.workloads.suite import features, images, landscapes, representations, simulations, tables
from lrx.workloads.suite.task import Task

TASKS: dict[str, Task] = {
    **tables.TASKS,
    **features.TASKS,
    **images.TASKS,
    **representations.TASKS,
    **simulations.TASKS,
    **landscapes.TASKS,
}
KINDS: tuple[str, ...] = tuple(dict.fromkeys(task.kind for task in TASKS.values()))

# Tasks and folds are frozen: rules of `lrx.select` are found and measured on them. A task that is changed or added
# needs another oracle. The folds are written down, so that no change of the code changes them; they are
# `split_kinds(TASKS.values())`.
FOLDS: tuple[tuple[str, ...], ...] = (
    ("tables", "convolutions", "labels"),
    ("generative models", "perceptrons", "physics", "sparse features"),
    ("plateaus", "fine-tuning", "text", "convex"),
    ("rewards", "input scales", "attention", "metric learning"),
)
SEED = 20261129  # of the split, chosen before any task was measured


def split_kinds(tasks: Iterable[Task], number: int = 4, seed: int = SEED) -> tuple[tuple[str, ...], ...]:
    """Split the kinds of tasks into folds with about as many tasks each.

    The kinds are shuffled; then each, those with most tasks first, goes to the fold with the fewest tasks.

    Args:
      tasks: the tasks.
      number: number of folds.
      seed: seed of the shuffling.
    """
    counts = Counter(task.kind for task in tasks)
    shuffled = [list(counts)[place] for place in np.random.default_rng(seed).permutation(len(counts))]
    folds: list[list[str]] = [[] for _ in range(number)]
    for kind in sorted(shuffled, key=lambda kind: -counts[kind]):  # a stable sort: kinds of one size stay shuffled
        min(folds, key=lambda fold: sum(counts[each] for each in fold)).append(kind)
    return tuple(tuple(fold) for fold in folds)
