"""The commands together: their names, `--version`, and what happens to an error."""

from __future__ import annotations

import os
import sys
from typing import Annotated

try:
    import rich  # noqa: F401
    import typer
except ImportError as error:  # pragma: no cover - the other tests need both
    raise SystemExit('the command lrx needs typer and rich: pip install "lrx[papers]"') from error

from lrx.cli.bench import bench
from lrx.cli.console import err, out
from lrx.cli.doctor import doctor
from lrx.cli.names import names
from lrx.cli.papers import papers
from lrx.cli.plot import plot
from lrx.cli.range_test import range_test
from lrx.cli.reproduce import reproduce
from lrx.cli.select import select
from lrx.cli.train import train

app = typer.Typer(
    help="Learning-rate control for JAX: train, find rates, look at schedules, reproduce papers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 160},  # as wide as the terminal, up to there
)


def _show_version(shown: bool) -> None:
    if shown:
        from importlib.metadata import version

        out.print(f"lrx {version('lrx')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Define the options of `lrx` itself."""
    del version


app.command(short_help="Train a model, or resume a run.")(train)
app.command("range-test", short_help="Find the rate to start with.")(range_test)
app.command(short_help="Choose optimizer, schedule and rate.")(select)
app.command(short_help="Find out what is wrong with a run.")(doctor)
app.command(short_help="Draw schedules.")(plot)
app.command(short_help="Reproduce a paper's figures and claims.")(reproduce)
app.command(short_help="List the papers, and what they cost.")(papers)
app.command(short_help="List what expressions may call, data sets, models.")(names)
app.add_typer(bench, name="bench", short_help="List the benchmarks, or run one.")


def main() -> None:
    """Run the command; report the user's errors as a message, without a traceback.

    The environment variable `LRX_TRACEBACK` shows the traceback too.
    """
    sys.argv[0] = "lrx"  # in help and records, however it was started
    try:
        app(prog_name="lrx")
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("LRX_TRACEBACK"):
            raise
        # A message with a caret begins on a line of its own, so that the caret stands under its place.
        err.print("error:", str(error), sep="\n" if "\n" in str(error) else " ")
        sys.exit(2 if isinstance(error, ValueError | TypeError) else 1)
