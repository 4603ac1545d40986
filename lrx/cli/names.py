"""`lrx names`."""

from __future__ import annotations

from lrx.cli.console import print_entry, wrapped


def names() -> None:
    """List the functions, data sets and models that --tx, --data and --model accept.

    \b
    lrx train --tx "chain(clip(1.0), adamw(1e-3))"
    lrx train --tx "chain(scale_by_lion(), constant(1e-4))"
    """
    from lrx import expressions
    from lrx.workloads.datasets import DATASETS
    from lrx.workloads.models import MODELS

    functions = {**expressions.groups(), "data sets, for --data": DATASETS}
    groups = {
        group: {name: (function.__doc__ or "").strip().split("\n")[0] for name, function in members.items()}
        for group, members in functions.items()
    }
    groups["models, for --model"] = {name: model.description for name, model in MODELS.items()}
    for group, texts in groups.items():
        wrapped.print(f"{group}:", markup=False)
        for name, text in texts.items():
            print_entry(name, text, max(map(len, texts)))
