"""`lrx papers`."""

from __future__ import annotations

from lrx.cli.console import print_entry, wrapped


def papers() -> None:
    """List the papers that can be reproduced, and what each scale costs."""
    from lrx.papers import available

    for paper in available().values():
        wrapped.print(f"{paper.name}: {paper.authors}, {paper.title}, {paper.source}. {paper.figure}", markup=False)
        for name, scale in paper.scales.items():
            on_data = f", on {scale.data}" if scale.data else ""
            print_entry(name, f"{scale.description}{on_data}; {scale.cost}", width=6)
