"""The command `lrx`: train, find a rate, plot a schedule, reproduce a paper, measure."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
except ImportError as error:  # pragma: no cover - the other tests need both
    raise SystemExit('the command lrx needs typer and rich: pip install "lrx[papers]"') from error

if TYPE_CHECKING:
    from lrx.papers import Paper, Result
    from lrx.training import History

app = typer.Typer(
    help="Learning-rate control for JAX: train, find rates, look at schedules, reproduce papers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

DataDir = Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")]


def main() -> None:
    """Run the command; what a user can mend ends in a message, not in a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("LRX_TRACEBACK"):
            raise
        # A message with a caret begins a line of its own, so that the caret stands under its place.
        err.print("error:", str(error), sep="\n" if "\n" in str(error) else " ")
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)


def _version(shown: bool) -> None:
    if shown:
        from importlib.metadata import version

        out.print(f"lrx {version('lrx')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    del version


def _wrote(path: Path) -> None:
    out.print(f"wrote {path}", markup=False)


def _save_figure(figure: Any, path: Path) -> None:
    """Write a picture in the format that the file's name ends in, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format=path.suffix[1:].lower())
    part.replace(path)
    _wrote(path)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Say how an interrupted run goes on: the command-line library would drop the message."""
    try:
        yield
    except KeyboardInterrupt as error:
        err.print(str(error) or "interrupted")
        raise typer.Exit(130) from None


def _set_aside(checkpoints: Path) -> None:
    """Keep an earlier run's checkpoints under the next free name: --fresh must not cost anybody a long run."""
    if checkpoints.exists():
        number = 1
        while (aside := checkpoints.with_name(f"{checkpoints.name}-{number}")).exists():
            number += 1
        checkpoints.rename(aside)
        out.print(f"moved the earlier run to {aside}", markup=False)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


@app.command()
def train(
    data: Annotated[str, typer.Option(help="digits (bundled), mnist or cifar10.")] = "digits",
    model: Annotated[str, typer.Option(help="mlp, resnet8, resnet20, ... resnet110, or caffe.")] = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer, as an expression.")] = "adam(1e-3)",
    epochs: Annotated[int | None, typer.Option(help="Length of the run; 10 if no length is given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the run, in optimizer steps.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a minibatch.")] = 128,
    seed: Annotated[int, typer.Option(help="Of initial parameters and the order of the data.")] = 0,
    data_dir: DataDir = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the run is kept.")] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="In epochs, or in steps with --steps; by default half a minute.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with an earlier run, or set it aside and begin anew.")
    ] = True,
    host_devices: Annotated[int, typer.Option(help="Split each batch over so many CPU devices.")] = 1,
) -> None:
    """Train a model; the same command goes on where an interrupted run was.

    \b
    lrx train
    lrx train --data cifar10 --model resnet20 --epochs 30 \\
        --tx "chain(add_decayed_weights(1e-4), sgd(warmup(cosine_decay(0.1, 11300), 400), momentum=0.9))"
    """
    if host_devices != 1:
        if host_devices < 1 or batch_size % host_devices:
            _refuse(f"--host-devices must divide the batch size {batch_size}, got {host_devices}.")
        # Read when JAX starts, which the imports below do.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={host_devices}".strip()
    from lrx import expressions, training, workloads

    optimizer = expressions.parse_optimizer(tx)  # before anything that takes time
    if epochs is None and steps is None:
        epochs = 10
    folder = folder or Path("lrx-results") / f"{data}-{model}"
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    if not resume:
        _set_aside(folder / "checkpoints")
    started = time.perf_counter()
    with _interruptible():
        history = training.train(
            workload,
            optimizer,
            epochs=epochs,
            steps=steps,
            seed=seed,
            checkpoint=folder / "checkpoints",
            checkpoint_every=checkpoint_every,
            progress=True,
        )
    seconds = time.perf_counter() - started
    final = {name: float(values[-1]) for name, values in history.evaluations.items()}
    shown = ", ".join(f"test {name} {value:.4f}" for name, value in final.items())
    out.print(f"{workload.name}: {len(history.loss)} steps, {shown}", markup=False)
    _write_run(
        folder,
        history,
        {
            "data": data,
            "model": model,
            "tx": tx,
            "epochs": epochs,
            "steps": steps,
            "batch_size": batch_size,
            "seed": seed,
            "session_seconds": seconds,  # of this command; an earlier one that it went on from is not in it
            # JSON has no NaN.
            "final": {name: value if math.isfinite(value) else None for name, value in final.items()},
        },
    )


