"""Diagnostics that train: what is wrong with it, rates compared on one plane, and how far the batch may grow."""

from lrx.doctor.batch_branches import CriticalBatchSize
from lrx.doctor.compare_rates import compare_rates
from lrx.doctor.coordinate_check import CoordinateCheck, coordinate_check
from lrx.doctor.critical_batch_size import critical_batch_size
from lrx.doctor.diagnose import diagnose
from lrx.doctor.diagnosis import Diagnosis
from lrx.doctor.finding import CODES, Change, Finding, Remedy
from lrx.doctor.rate_comparison import RateComparison
from lrx.doctor.sharpness_monitor import SharpnessMonitor, sharpness_monitor
from lrx.doctor.thresholds import THRESHOLDS, Thresholds

__all__ = [
    "CODES",
    "THRESHOLDS",
    "Change",
    "CoordinateCheck",
    "CriticalBatchSize",
    "Diagnosis",
    "Finding",
    "RateComparison",
    "Remedy",
    "SharpnessMonitor",
    "Thresholds",
    "compare_rates",
    "coordinate_check",
    "critical_batch_size",
    "diagnose",
    "sharpness_monitor",
]
