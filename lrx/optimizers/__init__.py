"""Optimizers: gradients to a direction, and the direction times a rate, one method a file.

A gradient that is not finite is not repaired: it makes the update of its own coordinate infinite or not a number, and
stays in that coordinate's momentum and moments; all other coordinates go on as if nothing had happened. To skip such
a step as a whole, put `optax.apply_if_finite` around the optimizer.

A complex coordinate is a plane: statistics take |g|^2 and inner products Re(conj(g) x), and second moments are real.
The gradient of a real loss by complex parameters must be the direction of steepest ascent, which is the conjugate of
what `jax.grad` returns: `grads = jax.tree.map(jnp.conj, jax.grad(loss)(params))`.

Parameters narrower than float32 round away what is less than 1/256 (bfloat16) of them; a method whose statistics follow
the way that they go keeps them in float32 in its state. For all others, and for steps that must not be lost, there is
`master_weights`. Types below 16 bits are refused.
"""

from lrx.optimizers.accumulation import accumulate
from lrx.optimizers.adagrad import adagrad, scale_by_adagrad
from lrx.optimizers.adam import adam, scale_by_adam
from lrx.optimizers.adamw import adamw
from lrx.optimizers.armijo import armijo
from lrx.optimizers.averaged import averaged
from lrx.optimizers.cocob import cocob
from lrx.optimizers.d_adaptation import d_adaptation
from lrx.optimizers.dog import dog
from lrx.optimizers.dowg import dowg
from lrx.optimizers.groups import group_rates
from lrx.optimizers.heavy_ball import heavy_ball
from lrx.optimizers.hypergradient import hypergradient_adam, hypergradient_sgd
from lrx.optimizers.master_weights import master_weights
from lrx.optimizers.mechanic import mechanic
from lrx.optimizers.momo import momo, momo_adam
from lrx.optimizers.nesterov import nesterov
from lrx.optimizers.polyak import polyak
from lrx.optimizers.prodigy import prodigy
from lrx.optimizers.rmsprop import rmsprop, scale_by_rmsprop
from lrx.optimizers.schedule_free import schedule_free_adamw, schedule_free_sgd
from lrx.optimizers.sgd import scale_by_momentum, sgd

__all__ = [
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "armijo",
    "averaged",
    "cocob",
    "d_adaptation",
    "dog",
    "dowg",
    "group_rates",
    "heavy_ball",
    "hypergradient_adam",
    "hypergradient_sgd",
    "master_weights",
    "mechanic",
    "momo",
    "momo_adam",
    "nesterov",
    "polyak",
    "prodigy",
    "rmsprop",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_momentum",
    "scale_by_rmsprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
]
