"""Parts that the figures of papers share: the colour of an arm, a curve with its band over seeds, and the axes."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx import figures
from lrx.figures import BLUE, DARK, GREEN, GREY, LIGHT, ORANGE, PALETTE, PINK, SKY, STROKES, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The same arm looks the same in every figure.
STYLES: dict[str, dict[str, Any]] = {
    "gradient descent": {"color": GREY, "ls": "-"},
    "heavy ball": {"color": BLUE, "ls": "-"},
    "Nesterov": {"color": VERMILION, "ls": (0, (4, 1.5))},
    # Schedules, where they are the arms.
    "constant": {"color": GREY, "ls": "-"},
    "linear": {"color": BLUE, "ls": "-"},
    "cosine": {"color": ORANGE, "ls": "--"},
    "step": {"color": GREEN, "ls": "-."},
    "warm-up, step": {"color": VERMILION, "ls": "-"},
    "step, restarted": {"color": VERMILION, "ls": "-"},
    "1cycle": {"color": BLUE, "ls": "-"},
    "relative adaptation": {"color": BLUE, "ls": "-"},
    "SGDR": {"color": BLUE, "ls": "-"},
    "1 / t": {"color": SKY, "ls": ":"},
    "1 / sqrt t": {"color": PINK, "ls": (0, (5, 1, 1, 1, 1, 1))},
    "Schedule-Free": {"color": VERMILION, "ls": "-"},
    "Polyak averaging": {"color": SKY, "ls": ":"},
    "primal averaging": {"color": PINK, "ls": "-."},
    "WSD, linear": {"color": BLUE, "ls": (0, (4, 1.5))},
    "WSD, 1 - sqrt": {"color": BLUE, "ls": "-"},
    "refined": {"color": VERMILION, "ls": (0, (4, 1.5))},
    # Optimizers.
    "SGD": {"color": GREY, "ls": "-"},
    "SGD, 1 / sqrt t": {"color": PINK, "ls": "-."},
    "SGD-Nesterov": {"color": VERMILION, "ls": (0, (4, 1.5))},
    "AdaGrad": {"color": ORANGE, "ls": "--"},
    "RMSProp": {"color": PINK, "ls": "-."},
    "Adam": {"color": GREEN, "ls": "-"},
    "COCOB": {"color": BLUE, "ls": "-"},
    "SGD-HD": {"color": GREY, "ls": "-"},
    "SGDN": {"color": VERMILION, "ls": "--"},
    "SGDN-HD": {"color": VERMILION, "ls": "-"},
    "Adam-HD": {"color": GREEN, "ls": "-"},
    # Ways to set the rate.
    "tuned Adam": {"color": VERMILION, "ls": "-"},
    "cosine restarts": {"color": ORANGE, "ls": "--"},
    "tuned restarts": {"color": PINK, "ls": "-."},
    "D-Adaptation": {"color": SKY, "ls": ":"},
    "Prodigy": {"color": "#8A6D00", "ls": "-"},
    "DoWG": {"color": LIGHT, "ls": "-"},
    "lrx.select": {"color": DARK, "ls": "-"},
    # Policies of the cyclical rates.
    "fixed": {"color": GREY, "ls": "-"},
    "decay": {"color": VERMILION, "ls": "--"},
    "triangular2": {"color": BLUE, "ls": "-"},
}
REFERENCE: dict[str, Any] = {
    "color": "black",
    "lw": 1.0,
    "ls": (0, (2, 2)),
    "zorder": 1,
}  # theory, and published values


# Arms of the caller are black, which is no arm's colour; those of another result have their colour, and are dotted.
OWN_STROKES: tuple[Any, ...] = ("-", (0, (4, 1.5)), "-.", (0, (5, 1, 1, 1, 1, 1)))
BESIDE_STROKES: tuple[Any, ...] = (":", (0, (1, 3)), (0, (3, 3)))
_looks: contextvars.ContextVar[Mapping[str, dict[str, Any]] | None] = contextvars.ContextVar("looks", default=None)


@contextlib.contextmanager
def looks_of_changes(own: Iterable[str], beside: Mapping[str, tuple[str, str]]) -> Iterator[None]:
    """Set the looks of arms of the caller and of arms of other results, in the figures that are drawn meanwhile.

    Args:
      own: labels of the arms of the caller.
      beside: label to the arm of the same method and the name of its result; see `lrx.papers.changes.overlay`.
    """
    looks = {label: {"color": "black", "ls": OWN_STROKES[place % len(OWN_STROKES)]} for place, label in enumerate(own)}
    names = list(dict.fromkeys(name for _, name in beside.values()))
    for label, (arm, name) in beside.items():
        stroke = BESIDE_STROKES[names.index(name) % len(BESIDE_STROKES)]
        base = looks.get(arm) or arm_style(arm, [other for other, _ in beside.values()].index(arm))
        looks[label] = base | {"ls": stroke}
    token = _looks.set(looks)
    try:
        yield
    finally:
        _looks.reset(token)


def arm_style(arm: str, place: int) -> dict[str, Any]:
    """Return colour and stroke of an arm: its own, or those of its place among others."""
    by_place = {"color": PALETTE[place % len(STROKES)], "ls": STROKES[place % len(STROKES)]}
    return (_looks.get() or {}).get(arm) or STYLES.get(arm, by_place)


def band(
    axes: Axes,
    x: Any,
    by_seed: Any,
    label: str,
    place: int = 0,
    middle: Callable[..., Any] = np.median,
    **options: Any,
) -> None:
    """Draw the middle over seeds of an arm, and the range of all seeds, in the arm's look; see `lrx.figures.band`."""
    figures.band(axes, x, by_seed, label, middle=middle, **arm_style(label, place) | options)