def _write_run(folder: Path, history: History, about: dict[str, Any]) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    from lrx.papers.result import describe_device, describe_versions

    arrays: dict[str, Any] = {"loss": history.loss, "rate": history.rate, "evaluation_steps": history.evaluation_steps}
    arrays |= {f"metrics/{name}": values for name, values in history.metrics.items()}
    arrays |= {f"evaluations/{name}": values for name, values in history.evaluations.items()}
    part = folder / "history.npz.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(folder / "history.npz")
    _wrote(folder / "history.npz")

    about["date"] = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    about |= {"command": " ".join(sys.argv[1:]), "device": describe_device(), "versions": describe_versions()}
    part = folder / "run.json.part"
    part.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n")
    part.replace(folder / "run.json")
    _wrote(folder / "run.json")

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(history.loss, lw=0.8, color="#1F77A8", label="training loss")
    if "loss" in history.evaluations:
        above.plot(
            history.evaluation_steps, history.evaluations["loss"], "o-", ms=3, color="#C2742B", label="test loss"
        )
    above.set_yscale("log")
    above.legend(frameon=False)
    above.set_title(f"{about['data']}, {about['model']}: {about['tx']}", loc="left", fontsize=9)
    below.plot(history.rate, color="#4C5A67")
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    _save_figure(figure, folder / "history.png")


@app.command("range-test")
def range_test(
    data: Annotated[str, typer.Option(help="digits (bundled), mnist or cifar10.")] = "digits",
    model: Annotated[str, typer.Option(help="mlp, resnet8, resnet20, ... resnet110, or caffe.")] = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer, with the word rate in it.")] = "sgd(rate, momentum=0.9)",
    min_rate: Annotated[float, typer.Option(help="The first rate.")] = 1e-7,
    max_rate: Annotated[float, typer.Option(help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="How many rates.")] = 100,
    ladder: Annotated[str, typer.Option(help="exponential, linear or doubling.")] = "exponential",
    batch_size: Annotated[int, typer.Option(help="Examples in a minibatch.")] = 128,
    seeds: Annotated[int, typer.Option(help="Runs, side by side.")] = 1,
    data_dir: DataDir = None,
    path: Annotated[Path | None, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")] = None,
) -> None:
    """Find the rate to start with: a short run through all rates.

    \b
    lrx range-test --data cifar10 --model resnet8
    lrx range-test --data mnist --tx "adamw(rate, weight_decay=0.1)" --seeds 5
    """
    from lrx import expressions, tuning, workloads

    path = path or Path("lrx-results") / f"{data}-{model}" / "range_test.png"
    _require_picture(path)
    factory = expressions.parse_rate_function(tx)
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    found = tuning.range_test(
        workload,
        tx=factory,
        min_rate=min_rate,
        max_rate=max_rate,
        num_steps=steps,
        ladder=ladder,
        seeds=seeds,
        progress=True,
    )
    _save_figure(found.plot(), path)
    out.print(f"{workload.name}, {tx}", markup=False)
    table = Table("rule", "rate")
    for rule, rate in found.suggestions.items():
        table.add_row(tuning.RULE_TITLES.get(rule, rule), "-" if rate is None else f"{rate:.2g}")
    Console(highlight=False).print(table)
    if found.diverged_at is not None:
        out.print(f"diverged at {found.diverged_at:.2g}")
    out.print(f"start with {found.suggestion:.2g}")


def _require_picture(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".pdf", ".svg") or path.is_dir():
        _refuse(f"--out must be a file whose name ends in .png, .pdf or .svg, got {str(path)!r}.")


@app.command()
def plot(
    schedules: Annotated[list[str], typer.Argument(help="One schedule or several, as expressions.")],
    steps: Annotated[int, typer.Option(help="How many steps to draw.")] = 1000,
    path: Annotated[Path, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")] = Path(
        "schedule.png"
    ),
) -> None:
    """Draw schedules.

    \b
    lrx plot "warmup(cosine_decay(0.1, 2000), 200)" --steps 2500
    lrx plot 0.05 "cyclical(0.01, 0.1, 400, mode='triangular2')" --out both.png
    """
    from lrx._figures import blank
    from lrx.expressions import parse_schedule

    if not 1 <= steps <= 100_000_000:
        _refuse(f"--steps must be from 1 to 100,000,000, got {steps}.")
    _require_picture(path)
    figure, axes = blank()
    for text in schedules:
        parse_schedule(text).plot(steps, axes=axes)
    _save_figure(figure, path)


@app.command()
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Its name, see `lrx papers`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All papers, and a page that shows them.")] = False,
    scale: Annotated[str, typer.Option(help="demo, cpu or paper.")] = "demo",
    data: Annotated[str | None, typer.Option(help="Another data set than the scale's own.")] = None,
    data_dir: DataDir = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where results and figures go.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds, instead of the scale's.")] = None,
    from_results: Annotated[
        Path | None, typer.Option(help="Draw again from this result.json, or with --all this folder; trains nothing.")
    ] = None,
) -> None:
    """Reproduce a paper's figures and check its claims.

    \b
    lrx reproduce smith_2017
    lrx reproduce smith_2017 --scale cpu --data-dir path/to/data
    lrx reproduce --all
    """
    from lrx import papers

    if (paper is None) != everything:
        _refuse(f"either PAPER or --all must be given, got {'neither' if paper is None else 'both'}: see `lrx papers`.")
    if seeds is not None and seeds < 1:
        _refuse(f"--seeds must be at least 1, got {seeds}.")
    if everything:
        if data is not None:
            _refuse(f"--data belongs to one paper, got --data {data} with --all: name the paper.")
        _reproduce_all(papers.available(), scale, data_dir, folder, seeds, from_results)
        return
    assert paper is not None
    chosen = papers.paper(paper)
    if from_results is not None:
        result = papers.load(from_results)
        if result.paper != paper:
            _refuse(
                f"--from-results must hold a result of {paper}, got one of {result.paper}: name that paper instead."
            )
        folder = folder or from_results.parent
    else:
        # Runs of other data or seeds are other runs, with other checkpoints.
        changed = [part for part in (data, f"{seeds}-seeds" if seeds else None) if part]
        folder = folder or Path("lrx-results") / "-".join([paper, scale, *changed])
        with _interruptible():
            result = _reproduced(chosen, scale, folder, data, data_dir, seeds)
    _show(chosen, result, folder)


