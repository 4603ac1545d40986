"""`lrx reproduce`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lrx.cli.console import interruptible, out, print_written, refuse, wrapped
from lrx.cli.folders import RESULTS, folder_part, options_for_other_run, require_folder, set_aside
from lrx.cli.options import DataDir

if TYPE_CHECKING:
    from lrx.papers import Paper, Result


def reproduce(
    paper: Annotated[str | None, typer.Argument(metavar="PAPER", help="Its name, see `lrx papers`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All papers, and a page that shows them.")] = False,
    scale: Annotated[str, typer.Option(help="demo, cpu or paper.")] = "demo",
    data: Annotated[str | None, typer.Option(help="A data set other than the scale's own.")] = None,
    data_dir: DataDir = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where results and figures go.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, instead of the scale's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting in place of the scale's own.")
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="LABEL=TX", help="An optimizer, as an expression, beside the paper's own arms."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", help="A result.json of the same paper, whose arms are drawn too, dotted."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move runs of an earlier command aside.")] = False,
    from_results: Annotated[
        Path | None, typer.Option(help="Draw again from this result.json, or with --all this folder; trains nothing.")
    ] = None,
) -> None:
    """Reproduce a paper's figures and check its claims.

    \b
    lrx reproduce smith_2017
    lrx reproduce smith_2017 --scale cpu --data-dir data
    lrx reproduce kingma_2015 --set epochs=20 \\
      --arm "mine=adamw(cosine_decay(0.01, 2000))"
    lrx reproduce --all
    """
    if (paper is None) != everything:
        refuse(f"either PAPER or --all must be given, got {'neither' if paper is None else 'both'}: see `lrx papers`.")
    if from_results is not None and not (from_results.is_dir() if everything else from_results.is_file()):
        kind = "a folder of results" if everything else "a result.json that `lrx reproduce` has written"
        refuse(f"--from-results must be {kind}, got {str(from_results)!r}, which is not there.")
    from lrx import papers

    if everything:
        for option, value in (("--data", data), ("--set", settings), ("--arm", arms), ("--beside", beside)):
            if value:
                shown = value if isinstance(value, str) else " ".join(map(str, value))
                refuse(f"{option} belongs to one paper, got {option} {shown} with --all: name the paper.")
        from lrx.cli.reproduce_all import reproduce_all

        reproduce_all(papers.available(), scale, data_dir, folder, seeds, from_results, fresh)
        return
    assert paper is not None
    chosen = papers.load(paper)
    if folder is not None:
        require_folder(folder)
    if from_results is not None:
        result = papers.load_result(from_results)
        if result.name != paper:
            refuse(f"--from-results must hold a result of {paper}, got one of {result.name}: name that paper instead.")
        folder = folder or from_results.parent
    else:
        # Runs of other data, seeds, settings or arms are other runs, with other checkpoints.
        changed = [part for part in (data, f"{seeds}-seeds" if seeds else None) if part]
        changed += [folder_part(change) for change in (*(settings or ()), *(arms or ()))]
        require_scale([chosen], scale)
        changes = {"settings": parse_settings(chosen, scale, settings or []), "arms": parse_arms(arms or [])}
        folder = folder or RESULTS / "-".join([paper, scale, *changed])
        require_folder(folder)
        with interruptible(), options_for_other_run():
            result = measure(chosen, scale, folder, data, data_dir, seeds, fresh, **changes)
    others = {path.parent.name or path.stem: papers.load_result(path) for path in beside or ()}
    show(chosen, result, folder, others)


def parse_settings(chosen: Paper, scale: str, texts: list[str]) -> dict[str, Any]:
    """Read the settings of `--set`, each in the type of the one that it replaces."""
    from lrx.papers.changes import replace_settings

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            refuse(f"--set must be NAME=VALUE, such as --set epochs=20, got --set {text}.")
        try:
            found[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[name] = value  # a word, such as the name of a model
    try:
        replace_settings(chosen.scales[scale].size, found)
    except (TypeError, ValueError) as error:
        refuse(f"--set: {error}")
    return found


def parse_arms(texts: list[str]) -> dict[str, Any]:
    """Read the arms of `--arm`."""
    from lrx.expressions import ExpressionError, parse_optimizer

    found = {}
    for text in texts:
        label, equals, expression = text.partition("=")
        if not equals or not label.strip() or "(" in label:
            refuse(f'--arm must be LABEL=TX, such as --arm "mine=adamw(0.001)", got --arm "{text}".')
        try:
            found[label.strip()] = parse_optimizer(expression)
        except ExpressionError as error:
            refuse(f"--arm {label}: {error}")
    return found


def measure(
    chosen: Paper,
    scale: str,
    folder: Path,
    data: str | None,
    data_dir: Path | None,
    seeds: int | None,
    fresh: bool,
    settings: dict[str, Any] | None = None,
    arms: dict[str, Any] | None = None,
) -> Result:
    """Reproduce one paper and save its result; the arguments are the options of the command."""
    from lrx.papers import load_result

    size = chosen.scales[scale]
    out.print(f"{chosen.authors} {chosen.year}, {chosen.title}", markup=False)
    on_data = f", on {data or size.data}" if data or size.data else ""
    out.print(f"{scale}: {size.description}{on_data}; {size.cost}", markup=False)
    if fresh:
        set_aside(folder / "checkpoints")
    result = chosen.run(
        scale,
        data=data,
        data_dir=data_dir,
        seeds=None if seeds is None else tuple(range(seeds)),
        settings=settings,
        arms=arms,
        checkpoints=folder / "checkpoints",
        progress=True,
    )
    path = result.save(folder / "result.json")
    print_written(path)
    return load_result(path)  # figures and verdicts are those of the saved numbers


def require_scale(chosen: Iterable[Paper], scale: str) -> None:
    """Check that every paper can be reproduced at a scale."""
    for paper in chosen:
        if scale not in paper.scales:
            refuse(f"--scale must be one of {', '.join(paper.scales)}, got {scale!r}.")


def show(chosen: Paper, result: Result, folder: Path, beside: dict[str, Result] | None = None) -> None:
    """Draw the figures of a result, and print its verdicts."""
    from lrx.figures import save

    for name, figure in chosen.draw(result, beside).items():
        print_written(save(figure, folder / f"{name}.png"))
    title = ", ".join(filter(None, (chosen.name, f"{result.scale} scale", result.data)))
    table = Table("claim", "expected", "measured", "holds", title=title)
    claims, left_out = chosen.check(result)
    for claim in claims:
        table.add_row(claim.text, claim.expected, claim.measured, "yes" if claim.holds else "no")
    wrapped.print(table)
    for kind in result.changes.values():
        for name, value in kind.items():
            wrapped.print(f"changed: {name} = {value}", markup=False)
    for claim in left_out:
        wrapped.print(f"not checked, since it is stated for the published settings: {claim.text}", markup=False)
