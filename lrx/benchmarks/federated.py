"""How many rounds does federated learning need when controllers set the server's rate from the clients' losses?

    lrx bench federated
    lrx bench federated --data digits

Perceptrons on digits, MNIST and CIFAR-10 (its images averaged to 16 x 16) are trained by ten clients, which hold few
classes each (Dirichlet 0.1) and all take part in every round. The rate of the clients is fixed; that of the server is a
constant of a grid, decays linearly, or is multiplied by a controller that sees one number of the clients' losses: by
default their mean; of `pid` also their median, or "trimmed", their mean without a tenth of them at each end. The
best constant rate, found with the same seeds, is the reference: the others start from 0.001, 0.1, 1 and 10 times it.
Measured are the rounds until the test accuracy, averaged over three rounds, reaches a target.

Every finished part is kept in the folder of the result, so the same command continues an interrupted run. The output is
federated.json, federated.png, and a README.md with the tables.

Targets and the rates of the clients were chosen on runs with seeds 100 and 101, and so were the gains of PID, on digits
alone. These seeds are not measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optax
import typer

import lrx
from lrx._checks import known
from lrx.benchmarks.federated_report import STEM, page, plot, summary
from lrx.federated import Partition, dirichlet_partition, fed_adam
from lrx.federated.many import simulate_many
from lrx.figures import save
from lrx.records import Result, round_to_six_digits, stopwatch, write_atomically
from lrx.training import Workload
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import Dataset, load

Server = Callable[[Any], optax.GradientTransformation]  # of the rate, a tracer

CONCENTRATION = 0.1
NUM_CLIENTS = 10
NUM_ROUNDS = 60
SMOOTHED = 3  # rounds whose accuracy is averaged
GRID = tuple(float(rate) for rate in np.round(np.logspace(-0.75, 1.75, 11), 4))  # four to a decade
STARTS = (1e-3, 0.1, 1.0, 10.0)  # times the best constant rate
SEEDS = (0, 1, 2, 3, 4)
WIDE: dict[str, Any] = {"min_factor": 1e-4, "max_factor": 1e4}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on one data set."""

    target: float  # test accuracy
    client_rate: float
    num_train: int | None  # images
    num_test: int
    pooled: int = 1  # side of the squares of pixels that are averaged
    width: int = 32
    batch_size: int = 16
    local_steps: int = 4


WORKLOADS = {
    "digits": Settings(target=0.85, client_rate=0.02, num_train=None, num_test=360),
    "mnist": Settings(target=0.80, client_rate=0.02, num_train=2000, num_test=500),
    "cifar10": Settings(target=0.28, client_rate=0.01, num_train=2000, num_test=500, pooled=2),
}


def controlled(controller: Callable[[], lrx.Controller]) -> Server:
    """Return the server of FedAvg whose rate a controller multiplies."""
    return lambda rate: lrx.sgd(lrx.constant(rate) * controller())


def pid() -> lrx.Controller:
    """Return the PID controller, at a pace of rounds."""
    return lrx.pid(kp=0.0, ki=4.0, kd=0.0, set_point=0.1, smoothing=0.9, significance=0.0, **WIDE)


CONSTANT, DECAY, ADAM = "constant", "linear_decay", "fed_adam"
FEEDBACK = {"pid, mean": "mean", "pid, median": "median", "pid, trimmed": "trimmed"}  # by default the mean
CONTROLLERS: dict[str, Server] = {
    **dict.fromkeys(FEEDBACK, controlled(pid)),
    "cumulative_path": controlled(lambda: lrx.cumulative_path()),
    "relative_adaptation": controlled(lambda: lrx.relative_adaptation()),
    "greedy": controlled(lambda: lrx.greedy(factor=0.7, patience=1, **WIDE)),
    "reduce_on_plateau": controlled(lambda: lrx.reduce_on_plateau(factor=0.5, patience=3, accumulation_size=1)),
}
METHODS: dict[str, Server] = {
    CONSTANT: lambda rate: lrx.sgd(rate),
    DECAY: lambda rate: lrx.sgd(lrx.linear_decay(rate, NUM_ROUNDS)),
    **CONTROLLERS,
    ADAM: lambda rate: fed_adam(rate),
}
ADAM_RATE = 0.1  # Flower's default


def load_workload(data: str, settings: Settings, data_dir: Path | None) -> tuple[Workload, np.ndarray]:
    """Build the workload of a data set, and return the labels of its training images too."""
    dataset = load(data, data_dir).first(settings.num_train, settings.num_test)
    images = [pooled(part, settings.pooled) for part in (dataset.train_images, dataset.test_images)]
    dataset = Dataset(*dataset)._replace(train_images=images[0], test_images=images[1], augment=False)
    workload = dataset_workload(dataset, "mlp", batch_size=settings.batch_size, augment=False, widths=(settings.width,))
    return workload, dataset.train_labels


