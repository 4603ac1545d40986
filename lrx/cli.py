"""The command `lrx`: train, find a rate, plot a schedule, reproduce a paper, measure."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import re
import shlex
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
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
    context_settings={"max_content_width": 160},  # as wide as the terminal, up to there
)
out = Console(highlight=False, soft_wrap=True)
wrapped = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

RESULTS = Path("lrx-results")  # of commands without --out
MOST_NAMED = 60  # characters of an expression in the name of a folder

DataDir = Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")]
Data = Annotated[str, typer.Option(help="digits (bundled), mnist or cifar10.")]
Model = Annotated[str, typer.Option(help="mlp, resnet8, resnet20, ... resnet110, or caffe.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples in a minibatch.")]


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


def _own_folder(data: str, model: str, tx: str, **numbers: tuple[int, int]) -> Path:
    """Name a folder by what is run in it, so that two runs do not meet; `numbers` are (value, default)."""
    expression = re.sub(r"[^\w.=*+-]+", "-", tx.replace(" ", "")).strip("-")
    if len(expression) > MOST_NAMED:
        digest = hashlib.blake2b(tx.replace(" ", "").encode(), digest_size=4).hexdigest()
        expression = f"{expression[:MOST_NAMED].strip('-=')}-{digest}"
    changed = [f"{name}-{value}" for name, (value, default) in numbers.items() if value != default]
    return RESULTS / "-".join([data, model, expression, *changed])


def _require_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written, before anything that takes time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _refuse(f"--out must lie where can be written, got {str(folder)!r} ({error.strerror}): give another place.")


@contextlib.contextmanager
def _other_run_named() -> Iterator[None]:
    """Say by options what to do where a folder holds another run."""
    from lrx.training.checkpoints import OtherRunError, listed

    try:
        yield
    except OtherRunError as error:
        raise ValueError(
            f"{error.path} holds another run: {listed(error.unlike)}. Set that run aside with --fresh, or give this "
            "one a folder of its own with --out."
        ) from error


def _wrote(path: Path) -> None:
    out.print(f"wrote {path}", markup=False)


def _save_figure(figure: Any, path: Path) -> None:
    """Write a picture in the format that the file's name ends in, whole or not at all."""
    from lrx.figures import save

    _wrote(save(figure, path))


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


@app.command(short_help="Train a model, or go on with a run.")
def train(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer, as an expression of `lrx names`.")] = "adam(1e-3)",
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run; 10 if no length is given.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run, in optimizer steps.")] = None,
    batch_size: BatchSize = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Of initial parameters and the order of the data.")
    ] = 0,
    data_dir: DataDir = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the run is kept; by default a folder named by what is run.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="In epochs, or in steps with --steps; by default half a minute.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with an earlier run, or set it aside and begin anew.")
    ] = True,
    host_devices: Annotated[int, typer.Option(min=1, help="Split each batch over so many CPU devices.")] = 1,
) -> None:
    """Train a model; the same command goes on where an interrupted run was.

    \b
    lrx train
    lrx train --data cifar10 --model resnet20 \\
      --tx "sgd(warmup(cosine_decay(0.1, 11300), 400))"
    """
    if epochs is not None and steps is not None:
        _refuse(f"--epochs and --steps must not both be given, got {epochs} and {steps}: one follows from the other.")
    if host_devices != 1:
        if batch_size % host_devices:
            _refuse(f"--host-devices must divide the batch size {batch_size}, got {host_devices}.")
        # Read when JAX starts, which the imports below do.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={host_devices}".strip()
    folder = folder or _own_folder(data, model, tx, batch=(batch_size, 128), seed=(seed, 0))
    from lrx import expressions, training, workloads

    optimizer = expressions.parse_optimizer(tx)  # before anything that takes time
    _require_folder(folder)
    if epochs is None and steps is None:
        epochs = 10
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    if not resume:
        _set_aside(folder / "checkpoints")
    about = {"data": data, "model": model, "tx": _written(optimizer, tx), "batch_size": batch_size, "seed": seed}
    started = time.perf_counter()
    with _interruptible(), _other_run_named():
        try:
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
        except training.DivergenceError as error:
            about |= {"session_seconds": time.perf_counter() - started, "diverged_at_step": error.step}
            _write_run(folder, error.history, workload.batches.steps_per_epoch, about)
            raise
    about["session_seconds"] = time.perf_counter() - started  # an earlier command that it went on from is not in it
    final = {name: float(values[-1]) for name, values in history.evaluations.items()}
    shown = ", ".join(f"test {name} {value:.4f}" for name, value in final.items())
    out.print(f"{workload.name}: {len(history.loss)} steps, {shown}", markup=False)
    _write_run(folder, history, workload.batches.steps_per_epoch, about)


