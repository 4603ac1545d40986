"""Controllers: feedback to a factor >= 0 that starts at 1, one method a file."""

from lrx.controllers.cumulative_path import cumulative_path
from lrx.controllers.early_stopping import early_stopping
from lrx.controllers.greedy import greedy
from lrx.controllers.pid import pid
from lrx.controllers.plateau import reduce_on_plateau
from lrx.controllers.relative_adaptation import relative_adaptation
from lrx.controllers.warmup_until import warmup_until

__all__ = [
    "cumulative_path",
    "early_stopping",
    "greedy",
    "pid",
    "reduce_on_plateau",
    "relative_adaptation",
    "warmup_until",
]
