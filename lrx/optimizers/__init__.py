"""Optimizers: gradients to a direction, and the direction times a rate, one method a file.

A gradient that is not finite is not repaired: it makes the update of its own coordinate infinite or not a number, and
stays in that coordinate's momentum and moments; all other coordinates go on as if nothing had happened. To skip such
a step as a whole, put `optax.apply_if_finite` around the optimizer.
"""

from lrx.optimizers.adam import adam, scale_by_adam
from lrx.optimizers.evaluation import eval_params
from lrx.optimizers.heavy_ball import heavy_ball
from lrx.optimizers.nesterov import nesterov
from lrx.optimizers.sgd import scale_by_momentum, sgd

__all__ = ["adam", "eval_params", "heavy_ball", "nesterov", "scale_by_adam", "scale_by_momentum", "sgd"]
