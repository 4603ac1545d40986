"""Choose the method itself, and its rate, for the compute of a few runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.training.batches import Batches
from lrx.training.progress import require_progress
from lrx.training.workload import Workload
from lrx.tuning.problem import as_workload, require_comparable
from lrx.tuning.selection.bracket import Race
from lrx.tuning.selection.portfolio import PORTFOLIO, Method
from lrx.tuning.selection.result import Selection

DEFAULT_EPOCHS = 10


def select(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    num_steps: int | None = None,
    budget: float = 3.0,
    portfolio: Mapping[str, Method] = PORTFOLIO,
    metric: str | None = None,
    mode: str = "min",
    seed: int = 0,
    has_state: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> Selection:
    """Choose optimizer, schedule or controller, and the rate, for the compute of `budget` full runs.

    First come the range tests that the portfolio asks for. With m a tenth of the rate at which the loss was lowest, and
    c the default of the optimizer, the rates that are tried go in equal factors from 1.5 r to 18 r. There r is
    sqrt(m c), or m / 10 or 10 m where that is nearer to m. Where a range test learnt nothing, it goes on upwards if the
    budget has room, and r is c, or a tenth of the rate that diverged where that is less.

    Then runs are raced in four rounds. All enter the first. The second has the favoured method at all its rates, and
    the three other methods that lead, at their best rate; the third the same with two others. The last has one other;
    the favoured method at its best rate, and where a parabola through the logarithms of rate and loss has its minimum;
    and schedules that differ only in how they decay, at the rate of the method that they follow, where that leads. Runs
    of the second round are at least 4 times as long as those of the first, those of the third 14 times, and the last
    takes all that is left of the budget. In a round all runs have the same length h, and each is made as if it were to
    end there: its schedule decays to its end, and its loss is not that of the middle of a schedule. What does not
    depend on the end, up to `carried` h steps, goes on from there in the next round and is not made again; the decay is
    a branch that is thrown away.

    Favoured is what the portfolio says so of, because short runs say the wrong thing about it: in `PORTFOLIO`
    schedule-free AdamW, of which low rates lead at a tenth of a run and lose at its end. Where nothing is favoured,
    or all of it diverges, it is what leads the first round. It is chosen only where it is the best of the last round.

    Of the runs that came furthest the metric tells the method, and between the rates of one the loss. Who goes on to
    the next round is told by the "loss" of the evaluation alone, where it has one, since what counts right answers
    hardly tells short runs apart. What has learnt nothing, with a training loss no lower than that of the initial
    parameters on the same minibatches, is not chosen. A round in which all runs diverge is the last one, and what has
    never diverged is chosen from.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: as for `sweep`.
      num_steps: length of the run that the method is chosen for; 10 epochs by default, where batches have epochs.
      budget: steps that may be made in all, in full runs.
      portfolio: name to `lrx.tuning.Method`, `lrx.tuning.PORTFOLIO | {"mine": Method(...)}`.
      metric: a result of the workload's `evaluate` to compare by; by default its "loss", or, where it has none, the
        training loss of the last tenth of the steps.
      mode: "min" or "max", what is better.
      seed: of all runs.
      has_state: as for `sweep`.
      checkpoint: a folder. After the range tests, and after each round, all that was found is kept there, and the same
        call goes on with the next round. A call that differs in anything that makes its numbers is refused
        (`lrx.training.identity`).
      progress: True shows a bar, or lines where there is no terminal; by default a bar, on a terminal alone; a string
        is its title; False shows nothing.

    Returns:
      A `Selection`: `lrx.train(workload, selection.tx, steps=selection.num_steps)`, and `print(selection)` for the
      table.

    Raises:
      ValueError: if an argument is out of its range, the portfolio is empty, a method of it ascends, the budget is too
        small for the range tests and four rounds of which the first makes two steps a run, every run diverged, none of
        those that came furthest has a training loss below that of the initial parameters, or the folder holds another
        race.
      TypeError: if an argument is of another kind.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      The question is that of "Revisiting Learning Rate Control" (M. Henheik, T. Eimer, M. Lindauer, 2025); the race is
      successive halving (K. Jamieson, A. Talwalkar, 2016, arXiv:1502.07943) with the cooldown branches of A. Hägele et
      al., 2024, arXiv:2405.18392.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.tuning import PORTFOLIO
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> few = {name: PORTFOLIO[name] for name in ("sgd, warmup-stable-decay", "sgd, linear decay", "cocob")}
      >>> chosen = lrx.select(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=lrx.Batches((x, 3.0 * x), batch_size=16),
      ...     num_steps=200,
      ...     portfolio=few,
      ... )
      >>> chosen.method in few, chosen.cost <= 3.0
      (True, True)
    """
    began = time.monotonic()
    _checks.positive("budget", budget)
    require_progress(progress)
    _checks.seed(seed)
    _require_portfolio(portfolio)
    if num_steps is not None:
        _checks.steps("num_steps", num_steps)
    elif not isinstance(loss_fn, Workload) and not isinstance(batches, Batches):
        raise ValueError(
            "num_steps must be given with batches that are no lrx.training.Batches, which alone know what an epoch is: "
            "give num_steps=1000, say."
        )
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps or 1)
    if num_steps is None:
        num_steps = DEFAULT_EPOCHS * workload.batches.steps_per_epoch
    require_comparable(metric, mode, workload)
    return Race(workload, num_steps, portfolio, metric, mode).run(budget, seed, checkpoint, progress, began)


def _require_portfolio(portfolio: Any) -> None:
    if not isinstance(portfolio, Mapping) or not all(isinstance(each, Method) for each in portfolio.values()):
        raise TypeError(
            f"portfolio must be a dict from names to lrx.tuning.Method, got portfolio={portfolio!r}: add a line to "
            "lrx.tuning.PORTFOLIO."
        )
    if all(each.follows for each in portfolio.values()):
        raise ValueError(
            f"portfolio must have at least one method that follows no other, got {list(portfolio)}: "
            "lrx.tuning.PORTFOLIO has the usual ones."
        )
    for name, method in portfolio.items():
        leader = portfolio.get(method.follows) if method.follows is not None else None
        if method.follows is not None and (leader is None or leader.follows is not None):
            raise ValueError(
                f"portfolio[{name!r}] must follow a method of the portfolio that follows none itself, got "
                f"follows={method.follows!r}."
            )
        if method.follows is not None and method.favoured:
            raise ValueError(
                f"portfolio[{name!r}] must not be favoured, since it follows {method.follows!r} and enters the last "
                "round only: favour that one."
            )
        try:
            _checks.transformation(method.make(method.default, 100))
        except TypeError as error:
            raise TypeError(
                f"portfolio[{name!r}].make must be a function of a rate and a number of steps, but "
                f"make({method.default}, 100) failed: {error}"
            ) from error
        try:
            jax.eval_shape(partial(_make, method), jnp.float32(1), jnp.int32(1))
        except jax.errors.ConcretizationTypeError as error:
            raise TypeError(
                f"portfolio[{name!r}].make must take tracers for the rate and the number of steps, which one compiled "
                "program is given for all runs, but it asks for their values: use the schedules of lrx, and jnp.where "
                "and // in place of if and int()."
            ) from error


def _make(method: Method, rate: Any, num_steps: Any) -> None:
    """Make a method's transformation, of which nothing is kept, to see whether it can be traced."""
    method.make(rate, num_steps)
