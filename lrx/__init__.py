"""Learning-rate control for JAX: every rate a composable gradient transformation whose value can be read.

An update is a direction times a rate, and the last link of a chain applies the minus sign. A schedule is that link, and
so is a product with one. After an optimizer that has a sign and a rate of its own, a schedule would ascend: use the
unsigned link there, `schedule.multiplier()`, or a controller.

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
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lrx import controllers as controllers
    from lrx import diagnostics as diagnostics
    from lrx import doctor as doctor
    from lrx import federated as federated
    from lrx import guards as guards
    from lrx import optimizers as optimizers
    from lrx import rates as rates
    from lrx import reading as reading
    from lrx import schedules as schedules
    from lrx import training as training
    from lrx import tuning as tuning
    from lrx._public import *
else:  # to a type checker, a module with `__getattr__` has every name

    def __getattr__(name: str) -> Any:
        """Load all public names when the first is used: JAX takes a second, and `lrx --help` needs none of them."""
        if name == "__all__" or not name.startswith("__"):
            if find_spec(f"lrx.{name}") is not None:
                return import_module(f"lrx.{name}")
            globals().update(_public_names())
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_public_names()})

    def _public_names() -> dict[str, Any]:
        """Return what `lrx._public` imports by name, and `__all__`, which lists it."""
        names = {name: value for name, value in vars(import_module("lrx._public")).items() if not name.startswith("_")}
        return names | {"__all__": sorted(names)}
