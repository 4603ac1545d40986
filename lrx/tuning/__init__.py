"""Tools that find rates and choose methods: they take a `Workload`, or a loss function and batches."""

from lrx.tuning.range_test import RangeTest, range_test
from lrx.tuning.space import Range, log_uniform, uniform
from lrx.tuning.sweep import SweepResult, sweep

__all__ = ["Range", "RangeTest", "SweepResult", "log_uniform", "range_test", "sweep", "uniform"]
