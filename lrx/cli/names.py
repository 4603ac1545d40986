"""`lrx names`."""

from __future__ import annotations

from lrx.cli.console import print_entry, wrapped


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
            print_entry(name, (function.__doc__ or "").strip().split("\n")[0], width)
