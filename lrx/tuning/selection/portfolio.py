"""The methods that `select` chooses from, as data: add a line to try another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from lrx import _checks
from lrx.controllers import reduce_on_plateau, relative_adaptation
from lrx.optimizers import (
    adamw,
    averaged,
    cocob,
    dog,
    hypergradient_adam,
    momo,
    prodigy,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
)
from lrx.optimizers.of_optax import lion, muon
from lrx.rates import Schedule
from lrx.schedules import constant, linear_decay, one_cycle, warmup_linear_decay, warmup_stable_decay

MOMENTUM = 0.9
MIN_RATE = 1e-6  # of every range test
STABLE = 0.7  # of a run with warmup-stable-decay: where the decay begins


@dataclasses.dataclass(frozen=True)
class Method:
    """A line of the portfolio.

    Attributes:
      make: `(rate, num_steps) -> transformation` for a run of that length; both may be traced.
      default: the learning rate to use without any tuning, > 0. With the range test, the default of the first method
        that uses the test decides which rates all methods that share it try.
      has_rate: False if `make` ignores the rate.
      range_test_of: `rate -> transformation`, the optimizer whose range test finds the rates to try; None if only
        `default` is tried. Methods share a range test if this is the same object.
      max_rate: the last rate of that range test, which begins at 1e-6.
      trials: number of rates to try, if there is a range test.
      scale: the rates to try are those of the range test times this, > 0.
      reusable_fraction: fraction of a run, in [0, 1], whose state a longer run can reuse: 1 if nothing depends on the
        run's length, 0 if the schedule does from step 0. A warm-up may be shorter than the longer run's, if it is over
        by then.
      variant_of: the method that differs only in its schedule, and whose rate this one takes. A variant enters only the
        last round, and only if that method leads. That method must not be a variant itself.
      always_advance: True to keep the method in all rounds with all its rates, whatever the short runs show.
      flat: True if the update does not depend on how the parameters are divided into arrays: it treats each parameter
        alone, or all together. `select` then gives the method all parameters but the largest as one vector, which
        compiles in a fraction of the time. False for what depends on a parameter's shape or path, as `muon` or a mask.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if a field is of the wrong type.
    """

    make: Callable[[Any, Any], optax.GradientTransformation]
    default: float = 1.0
    has_rate: bool = True
    range_test_of: Callable[[Any], optax.GradientTransformation] | None = None
    max_rate: float = 10.0
    trials: int = 1
    scale: float = 1.0
    reusable_fraction: float = 1.0
    variant_of: str | None = None
    always_advance: bool = False
    flat: bool = False

    def __post_init__(self) -> None:
        for name in ("default", "max_rate", "scale"):
            _checks.positive(name, getattr(self, name))
        if self.max_rate <= MIN_RATE:
            raise ValueError(
                f"max_rate must be above {MIN_RATE:g}, where range tests begin, got max_rate={self.max_rate:g}."
            )
        for name in ("make", "range_test_of"):
            if not callable(getattr(self, name)) and (name == "make" or self.range_test_of is not None):
                of = "of a rate and a number of steps" if name == "make" else "of a rate, or None"
                raise TypeError(f"{name} must be a function {of}, got {name}={getattr(self, name)!r}.")
        _checks.steps("trials", self.trials, unit="rates")
        _checks.in_interval(
            "reusable_fraction", self.reusable_fraction, "[0, 1]", "it is the part of a run that a longer one reuses"
        )
        _checks.flag("has_rate", self.has_rate)
        _checks.flag("always_advance", self.always_advance)
        _checks.flag("flat", self.flat)


def momentum_sgd(rate: Any) -> optax.GradientTransformation:
    """Return SGD with momentum 0.9."""
    return sgd(rate, momentum=MOMENTUM)


def stable_decay(rate: Any, num_steps: Any) -> Schedule:
    """Return warmup-stable-decay for a run: warm-up over a twentieth of it, linear decay from seven tenths on."""
    warmup_steps, begin = num_steps // 20, num_steps * 7 // 10
    return warmup_stable_decay(
        rate, warmup_steps=warmup_steps, stable_steps=begin - warmup_steps, decay_steps=num_steps - begin
    )


def warmup_linear(rate: Any, num_steps: Any) -> Schedule:
    """Return warm-up over a tenth of a run, then linear decay."""
    return warmup_linear_decay(rate, num_steps // 10, num_steps)


SGD, ADAMW = "sgd, warmup-stable-decay", "adamw, warmup-stable-decay"

_METHODS: dict[str, Method] = {
    SGD: Method(
        lambda rate, num_steps: momentum_sgd(stable_decay(rate, num_steps)),
        default=0.05,
        range_test_of=momentum_sgd,
        trials=3,
        reusable_fraction=STABLE,
    ),
    "sgd, linear decay": Method(
        lambda rate, num_steps: momentum_sgd(linear_decay(rate, num_steps)),
        default=0.05,
        reusable_fraction=0.0,
        variant_of=SGD,
    ),
    "sgd, one-cycle": Method(
        lambda rate, num_steps: momentum_sgd(one_cycle(rate, num_steps)),
        default=0.05,
        reusable_fraction=0.0,
        variant_of=SGD,
    ),
    ADAMW: Method(
        lambda rate, num_steps: adamw(stable_decay(rate, num_steps)),
        default=1e-3,
        range_test_of=adamw,
        max_rate=1.0,
        trials=3,
        reusable_fraction=STABLE,
    ),
    "adamw, linear decay": Method(
        lambda rate, num_steps: adamw(linear_decay(rate, num_steps)),
        default=1e-3,
        reusable_fraction=0.0,
        variant_of=ADAMW,
    ),
    "adamw, one-cycle": Method(
        lambda rate, num_steps: adamw(one_cycle(rate, num_steps)),
        default=1e-3,
        reusable_fraction=0.0,
        variant_of=ADAMW,
    ),
    "adamw, warm-up and linear decay": Method(
        lambda rate, num_steps: adamw(warmup_linear(rate, num_steps)),
        default=1e-3,
        reusable_fraction=0.0,
        variant_of=ADAMW,
    ),
    "adamw, averaged": Method(
        lambda rate, num_steps: averaged(adamw(rate), start_after=num_steps // 2),
        default=1e-3,
        reusable_fraction=0.5,
        variant_of=ADAMW,
    ),
    "muon, linear decay": Method(
        lambda rate, num_steps: muon(linear_decay(rate, num_steps)), default=3e-3, reusable_fraction=0.0
    ),
    "lion, linear decay": Method(
        lambda rate, num_steps: lion(linear_decay(rate, num_steps)), default=3e-4, reusable_fraction=0.0
    ),
    "schedule_free_sgd": Method(
        lambda rate, num_steps: schedule_free_sgd(rate),  # noqa: ARG005
        default=1.0,
        range_test_of=momentum_sgd,
        trials=3,
        scale=10.0,
    ),
    "schedule_free_adamw": Method(
        lambda rate, num_steps: schedule_free_adamw(rate),  # noqa: ARG005
        default=2.5e-3,
        range_test_of=adamw,
        trials=3,
        scale=2.0,
        # Short runs prefer rates that lose at the end. Winner of AlgoPerf's self-tuning track (P. Kasimbeg et al.,
        # 2025, arXiv:2502.15015).
        always_advance=True,
    ),
    "prodigy, linear decay": Method(
        lambda rate, num_steps: prodigy(linear_decay(rate, num_steps)), reusable_fraction=0.0
    ),
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

# None of them depends on how the parameters are divided into arrays.
SHAPED = ("muon, linear decay",)  # methods whose updates depend on the shapes of the parameters
PORTFOLIO: dict[str, Method] = {
    name: dataclasses.replace(method, flat=name not in SHAPED) for name, method in _METHODS.items()
}
