"""Learning-rate schedules: the rate from the step alone, one family a file."""

from lrx.rates import constant
from lrx.schedules.composition import join, warmup
from lrx.schedules.cosine import cosine_decay
from lrx.schedules.cyclic import cyclical
from lrx.schedules.polynomial import linear_decay
from lrx.schedules.stepwise import step_decay

__all__ = ["constant", "cosine_decay", "cyclical", "join", "linear_decay", "step_decay", "warmup"]
