"""What is trained, and the one loop that trains it."""

from lrx.training.batch_stats import recompute_batch_stats
from lrx.training.batches import Batches
from lrx.training.callbacks import STOP, Moment
from lrx.training.divergence import DivergenceError
from lrx.training.evaluation import Evaluation
from lrx.training.history import Best, History
from lrx.training.interrupt import TrainingInterrupted
from lrx.training.loop import train
from lrx.training.workload import Workload
from lrx.training.writers import csv_writer, tensorboard_writer, wandb_writer

__all__ = [
    "STOP",
    "Batches",
    "Best",
    "DivergenceError",
    "Evaluation",
    "History",
    "Moment",
    "TrainingInterrupted",
    "Workload",
    "csv_writer",
    "recompute_batch_stats",
    "tensorboard_writer",
    "train",
    "wandb_writer",
]