def _written(tx: Any, text: str) -> str:
    """Return what was run as an expression: as it is built where that is known, otherwise as it was given."""
    built = repr(tx)
    return text if " at 0x" in built or "<" in built else built


def _write_run(folder: Path, history: History, steps_per_epoch: int, about: dict[str, Any]) -> None:
    """Write what a run has left, and say what was run: lengths and results are those of its history."""
    import numpy as np

    from lrx.figures import BLUE, VERMILION, panels
    from lrx.records import describe_device, describe_versions, write_atomically

    arrays: dict[str, Any] = {"loss": history.loss, "rate": history.rate, "evaluation_steps": history.evaluation_steps}
    arrays |= {f"metrics/{name}": values for name, values in history.metrics.items()}
    arrays |= {f"evaluations/{name}": values for name, values in history.evaluations.items()}
    _wrote(write_atomically(folder / "history.npz", lambda file: np.savez_compressed(file, **arrays)))

    final = {name: float(values[-1]) for name, values in history.evaluations.items() if len(values)}
    about |= {
        "steps": len(history.loss),
        "epochs": len(history.loss) / steps_per_epoch,
        "resumed_at_step": history.resumed_at,
        # JSON has no NaN.
        "final": {name: value if math.isfinite(value) else None for name, value in final.items()},
    }
    about["date"] = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    about |= {
        "command": shlex.join(["lrx", *sys.argv[1:]]),
        "device": describe_device(),
        "versions": describe_versions(),
    }
    _wrote(write_atomically(folder / "run.json", json.dumps(about, indent=1, allow_nan=False) + "\n"))

    figure, (above, below) = panels(rows=2, size=(8, 4.5), sharex=True, height_ratios=(2, 1))
    above.plot(history.loss, lw=0.8, color=BLUE, label="training loss")
    if "loss" in history.evaluations:
        above.plot(
            history.evaluation_steps, history.evaluations["loss"], "o-", ms=3, color=VERMILION, label="test loss"
        )
    known = history.loss[np.isfinite(history.loss)]
    if len(known) and known.min() > 0:
        above.set_yscale("log")
    above.legend(frameon=False)
    title = f"{about['data']}, {about['model']}: {about['tx']}"
    above.set_title("\n".join(textwrap.wrap(title, 100)), loc="left", fontsize=9)
    below.plot(history.rate, color=BLUE)
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    _save_figure(figure, folder / "history.png")


