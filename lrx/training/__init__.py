"""What is trained, and the one loop that trains it."""

from lrx.training.batch_stats import recompute_batch_stats
from lrx.training.loop import DivergenceError, TrainingInterrupted, train
from lrx.training.workload import Batches, Best, History, Workload

__all__ = [
    "Batches",
    "Best",
    "DivergenceError",
    "History",
    "TrainingInterrupted",
    "Workload",
    "recompute_batch_stats",
    "train",
]
