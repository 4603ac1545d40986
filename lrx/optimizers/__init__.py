"""Optimizers: gradients to a direction, and the direction times a rate, one method a file."""

from lrx.optimizers.adam import adam, scale_by_adam
from lrx.optimizers.evaluation import eval_params
from lrx.optimizers.heavy_ball import heavy_ball
from lrx.optimizers.nesterov import nesterov
from lrx.optimizers.sgd import scale_by_momentum, sgd

__all__ = ["adam", "eval_params", "heavy_ball", "nesterov", "scale_by_adam", "scale_by_momentum", "sgd"]