@app.command("range-test", short_help="Find the rate to start with.")
def range_test(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer, with the word rate in it.")] = "sgd(rate, momentum=0.9)",
    min_rate: Annotated[float, typer.Option(help="The first rate.")] = 1e-7,
    max_rate: Annotated[float, typer.Option(help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option(min=6, help="How many rates.")] = 100,
    ladder: Annotated[str, typer.Option(help="exponential, linear or doubling.")] = "exponential",
    batch_size: BatchSize = 128,
    seeds: Annotated[int, typer.Option(min=1, help="Runs, side by side.")] = 1,
    data_dir: DataDir = None,
    path: Annotated[Path | None, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")] = None,
) -> None:
    """Find the rate to start with: a short run through all rates.

    \b
    lrx range-test --data cifar10 --model resnet8
    lrx range-test --tx "adamw(rate, weight_decay=0.1)"
    """
    path = path or _own_folder(data, model, tx, batch=(batch_size, 128)) / "range_test.png"
    _require_picture(path)
    from lrx import expressions, tuning, workloads

    factory = expressions.parse_rate_function(tx)
    _require_folder(path.parent)
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
    _save_figure(found.plot(title=f"{workload.name}: {tx}"), path)
    out.print(f"{workload.name}, {tx}", markup=False)
    table = Table("rule", "rate")
    for rule, rate in found.suggestions.items():
        table.add_row(tuning.RULE_TITLES.get(rule, rule), "-" if rate is None else f"{rate:.2g}")
    wrapped.print(table)
    if found.diverged_at is not None:
        out.print(f"diverged at {found.diverged_at:.2g}")
    out.print(f"start with {found.suggestion:.2g}")


def _require_picture(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".pdf", ".svg") or path.is_dir():
        _refuse(f"--out must be a file whose name ends in .png, .pdf or .svg, got {str(path)!r}.")


@app.command(short_help="Draw schedules.")
def plot(
    schedules: Annotated[list[str], typer.Argument(help="One schedule or several, as expressions.")],
    steps: Annotated[int, typer.Option(min=1, max=100_000_000, help="How many steps to draw.")] = 1000,
    path: Annotated[Path, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")] = Path(
        "schedule.png"
    ),
) -> None:
    """Draw schedules.

    \b
    lrx plot "warmup(cosine_decay(0.1, 2000), 200)"
    lrx plot 0.05 "cyclical(0.01, 0.1, 400)" --out both.png
    """
    _require_picture(path)
    from lrx.expressions import parse_schedule
    from lrx.figures import panels

    drawn = [parse_schedule(text) for text in schedules]
    _require_folder(path.parent)
    figure, (axes,) = panels(size=(8.0, 4.0))
    for schedule in drawn:
        schedule.plot(steps, axes=axes)
    _save_figure(figure, path)


@app.command(short_help="Reproduce a paper's figures and claims.")
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Its name, see `lrx papers`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All papers, and a page that shows them.")] = False,
    scale: Annotated[str, typer.Option(help="demo, cpu or paper.")] = "demo",
    data: Annotated[str | None, typer.Option(help="Another data set than the scale's own.")] = None,
    data_dir: DataDir = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where results and figures go.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, instead of the scale's.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set runs of an earlier command aside.")] = False,
    from_results: Annotated[
        Path | None, typer.Option(help="Draw again from this result.json, or with --all this folder; trains nothing.")
    ] = None,
) -> None:
    """Reproduce a paper's figures and check its claims.

    \b
    lrx reproduce smith_2017
    lrx reproduce smith_2017 --scale cpu --data-dir data
    lrx reproduce --all
    """
    if (paper is None) != everything:
        _refuse(f"either PAPER or --all must be given, got {'neither' if paper is None else 'both'}: see `lrx papers`.")
    if from_results is not None and not (from_results.is_dir() if everything else from_results.is_file()):
        kind = "a folder of results" if everything else "a result.json that `lrx reproduce` has written"
        _refuse(f"--from-results must be {kind}, got {str(from_results)!r}, which is not there.")
    from lrx import papers

    if everything:
        if data is not None:
            _refuse(f"--data belongs to one paper, got --data {data} with --all: name the paper.")
        _reproduce_all(papers.available(), scale, data_dir, folder, seeds, from_results, fresh)
        return
    assert paper is not None
    chosen = papers.paper(paper)
    if folder is not None:
        _require_folder(folder)
    if from_results is not None:
        result = papers.load(from_results)
        if result.name != paper:
            _refuse(f"--from-results must hold a result of {paper}, got one of {result.name}: name that paper instead.")
        folder = folder or from_results.parent
    else:
        # Runs of other data or seeds are other runs, with other checkpoints.
        changed = [part for part in (data, f"{seeds}-seeds" if seeds else None) if part]
        _require_scale([chosen], scale)
        folder = folder or RESULTS / "-".join([paper, scale, *changed])
        _require_folder(folder)
        with _interruptible(), _other_run_named():
            result = _reproduced(chosen, scale, folder, data, data_dir, seeds, fresh)
    _show(chosen, result, folder)


def _reproduced(
    chosen: Paper,
    scale: str,
    folder: Path,
    data: str | None,
    data_dir: Path | None,
    seeds: int | None,
    fresh: bool,
) -> Result:
    from lrx.papers import load

    size = chosen.scales[scale]
    out.print(f"{chosen.authors} {chosen.year}, {chosen.title}", markup=False)
    on_data = f", on {data or size.data}" if data or size.data else ""
    out.print(f"{scale}: {size.description}{on_data}; {size.cost}", markup=False)
    if fresh:
        _set_aside(folder / "checkpoints")
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
    wrapped.print(table)


def _reproduce_all(
    found: dict[str, Paper],
    scale: str,
    data_dir: Path | None,
    folder: Path | None,
    seeds: int | None,
    from_results: Path | None,
    fresh: bool,
) -> None:
    """Reproduce every paper, go on past those that fail, and write the page."""
    from lrx.papers import gallery
    from lrx.records import write_atomically

    failed: dict[str, str] = {}
    if from_results is not None:
        folder = folder or from_results
        for entry in gallery.entries(from_results):
            _show(entry.paper, entry.result, entry.folder)
    else:
        folder = folder or RESULTS / "gallery"
        _require_scale(found.values(), scale)
        _require_folder(folder)
        with _interruptible():
            for number, (name, chosen) in enumerate(found.items()):
                row = Table.grid(padding=(0, 1))
                row.add_row(ProgressBar(len(found), number, width=20), f"{number + 1} of {len(found)}: {name}")
                out.print(row)
                place = folder / name / scale
                try:
                    with _other_run_named():
                        _show(chosen, _reproduced(chosen, scale, place, None, data_dir, seeds, fresh), place)
                except Exception as error:  # the others are wanted whatever it is
                    failed[name] = f"{type(error).__name__}: {error}"
                    err.print(f"{name} failed: {failed[name]}")
    _wrote(write_atomically(folder / gallery.PAGE, gallery.page(folder, failed)))
    if failed:
        err.print(f"{len(failed)} of {len(found)} failed: {', '.join(failed)}")
        raise typer.Exit(1)


@app.command(short_help="List the papers, and what they cost.")
def papers() -> None:
    """List the papers that can be reproduced, and what each scale costs."""
    from lrx.papers import available

    for paper in available().values():
        wrapped.print(f"{paper.name}: {paper.authors}, {paper.title}, {paper.source}. {paper.figure}", markup=False)
        for name, scale in paper.scales.items():
            on_data = f", on {scale.data}" if scale.data else ""
            _listed(name, f"{scale.description}{on_data}; {scale.cost}", width=6)


@app.command(short_help="List what expressions may call.")
def names() -> None:
    """List the names that an expression, as of --tx, may call; no other name is accepted there.

    \b
    lrx train --tx "chain(clip(1.0), adamw(1e-3))"
    lrx train --tx "chain(scale_by_lion(), constant(1e-4))"
    """
    from lrx import expressions

    for group, members in expressions.groups().items():
        wrapped.print(f"{group}:", markup=False)
        width = max(map(len, members))
        for name, function in members.items():
            _listed(name, (function.__doc__ or "").strip().split("\n")[0], width)


def _listed(name: str, text: str, width: int) -> None:
    """Print a name, and beside it, or below it on a narrow terminal, what is said of it."""
    if wrapped.width < width + 40:
        wrapped.print(f"  {name}", markup=False)
        wrapped.print(Padding(Text(text), (0, 0, 0, 4)))
        return
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(min_width=width + 2, no_wrap=True)
    row.add_column()
    row.add_row(Text(f"  {name}"), Text(text))
    wrapped.print(row)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[NAME [OPTIONS]]",
    short_help="List the benchmarks, or run one.",
)
def bench(context: typer.Context) -> None:
    """List the benchmarks, or run one: lrx bench NAME, and lrx bench NAME --help for its options."""
    import importlib

    from lrx import _checks
    from lrx.benchmarks import available

    questions = available()
    name, *arguments = context.args or ["--help"]
    if name in ("--help", "-h"):
        wrapped.print("usage: lrx bench NAME [OPTIONS]; lrx bench NAME --help shows the options.\n", markup=False)
        for each, question in questions.items():
            _listed(each, question, max(map(len, questions)))
        return
    try:
        _checks.known("NAME", name, questions)
    except ValueError as error:
        _refuse(str(error))
    sys.argv = [f"lrx bench {name}", *arguments]
    with _interruptible():
        importlib.import_module(f"lrx.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
