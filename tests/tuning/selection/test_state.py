"""What a bracket has found survives a checkpoint."""

from __future__ import annotations

import math

import numpy as np
from tuning.selection.methods import SMALL

from lrx.tuning import RangeTest, RunRecord
from lrx.tuning.selection.state import BracketState, Candidate


def test_a_state_is_rebuilt_from_its_arrays() -> None:
    curve = np.linspace(1.0, 0.5, 4, dtype=np.float32)
    suggestions = {"steepest": 0.1, "valley": None, "minimum": 0.01, "slide": None, "divergence": 0.2}
    test = RangeTest(curve, curve, curve, curve[None], curve, 0.4, 0.1, None, suggestions)
    state = BracketState(
        spent=42,
        range_tests={"late decay": test},
        candidates=[Candidate("constant", 0.03, done=7, length=9, value=0.5, loss=0.25, learnt=True)],
        records=[
            RunRecord("constant", 0.03, 1, 9, 0.5, 0.25, 9, True),
            RunRecord("blown up", 1e9, 1, 9, math.inf, math.inf, 9, False),
        ],
    )
    found = BracketState.from_arrays(state.to_arrays(list(SMALL)), list(SMALL))
    assert found.records == state.records
    assert found.spent == 42
    assert vars(found.candidates[0]) == vars(state.candidates[0])
    assert found.range_tests["late decay"].suggestions == suggestions
    assert found.range_tests["late decay"].diverged_at is None
    np.testing.assert_array_equal(found.range_tests["late decay"].losses_by_seed, curve[None])


def test_an_empty_state_is_rebuilt_too() -> None:
    arrays = {name: values for name, values in BracketState(spent=3).to_arrays(list(SMALL)).items() if values.size}
    found = BracketState.from_arrays(arrays, list(SMALL))
    assert (found.spent, found.candidates, found.records, found.range_tests) == (3, [], [], {})
