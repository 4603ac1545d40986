"""What a simulation of federated learning leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import BLUE, GREEN, VERMILION, panels, scale_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FederatedHistory:
    """The rounds of a simulation and its final state.

    Attributes:
      start_loss: (rounds,) the clients' losses before their steps: what controllers see.
      loss: (rounds,) the clients' losses during their steps.
      server_rate: (rounds,) rate of the server, NaN if its state shows none.
      client_rate: (rounds,) rate of the clients; NaN if their transformation has its own.
      norm: (rounds,) norm of the mean change.
      counted: (rounds,) number of clients whose change counted.
      dropped: (rounds,) number of clients that dropped out.
      rejected: (rounds,) number of clients whose change was not finite or too large.
      steps: (rounds,) local steps of all clients.
      evaluation_rounds: (times,) numbers of rounds after which the parameters were evaluated, 0 for the initial ones.
      evaluations: name to (times,) results.
      params: the parameters to evaluate, after the last round.
      model_state: the model state.
      server_state: state of the server's transformation.
    """

    start_loss: np.ndarray
    loss: np.ndarray
    server_rate: np.ndarray
    client_rate: np.ndarray
    norm: np.ndarray
    counted: np.ndarray
    dropped: np.ndarray
    rejected: np.ndarray
    steps: np.ndarray
    evaluation_rounds: np.ndarray
    evaluations: Mapping[str, np.ndarray]
    params: Any
    model_state: Any
    server_state: Any

    @property
    def num_rounds(self) -> int:
        """Number of rounds."""
        return len(self.loss)

    def rounds_to(self, name: str, target: float, *, mode: str = "max") -> int | None:
        """Return the first number of rounds after which an evaluation reached a value; None if none did.

        Args:
          name: of the evaluation, such as "accuracy".
          target: the value.
          mode: "max" if it has to be at least the target, "min" if at most.

        Raises:
          ValueError: if there is no such evaluation, or the mode is unknown.
        """
        if name not in self.evaluations:
            raise ValueError(f"name must be one of {', '.join(self.evaluations)}, got name={name!r}.")
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got mode={mode!r}.")
        values = self.evaluations[name]
        reached = np.flatnonzero(values >= target if mode == "max" else values <= target)
        return int(self.evaluation_rounds[reached[0]]) if len(reached) else None

    def __repr__(self) -> str:
        lines = [f"FederatedHistory of {self.num_rounds:,} rounds, {int(self.steps.sum()):,} local steps"]
        if self.num_rounds:
            lines.append(f"client loss  {self.start_loss[0]:.4g} at first, {self.start_loss[-1]:.4g} at the end")
            for name, rates in (("server rate", self.server_rate), ("client rate", self.client_rate)):
                if np.isfinite(rates).any():
                    lines.append(f"{name}  {rates[0]:.3g} at first, {rates[-1]:.3g} at the end")
        for name, values in self.evaluations.items():
            best = int(np.nanargmin(values) if name == "loss" else np.nanargmax(values))
            after = self.evaluation_rounds[best]
            lines.append(f"evaluation   {name} {values[-1]:.4g}, best {values[best]:.4g} after round {after:,}")
        lost = [
            f"{int(n.sum()):,} {what}"
            for n, what in ((self.dropped, "dropped out"), (self.rejected, "rejected"))
            if n.sum()
        ]
        if lost:
            lines.append(f"clients      {', '.join(lost)}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draw the clients' losses, the evaluations and the rates over the rounds.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        apart = [name for name in self.evaluations if name != "loss"]
        rates = [
            (name, values, colour)
            for name, values, colour in (("server", self.server_rate, BLUE), ("clients", self.client_rate, GREEN))
            if np.isfinite(values).any()
        ]
        rows = 1 + len(apart) + bool(rates)
        figure, axes = panels(
            rows=rows, size=(7, 1.2 + 2.1 * rows), sharex=True, height_ratios=[1.6] + [1] * (rows - 1)
        )
        rounds = np.arange(1, self.num_rounds + 1)
        axes[0].plot(rounds, self.start_loss, color=BLUE, lw=1.4, label="clients, before their steps")
        axes[0].plot(rounds, self.loss, color=GREEN, lw=1.4, label="clients, during their steps")
        if "loss" in self.evaluations:
            axes[0].plot(
                self.evaluation_rounds,
                self.evaluations["loss"],
                "o-",
                color=VERMILION,
                ms=3,
                lw=1.4,
                label="evaluation",
            )
        axes[0].set_ylabel("loss")
        axes[0].legend(frameon=False)
        scale_axis(axes[0], "y", np.concatenate([self.start_loss, self.loss]))
        for axis, name in zip(axes[1:], apart, strict=False):
            axis.plot(self.evaluation_rounds, self.evaluations[name], "o-", color=VERMILION, ms=3, lw=1.4)
            axis.set_ylabel(name)
        for name, values, colour in rates:
            axes[-1].plot(rounds, values, color=colour, lw=1.6, label=name)
        if rates:
            axes[-1].set_ylabel("learning rate")
            axes[-1].legend(frameon=False)
            scale_axis(axes[-1], "y", np.concatenate([values for _, values, _ in rates]))
        axes[-1].set_xlabel("round")
        return figure
