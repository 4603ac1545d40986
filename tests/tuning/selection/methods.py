"""A small portfolio that has every kind of method."""

from __future__ import annotations

from typing import Any

from tuning.line import NOISY_LINE

import lrx
from lrx.tuning import Method, Selection, select


def late_decay(rate: Any, num_steps: Any) -> Any:
    """Constant, and from half of the run on linear to 0: what comes before does not depend on the length."""
    half = num_steps // 2
    return lrx.sgd(lrx.warmup_stable_decay(rate, warmup_steps=0, stable_steps=half, decay_steps=num_steps - half))


def linear_decay(rate: Any, num_steps: Any) -> Any:
    return lrx.sgd(lrx.linear_decay(rate, num_steps))


def restarted(rate: Any, num_steps: Any) -> Any:
    return lrx.adam(lrx.linear_decay(rate, num_steps))


def adam(rate: Any, num_steps: Any) -> Any:
    return lrx.adam(rate)


def sgd(rate: Any, num_steps: Any) -> Any:
    return lrx.sgd(rate)


SMALL = {
    "late decay": Method(late_decay, default=0.1, range_test_of=lrx.sgd, trials=3, reusable_fraction=0.5),
    "linear decay": Method(linear_decay, reusable_fraction=0.0, variant_of="late decay"),
    "constant": Method(adam, default=0.03),
    "restarted": Method(restarted, default=0.1, reusable_fraction=0.0),
    "slow": Method(sgd, default=1e-6),
    "blown up": Method(sgd, default=1e9),
}


def chosen(**arguments: Any) -> Selection:
    return select(NOISY_LINE, **({"num_steps": 400, "portfolio": SMALL, "metric": "error"} | arguments))
