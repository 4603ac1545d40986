"""What a paper refuses, and when a claim holds."""

from __future__ import annotations

import pytest

from lrx import papers
from lrx.papers.reproduction import Claim


def test_a_claim_of_values_holds_where_the_mean_lies_between_the_bounds() -> None:
    assert Claim.of_values("x", "1", [0.9, 1.2], 1.0, 1.1) == Claim("x", "1", "1.05 ± 0.21", True)
    assert not Claim.of_values("x", "1", [0.9, 1.0], 1.0).holds
    assert not Claim.of_values("x", "1", 1.2, high=1.1).holds
    assert not Claim.of_values("x", "1", float("nan")).holds


@pytest.mark.parametrize("name", ["cauchy_1847", "robbins_1951", "polyak_1964", "nesterov_1983"])
def test_a_wrong_scale_and_a_data_set_are_refused(name: str) -> None:
    paper = papers.load(name)
    with pytest.raises(ValueError, match="scale must be one of demo, cpu, paper, got scale='big'"):
        paper.run("big")
    with pytest.raises(
        ValueError, match="data must be left out, since this paper trains on no data set, got data='mnist'"
    ):
        paper.run("demo", data="mnist")