def describe(axes: Axes, title: str = "", *, fontsize: float = 10, **properties: Any) -> None:
    """Write the title of a panel above it, at the left, and set other properties of its axes.

    Args:
      axes: the panel.
      title: what it shows.
      fontsize: of the title.
      **properties: as `Axes.set` takes them, such as `xlabel` and `yscale`.
    """
    axes.set(**properties)
    axes.set_title(title, loc="left", fontsize=fontsize)


def mark(axes: Axes, values: Any, form: str = ",") -> None:
    """Put the ticks of the x axis at some values alone, each written in a form such as "," or "g"."""
    axes.set_xticks(values, [format(value, form) for value in values])
    axes.minorticks_off()


def sensitivity(axes: Axes, arms: Mapping[str, Any], highest: float = 3.0) -> None:
    """Draw the final loss of each arm of `lrx.papers.arms.compare` over its rates.

    The panel ends at `highest` times the best loss, so a run that diverged lies above it, or above the largest loss.
    """
    lowest = min(np.nanmin(np.asarray(arm["final_loss"], np.float64).mean(axis=1)) for arm in arms.values())
    for place, (name, arm) in enumerate(arms.items()):
        losses = np.nan_to_num(np.asarray(arm["final_loss"], np.float64), nan=1e6 * lowest)
        band(axes, arm["rates"], losses.T, name, place, marker="o", ms=3)
    axes.set_xscale("log")
    axes.set_ylim(0, min(highest * lowest, axes.get_ylim()[1]))
    axes.set_xlabel("learning rate")


def errors_at_the_end(
    axes: Axes, errors: Mapping[str, np.ndarray], labels: Sequence[str] | None = None, *, highest: float = 2.5
) -> None:
    """Draw the errors of each arm in a row: a dot for each seed, and a stroke for their mean.

    An arm whose mean is more than `highest` times the lowest is written at the edge, since it would flatten the others.

    Args:
      axes: the panel.
      errors: label to the error of each seed.
      labels: what is written beside the rows; by default the labels of the arms.
      highest: see above.
    """
    edge = highest * min(by_seed.mean() for by_seed in errors.values())
    for place, (label, by_seed) in enumerate(errors.items()):
        colour = arm_style(label, place)["color"]
        if by_seed.mean() > edge:
            axes.text(edge, place, f"{by_seed.mean():.1f} % →", color=colour, ha="right", va="center")
            continue
        axes.plot(by_seed, np.full(len(by_seed), place), "o", color=colour, ms=4, alpha=0.5, mew=0, label=label)
        axes.plot([by_seed.mean()], [place], "|", color=colour, ms=18, mew=2)
    axes.set_yticks(range(len(errors)), labels or list(errors))
    axes.set_ylim(len(errors) - 0.5, -0.5)
    beyond = any(by_seed.mean() > edge for by_seed in errors.values())
    axes.set_xlim(right=edge if beyond else min(edge, axes.get_xlim()[1]))
