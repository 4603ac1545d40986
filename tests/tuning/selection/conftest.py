"""One selection that several tests share."""

from __future__ import annotations

import pytest
from tuning.line import NOISY_LINE
from tuning.selection.methods import SMALL

from lrx.training.following import BestBy
from lrx.tuning import Selection
from lrx.tuning.selection.bracket import Bracket


@pytest.fixture(scope="session")
def bracket() -> Bracket:
    return Bracket(NOISY_LINE, 400, SMALL, BestBy("error", "min"))


@pytest.fixture(scope="session")
def found(bracket: Bracket) -> Selection:
    return bracket.run(3.0, 0)