def _reproduced(
    chosen: Paper, scale: str, folder: Path, data: str | None, data_dir: Path | None, seeds: int | None
) -> Result:
    from lrx.papers import load

    _require_scale([chosen], scale)
    size = chosen.scales[scale]
    out.print(f"{chosen.authors} {chosen.year}, {chosen.title}", markup=False)
    on_data = f", on {data or size.data}" if data or size.data else ""
    out.print(f"{scale}: {size.description}{on_data}; {size.cost}", markup=False)
    result = chosen.run(
        scale,
        data=data,
        data_dir=data_dir,
        seeds=None if seeds is None else tuple(range(seeds)),
        checkpoints=folder / "checkpoints",
        progress=True,
    )
    path = result.save(folder / "result.json")
    _wrote(path)
    return load(path)  # figures and verdicts are those of the saved numbers


def _require_scale(chosen: Iterable[Paper], scale: str) -> None:
    for paper in chosen:
        if scale not in paper.scales:
            _refuse(f"--scale must be one of {', '.join(paper.scales)}, got {scale!r}.")


def _show(chosen: Paper, result: Result, folder: Path) -> None:
    """Draw the figures of a result, and print its verdicts."""
    for name, figure in chosen.plot(result).items():
        _save_figure(figure, folder / f"{name}.png")
    title = ", ".join(filter(None, (chosen.name, f"{result.scale} scale", result.data)))
    table = Table("claim", "expected", "measured", "holds", title=title)
    for claim in chosen.claims(result):
        table.add_row(claim.text, claim.expected, claim.measured, "yes" if claim.holds else "no")
    Console(highlight=False).print(table)


def _reproduce_all(
    found: dict[str, Paper],
    scale: str,
    data_dir: Path | None,
    folder: Path | None,
    seeds: int | None,
    from_results: Path | None,
) -> None:
    """Reproduce every paper, go on past those that fail, and write the page."""
    from lrx.papers import gallery

    failed: dict[str, str] = {}
    if from_results is not None:
        folder = folder or from_results
        for entry in gallery.entries(from_results):
            _show(entry.paper, entry.result, entry.folder)
    else:
        folder = folder or Path("lrx-results") / "gallery"
        _require_scale(found.values(), scale)
        with _interruptible():
            for number, (name, chosen) in enumerate(found.items()):
                row = Table.grid(padding=(0, 1))
                row.add_row(ProgressBar(len(found), number, width=20), f"{number + 1} of {len(found)}: {name}")
                out.print(row)
                place = folder / name / scale
                try:
                    _show(chosen, _reproduced(chosen, scale, place, None, data_dir, seeds), place)
                except Exception as error:  # the others are wanted whatever it is
                    failed[name] = f"{type(error).__name__}: {error}"
                    err.print(f"{name} failed: {failed[name]}")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{gallery.PAGE}.part"
    part.write_text(gallery.page(folder, failed))
    part.replace(folder / gallery.PAGE)
    _wrote(folder / gallery.PAGE)
    if failed:
        err.print(f"{len(failed)} of {len(found)} failed: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command()
def papers() -> None:
    """List the papers that can be reproduced, and what each scale costs."""
    from lrx.papers import available

    for paper in available().values():
        out.print(f"[bold]{paper.name}[/bold]  {paper.authors}, {paper.title}, {paper.source}. {paper.figure}")
        for name, scale in paper.scales.items():
            on_data = f", on {scale.data}" if scale.data else ""
            out.print(f"  {name:<6} {scale.description}{on_data}; {scale.cost}", markup=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[NAME [OPTIONS]]",
)
def bench(context: typer.Context) -> None:
    """List the benchmarks, or run one: lrx bench NAME, and lrx bench NAME --help for its options."""
    import importlib

    from lrx.benchmarks import available

    questions = available()
    name, *arguments = context.args or ["--help"]
    if name in ("--help", "-h"):
        out.print("usage: lrx bench NAME [OPTIONS]; lrx bench NAME --help shows the options.\n")
        width = max(map(len, questions))
        for each, question in questions.items():
            out.print(f"{each:<{width}}  {question}", markup=False)
        return
    if name not in questions:
        nearest = difflib.get_close_matches(name, questions, n=1, cutoff=0.0)[0]
        _refuse(f"NAME must be one of {', '.join(questions)}, got {name!r}: did you mean {nearest!r}?")
    sys.argv = [f"lrx bench {name}", *arguments]
    with _interruptible():
        importlib.import_module(f"lrx.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
