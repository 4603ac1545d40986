"""What is trained, and the one loop that trains it."""

from lrx.training.loop import DivergenceError, TrainingInterrupted, train
from lrx.training.workload import Batches, History, Workload

__all__ = ["Batches", "DivergenceError", "History", "TrainingInterrupted", "Workload", "train"]
