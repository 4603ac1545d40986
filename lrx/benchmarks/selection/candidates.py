"""The methods and rates that the oracle of the benchmark of `select` searches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.optimizers import adamw, averaged
from lrx.optimizers.of_optax import lion, muon
from lrx.rates import Schedule
from lrx.schedules import cosine_decay, linear_decay, one_cycle
from lrx.tuning.selection.portfolio import PORTFOLIO, momentum_sgd, stable_decay, warmup_linear

WIDE = np.arange(-3, 6)  # half decades from the default rate, for methods whose rate is to be found
NARROW = np.arange(-2, 3)  # for methods that adapt their rate
AVERAGED = 0.5  # of a run, whose iterates "adamw, averaged" averages


@dataclasses.dataclass(frozen=True)
class Family:
    """Methods that differ in numbers only: one program serves them all.

    Attributes:
      optimizer: `(rate, num_steps) -> transformation`.
      schedules: name of the method to `(rate, num_steps) -> rate`.
      default: learning rate in the middle of the grid.
      places: half decades from the default, of the grid.
    """

    optimizer: Callable[[Any, Any], optax.GradientTransformation]
    schedules: Mapping[str, Callable[[Any, Any], Any]]
    default: float = 1.0
    places: tuple[int, ...] = tuple(WIDE)

    @property
    def rates(self) -> np.ndarray:
        """(rates,) float32: the grid, in increasing order."""
        return (self.default * 10.0 ** (np.array(self.places) / 2)).astype(np.float32)

    def make(self, hyper: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
        """Build a transformation; the rate and the place of the schedule may be traced."""
        rates = [schedule(hyper["rate"], num_steps) for schedule in self.schedules.values()]
        if len(rates) == 1:
            return self.optimizer(rates[0], num_steps)
        place = hyper["schedule"].astype(jnp.int32)

        def rate_at(count: jax.Array) -> jax.Array:
            return jnp.stack([jnp.asarray(rate(count), jnp.float32) for rate in rates])[place]

        return self.optimizer(Schedule(rate_at), num_steps)


def _alone(name: str, places: np.ndarray = WIDE) -> Family:
    method = PORTFOLIO[name]
    make = method.make
    return Family(
        make,
        {name: lambda rate, num_steps: rate},  # noqa: ARG005
        method.default,
        tuple(places if method.has_rate else (0,)),
    )


# Of the portfolio, five are left out that never were the best of the fourteen tasks on which `select` was developed
# first: dog, momo, hypergradient_adam, and the controllers relative_adaptation and reduce_on_plateau.
FAMILIES: tuple[Family, ...] = (
    Family(
        lambda rate, num_steps: adamw(rate),  # noqa: ARG005
        {
            "adamw, warmup-stable-decay": stable_decay,
            "adamw, linear decay": linear_decay,
            "adamw, one-cycle": one_cycle,
            "adamw, cosine decay": cosine_decay,
            "adamw, warm-up and linear decay": warmup_linear,
        },
        1e-3,
    ),
    Family(
        lambda rate, num_steps: momentum_sgd(rate),  # noqa: ARG005
        {
            "sgd, warmup-stable-decay": stable_decay,
            "sgd, linear decay": linear_decay,
            "sgd, one-cycle": one_cycle,
            "sgd, cosine decay": cosine_decay,
        },
        0.05,
    ),
    _alone("schedule_free_adamw"),
    _alone("schedule_free_sgd"),
    _alone("prodigy, linear decay", NARROW),
    Family(lambda rate, num_steps: muon(rate), {"muon, linear decay": linear_decay}, 3e-3),  # noqa: ARG005
    Family(lambda rate, num_steps: lion(rate), {"lion, linear decay": linear_decay}, 3e-4),  # noqa: ARG005
    Family(
        lambda rate, num_steps: averaged(adamw(rate), start_after=int(num_steps * AVERAGED)),
        {"adamw, averaged": lambda rate, num_steps: rate},  # noqa: ARG005
        1e-3,
    ),
    _alone("cocob"),
)

METHODS: dict[str, Family] = {name: family for family in FAMILIES for name in family.schedules}
