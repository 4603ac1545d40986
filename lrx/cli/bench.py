"""`lrx bench`, whose commands are the benchmarks, each imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import typer
from typer.core import TyperGroup

from lrx.cli.console import interruptible


class LazyBenchmarks(TyperGroup):
    """The benchmarks as commands; listing them imports none."""

    def list_commands(self, context: Any) -> list[str]:
        """Return the names of the benchmarks."""
        del context
        from lrx.benchmarks import available

        return list(available())

    def get_command(self, context: Any, name: str) -> Any:
        """Import a benchmark and return its command.

        Raises:
          ValueError: if there is no benchmark of that name.
        """
        from lrx._checks import known

        known("NAME", name, self.list_commands(context))
        module = importlib.import_module(f"lrx.benchmarks.{name}")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name, help=as_help(module.__doc__ or ""))(module.main)
        return typer.main.get_command(alone)

    def format_commands(self, context: Any, formatter: Any) -> None:
        """Write the names of the benchmarks, and the question that each of them answers."""
        del context
        from lrx.benchmarks import available

        with formatter.section("Commands"):
            formatter.write_dl(list(available().items()))

    def invoke(self, context: Any) -> Any:
        """Run a benchmark, which can be interrupted."""
        with interruptible():
            return super().invoke(context)


def as_help(text: str) -> str:
    """Mark the indented paragraphs of a docstring, which are commands, as not to be wrapped."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in paragraphs)


bench = typer.Typer(
    cls=LazyBenchmarks, invoke_without_command=True, rich_markup_mode=None, subcommand_metavar="[NAME [OPTIONS]]"
)


@bench.callback()
def list_benchmarks(context: typer.Context) -> None:
    """List the benchmarks, or run one: lrx bench NAME, and lrx bench NAME --help for its options."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
