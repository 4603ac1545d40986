"""What the first tier has of many parameters, and what waits for the second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_tier_has(first: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return all values as parameters of a test; the first tier runs some of them, the second tier all."""
    first = list(first)
    return [pytest.param(value, marks=[] if value in first else [pytest.mark.slow]) for value in values]
