"""The methods that `select` chooses between, as data: a user adds a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from lrx import _checks
from lrx.controllers import reduce_on_plateau, relative_adaptation
from lrx.optimizers import (
    adamw,
    cocob,
    dog,
    hypergradient_adam,
    momo,
    prodigy,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
)
from lrx.rates import Schedule
from lrx.schedules import constant, linear_decay, one_cycle, warmup_stable_decay

MOMENTUM = 0.9
MIN_RATE = 1e-6  # of every range test of a race
STABLE = 0.7  # of a run with warmup-stable-decay, after which it decays


@dataclasses.dataclass(frozen=True)
class Method:
    """A line of the portfolio.

    Attributes:
      make: `(rate, num_steps) -> transformation` for a run of so many steps; it gets tracers for both.
      default: the rate that one begins with who knows nothing. That of the first method with a probe also says,
        together with the range test, which rates all that share it try.
      has_rate: False where `make` has no use for one.
      probe: `rate -> transformation`, the optimizer whose range test tells where the rates are; None where the method
        is to find its rate by itself, from `default`. Methods share a range test where this is the same object.
      max_rate: of that range test, which begins at 1e-6.
      trials: rates that are tried, where there is a probe.
      scale: of the rates, to those of the probe.
      carried: part of a run after which its state serves a longer run: 1 for what does not know when it will end, 0
        where the rate depends on that from the first step. A warm-up that is over by then may be shorter than that of
        the longer run.
      follows: the method that is the same but for its schedule, and finds the rate for this one; it enters the last
        round where that one leads, which follows none itself.
      favoured: True for what is to be raced with all its rates up to the last round, whatever shorter runs say of it.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if a field is of another kind.
    """

    make: Callable[[Any, Any], optax.GradientTransformation]
    default: float = 1.0
    has_rate: bool = True
    probe: Callable[[Any], optax.GradientTransformation] | None = None
    max_rate: float = 10.0
    trials: int = 1
    scale: float = 1.0
    carried: float = 1.0
    follows: str | None = None
    favoured: bool = False

    def __post_init__(self) -> None:
        for name in ("default", "max_rate", "scale"):
            _checks.positive(name, getattr(self, name))
        if self.max_rate <= MIN_RATE:
            raise ValueError(
                f"max_rate must be above {MIN_RATE:g}, where range tests begin, got max_rate={self.max_rate:g}."
            )
        for name in ("make", "probe"):
            if not callable(getattr(self, name)) and (name == "make" or self.probe is not None):
                of = "of a rate and a number of steps" if name == "make" else "of a rate, or None"
                raise TypeError(f"{name} must be a function {of}, got {name}={getattr(self, name)!r}.")
        _checks.steps("trials", self.trials, unit="rates")
        _checks.in_interval("carried", self.carried, "[0, 1]", "it is the part of a run that a longer one goes on from")
        _checks.flag("has_rate", self.has_rate)
        _checks.flag("favoured", self.favoured)


def momentum_sgd(rate: Any) -> optax.GradientTransformation:
    """Give SGD with momentum 0.9."""
    return sgd(rate, momentum=MOMENTUM)


def stable_decay(rate: Any, num_steps: Any) -> Schedule:
    """Give a run's warmup-stable-decay: a twentieth of warm-up, and linear decay from seven tenths on."""
    warmup_steps, begin = num_steps // 20, num_steps * 7 // 10
    return warmup_stable_decay(
        rate, warmup_steps=warmup_steps, stable_steps=begin - warmup_steps, decay_steps=num_steps - begin
    )


SGD, ADAMW = "sgd, warmup-stable-decay", "adamw, warmup-stable-decay"

PORTFOLIO: dict[str, Method] = {
    SGD: Method(
        lambda rate, num_steps: momentum_sgd(stable_decay(rate, num_steps)),
        default=0.05,
        probe=momentum_sgd,
        trials=3,
        carried=STABLE,
    ),
    "sgd, linear decay": Method(
        lambda rate, num_steps: momentum_sgd(linear_decay(rate, num_steps)), default=0.05, carried=0.0, follows=SGD
    ),
    "sgd, one-cycle": Method(
        lambda rate, num_steps: momentum_sgd(one_cycle(rate, num_steps)), default=0.05, carried=0.0, follows=SGD
    ),
    ADAMW: Method(
        lambda rate, num_steps: adamw(stable_decay(rate, num_steps)),
        default=1e-3,
        probe=adamw,
        max_rate=1.0,
        trials=3,
        carried=STABLE,
    ),
    "adamw, linear decay": Method(
        lambda rate, num_steps: adamw(linear_decay(rate, num_steps)), default=1e-3, carried=0.0, follows=ADAMW
    ),
    "adamw, one-cycle": Method(
        lambda rate, num_steps: adamw(one_cycle(rate, num_steps)), default=1e-3, carried=0.0, follows=ADAMW
    ),
    "schedule_free_sgd": Method(
        lambda rate, num_steps: schedule_free_sgd(rate),  # noqa: ARG005
        default=1.0,
        probe=momentum_sgd,
        trials=3,
        scale=10.0,
    ),
    "schedule_free_adamw": Method(
        lambda rate, num_steps: schedule_free_adamw(rate),  # noqa: ARG005
        default=2.5e-3,
        probe=adamw,
        trials=3,
        scale=2.0,
        favoured=True,  # winner of AlgoPerf's self-tuning track (P. Kasimbeg et al., 2025, arXiv:2502.15015)
    ),
    "prodigy, linear decay": Method(lambda rate, num_steps: prodigy(linear_decay(rate, num_steps)), carried=0.0),
    "dog": Method(lambda rate, num_steps: dog(rate)),  # noqa: ARG005
    "cocob": Method(lambda rate, num_steps: cocob(), has_rate=False),  # noqa: ARG005
    "momo": Method(lambda rate, num_steps: momo(rate)),  # noqa: ARG005
    "hypergradient_adam": Method(lambda rate, num_steps: hypergradient_adam(rate), default=1e-3),  # noqa: ARG005
    "sgd, relative_adaptation": Method(
        lambda rate, num_steps: momentum_sgd(constant(rate) * relative_adaptation()),  # noqa: ARG005
        default=1e-3,
    ),
    "adamw, reduce_on_plateau": Method(
        lambda rate, num_steps: adamw(constant(rate) * reduce_on_plateau(accumulation_size=50, patience=3)),  # noqa: ARG005
        default=3e-3,
    ),
}
