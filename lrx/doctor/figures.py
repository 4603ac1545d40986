"""Pictures of a diagnosis: what was measured, drawn from its evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.doctor.rate_checks import Branch, end_loss
from lrx.figures import BLUE, GREEN, GREY, LIGHT, PALETTE, VERMILION, panels, scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrx.doctor.diagnosis import Diagnosis

MOST_LAYERS = 24  # that are drawn


def draw(diagnosis: Diagnosis) -> Figure:
    """Draw a panel for each kind of evidence, under the findings."""
    drawn = [name for name in _PANELS if name in diagnosis.evidence]
    columns = 2 if len(drawn) > 1 else 1
    rows = max(1, -(-len(drawn) // columns))
    figure, axes = panels(columns, rows, size=(5.6 * columns, 3.9 * rows + 0.6))
    for panel, name in zip(axes, drawn, strict=False):
        _PANELS[name](panel, diagnosis.evidence[name])
    for panel in axes[len(drawn) :]:
        panel.set_axis_off()
    found = ", ".join(f"{each.code} ({each.level})" for each in diagnosis.findings) or "nothing found"
    figure.suptitle(f"{diagnosis.subject}\n{found}", x=0.01, ha="left", fontsize=10, wrap=True)
    return figure


def _draw_schedule(axes: Axes, seen: dict[str, Any]) -> None:
    axes.plot(seen["points"], seen["curve"], color=BLUE, lw=1.6)
    if np.isfinite(seen["full_steps"]) and 0 < seen["full_steps"] < 2 * seen["updates"]:
        axes.axvline(seen["full_steps"], color=VERMILION, lw=1.2, ls="--", label="end of the schedule")
    axes.axvline(seen["updates"], color=GREY, lw=1.2, ls=":", label="end of the run")
    axes.set(xlabel="update", ylabel="learning rate", title="Schedule")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper right")


def _draw_rates(axes: Axes, seen: dict[str, Any]) -> None:
    branches = sorted((Branch(**branch) for branch in seen["branches"]), key=lambda each: each.factor)
    scaled = [branch for branch in branches if branch.kind == "scaled"]
    top = seen["initial"] + abs(seen["initial"])
    factors, ends = [branch.factor for branch in scaled], np.array([end_loss(branch) for branch in scaled])
    beyond = ~(ends <= top)
    axes.plot(factors, np.minimum(ends, top), "o-", color=BLUE, lw=1.4, ms=5)
    axes.plot(
        np.array(factors)[beyond], np.full(beyond.sum(), top), "^", color=VERMILION, ms=8, label="above, or not finite"
    )
    axes.plot(
        [1],
        [min(end_loss(next(each for each in scaled if each.factor == 1)), top)],
        "o",
        color=GREEN,
        ms=9,
        label="this rate",
    )
    for branch in branches:
        if branch.kind == "warm" and np.isfinite(end_loss(branch)):
            axes.plot([1], [min(end_loss(branch), top)], "s", color=PALETTE[3], ms=7, label="with a warm-up")
    axes.axhline(seen["initial"], color=LIGHT, lw=1.2, ls="--", label="initial loss")
    axes.set_xscale("log")
    axes.set(xlabel="factor of the rate", ylabel=f"loss after {seen['steps']} steps", title="Pilot runs")
    axes.legend(frameon=False)


def _draw_gradients(axes: Axes, seen: dict[str, Any]) -> None:
    names, rms = seen["paths"][:MOST_LAYERS], np.array(seen["rms"][:MOST_LAYERS], float)
    places = np.arange(len(names))
    known = rms > 0
    axes.barh(places[known], rms[known], color=BLUE, height=0.6)
    axes.plot(
        np.full((~known).sum(), rms[known].min() if known.any() else 1.0),
        places[~known],
        "x",
        color=VERMILION,
        label="no gradient",
    )
    ratios = np.array(seen["update_ratios"][:MOST_LAYERS], float)
    shown = np.isfinite(ratios) & (ratios > 0)
    axes.plot(ratios[shown], places[shown], "D", color=PALETTE[3], ms=6, label="update ratio")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    drawn = np.concatenate([rms[known], ratios[shown]])
    if len(drawn):
        scale_axis(axes, "x", drawn)
    axes.set(xlabel="root mean square of the gradient; |update| / |parameters|", title="Gradients and updates")
    axes.legend(frameon=False)
    axes.grid(visible=False, axis="y")


def _draw_history(axes: Axes, seen: dict[str, Any]) -> None:
    middles = (np.arange(len(seen["windows"])) + 0.5) * seen["steps"] / max(1, len(seen["windows"]))
    axes.plot(middles, seen["windows"], color=BLUE, lw=1.6, label="training")
    if len(seen["evaluations"]):
        axes.plot(
            seen["evaluation_steps"], seen["evaluations"], "o-", color=VERMILION, ms=4, lw=1.4, label="evaluation"
        )
    axes.set(xlabel="step", ylabel="loss", title="Run")
    scale_axis(axes, "y", np.concatenate([seen["windows"], seen["evaluations"]]))
    axes.legend(frameon=False)


def _draw_batch(axes: Axes, seen: dict[str, Any]) -> None:
    names = ["batch", "noise scale\nat the beginning", "noise scale\nafter a\npilot run"]
    values = np.array([seen["batch_size"] * seen["every"], seen["first"], seen["later"]], float)
    known = np.isfinite(values)
    axes.bar(np.arange(3)[known], values[known], color=[GREEN, BLUE, BLUE][: known.sum()], width=0.5)
    for place in np.flatnonzero(~known):
        axes.text(float(place), 1.0, "not resolved", ha="center", color=GREY)
    axes.set_xticks(range(3), names, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(1.0, 0.5 * float(values[known].min())))
    axes.set(ylabel="examples", title="Batch and gradient noise")
    axes.grid(visible=False, axis="x")


_PANELS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "history": _draw_history,
    "schedule": _draw_schedule,
    "rates": _draw_rates,
    "gradients": _draw_gradients,
    "batch": _draw_batch,
}
