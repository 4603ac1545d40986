"""A chosen transformation as a line of Python."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from lrx import expressions
from lrx.tuning.selection.portfolio import PORTFOLIO


def shortest(rate: float) -> float:
    """Return the number with the fewest digits that is the same in float32, the type of all rates."""
    return float(str(np.float32(rate)))


def write_code(tx: Any, method: str, rate: float, num_steps: int) -> str:
    """Return an assignment to `tx` that rebuilds a transformation.

    Args:
      tx: the transformation, whose repr is the expression if it was built by lrx.
      method: its name in the portfolio, by which it is rebuilt otherwise.
      rate: its rate.
      num_steps: length of its run.

    Example:
      >>> import lrx
      >>> from lrx.tuning.selection.code import write_code
      >>> write_code(lrx.adamw(lrx.linear_decay(0.0031, 2000)), "adamw, linear decay", 0.0031, 2000)
      'tx = lrx.adamw(lrx.linear_decay(0.0031, 2000))'
    """
    try:
        tree = ast.parse(repr(tx), mode="eval")
        known = {name for kind, members in expressions.groups().items() if kind != "links" for name in members}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                if node.id not in known:
                    raise ValueError(node.id)
                node.id = f"lrx.{node.id}"
        return f"tx = {ast.unparse(tree)}"
    except (SyntaxError, ValueError):
        if method in PORTFOLIO and tx == PORTFOLIO[method].make(rate, num_steps):
            return f"tx = lrx.tuning.PORTFOLIO[{method!r}].make({rate!r}, {num_steps})"
        return f"tx = portfolio[{method!r}].make({rate!r}, {num_steps})"
