"""Optimizers: gradients to a direction, and the direction times a rate, one method a file.

A gradient that is not finite is not repaired: it makes the update of its own coordinate infinite or not a number, and
stays in that coordinate's momentum and moments; all other coordinates go on as if nothing had happened. To skip such
a step as a whole, put `optax.apply_if_finite` around the optimizer.
"""

from lrx.optimizers.accumulation import accumulate
from lrx.optimizers.adagrad import adagrad, scale_by_adagrad
from lrx.optimizers.adam import adam, scale_by_adam
from lrx.optimizers.adamw import adamw
from lrx.optimizers.evaluation import eval_params
from lrx.optimizers.groups import group_rates
from lrx.optimizers.heavy_ball import heavy_ball
from lrx.optimizers.nesterov import nesterov
from lrx.optimizers.rmsprop import rmsprop, scale_by_rmsprop
from lrx.optimizers.sgd import scale_by_momentum, sgd

__all__ = [
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "eval_params",
    "group_rates",
    "heavy_ball",
    "nesterov",
    "rmsprop",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_momentum",
    "scale_by_rmsprop",
    "sgd",
]
