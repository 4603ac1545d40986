"""What trains to explain a run: rates compared on one plane, and how far the batch may grow."""

from lrx.doctor.compare_rates import compare_rates
from lrx.doctor.rate_comparison import RateComparison

__all__ = ["RateComparison", "compare_rates"]
