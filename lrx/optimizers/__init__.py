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

from typing import TYPE_CHECKING

from lrx.optimizers.accumulation import accumulate as accumulate
from lrx.optimizers.adagrad import adagrad as adagrad
from lrx.optimizers.adagrad import scale_by_adagrad as scale_by_adagrad
from lrx.optimizers.adam import adam as adam
from lrx.optimizers.adam import scale_by_adam as scale_by_adam
from lrx.optimizers.adamw import adamw as adamw
from lrx.optimizers.armijo import armijo as armijo
from lrx.optimizers.averaged import averaged as averaged
from lrx.optimizers.cocob import cocob as cocob
from lrx.optimizers.d_adaptation import d_adaptation as d_adaptation
from lrx.optimizers.dog import dog as dog
from lrx.optimizers.dowg import dowg as dowg
from lrx.optimizers.groups import group_rates as group_rates
from lrx.optimizers.heavy_ball import heavy_ball as heavy_ball
from lrx.optimizers.hypergradient import hypergradient_adam as hypergradient_adam
from lrx.optimizers.hypergradient import hypergradient_sgd as hypergradient_sgd
from lrx.optimizers.master_weights import master_weights as master_weights
from lrx.optimizers.mechanic import mechanic as mechanic
from lrx.optimizers.momo import momo as momo
from lrx.optimizers.momo import momo_adam as momo_adam
from lrx.optimizers.nesterov import nesterov as nesterov
from lrx.optimizers.polyak import polyak as polyak
from lrx.optimizers.prodigy import prodigy as prodigy
from lrx.optimizers.rmsprop import rmsprop as rmsprop
from lrx.optimizers.rmsprop import scale_by_rmsprop as scale_by_rmsprop
from lrx.optimizers.schedule_free import schedule_free_adamw as schedule_free_adamw
from lrx.optimizers.schedule_free import schedule_free_sgd as schedule_free_sgd
from lrx.optimizers.sgd import scale_by_momentum as scale_by_momentum
from lrx.optimizers.sgd import sgd as sgd
from lrx.optimizers.update_ratio import update_ratio as update_ratio

if not TYPE_CHECKING:  # type checkers take the names from the imports, each `as` itself
    __all__ = sorted(name for name, value in globals().items() if callable(value) and not name.startswith("_"))
