"""Learning-rate control for JAX: every rate a composable gradient transformation whose value can be read."""

from lrx.controllers import reduce_on_plateau
from lrx.optimizers import adam, eval_params, heavy_ball, nesterov, scale_by_adam, scale_by_momentum, sgd
from lrx.rates import Controller, Rate, Schedule
from lrx.reading import learning_rate, learning_rates, monitor, observe, scale_learning_rate
from lrx.schedules import constant, cosine_decay, cyclical, join, linear_decay, step_decay, warmup
from lrx.training import Batches, DivergenceError, History, TrainingInterrupted, Workload, train

__version__ = "0.1.0"

__all__ = [
    "Batches",
    "Controller",
    "DivergenceError",
    "History",
    "Rate",
    "Schedule",
    "TrainingInterrupted",
    "Workload",
    "adam",
    "constant",
    "cosine_decay",
    "cyclical",
    "eval_params",
    "heavy_ball",
    "join",
    "learning_rate",
    "learning_rates",
    "linear_decay",
    "monitor",
    "nesterov",
    "observe",
    "reduce_on_plateau",
    "scale_by_adam",
    "scale_by_momentum",
    "scale_learning_rate",
    "sgd",
    "step_decay",
    "train",
    "warmup",
]
