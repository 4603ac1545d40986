"""The result of `sweep`: its table, its figures and its best member."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrx.tuning.arguments import as_best
from lrx.tuning.initial_loss import differs, is_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 20  # of a table that is printed


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """The losses of all runs of a sweep.

    The leading axes of arrays are those of the grid, or one for random samples; the axis of seeds follows them.

    Attributes:
      axes: hyperparameter to its values: along its own axis of the grid, or one for each sample.
      seeds: (seeds,) the seeds of the runs.
      final_loss: (members..., seeds) float32, the mean training loss of the last tenth of the steps; infinite if a run
        diverged.
      initial_loss: (members..., seeds) float32, the mean loss of the initial parameters on the minibatches of
        `final_loss`. A run whose final loss is not below it has learnt nothing.
      losses: (members..., seeds, points) float32, the curves; NaN after a run diverged.
      rates: (members..., seeds, points) float32, the mean learning rate of each point; NaN after a run diverged, and if
        the optimizer's state holds no rate, or one for each of several groups.
      steps: (points,) the step in the middle of each point of a curve.
      evaluations: name to (members..., seeds) float32, the results of the workload's `evaluate` at the end; empty if it
        has none.
      evaluation_curves: name to (members..., seeds, times) float32, the same after each of `evaluation_steps`; NaN if a
        run has diverged by then.
      evaluation_steps: (times,) int64, numbers of steps made; the last one is all of them.
      is_grid: whether each hyperparameter has an axis of its own.
      strategy: "vmap" or "map", how the runs were compiled; "restored" if all were in the checkpoint.
      chunk_size: members that were trained at a time; 0 if none was.
      seconds: strategy to the seconds of a step of one run, if both were measured.
    """

    axes: dict[str, np.ndarray]
    seeds: np.ndarray
    final_loss: np.ndarray
    initial_loss: np.ndarray
    losses: np.ndarray
    rates: np.ndarray
    steps: np.ndarray
    evaluations: dict[str, np.ndarray]
    evaluation_curves: dict[str, np.ndarray]
    evaluation_steps: np.ndarray
    is_grid: bool
    strategy: str
    chunk_size: int
    seconds: dict[str, float]

    def best(self, metric: str | tuple[str, str] | None = None) -> dict[str, float]:
        """Return the hyperparameters with the best mean over seeds, among the members that have learnt something.

        Those are the members whose mean final loss is below that of the initial parameters by more than a thousandth
        of it; with a metric, also those whose loss is above it by more than that.

        Args:
          metric: one of `evaluations`, such as "accuracy"; ("score", "max") if the name does not say which is better;
            the final training loss by default.

        Raises:
          ValueError: if every member diverged with some seed, none has learnt anything, or the metric is unknown, not
            finite for any member, or does not say which is better.
        """
        means = self._means(metric)
        if not np.any(np.isfinite(means)):
            if np.isfinite(self.final_loss).all(axis=-1).any():
                raise ValueError(
                    f"the {as_best(metric, None).metric} of no member is finite with every seed, though not all "
                    "diverged: look at what the workload's evaluate gives."
                )
            raise ValueError("every member of the sweep diverged with some seed: sweep lower rates.")
        initial, final = self.initial_loss.mean(axis=-1), self.final_loss.mean(axis=-1)
        learnt = is_below(initial, final) if metric is None else differs(initial, final)
        less_is_better = as_best(metric, None).mode == "min"
        means = np.where(learnt, means, np.inf if less_is_better else -np.inf)
        if not np.any(np.isfinite(means)):
            raise ValueError(
                f"no member of the sweep has learnt anything: the lowest final loss is {np.min(final):.6g}, and the "
                f"initial parameters have {initial.flat[np.argmin(final)]:.6g} on the same minibatches. Sweep higher "
                "rates, give more num_steps, or look at the gradients."
            )
        place = np.unravel_index(int(np.argmin(means if less_is_better else -means)), means.shape)
        if self.is_grid:
            return {name: float(values[i]) for (name, values), i in zip(self.axes.items(), place, strict=True)}
        return {name: float(values[place[0]]) for name, values in self.axes.items()}

    def _means(self, metric: str | tuple[str, str] | None) -> np.ndarray:
        """(members...): means over seeds; the worst possible value if a run diverged."""
        values = self._values(metric)
        worst = np.inf if as_best(metric, None).mode == "min" else -np.inf
        means = np.where(np.isfinite(self.final_loss), values, worst).mean(axis=-1)
        return np.where(np.isfinite(means), means, worst)

    def _values(self, metric: str | tuple[str, str] | None) -> np.ndarray:
        name = as_best(metric, None).metric
        if metric is not None and name not in self.evaluations:
            raise ValueError(
                f"metric must be one of {sorted(self.evaluations)}, or None for the training loss, got "
                f"metric={metric!r}."
            )
        return self.final_loss if metric is None else self.evaluations[name]

    def at_edge(self, metric: str | tuple[str, str] | None = None) -> dict[str, str]:
        """Return the hyperparameters whose best value is an end of their axis: a better one may lie beyond.

        Args:
          metric: as in `best`.

        Returns:
          name to "lowest" or "highest"; empty for random samples, and if the best lies within the grid.

        Raises:
          ValueError: as `best`.
        """
        found = {}
        if self.is_grid:
            for name, value in self.best(metric).items():
                axis = self.axes[name]
                if len(axis) > 1 and value in (axis.min(), axis.max()):
                    found[name] = "lowest" if value == axis.min() else "highest"
        return found

    def plot(self, metric: str | tuple[str, str] | None = None, *, names: Sequence[str] | None = None) -> Figure:
        """Draw a metric over one hyperparameter as a line, or over two as a map; needs matplotlib.

        Args:
          metric: as in `best`.
          names: the one or two hyperparameters of the axes; by default the first two. Of the others of a grid the best
            values are taken.

        Raises:
          ValueError: if there are not one or two names, or one is unknown.
        """
        from lrx.tuning.figures import heat_map, line, scatter

        names = list(self.axes)[:2] if names is None else list(names)
        if not 1 <= len(names) <= 2 or not set(names) <= set(self.axes) or len(set(names)) < len(names):
            raise ValueError(f"names must be one or two of {list(self.axes)}, got names={names}.")
        means, mode, note = self._means(metric), as_best(metric, None).mode, self._summary(metric)
        label = "final loss" if metric is None else as_best(metric, None).metric
        if not self.is_grid:
            return scatter([(name, self.axes[name]) for name in names], means, label, mode, note)
        others = tuple(place for place, name in enumerate(self.axes) if name not in names)
        reduced = means.min(axis=others) if mode == "min" else means.max(axis=others)
        kept = [name for name in self.axes if name in names]
        if kept != names:
            reduced = reduced.T
        if len(names) == 2:
            return heat_map([(name, self.axes[name]) for name in names], reduced, label, mode, note)
        by_seed = self._values(metric) if not others else None
        return line((names[0], self.axes[names[0]]), reduced, by_seed, label, mode, note)

    def _summary(self, metric: str | tuple[str, str] | None) -> str:
        """Return in words which member is best, and whether that is an end of an axis."""
        try:
            best, edges = self.best(metric), self.at_edge(metric)
        except ValueError as error:
            return str(error)
        chosen = ", ".join(f"{name}={value:.6g}" for name, value in best.items())
        at = " and ".join(f"the {end} {name}" for name, end in edges.items())
        return f"best: {chosen}" + (f", {at} of the grid: a better one may lie beyond" if at else "")

    def __repr__(self) -> str:
        members = " x ".join(f"{len(values)} {name}" for name, values in self.axes.items())
        if not self.is_grid:
            members = f"{len(self.final_loss)} samples of {', '.join(self.axes)}"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        return f"SweepResult({members}, {seeds}, {int(self.evaluation_steps[-1]):,} steps)"

    def __str__(self) -> str:
        means = self._means(None)
        names = list(self.axes)
        places = np.argsort(means.ravel(), kind="stable")
        rows = [[*(f"{name:>10}" for name in names), f"{'final loss':>10}"]]
        rows[0] += [f"{name:>10}" for name in self.evaluations]
        for place in places[:MOST_ROWS]:
            at = np.unravel_index(int(place), means.shape)
            values = [self.axes[name][at[i] if self.is_grid else at[0]] for i, name in enumerate(names)]
            found = [means[at], *(results[at].mean() for results in self.evaluations.values())]
            rows.append([f"{value:>10.4g}" for value in values] + [_number(value) for value in found])
        more = [f"and {len(places) - MOST_ROWS} more"] if len(places) > MOST_ROWS else []
        return "\n".join([repr(self), *("  ".join(row) for row in rows), *more, self._summary(None)])


def _number(value: float) -> str:
    return f"{value:>10.4g}" if np.isfinite(value) else f"{'diverged':>10}"
