"""The command `lrx`: train, find a rate, plot a schedule, reproduce a paper, measure. A command is a file."""

from lrx.cli.commands import app, main

__all__ = ["app", "main"]
