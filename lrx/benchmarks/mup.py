"""Does the best rate of a narrow network hold for a wide one?

    lrx bench mup
    lrx bench mup --network digits --out lrx-results/mup

A perceptron with two hidden layers on digits and a character transformer are trained with Adam at several widths and
rates: as they are, and with the factors of `lrx.mup_factors` for initial values and rates. The result is the best rate
of each width by the mean training loss of the last tenth of the steps, between the rates of the grid by a parabola. The
output is mup.json, mup.png, and a README.md with the tables. A seed that mup.json has already, with the same settings,
is not measured again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

import lrx
from lrx._checks import known
from lrx.figures import PALETTE, panels, save, scale_axis
from lrx.records import Result, load, markdown_table, stopwatch, write_atomically
from lrx.training import Workload
from lrx.tuning import Execution, MupFactors, mup_factors, sweep
from lrx.workloads import make_workload
from lrx.workloads.text import make_text_workload

STEM = "mup"
KINDS = ("standard", "muP")
FLAT = 2.0  # factor by which the best rate may move
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Network:
    """A family of networks by width, and how long they are trained."""

    title: str
    make: Callable[[int], Workload]
    widths: tuple[int, ...]
    exponents: tuple[int, ...]  # of the rates, powers of 2
    num_steps: int
    seeds: tuple[int, ...]


NETWORKS = {
    "digits": Network(
        "perceptron on digits",
        lambda width: make_workload("digits", "mlp", widths=(width, width), batch_size=64),
        (64, 128, 256, 512, 1024),
        tuple(range(-12, -4)),
        80,
        (0, 1),
    ),
    "text": Network(
        "transformer on characters",
        lambda width: make_text_workload(width=width, length=32, batch_size=8),
        (32, 64, 128, 256),
        tuple(range(-11, -3)),
        80,
        (0, 1, 2, 3),
    ),
}


def factors_of(network: Network, width: int) -> MupFactors:
    """Return the factors from the smallest width of a network to another."""

    def init_fn(key: jax.Array, width: int) -> Any:
        return network.make(width).init(key)[0]

    return mup_factors(init_fn, (network.widths[0], width))


def measure(network: Network, kind: str, width: int, seeds: Sequence[int]) -> list[list[float]]:
    """Return (rates, seeds) final losses of one width; infinite where a run diverged."""
    workload = dataclasses.replace(network.make(width), evaluate=None)
    factors = factors_of(network, width)
    scaled = factors.scale_workload(workload) if kind == "muP" else workload

    def tx(rate: Any) -> Any:
        return factors.scale_rates(lrx.adam(rate)) if kind == "muP" else lrx.adam(rate)

    found = sweep(
        scaled,
        tx,
        {"rate": [2.0**exponent for exponent in network.exponents]},
        num_steps=network.num_steps,
        seeds=seeds,
        num_points=10,
        execution=Execution(strategy="map"),
        progress=False,
    )
    return np.asarray(found.final_loss, np.float64).tolist()


def run(names: Iterable[str] = tuple(NETWORKS), *, folder: Path | None = None) -> Result:
    """Measure every width of the networks, print the progress, and keep what is measured in the folder.

    The result has also what the folder holds of other networks.
    """
    elapsed = stopwatch()
    result = Result(STEM, "cpu", "", [], {}, {}, 0.0)
    if folder is not None and (folder / f"{STEM}.json").exists():
        earlier = load(folder / f"{STEM}.json")
        result.settings, result.curves, result.seconds = earlier.settings, earlier.curves, earlier.seconds
    for name in names:
        begin(result, name)
    result.data = ", ".join(result.settings)
    result.seeds = sorted({seed for settings in result.settings.values() for seed in settings["seeds"]})
    before = result.seconds
    for name in names:
        network = NETWORKS[name]
        for width in network.widths:
            for kind in KINDS:
                losses = result.curves[name].setdefault(kind, {})
                known_losses = losses.get(str(width), [[] for _ in network.exponents])
                missing = network.seeds[len(known_losses[0]) :]
                if not missing:
                    continue
                # At the base width all factors are 1.
                if kind == "muP" and width == network.widths[0]:
                    losses[str(width)] = result.curves[name]["standard"][str(width)]
                else:
                    new = measure(network, kind, width, missing)
                    losses[str(width)] = [row + column for row, column in zip(known_losses, new, strict=True)]
                result.seconds = before + elapsed()
                best = network.exponents[best_place(np.asarray(losses[str(width)], np.float64))]
                print(f"{name:8} {kind:9} width {width:5}   best rate 2^{best}", flush=True)
                if folder is not None:
                    result.save(folder / f"{STEM}.json")
    return result


def begin(result: Result, name: str) -> None:
    """Enter a network into a result, with what it holds of this network by the same settings and its first seeds."""
    network = NETWORKS[name]
    settings: dict[str, Any] = {
        "widths": list(network.widths),
        "exponents": list(network.exponents),
        "steps": network.num_steps,
        "seeds": list(network.seeds),
    }
    earlier = result.settings.get(name, {})
    measured = earlier.get("seeds", [])
    same = {**earlier, "seeds": settings["seeds"][: len(measured)]} == {**settings, "seeds": measured}
    if not same:
        result.curves[name] = {}
    result.settings[name] = settings


def best_place(losses: np.ndarray) -> int:
    """Return the place of the rate with the lowest mean loss over seeds, of (rates, seeds) losses."""
    means = np.where(np.isfinite(losses), losses, np.inf).mean(axis=1)
    return int(np.argmin(means))


def best_exponents(result: Result, name: str, kind: str) -> list[float]:
    """Return for each width the exponent of the best rate, a power of 2."""
    settings = result.settings[name]
    return [vertex(settings["exponents"], result.array(name, kind, str(width))) for width in settings["widths"]]


def vertex(exponents: Sequence[int], losses: np.ndarray) -> float:
    """Return the lowest point of the parabola through the logarithms of the lowest mean loss and of its neighbors.

    A rate at an end of the grid, or beside one that diverged, is taken as it is.

    Args:
      exponents: of the rates, one after the other.
      losses: (rates, seeds).
    """
    place = best_place(losses)
    if not 0 < place < len(losses) - 1 or not np.isfinite(losses[place - 1 : place + 2]).all():
        return float(exponents[place])
    before, lowest, after = np.log(losses[place - 1 : place + 2].mean(axis=1))
    return float(exponents[place] + 0.5 * (before - after) / (before - 2 * lowest + after))


def span(result: Result, name: str, kind: str) -> float:
    """Return over how many octaves the best rate moves with the width."""
    found = best_exponents(result, name, kind)
    return max(found) - min(found)


def at_end(result: Result, name: str, kind: str) -> bool:
    """Return whether the best rate of some width is at an end of the grid, so that a better one may lie beyond."""
    widths = result.settings[name]["widths"]
    return any(
        best_place(result.array(name, kind, str(width))) in (0, len(result.array(name, kind, str(width))) - 1)
        for width in widths
    )


def loss_at_base_rate(result: Result, name: str, kind: str) -> list[float]:
    """Return for each width the mean loss at the rate that is best at the smallest width."""
    settings = result.settings[name]
    place = best_place(result.array(name, kind, str(settings["widths"][0])))
    return [float(result.array(name, kind, str(width))[place].mean()) for width in settings["widths"]]


def verdict(result: Result, name: str) -> str:
    """Return in one sentence whether the best rate is flat with muP and drifts without."""
    standard, scaled = (2 ** span(result, name, kind) for kind in KINDS)
    flat = f"{'within' if scaled <= FLAT + ROUNDING else 'by more than'} a factor of {FLAT:g}"
    least, more = ("at least " if at_end(result, name, kind) else "" for kind in KINDS)
    flat = "to an end of the grid" if more else flat
    return (
        f"Over the widths the best rate moves by a factor of {more}{scaled:.2g} with muP, {flat}, and of "
        f"{least}{standard:.2g} without."
    )


def page(result: Result) -> str:
    """Return the page of a result."""
    parts = [f"# {__doc__.splitlines()[0]}", result.origin(), f"![Final loss over the rate]({STEM}.png)"]
    for name, settings in result.settings.items():
        rows = [
            [
                f"{kind}: {what}",
                *(f"2^{value:.2f}" if what == "best rate" else f"{value:.4g}" for value in of(result, name, kind)),
            ]
            for kind in KINDS
            for what, of in (("best rate", best_exponents), ("loss at the base's best rate", loss_at_base_rate))
        ]
        number = len(settings["seeds"])
        low, *_, high = settings["exponents"]
        length = (
            f"Adam, {settings['steps']} steps, {number} seed{'s' if number > 1 else ''}, rates 2^{low} to 2^{high}."
        )
        parts += [
            f"## {NETWORKS[name].title.capitalize()}",
            f"{length} {verdict(result, name)}",
            markdown_table(["width", *map(str, settings["widths"])], rows),
        ]
    return "\n\n".join(parts) + "\n"


def plot(result: Result) -> Any:
    """Draw the final loss over the rate for each width, without and with muP."""
    names = list(result.settings)
    figure, axes = panels(2, len(names), size=(10.0, 3.9 * len(names)), sharey=False)
    for row, name in enumerate(names):
        settings = result.settings[name]
        rates = 2.0 ** np.array(settings["exponents"])
        first = result.array(name, "standard", str(settings["widths"][0]))
        highest = 1.2 * float(np.nanmax(np.where(np.isfinite(first), first, np.nan)))
        for panel, kind in zip(axes[2 * row : 2 * row + 2], KINDS, strict=True):
            lows = []
            for width, color in zip(settings["widths"], PALETTE, strict=False):
                losses = result.array(name, kind, str(width))
                means = np.where(np.isfinite(losses), losses, np.nan).mean(axis=1)
                best = best_place(losses)
                lows.append(means[best])
                panel.plot(rates, means, color=color, lw=1.5, label=f"{width}")
                panel.plot(rates[best], means[best], "o", color=color, ms=7, mec="white")
            panel.set_xscale("log", base=2)
            scale_axis(panel, "y", np.array([*lows, highest]))
            panel.set_ylim(0.9 * min(lows), highest)
            panel.set_title(f"{NETWORKS[name].title}, {kind}", loc="left", fontsize=10)
            panel.set_xlabel("learning rate of the smallest width" if kind == "muP" else "learning rate")
            panel.set_ylabel("final training loss")
            panel.legend(title="width", fontsize=8)
    return figure


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture and its page to a folder."""
    return [
        result.save(folder / f"{STEM}.json"),
        save(plot(result), folder / f"{STEM}.png"),
        write_atomically(folder / "README.md", page(result)),
    ]


def main(
    networks: Annotated[
        list[str] | None, typer.Option("--network", help=f"Of {', '.join(NETWORKS)}; once for each, by default all.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the result is written.")] = Path("lrx-results/mup"),
) -> None:
    """Measure, print and draw."""
    networks = networks or list(NETWORKS)
    for network in networks:
        known("--network", network, NETWORKS)
    result = run(networks, folder=folder)
    print(f"\n{result.origin()}\n")
    for network in networks:
        print(f"{NETWORKS[network].title}: {verdict(result, network)}")
    for path in write(result, folder):
        print(f"wrote {path}")
