"""Tools that find rates and choose methods; all take a `Workload` first."""

from lrx.tuning.execution import Execution
from lrx.tuning.halve_until_trains import TrialTable, halve_until_trains
from lrx.tuning.halving import successive_halving
from lrx.tuning.halving_result import HalvingResult
from lrx.tuning.mup import MupFactors, MupLeaf, mup_factors
from lrx.tuning.optuna_objective import optuna_objective
from lrx.tuning.range_test import range_test
from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection import PORTFOLIO, Method, RunRecord, Selection, select
from lrx.tuning.space import Random, Range, log_uniform, uniform
from lrx.tuning.suggestions import RULE_TITLES
from lrx.tuning.sweep import sweep
from lrx.tuning.sweep_result import SweepResult

__all__ = [
    "PORTFOLIO",
    "RULE_TITLES",
    "Execution",
    "HalvingResult",
    "Method",
    "MupFactors",
    "MupLeaf",
    "Random",
    "Range",
    "RangeTest",
    "RunRecord",
    "Selection",
    "SweepResult",
    "TrialTable",
    "halve_until_trains",
    "log_uniform",
    "mup_factors",
    "optuna_objective",
    "range_test",
    "select",
    "successive_halving",
    "sweep",
    "uniform",
]