def pooled(images: np.ndarray, side: int) -> np.ndarray:
    """Return images whose pixels are the means of squares, (n, height / side, width / side, channels) uint8."""
    number, height, width, channels = images.shape
    squares = images.reshape(number, height // side, side, width // side, side, channels)
    return np.round(squares.mean(axis=(2, 4))).astype(np.uint8)


def partitions(labels: np.ndarray, seeds: Sequence[int]) -> list[Partition]:
    """Return the partition of each seed."""
    return [dirichlet_partition(labels, NUM_CLIENTS, concentration=CONCENTRATION, seed=seed) for seed in seeds]


def measure(
    workload: Workload,
    labels: np.ndarray,
    settings: Settings,
    method: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    num_rounds: int = NUM_ROUNDS,
) -> dict[str, Any]:
    """Train with one method from every rate.

    Returns:
      "accuracy" and "rate", (rates, seeds, rounds) lists, and "seconds".
    """
    elapsed = stopwatch()
    found = simulate_many(
        workload,
        partitions(labels, seeds),
        [(rate, settings.client_rate) for rate in rates],
        server=METHODS[method],
        client=lambda rate: lrx.sgd(rate),
        num_rounds=num_rounds,
        clients_per_round=NUM_CLIENTS,
        local_steps=settings.local_steps,
        seeds=seeds,
        feedback=FEEDBACK.get(method, "mean"),
    )
    seen = {"accuracy": found.evaluations["accuracy"], "rate": found.server_rate}
    return {name: round_to_six_digits(each).tolist() for name, each in seen.items()} | {"seconds": elapsed()}


def rounds_to(accuracy: Any, target: float) -> np.ndarray:
    """Return the first round after which the mean of some rounds' accuracy is at least the target.

    Args:
      accuracy: (..., rounds).
      target: the accuracy.

    Returns:
      (...,) from `SMOOTHED` on; one more than the number of rounds if there is none.
    """
    values = np.asarray(accuracy, np.float64)
    means = np.mean([values[..., place : values.shape[-1] - SMOOTHED + 1 + place] for place in range(SMOOTHED)], axis=0)
    reached = means >= target - 1e-9
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + SMOOTHED, values.shape[-1] + 1)


def kept(path: Path, asked: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds if it is what is asked for, or else do the work and keep it there."""
    asked = json.loads(json.dumps(asked))
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] == asked:
            return dict(found["measured"])
    measured = json.loads(json.dumps(work()))
    write_atomically(path, json.dumps({"asked": asked, "measured": measured}))
    return dict(measured)


def run(
    workloads: Iterable[str] = tuple(WORKLOADS),
    *,
    folder: Path,
    seeds: Sequence[int] = SEEDS,
    num_rounds: int = NUM_ROUNDS,
    data_dir: Path | None = None,
) -> Result:
    """Train with every method on every workload, print the progress, and keep each part in a folder."""
    loaded = {data: load_workload(data, WORKLOADS[data], data_dir) for data in workloads}
    curves: dict[str, Any] = {}
    for data, (workload, labels) in loaded.items():
        settings, curves[data] = WORKLOADS[data], {}
        best = 0.0
        for method in METHODS:
            rates = {CONSTANT: list(GRID), ADAM: [ADAM_RATE]}.get(method) or [best * start for start in STARTS]
            asked = dataclasses.asdict(settings) | {"rates": rates, "seeds": list(seeds), "rounds": num_rounds}
            asked |= {"method": repr(METHODS[method](1.0)), "feedback": FEEDBACK.get(method, "mean")}
            measured = kept(
                folder / "parts" / f"{data}-{method.replace(', ', '-')}.json",
                asked,
                lambda: measure(workload, labels, settings, method, rates, seeds, num_rounds),  # noqa: B023
            )
            took = rounds_to(measured["accuracy"], settings.target)
            curves[data][method] = measured | {"rates": rates, "rounds": took.tolist()}
            if method == CONSTANT:
                best = rates[int(np.argmin(took.mean(axis=1)))]
            shown = ", ".join(f"{rate:.3g}: {mean:.1f}" for rate, mean in zip(rates, took.mean(axis=1), strict=True))
            print(f"{data:8} {method:20} {measured['seconds']:6.1f} s   rounds from {shown}", flush=True)
    used = {data: dataclasses.asdict(WORKLOADS[data]) for data in loaded}
    written = {
        "workloads": used,
        "rounds": num_rounds,
        "clients": NUM_CLIENTS,
        "concentration": CONCENTRATION,
        "smoothed": SMOOTHED,
        "starts": list(STARTS),
        "methods": {method: repr(make(1.0)) for method, make in METHODS.items()},
    }
    seconds = round(sum(each["seconds"] for methods in curves.values() for each in methods.values()), 1)
    return Result("federated", "cpu", ", ".join(curves), list(seeds), written, curves, seconds)


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture and its page to a folder."""
    return [
        result.save(folder / f"{STEM}.json"),
        save(plot(result), folder / f"{STEM}.png"),
        write_atomically(folder / "README.md", page(result, __doc__.splitlines()[0])),
    ]


def main(
    workloads: Annotated[
        list[str] | None, typer.Option("--data", help=f"Of {', '.join(WORKLOADS)}, once for each; by default all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs from each rate.")] = len(SEEDS),
    num_rounds: Annotated[int, typer.Option(min=SMOOTHED, help="Length of each run.")] = NUM_ROUNDS,
    folder: Annotated[Path, typer.Option("--out", help="Where the result is written.")] = Path("lrx-results/federated"),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Measure, print and draw."""
    for data in workloads or ():
        known("--data", data, WORKLOADS)
    result = run(workloads or WORKLOADS, folder=folder, seeds=range(seeds), num_rounds=num_rounds, data_dir=data_dir)
    print(f"\n{result.origin()}\n\n{summary(result)}\n")
    for path in write(result, folder):
        print(f"wrote {path}")
