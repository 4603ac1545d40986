"""Learning-rate control for JAX: every rate a composable gradient transformation whose value can be read.

An update is a direction times a rate, and the last link of a chain applies the minus sign. A schedule is that link, and
so is a product with one. Behind an optimizer that has a sign and a rate of its own a schedule would ascend: there the
unsigned link belongs, `schedule.multiplier()`, or a controller.

Example:
  >>> import jax.numpy as jnp, lrx, optax
  >>> schedule = lrx.warmup_cosine_decay(0.1, warmup_steps=0, total_steps=100)
  >>> closed = optax.chain(optax.scale_by_sign(), schedule)  # not optax.sign_sgd, which has a rate of its own
  >>> updates, state = closed.update(jnp.ones(2), closed.init(jnp.ones(2)))
  >>> print(updates, lrx.learning_rate(state))
  [-0.1 -0.1] 0.1
  >>> scaled = optax.chain(optax.sgd(0.1), lrx.warmup(1.0, 4, init_value=0.5).multiplier())
  >>> updates, state = scaled.update(jnp.ones(2), scaled.init(jnp.ones(2)))
  >>> print(updates)
  [-0.05 -0.05]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrx._public import *

__version__ = "0.1.0"

__all__ = [
    "STOP",
    "Batches",
    "CarriedOver",
    "Controller",
    "DivergenceError",
    "History",
    "NoRateError",
    "Rate",
    "Schedule",
    "TrainingInterrupted",
    "Workload",
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "apply_updates",
    "armijo",
    "averaged",
    "carry_over",
    "cocob",
    "constant",
    "cosine_decay",
    "cosine_restarts",
    "cumulative_path",
    "cyclical",
    "d_adaptation",
    "dog",
    "dowg",
    "early_stopping",
    "eval_params",
    "exponential_decay",
    "greedy",
    "group_rates",
    "halve_until_trains",
    "heavy_ball",
    "hypergradient_adam",
    "hypergradient_sgd",
    "interpolate",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "join",
    "learning_rate",
    "learning_rates",
    "linear_decay",
    "master_weights",
    "mechanic",
    "momo",
    "momo_adam",
    "monitor",
    "nesterov",
    "observe",
    "one_cycle",
    "one_cycle_momentum",
    "optuna_objective",
    "pid",
    "piecewise_constant",
    "polyak",
    "polynomial_decay",
    "prodigy",
    "range_test",
    "reduce_on_plateau",
    "refined",
    "relative_adaptation",
    "restart_schedule",
    "rmsprop",
    "rollback_on_divergence",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_momentum",
    "scale_by_rmsprop",
    "scale_for_batch_size",
    "scale_learning_rate",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "select",
    "set_learning_rate",
    "sgd",
    "step_decay",
    "stopped",
    "successive_halving",
    "sweep",
    "tabulated",
    "train",
    "update_count",
    "warmup",
    "warmup_cosine_decay",
    "warmup_linear_decay",
    "warmup_stable_decay",
    "warmup_until",
]

# The packages that were there after `import lrx` alone.
_PACKAGES = ("controllers", "guards", "optimizers", "rates", "reading", "schedules", "training", "tuning")


def __getattr__(name: str) -> Any:
    """Load the public names when the first of them is used: JAX takes a second, and `lrx --help` needs none of them."""
    if name in __all__:
        public = vars(import_module("lrx._public"))
        globals().update({each: public[each] for each in __all__})
        return public[name]
    if name in _PACKAGES:
        return import_module(f"lrx.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
