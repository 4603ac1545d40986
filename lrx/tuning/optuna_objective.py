"""An objective for Optuna: its samplers choose hyperparameters, its pruners end runs, its storages share a study."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.training.many import RunFamily
from lrx.training.plan import Plan, choose_plan
from lrx.training.runs import advance, evaluate, tail_loss
from lrx.tuning.problem import as_seeds, as_workload, require_comparable, require_trains
from lrx.tuning.space import Range, Space, try_out

NUM_REPORTS = 10


def optuna_objective(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    tx: Callable[..., optax.GradientTransformation],
    space: Mapping[str, Range],
    num_steps: int,
    report_every: int | None = None,
    metric: str | None = None,
    seeds: int | Sequence[int] = 1,
    has_state: bool = False,
) -> Callable[[Any], float]:
    """Make what `optuna.Study.optimize` takes: train with a trial's hyperparameters, report, and stop where it is told.

    The run is compiled once, for all trials. Several processes, on several machines, work on one study where it has a
    storage: each makes its own objective and calls `study.optimize`.

        study = optuna.create_study(
            study_name="cifar10", storage="sqlite:///study.db", load_if_exists=True,
            pruner=optuna.pruners.HyperbandPruner(),
        )
        study.optimize(objective, n_trials=50)
        study.best_params

    A trial whose loss is not finite is pruned, and has the user attribute "diverged". A process that is killed leaves
    its trial running for ever, unless the storage is told to look: with `optuna.storages.RDBStorage("sqlite:///study.db",
    heartbeat_interval=60, failed_trial_callback=optuna.storages.RetryFailedTrialCallback())` another takes it up.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: as for `sweep`.
      tx: takes the hyperparameters by name to a transformation; it gets tracers.
      space: hyperparameter to a range, `lrx.tuning.log_uniform(1e-5, 1.0)` for a rate.
      num_steps: length of a trial.
      report_every: steps between two reports, after each of which the trial may be pruned; a tenth of `num_steps` by
        default.
      metric: a result of the workload's `evaluate`; by default the training loss, the mean of the last tenth of the
        steps.
      seeds: how many runs of each trial, or their seeds; their mean is reported.
      has_state: as for `sweep`.

    Returns:
      A function of an `optuna.Trial` that returns the metric after `num_steps`.

    Raises:
      ValueError: if an argument is out of its range, or `tx` refuses an end of a range or ascends (`lrx.direction`).
      TypeError: if an argument is of another kind.
      ImportError: if optuna is not installed.

    Source:
      T. Akiba et al., "Optuna", KDD 2019, arXiv:1907.10902.

    Example:
      >>> import jax, jax.numpy as jnp, lrx, optuna
      >>> from lrx.training import Batches
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> objective = lrx.optuna_objective(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=Batches((x, 3.0 * x), batch_size=16),
      ...     tx=lambda lr: lrx.sgd(lr),
      ...     space={"lr": lrx.tuning.log_uniform(1e-4, 10.0)},
      ...     num_steps=50,
      ... )
      >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
      >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
      >>> study.optimize(objective, n_trials=20)
      >>> study.best_value < 1e-3
      True
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError('optuna_objective needs optuna: pip install "lrx[tune]".') from error
    _checks.steps("num_steps", num_steps)
    if report_every is not None:
        _checks.steps("report_every", report_every)
    if not isinstance(space, Mapping) or not space or not all(isinstance(value, Range) for value in space.values()):
        raise TypeError(f'space must be a dict of ranges, {{"lr": lrx.tuning.log_uniform(1e-5, 1.0)}}, got {space!r}.')
    ends = {name: np.array([interval.low, interval.high]) for name, interval in space.items()}
    try_out(tx, Space(ends, (2,), ends))
    seed_array = as_seeds(seeds)
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps)
    require_comparable(metric, "min", workload)
    require_trains(workload, tx(**{name: interval.low for name, interval in space.items()}))
    every = max(1, num_steps // NUM_REPORTS) if report_every is None else report_every
    family = RunFamily(workload, lambda hyper, count: tx(**hyper), num_steps, num_steps)  # noqa: ARG005
    plans: list[Plan] = []
    lock = threading.Lock()  # for optimize(..., n_jobs=2)

    def plan() -> Plan:
        with lock:
            if not plans:
                alone = {name: values[:1] for name, values in ends.items()}
                strategy = "map" if len(seed_array) == 1 else "vmap"
                plans.append(choose_plan(family, alone, seed_array, strategy=strategy))
            return plans[0]

    def objective(trial: Any) -> float:
        hyper = {
            name: np.array([trial.suggest_float(name, interval.low, interval.high, log=interval.log)], np.float32)
            for name, interval in space.items()
        }
        runs, step, value = plan().start(hyper, seed_array), 0, np.inf
        while step < num_steps:
            until = min(num_steps, step + every)
            runs = advance(plan(), runs, hyper, seed_array, step, until)
            step = until
            if np.any(np.asarray(runs.diverged)):
                trial.set_user_attr("diverged", True)
                raise optuna.TrialPruned(f"the loss is not finite by step {step:,}.")
            if metric is None:
                value = float(tail_loss(runs)[:, 0].mean())
            else:
                results = evaluate(workload, runs, seed_array, 1)
                if metric not in results:
                    raise ValueError(f"metric must be one of {sorted(results)}, got metric={metric!r}.")
                value = float(results[metric][:, 0].mean())
            trial.report(value, step)
            if step < num_steps and trial.should_prune():
                raise optuna.TrialPruned(f"pruned after {step:,} steps.")
        return value

    return objective
