"""Figures share one look, whatever the user's own settings are, and are written whole."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from lrx import figures


def test_the_style_holds_inside_its_context_and_nothing_of_it_stays() -> None:
    before = dict(mpl.rcParams)
    with figures.style():
        assert mpl.rcParams["axes.spines.top"] is False
        cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert dict(mpl.rcParams) == before
    assert tuple(f"#{color}".replace("##", "#") for color in cycle) == figures.PALETTE


def test_matplotlib_finds_the_style_by_name() -> None:

    with mpl.style.context("lrx.lrx"):
        assert mpl.rcParams["legend.frameon"] is False


def test_panels_keep_their_look_when_they_are_drawn_under_other_settings(tmp_path: Path) -> None:
    figure, axes = figures.panels(3, 2)
    assert len(axes) == 6
    assert tuple(figure.get_size_inches()) == (15.0, 7.2)
    with mpl.rc_context({"grid.alpha": 1.0, "grid.linewidth": 3.0, "axes.spines.top": True}):
        figures.save(figure, tmp_path / "a.png")  # the ticks are created here
        line = axes[0].get_xgridlines()[0]
    assert (line.get_alpha(), line.get_linewidth()) == (0.25, 0.6)
    assert not axes[0].spines["top"].get_visible()
    assert figure.dpi == 110


def test_panels_without_a_grid_have_none() -> None:
    figure, (axes,) = figures.panels(grid=False, size=(2, 2))
    figure.draw_without_rendering()
    assert not any(line.get_visible() for line in axes.get_xgridlines())


def test_a_band_has_the_color_of_its_line_and_spans_the_seeds() -> None:
    _, (axes,) = figures.panels()
    figures.band(axes, [0, 1], [[1.0, 2.0], [3.0, None], [5.0, 4.0]], "sgd", color="#123456", lw=3)
    (line,), (area,) = axes.lines, axes.collections
    np.testing.assert_array_equal(line.get_ydata(), [3.0, np.nan])
    assert (line.get_color(), line.get_linewidth(), line.get_label()) == ("#123456", 3, "sgd")
    assert mpl.colors.to_hex(area.get_facecolor()[0]) == "#123456"
    corners = area.get_paths()[0].vertices
    assert {1.0, 5.0} <= set(corners[corners[:, 0] == 0.0, 1])
    figures.band(axes, [0, 1], [[1.0, 2.0]], "one seed", middle=np.mean)
    assert len(axes.collections) == 1


def test_a_legend_lists_a_label_once_and_in_the_order_asked_for() -> None:
    figure, (axes,) = figures.panels()
    for label in ("a", "b", "a", "c"):
        axes.plot([0, 1], label=label)
    figures.legend(figure, axes)
    figures.legend(figure, axes, reverse=True)
    texts = [[text.get_text() for text in each.get_texts()] for each in figure.legends]
    assert texts == [["a", "b", "c"], ["c", "a", "b"]]
    other, (bare,) = figures.panels()
    figures.legend(other, bare)
    assert not other.legends


@pytest.mark.parametrize(
    ("values", "wide"),
    [([1.0, 20.0], True), ([1.0, 19.0], False), ([0.0, 20.0], False), ([1.0, np.nan, 50.0], True), ([np.nan], False)],
)
def test_positive_values_far_apart_make_an_axis_logarithmic(values: list[float], wide: bool) -> None:
    _, (axes,) = figures.panels()
    figures.scale_axis(axes, "x", np.array(values))
    assert axes.get_xscale() == ("log" if wide else "linear")
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_a_figure_is_saved_in_the_format_of_its_name(tmp_path: Path, name: str, start: bytes) -> None:
    path = figures.save(figures.empty(1, 1), tmp_path / "new" / name)
    assert path.read_bytes().startswith(start)
    assert [each.name for each in path.parent.iterdir()] == [name]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (figures.panels, lambda: figures.empty(1, 1), lambda: figures.style().__enter__()):
        with pytest.raises(ImportError, match=re.escape('plots need matplotlib: pip install "lrx[papers]".')):
            draw()
