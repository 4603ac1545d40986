"""Every paper runs for a few steps, and its figures and verdicts follow from the saved numbers alone."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lrx import papers
from lrx.papers import (
    baydin_2018,
    cauchy_1847,
    defazio_2023,
    ge_2019,
    howard_2018,
    kingma_2015,
    nesterov_1983,
    orabona_2017,
)
from lrx.papers.cohen_2021 import Size as Edges
from lrx.papers.duchi_2011 import Size as Sparse
from lrx.papers.smith_2017 import Lengths


class Tiny(NamedTuple):
    """A paper's smallest run: a size in place of its demo's, the data, and constants of its module."""

    size: Any
    data: str = ""
    constants: dict[str, Any] = {}  # noqa: RUF012
    holds: bool = False  # all its claims, already at this size


TINY = {
    "cauchy_1847": Tiny(
        cauchy_1847.SCALES["demo"].size, constants={"HORIZONS": (100, 1000), "SADDLE_STEPS": 1500}, holds=True
    ),
    "robbins_1951": Tiny(2000, constants={"RUNS": 500}, holds=True),
    "polyak_1964": Tiny((10, 30), holds=True),
    "nesterov_1983": Tiny(nesterov_1983.SCALES["demo"].size, holds=True),
    "duchi_2011": Tiny(Sparse(50, 320), constants={"REGRET_STEPS": 20}),
    "hinton_2012": Tiny(4000),
    "ge_2019": Tiny(ge_2019.Size(640, 1)),
    "defazio_2023": Tiny(
        (defazio_2023.DIGITS._replace(options={"widths": ()}, rates=(0.03, 0.1), epochs=1),), "digits"
    ),
    "baydin_2018": Tiny(
        baydin_2018.Size(2, 0),
        "digits",
        {
            "METHODS": {name: baydin_2018.METHODS[name] for name in ("SGD", "SGD-HD")},
            "PAIRS": {"SGD-HD": "SGD"},
            "PUBLISHED": {},
        },
    ),
    "orabona_2017": Tiny(orabona_2017.Size(1, {"Adam": (1e-3, 1e-2)}, (10,)), "digits"),
    "howard_2018": Tiny(
        (howard_2018.DIGITS[0]._replace(rates=(0.01, 0.1), batch_size=512, options={"widths": ()}),),
        "digits",
        {"FINDER": howard_2018.FINDER | {"num_steps": 10}, "LADDERS": (10,)},
    ),
    "kingma_2015": Tiny(
        kingma_2015.Size(1, (8,), 0, 1, 8, 2, 1),
        "digits",
        {
            "REGRESSION": {name: kingma_2015.REGRESSION[name] for name in ("Adam", "SGD-Nesterov")},
            "PERCEPTRON": {name: kingma_2015.PERCEPTRON[name] for name in ("Adam", "SGD-Nesterov")},
            "FIGURE_1": (("Adam", "SGD-Nesterov", 1.05),),
            "FIGURE_2": ("SGD-Nesterov",),
            "QUIET_STEPS": 1000,
            "TRAINING_STEPS": 50,
        },
    ),
    "cohen_2021": Tiny(Edges(100, (4,), 20, 2.0, 0.5, 5, 20, 10), "digits"),
    "smith_2017": Tiny(
        dataclasses.replace(papers.paper("smith_2017").scales["demo"].size, lengths=Lengths.divided_by(500)),
        "digits",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", papers.names())
def test_a_few_steps_leave_a_result_that_draws_its_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in TINY, f"tests/papers/test_every_paper.py has no tiny run of {name}"
    paper, tiny = papers.paper(name), TINY[name]
    if tiny.data in ("mnist", "cifar10") and not os.environ.get("LRX_DATA_DIR"):
        pytest.skip("LRX_DATA_DIR names no folder with the real data")
    module = __import__(f"lrx.papers.{name}", fromlist=[name])
    monkeypatch.setitem(module.SCALES, "demo", dataclasses.replace(module.SCALES["demo"], size=tiny.size))
    for constant, value in tiny.constants.items():
        monkeypatch.setattr(module, constant, value)
    run = paper.run("demo", data=tiny.data or None, seeds=(0, 1), checkpoints=tmp_path / "checkpoints")
    result = papers.load(run.save(tmp_path / "result.json"))
    assert result.seeds == [0, 1]
    claims = paper.claims(result)
    assert claims
    if tiny.holds:
        assert all(claim.holds for claim in claims), [claim for claim in claims if not claim.holds]
    for stem, figure in paper.plot(result).items():
        figure.savefig(tmp_path / f"{stem}.png")
        assert 10_000 < (tmp_path / f"{stem}.png").stat().st_size < 150_000
        for axes in figure.axes:
            assert any(other.get_xlabel() for other in axes.get_shared_x_axes().get_siblings(axes))
