"""The greedy factor: when it raises and lowers the rate."""

from __future__ import annotations

from units import (
    NAN,
    Case,
    refuse,
    refuse_fractions,
    refuse_steps,
    refuse_words,
)

import lrx

CASES = {
    "greedy": Case(
        lrx.greedy,
        {"factor": 0.5, "patience": 0, "smoothing": 0.5},
        {
            "factor": (0.1, 0.3, 0.9),
            "patience": (0, 1, 3),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.5, 9.0),
            "smoothing": (0.0, 0.5, 0.9),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
        values=(1.0, 0.5, 0.9, 0.8, 0.7, 0.6, 0.55, 0.52),
    ),
}


REFUSED = [
    *refuse(lrx.greedy, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"),
    *refuse(lrx.greedy, "max_factor", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse_fractions(lrx.greedy, "smoothing", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.greedy, "factor", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.greedy, "min_factor", "(0, 1]", (0.0, 1.1)),
    *refuse_words(lrx.greedy, "feedback"),
    *refuse_steps(lrx.greedy, "patience", at_least=0),
]


DESCENDS = {
    "greedy": lambda: lrx.sgd(0.01 * lrx.greedy()),
}


REFERENCE = {
    "greedy": "test_greedy_raises_the_rate_while_the_loss_improves_and_lowers_it_while_it_stalls",
}


def test_greedy_raises_the_rate_while_the_loss_improves_and_lowers_it_while_it_stalls() -> None:
    controller = lrx.greedy(factor=0.5, patience=1, smoothing=0.0, max_factor=4.0, min_factor=0.25)
    state, scales = controller.init(None), []
    for value in (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, *[3.0] * 12):
        _, state = controller.update((), state, value=value)
        scales.append(float(state.latest))
    assert scales[:6] == [1, 2, 2, 4, 4, 4]
    assert scales[6:] == [4, 2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]
