"""Tools that find rates and choose methods: they take a `Workload`, or a loss function and batches."""

from lrx.tuning.halve_until_trains import TrialTable, halve_until_trains
from lrx.tuning.halving import HalvingResult, successive_halving
from lrx.tuning.optuna_objective import optuna_objective
from lrx.tuning.range_test import RULE_TITLES, RangeTest, range_test
from lrx.tuning.selection import PORTFOLIO, Method, RunRecord, Selection, select
from lrx.tuning.space import Range, log_uniform, uniform
from lrx.tuning.sweep import SweepResult, sweep

__all__ = [
    "PORTFOLIO",
    "RULE_TITLES",
    "HalvingResult",
    "Method",
    "Range",
    "RangeTest",
    "RunRecord",
    "Selection",
    "SweepResult",
    "TrialTable",
    "halve_until_trains",
    "log_uniform",
    "optuna_objective",
    "range_test",
    "select",
    "successive_halving",
    "sweep",
    "uniform",
]
