"""One selection that several tests share."""

from __future__ import annotations

import pytest
from tuning.line import NOISY_LINE
from tuning.selection.methods import SMALL

from lrx.training.following import BestBy
from lrx.tuning import Selection
from lrx.tuning.selection.selector import Selector


@pytest.fixture(scope="session")
def bracket() -> Selector:
    return Selector(NOISY_LINE, 400, SMALL, BestBy("error", "min"))


@pytest.fixture(scope="session")
def found(bracket: Selector) -> Selection:
    return bracket.run(3.0, 0)
