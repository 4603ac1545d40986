"""Findings are ordered, and printed, saved and drawn."""

import json

import pytest

from lrx.doctor import CODES, Diagnosis, Finding, Remedy
from lrx.doctor.finding import EXPLAINS, in_order


def finding(code, level, cost, evidence=None):
    words = "Make the schedule as long as the run, which is a sentence that a narrow terminal wraps."
    return Finding(
        code, level, cost, f"What is wrong: {code}.", evidence or {"steps": 1000}, Remedy(words, code="lrx.sgd(0.1)")
    )


def diagnosis(*findings):
    return Diagnosis(
        findings, {"diverges": "the loss"}, {"overfits": "since this needs a history"}, "run", 300, 60, 1.5, {}
    )


def test_findings_are_ordered_by_how_sure_and_how_costly_they_are():
    listed = [
        finding("overfits", "hint", 0.9),
        finding("restart-cut", "certain", 0.1),
        finding("dead-layer", "certain", 0.5),
    ]
    assert [each.code for each in in_order(listed)] == ["dead-layer", "restart-cut", "overfits"]


def test_a_hint_comes_before_those_that_it_explains():
    effect, cause = finding("labels-are-noise", "hint", 1.0), finding("vanishing-gradients", "hint", 0.5)
    assert in_order([effect, cause]) == (cause, effect)
    assert in_order([effect, finding("overfits", "hint", 0.5)])[0] == effect


def test_what_a_surer_finding_explains_becomes_a_hint():
    cause, effect = finding("not-finite-input", "certain", 1.0), finding("diverges", "certain", 1.0)
    first, second = in_order([effect, cause])
    assert (first.code, second.level, second.because) == ("not-finite-input", "hint", "not-finite-input")
    weak = in_order([effect, finding("not-finite-input", "hint", 1.0)])
    assert weak[0] == effect


def test_codes_that_explain_others_are_known():
    assert {*EXPLAINS, *(code for codes in EXPLAINS.values() for code in codes)} <= set(CODES)


@pytest.mark.parametrize("width", [60, 100])
def test_a_report_fits_the_terminal_and_holds_everything(width):
    text = diagnosis(finding("schedule-ends-early", "certain", 0.7), finding("rate-too-low", "likely", 0.2)).report(
        width
    )
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for part in (
        "1. schedule-ends-early (certain, costs about 70% of the run)",
        "steps 1,000",
        "lrx.sgd(0.1)",
        "20% of a run",
    ):
        assert part in words
    with pytest.raises(ValueError, match="width must be at least 40 columns"):
        diagnosis().report(39)


def test_nothing_found_says_what_was_checked():
    assert "Nothing found." in str(diagnosis())
    assert "Checked: diverges." in str(diagnosis())
    assert "Not checked, since this needs a history: overfits." in str(diagnosis())
    assert "Nothing found" in diagnosis()._repr_html_()


def test_json_has_no_numbers_that_are_not_finite():
    written = json.loads(diagnosis(finding("diverges", "certain", 1.0, {"loss": float("inf")})).to_json())
    assert written["findings"][0]["evidence"] == {"loss": None}
    assert written["findings"][0]["remedy"]["code"] == "lrx.sgd(0.1)"
    assert written["checked"] == {"diverges": "the loss"}
