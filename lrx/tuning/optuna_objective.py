"""An objective for Optuna: its samplers choose hyperparameters, its pruners end runs, its storages share a study."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from lrx import _checks
from lrx.training.many import RunFamily
from lrx.training.plan import Plan, choose_plan
from lrx.training.runs import advance, evaluate, tail_loss
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on
from lrx.tuning.space import FromHyperparameters, Range, Space, try_out

NUM_REPORTS = 10


def optuna_objective(
    workload: Workload,
    tx: Callable[..., optax.GradientTransformation],
    space: Mapping[str, Range],
    *,
    num_steps: int,
    report_every: int | None = None,
    metric: str | None = None,
    seeds: int | Sequence[int] = 1,
) -> Callable[[Any], float]:
    """Build the objective that `optuna.Study.optimize` takes: it trains with a trial's hyperparameters and reports.

    The run is compiled once, for all trials. Several processes, on several machines, can work on one study if it has a
    storage: each builds its own objective and calls `study.optimize`.

        study = optuna.create_study(
            study_name="cifar10", storage="sqlite:///study.db", load_if_exists=True,
            pruner=optuna.pruners.HyperbandPruner(),
        )
        study.optimize(objective, n_trials=50)
        study.best_params

    A trial whose loss is not finite is pruned, and has the user attribute "diverged". The trial of a process that is
    killed stays in the state "running", unless the storage looks for such trials: with

        optuna.storages.RDBStorage(
            "sqlite:///study.db", heartbeat_interval=60,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )

    another process repeats it. (Before Optuna 4.9: `failed_trial_callback` and `RetryFailedTrialCallback`.) For a grid,
    see `storage=` of `lrx.sweep`.

    Args:
      workload: the model, its data and its loss.
      tx: takes the hyperparameters by name and returns a transformation; their values are traced.
      space: hyperparameter to a range, `lrx.tuning.log_uniform(1e-5, 1.0)` for a rate.
      num_steps: length of a trial.
      report_every: steps between two reports; the trial may be pruned after each. A tenth of `num_steps` by default.
      metric: the name of a result of the workload's `evaluate`, which the study minimizes or maximizes; by default the
        training loss, the mean of the last tenth of the steps.
      seeds: number of runs of each trial, or their seeds; the mean over them is reported.

    Returns:
      A function of an `optuna.Trial` that returns the metric after `num_steps`.

    Raises:
      ValueError: if an argument is out of its range, or `tx` refuses an end of a range or ascends (`lrx.direction`).
      TypeError: if an argument is of the wrong type.
      ImportError: if optuna is not installed.

    Source:
      T. Akiba et al., "Optuna", KDD 2019, arXiv:1907.10902.

    Example:
      >>> import jax, jax.numpy as jnp, lrx, optuna
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> space = {"lr": lrx.tuning.log_uniform(1e-4, 10.0)}
      >>> objective = lrx.optuna_objective(line, lambda lr: lrx.sgd(lr), space, num_steps=50)
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
    require_workload(workload)
    _checks.steps("num_steps", num_steps)
    if report_every is not None:
        _checks.steps("report_every", report_every)
    if not isinstance(space, Mapping) or not space or not all(isinstance(value, Range) for value in space.values()):
        raise TypeError(f'space must be a dict of ranges, {{"lr": lrx.tuning.log_uniform(1e-5, 1.0)}}, got {space!r}.')
    ends = {name: np.array([interval.low, interval.high]) for name, interval in space.items()}
    try_out(tx, Space(ends, (2,), ends, False))
    seed_array = as_seeds(seeds)
    if metric is not None and workload.evaluate is None:
        raise ValueError(f"metric needs a workload that evaluates, got metric={metric!r} and one without.")
    require_descent_on(workload, tx(**{name: interval.low for name, interval in space.items()}))
    every = max(1, num_steps // NUM_REPORTS) if report_every is None else report_every
    family = RunFamily(workload, FromHyperparameters(tx), num_steps, num_steps)
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
