"""The bounds on versions: what pyproject.toml allows is what CI installs as the lowest."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_TESTED = {"flower", "docs"}  # extras whose lowest versions no test runs
COMPANIONS = {
    "jaxlib": "has the version of jax",
    "pyparsing": "matplotlib 3.9 uses what later ones deprecate",
}


def test_the_lowest_versions_are_the_bounds_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"]]
    groups += [group for name, group in project["optional-dependencies"].items() if name not in NOT_TESTED]
    bounds = dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)", item).groups() for group in groups for item in group if ">" in item
    )
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: pin for name, pin in pins.items() if name not in COMPANIONS} == bounds
    assert pins["jaxlib"] == pins["jax"]


def test_the_pinned_versions_of_ci_are_within_the_bounds():
    lowest, pinned = (
        dict(
            line.split("==")
            for line in (ROOT / "tests" / name).read_text().splitlines()
            if "==" in line and line[0] != "#"
        )
        for name in ("lowest.txt", "constraints.txt")
    )
    for name, version in lowest.items():
        assert [int(part) for part in pinned[name].split(".")] >= [int(part) for part in version.split(".")], name
