"""What a reader changes in a reproduction: settings, arms, and a result drawn beside another."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import optax
import pytest
from matplotlib.colors import same_color
from reproductions import published

import lrx
from lrx import papers
from lrx.cli.reproduce import parse_arms, parse_settings, reproduce
from lrx.papers.arms import Arm, with_own
from lrx.papers.changes import overlay, replace_settings, settings_of
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result


class Part(NamedTuple):
    epochs: int = 5
    rate: float = 0.1
    widths: tuple[int, ...] = (8, 8)
    model: str = "mlp"
    images: int | None = None


@dataclasses.dataclass(frozen=True)
class Size:
    part: Part = dataclasses.field(default_factory=Part)
    options: dict[str, Any] = dataclasses.field(default_factory=lambda: {"depth": 2})
    augment: bool = False


@pytest.mark.parametrize("name", papers.names())
def test_every_setting_that_is_shown_can_be_set(name: str) -> None:
    for scale in papers.load(name).scales.values():
        settings = settings_of(scale.size)
        assert settings
        for setting, value in settings.items():
            assert settings_of(replace_settings(scale.size, {setting: value}))[setting] == value


def test_settings_of_inner_parts_are_named_with_a_dot() -> None:
    changed = replace_settings(
        Size(), {"part.epochs": 7, "part.widths": [4], "options.depth": 3, "augment": True, "part.rate": 1}
    )
    assert changed == Size(Part(7, 1.0, (4,)), {"depth": 3}, augment=True)
    assert isinstance(changed.part.rate, float)


def test_a_setting_of_parts_is_that_of_each_part_that_has_it() -> None:
    few, many = replace_settings((Part(), Size()), {"epochs": 9, "images": 100})
    assert (few, many) == (Part(epochs=9, images=100), Size())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epoch": 3}, ValueError, r"settings must be one of epochs, .*: did you mean 'epochs'\?"),
        ({"epochs.few": 3}, ValueError, "settings must be one of"),
        ({"epochs": 3.5}, TypeError, r"settings\['epochs'\] must be of the type of 5, which it replaces, got 3.5"),
        ({"epochs": True}, TypeError, "of the type of 5"),
        ({"model": 3}, TypeError, "of the type of 'mlp'"),
        ({"widths": 3}, TypeError, r"of the type of \(8, 8\)"),
        ({"widths": (3, "b")}, TypeError, "of the type of 8"),
        ({"epochs": -1}, ValueError, "must be finite and not negative, like 5, got -1"),
        ({"rate": float("inf")}, ValueError, "must be finite"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace_settings(Part(), settings)


def toy(name: str = "toy", *, arms: tuple[tuple[str, ...], ...] = (("arms",),)) -> Paper:
    """A paper that measures nothing and keeps what it was given."""

    def measure(size: Part, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
        found = with_own({"SGD": Arm(lrx.sgd)}, job)
        return size._asdict(), {"steps": [1, 2], "arms": {label: {"loss": [1.0, 0.5]} for label in found}}

    def claims(result: Result) -> list[Claim]:
        return [Claim("falls", "< 1", "0.5", True), Claim.of_values("error", "1.0", 1.0, published=True)]

    scales = {"demo": Scale("small", "no time", Part(), "digits")}
    return Paper(name, "Toy", "A. B.", 2020, "here", "none", scales, measure, claims, lambda result: {}, arms)


def test_a_result_says_what_was_changed() -> None:
    assert toy().run().changes == {}
    result = toy().run(settings={"epochs": 9}, arms={"mine": lrx.adam(0.1), "theirs": optax.adam(0.1)})
    assert result.settings["epochs"] == 9
    assert result.changes["settings"] == {"epochs": 9}
    assert result.changes["arms"]["mine"] == "adam(0.1)"
    assert "function" not in result.changes["arms"]["theirs"]
    assert list(result.curves["arms"]) == ["SGD", "mine", "theirs"]


@pytest.mark.parametrize(
    ("paper", "arms", "error", "message"),
    [
        (toy(), {"SGD": lrx.sgd(0.1)}, ValueError, "arms must not be named as the paper's own arms, 'SGD', got 'SGD'"),
        (toy(), {"mine": lrx.sgd}, TypeError, r"arms\['mine'\] must be a transformation"),
        (toy(arms=()), {"mine": lrx.sgd(0.1)}, ValueError, "arms must be left out, since toy compares no methods"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(
    paper: Paper, arms: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        paper.run(arms=arms)


def test_claims_about_published_numbers_are_left_out_where_settings_or_data_are_others() -> None:
    paper = toy()
    assert len(paper.check(paper.run()).claims) == 2
    assert len(paper.check(paper.run(arms={"mine": lrx.sgd(0.1)})).claims) == 2
    for changed in ({"settings": {"epochs": 9}}, {"data": "mnist"}):
        verdicts = paper.check(paper.run(**changed))
        assert [claim.text for claim in verdicts.claims] == ["falls"]
        assert [claim.text for claim in verdicts.left_out] == ["error"]


def test_the_arms_of_another_result_are_drawn_beside() -> None:
    paper = toy()
    first, second = paper.run(), paper.run(arms={"mine": lrx.sgd(0.1)})
    merged, gained = overlay(first, {"b": second}, paper.arms)
    assert list(merged.curves["arms"]) == ["SGD", "SGD, b", "mine, b"]
    assert gained == {"SGD, b": ("SGD", "b"), "mine, b": ("mine", "b")}
    assert list(first.curves["arms"]) == ["SGD"]
    with pytest.raises(ValueError, match=r"beside\['b'\] must be a result of toy, got one of other"):
        paper.draw(first, {"b": dataclasses.replace(second, name="other")})
    with pytest.raises(ValueError, match=r"beside\['b'\] must be measured at the same steps"):
        paper.draw(first, {"b": dataclasses.replace(second, curves=second.curves | {"steps": [1]})})
    with pytest.raises(ValueError, match="beside must be left out, since toy compares no arms"):
        toy(arms=()).draw(first, {"b": second})


@pytest.mark.parametrize(
    "name", [name if name == "duchi_2011" else pytest.param(name, marks=pytest.mark.slow) for name in papers.names()]
)
def test_an_arm_of_the_caller_is_black_and_one_of_another_result_keeps_its_colour(name: str) -> None:
    paper = papers.load(name)
    if not paper.arms:
        return
    result = published(name)
    before = {stem: colours(figure) for stem, figure in paper.draw(result).items()}
    curves = copy.deepcopy(result.curves)
    for arms in dicts_of_arms(curves, paper.arms):
        arms["mine"] = copy.deepcopy(list(arms.values())[-1])
    changed = dataclasses.replace(result, curves=curves, changes={"arms": {"mine": "adam(0.1)"}})
    figures = paper.draw(changed, {"old": result})
    assert set(figures) == set(before)
    seen = [(stem, label) for stem, figure in figures.items() for label in colours(figure) if label.startswith("mine")]
    assert seen, "the arm is in no legend"
    for stem, label in seen:
        assert same_color(colours(figures[stem])[label], "black")
        for earlier, colour in before[stem].items():
            assert same_color(colours(figures[stem]).get(earlier, colour), colour)
    assert any(", old" in label for figure in figures.values() for label in colours(figure))


def dicts_of_arms(curves: Any, where: tuple[tuple[str, ...], ...]) -> list[dict[str, Any]]:
    """Return the dicts of arms of a result."""
    found = []
    for pattern in where:
        level = [curves]
        for key in pattern:
            level = [inner for each in level for inner in (each.values() if key == "*" else [each[key]])]
        found += level
    return found


def colours(figure: Any) -> dict[str, Any]:
    """Return the colour of each label in a figure."""
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    return {line.get_label(): line.get_color() for line in lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ["examples"]}, "--set must be NAME=VALUE, such as --set epochs=20, got --set examples"),
        ({"settings": ["exampels=3"]}, "--set: settings must be one of features, examples, .* did you mean 'examples'"),
        ({"settings": ["examples=many"]}, "--set: settings.'examples'. must be of the type of 8000"),
        ({"arms": ["adamw(0.1)"]}, '--arm must be LABEL=TX, such as --arm "mine=adamw.0.001.", got --arm "adamw.0.1."'),
        ({"arms": ["mine=adamw(0.1"]}, "(?s)--arm mine: .*was never closed"),
        ({"everything": True, "paper": None, "arms": ["a=sgd(0.1)"]}, "--arm belongs to one paper, got --arm a=sgd"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_trained(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        reproduce(**({"paper": "duchi_2011"} | options))
    assert not list(tmp_path.iterdir())


def test_options_are_read_in_the_types_of_what_they_replace() -> None:
    paper = papers.load("orabona_2017")
    found = parse_settings(paper, "demo", ["epochs=7", "rates.Adam=(0.1, 0.2)"])
    assert found == {"epochs": 7, "rates.Adam": (0.1, 0.2)}
    assert parse_settings(papers.load("smith_2017"), "demo", ["model=caffe"]) == {"model": "caffe"}
    assert parse_arms(["my own = sgd(0.1, momentum=0.9)"]) == {"my own": lrx.sgd(0.1, momentum=0.9)}
