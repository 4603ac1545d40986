"""Learning-rate schedules: the rate from the step alone, one family a file."""

from lrx.rates import constant
from lrx.schedules.batch_size import scale_for_batch_size
from lrx.schedules.composition import join, warmup
from lrx.schedules.cosine import cosine_decay, cosine_restarts
from lrx.schedules.cyclic import cyclical
from lrx.schedules.exponential import exponential_decay
from lrx.schedules.inverse import inverse_sqrt_decay, inverse_time_decay
from lrx.schedules.one_cycle import one_cycle, one_cycle_momentum
from lrx.schedules.polynomial import linear_decay, polynomial_decay
from lrx.schedules.refinement import refined
from lrx.schedules.stepwise import piecewise_constant, step_decay
from lrx.schedules.tables import interpolate, tabulated
from lrx.schedules.warmup_decay import warmup_cosine_decay, warmup_linear_decay
from lrx.schedules.warmup_stable_decay import warmup_stable_decay

__all__ = [
    "constant",
    "cosine_decay",
    "cosine_restarts",
    "cyclical",
    "exponential_decay",
    "interpolate",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "join",
    "linear_decay",
    "one_cycle",
    "one_cycle_momentum",
    "piecewise_constant",
    "polynomial_decay",
    "refined",
    "scale_for_batch_size",
    "step_decay",
    "tabulated",
    "warmup",
    "warmup_cosine_decay",
    "warmup_linear_decay",
    "warmup_stable_decay",
]
