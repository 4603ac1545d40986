"""Learning-rate schedules: the rate from the step alone, one family a file."""

from typing import TYPE_CHECKING

from lrx.rates import constant as constant
from lrx.schedules.batch_size import scale_for_batch_size as scale_for_batch_size
from lrx.schedules.composition import join as join
from lrx.schedules.composition import warmup as warmup
from lrx.schedules.cosine import cosine_decay as cosine_decay
from lrx.schedules.cosine import cosine_restarts as cosine_restarts
from lrx.schedules.cyclic import cyclical as cyclical
from lrx.schedules.exponential import exponential_decay as exponential_decay
from lrx.schedules.inverse import inverse_sqrt_decay as inverse_sqrt_decay
from lrx.schedules.inverse import inverse_time_decay as inverse_time_decay
from lrx.schedules.one_cycle import one_cycle as one_cycle
from lrx.schedules.one_cycle import one_cycle_momentum as one_cycle_momentum
from lrx.schedules.polynomial import linear_decay as linear_decay
from lrx.schedules.polynomial import polynomial_decay as polynomial_decay
from lrx.schedules.refinement import refined as refined
from lrx.schedules.stepwise import piecewise_constant as piecewise_constant
from lrx.schedules.stepwise import step_decay as step_decay
from lrx.schedules.tables import interpolate as interpolate
from lrx.schedules.tables import tabulated as tabulated
from lrx.schedules.warmup_decay import warmup_cosine_decay as warmup_cosine_decay
from lrx.schedules.warmup_decay import warmup_linear_decay as warmup_linear_decay
from lrx.schedules.warmup_stable_decay import warmup_stable_decay as warmup_stable_decay

if not TYPE_CHECKING:  # type checkers take the names from the imports, each `as` itself
    __all__ = sorted(name for name, value in globals().items() if callable(value) and not name.startswith("_"))
