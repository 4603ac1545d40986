"""`select`: choose the method itself, and its rate, for the compute of a few runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.training.progress import require_progress
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_best
from lrx.tuning.selection.experience import shipped
from lrx.tuning.selection.freeze_thaw import FreezeThaw
from lrx.tuning.selection.policy import Policy
from lrx.tuning.selection.portfolio import PORTFOLIO, Method
from lrx.tuning.selection.prior import Prior
from lrx.tuning.selection.result import Selection
from lrx.tuning.selection.selector import Selector

DEFAULT_EPOCHS = 10


def select(
    workload: Workload,
    *,
    num_steps: int | None = None,
    budget: float = 3.0,
    portfolio: Mapping[str, Method] | None = None,
    policy: Policy | None = None,
    metric: str | tuple[str, str] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> Selection:
    """Choose optimizer, schedule or controller, and the rate, for the compute of `budget` full runs.

    What did well on other tasks decides which methods are begun, and at which rates. Each run has the schedule of its
    full length; most are stopped early. After each part of a run it is predicted how every method at every rate will
    end, with an uncertainty, and the run goes on from which the largest improvement is expected for its cost. So no
    step is made twice, and no schedule is judged by a shorter one. The end of a run is judged by the metric, its
    beginning by the evaluation loss, because accuracy barely separates short runs. A run can be chosen only if its
    training loss is below that of the initial parameters on the same minibatches by more than the noise of the
    difference.

    Compared in this way are the 13 methods of `PORTFOLIO` that do best on some of the tasks whose curves are stored,
    and those that are added to it, which are begun at their default rates. The other six of `PORTFOLIO` compete with
    `policy=lrx.tuning.selection.bracket.Bracket()`, or in a portfolio that lacks one of the 13, of which nothing is
    known beforehand: range tests find which rates to try, and all methods compete in four rounds of increasing length.
    `examples/guides/which-method.md` has the rules of both.

    Args:
      workload: the model, its data and its loss.
      num_steps: length of the run that the method is chosen for; 10 epochs by default.
      budget: upper bound of all steps, in full runs; compilation and evaluations come on top. With the methods of
        `PORTFOLIO`, two more costs count. Where an evaluation takes a second or more, steps and evaluations together
        take about 1.15 times as long as the same number of full runs, each with one evaluation; what else evaluations
        take is taken from the steps. Where a full run takes a second or more, a step of a method that takes as
        long as k of most methods counts k, as one of Muon for a small network. Both are measured before the first run,
        so the choice may then depend on the machine. Below 1, a ninth or a third of a few runs is trained, and how they
        end is predicted from what did well on other tasks. Below a ninth, and below 1 for other portfolios, no methods
        are compared: the first method of a fixed order that learns is chosen, with the rate of a range test.
      portfolio: name to `lrx.tuning.Method`, by default `lrx.tuning.PORTFOLIO`; to add a method,
        `lrx.tuning.PORTFOLIO | {"mine": Method(...)}`.
      policy: the rules by which the budget is spent, an object with a method `decide` as
        `lrx.tuning.selection.policy.Policy` describes it; by default `FreezeThaw`, for other portfolios `Bracket`, and
        below their least budgets `Prior`.
      metric: a result of the workload's `evaluate` to compare by, such as "accuracy"; ("score", "max") if the name does
        not say which is better; by default its "loss", or, if it has none, the training loss of the last tenth of the
        steps.
      seed: seed of the first run of each method and rate; with a budget of 5 and more, complete runs may be made again
        with the next seeds, seed + 1 and seed + 2.
      checkpoint: a folder. The results are kept there after each request, a part of a run or a round, and the same call
        continues with the next request. A call that differs in anything that determines its numbers is refused
        (`lrx.training.identity`).
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `Selection`. Train with `lrx.train(workload, selection.tx, steps=selection.num_steps)`; `print(selection)` shows
      the table of all runs, how sure the choice is and what is not known; `selection.code` is the choice as code.

    Raises:
      ValueError: if an argument is out of its range, the portfolio is empty, a method of it ascends, the budget is too
        small for the range tests and four rounds with runs of two steps in the first, every run diverged, none of the
        longest runs has a training loss below that of the initial parameters, or the folder holds another selection.
      TypeError: if an argument is of the wrong type.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      The question is that of "Revisiting Learning Rate Control" (M. Henheik, T. Eimer, M. Lindauer, 2025). Runs that
      are stopped and continued are those of K. Swersky, J. Snoek, R. P. Adams, "Freeze-Thaw Bayesian Optimization",
      2014, arXiv:1406.3896, with successive halving (K. Jamieson, A. Talwalkar, 2016, arXiv:1502.07943). The rounds of
      other portfolios add the cooldown branches of A. Hägele et al., 2024, arXiv:2405.18392.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.tuning import PORTFOLIO
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> few = {name: PORTFOLIO[name] for name in ("sgd, warmup-stable-decay", "sgd, linear decay", "cocob")}
      >>> chosen = lrx.select(line, num_steps=200, portfolio=few)
      >>> chosen.method in few, chosen.cost <= 3.0
      (True, True)
    """
    require_workload(workload)
    _checks.positive("budget", budget)
    require_progress(progress)
    _checks.seed(seed)
    portfolio = PORTFOLIO if portfolio is None else portfolio
    _require_portfolio(portfolio)
    if num_steps is None:
        num_steps = DEFAULT_EPOCHS * workload.batches.steps_per_epoch
    _checks.steps("num_steps", num_steps)
    if policy is not None and not callable(getattr(policy, "decide", None)):
        raise TypeError(
            f"policy must have a method decide, as lrx.tuning.selection.policy.Policy has it, got policy={policy!r}: "
            "give lrx.tuning.selection.bracket.Bracket(), or leave it out."
        )
    best_by = None if metric is None else as_best(metric, workload)
    if policy is None and shipped().serves(portfolio) and FreezeThaw.can_begin(num_steps, budget):
        policy, portfolio = FreezeThaw(), shipped().relevant(portfolio)
    if policy is None and budget < 1:
        policy = Prior()
        portfolio = policy.needed(portfolio)  # the others are not even compiled
    return Selector(workload, num_steps, portfolio, best_by, policy).run(budget, seed, checkpoint, progress)


def _require_portfolio(portfolio: Any) -> None:
    if not isinstance(portfolio, Mapping) or not all(isinstance(each, Method) for each in portfolio.values()):
        raise TypeError(
            f"portfolio must be a dict from names to lrx.tuning.Method, got portfolio={portfolio!r}: add a line to "
            "lrx.tuning.PORTFOLIO."
        )
    if all(each.variant_of for each in portfolio.values()):
        raise ValueError(
            f"portfolio must have at least one method that is not a variant of another, got {list(portfolio)}: "
            "lrx.tuning.PORTFOLIO has the usual ones."
        )
    for name, method in portfolio.items():
        leader = portfolio.get(method.variant_of) if method.variant_of is not None else None
        if method.variant_of is not None and (leader is None or leader.variant_of is not None):
            raise ValueError(
                f"portfolio[{name!r}] must be a variant of a method of the portfolio that is not a variant itself, got "
                f"variant_of={method.variant_of!r}."
            )
        if method.variant_of is not None and method.always_advance:
            raise ValueError(
                f"portfolio[{name!r}] must not have always_advance, since it is a variant of {method.variant_of!r} and "
                "enters the last round only: mark that one."
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
    """Build a method's transformation and discard it, to find out whether it can be traced."""
    method.make(rate, num_steps)
