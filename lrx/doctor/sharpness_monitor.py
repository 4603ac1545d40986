"""The sharpness of a run beside the limit that its rate sets, recorded while it trains."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.diagnostics import Sharpness, preconditioner_of, sharpness, stability_limit
from lrx.figures import BLUE, VERMILION, panels, scale_axis
from lrx.records import write_atomically
from lrx.training import Moment, Workload
from lrx.training.workload import require_workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Row(NamedTuple):
    """One measurement."""

    step: int
    sharpness: float
    limit: float
    residual: float
    converged: bool


class SharpnessMonitor:
    """A callback of `train` that records the sharpness beside the stability limit; `sharpness_monitor` builds it.

    Attributes:
      every: steps between two measurements.
      steps: (k,) int32, the steps made at each measurement.
      sharpness: (k,) float32, the largest eigenvalue of the Hessian, over the preconditioner for an adaptive method.
      limits: (k,) float32, the largest sharpness at which a step is stable on a quadratic.
      residuals: (k,) float32, how far the sharpness may be off at most.
    """

    def __init__(self, workload: Workload, every: int, seed_or_batch: Any, tol: ArrayLike, path: Path | None) -> None:
        self.every = every
        self._workload, self._path = workload, path
        self._loss = workload.loss_at(seed_or_batch)
        self._measure = jax.jit(lambda loss, params, over: sharpness(loss, params, preconditioner=over, tol=tol))
        self._rows: list[_Row] = []
        if path is not None and path.exists():
            self._rows = _read(path)

    def __call__(self, moment: Moment) -> None:
        """Measure the sharpness at a moment of a run, and the limit of the update before it."""
        opt_state = moment.opt_state
        over, limit = preconditioner_of(opt_state), stability_limit(opt_state)
        loss = self._loss.with_model_state(moment.model_state)
        found: Sharpness = self._measure(loss, moment.params, over)
        value, residual = float(found.largest), float(found.residuals[0])
        row = _Row(moment.step, value, float(limit), residual, bool(found.converged))
        # A run that begins anew, or that is resumed before its end, measures again.
        self._rows = [earlier for earlier in self._rows if earlier.step < moment.step] + [row]
        if self._path is not None:
            write_atomically(self._path, json.dumps([list(each) for each in self._rows]))

    @property
    def steps(self) -> np.ndarray:
        """The steps made at each measurement."""
        return np.array([row.step for row in self._rows], np.int32)

    @property
    def sharpness(self) -> np.ndarray:
        """The sharpness at each measurement."""
        return np.array([row.sharpness for row in self._rows], np.float32)

    @property
    def limits(self) -> np.ndarray:
        """The limit at each measurement."""
        return np.array([row.limit for row in self._rows], np.float32)

    @property
    def residuals(self) -> np.ndarray:
        """The residual of each measurement."""
        return np.array([row.residual for row in self._rows], np.float32)

    def __repr__(self) -> str:
        if not self._rows:
            return f"SharpnessMonitor(every {self.every:,} steps, nothing measured yet)"
        last = self._rows[-1]
        above = int(np.sum(self.sharpness > self.limits))
        return (
            f"SharpnessMonitor({len(self._rows):,} measurements, {above:,} of them above the limit; at step "
            f"{last.step:,} sharpness {last.sharpness:.4g}, limit {last.limit:.4g})"
        )

    def plot(self, *, title: str = "") -> Figure:
        """Draw the sharpness and the limit over the steps; needs matplotlib.

        Args:
          title: what was trained, such as "digits: sgd".

        Raises:
          ValueError: if nothing was measured.
          ImportError: if matplotlib is not installed.
        """
        if not self._rows:
            raise ValueError("nothing was measured yet: pass the monitor to train(callback=...) first.")
        figure, (axes,) = panels(size=(7.0, 4.2))
        limits = np.where(np.isfinite(self.limits), self.limits, np.nan)
        axes.plot(self.steps, self.sharpness, "o-", ms=3, lw=1.6, color=BLUE, label="sharpness")
        axes.plot(self.steps, limits, "--", lw=1.6, color=VERMILION, label="stability limit")
        scale_axis(axes, "y", np.concatenate([self.sharpness, limits]))
        axes.set(xlabel="step", ylabel="curvature")
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(frameon=False)
        return figure


def sharpness_monitor(
    workload: Workload,
    *,
    every: int,
    seed_or_batch: Any = 0,
    tol: ArrayLike = 1e-2,
    path: str | os.PathLike[str] | None = None,
) -> SharpnessMonitor:
    """Build a callback of `train` that records the sharpness beside the stability limit.

    It trains nothing itself. Every so many steps and at the end it measures `lrx.sharpness` of the loss at the
    parameters at which gradients are taken, over `lrx.preconditioner_of(state)` for adaptive methods, and
    `lrx.stability_limit(state)`. With full batches, a sharpness that hovers at the limit is the edge of stability: a
    larger rate would lead to a flatter region, or diverge. A sharpness far below it says that the rate could be larger.

    Args:
      workload: what is trained.
      every: steps between two measurements, >= 1, each of about 10 to 100 gradients of the batch.
      seed_or_batch: the batch whose loss is measured, as in `workload.loss_at`: the first minibatch of a seed, or a
        batch, the larger the better; for a full-batch workload it is all data.
      tol: largest residual relative to the sharpness, > 0; 1e-2 is enough for a picture.
      path: a JSON file to keep the record in, so that a resumed run continues it; None keeps it in memory.

    Returns:
      A `SharpnessMonitor`: a callback for `train(callback=...)`, which then holds `steps`, `sharpness` and `limits`,
      and draws them with `plot()`.

    Raises:
      ValueError: if `every` is not a whole number >= 1, or `tol` is not positive; in the run, at its first measurement,
        if the stability of the optimizer is not known.
      TypeError: if `workload` is not a `Workload`.

    Source: J. Cohen et al., "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability", ICLR 2021,
    arXiv:2103.00065; for adaptive methods arXiv:2207.14484.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> loss_fn = lambda w, x, key: jnp.mean((w - x) ** 2)  # of curvature 2
      >>> batches = lrx.Batches(jnp.zeros(8), batch_size=8)
      >>> workload = lrx.Workload.from_functions(loss_fn, lambda key: jnp.ones(()), batches, name="bowl")
      >>> monitor = lrx.sharpness_monitor(workload, every=2)
      >>> history = lrx.train(workload, lrx.sgd(0.25), steps=4, callback=monitor)
      >>> monitor
      SharpnessMonitor(2 measurements, 0 of them above the limit; at step 4 sharpness 2, limit 8)
    """
    require_workload(workload)
    _checks.steps("every", every)
    _checks.positive("tol", tol)
    place = None if path is None else Path(path).expanduser()
    return SharpnessMonitor(workload, int(every), seed_or_batch, tol, place)


def _read(path: Path) -> list[_Row]:
    try:
        return [_Row(*row) for row in json.loads(path.read_text())]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"path must be a file that a sharpness_monitor has written, got path={str(path)!r}."
        ) from error
