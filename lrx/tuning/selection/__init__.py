"""`select`: which optimizer, schedule or controller to use, and at which rate."""

from lrx.tuning.selection.portfolio import PORTFOLIO, Method
from lrx.tuning.selection.result import RunRecord, Selection
from lrx.tuning.selection.select import select

__all__ = ["PORTFOLIO", "Method", "RunRecord", "Selection", "select"]
