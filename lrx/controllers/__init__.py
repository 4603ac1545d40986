"""Controllers: feedback to a factor >= 0 that starts at 1, one method a file."""

from typing import TYPE_CHECKING

from lrx.controllers.cumulative_path import cumulative_path as cumulative_path
from lrx.controllers.early_stopping import early_stopping as early_stopping
from lrx.controllers.greedy import greedy as greedy
from lrx.controllers.pid import pid as pid
from lrx.controllers.plateau import reduce_on_plateau as reduce_on_plateau
from lrx.controllers.relative_adaptation import relative_adaptation as relative_adaptation
from lrx.controllers.warmup_until import warmup_until as warmup_until

if not TYPE_CHECKING:  # type checkers take the names from the imports, each `as` itself
    __all__ = sorted(name for name, value in globals().items() if callable(value) and not name.startswith("_"))
