"""The public names of lrx, each imported from where it lives; `lrx` itself loads them at their first use."""

from lrx.controllers import (
    cumulative_path,
    early_stopping,
    greedy,
    pid,
    reduce_on_plateau,
    relative_adaptation,
    warmup_until,
)
from lrx.editing import restart_schedule, scale_learning_rate, set_learning_rate
from lrx.guards import rollback_on_divergence
from lrx.observing import observe
from lrx.optimizers import (
    accumulate,
    adagrad,
    adam,
    adamw,
    armijo,
    averaged,
    cocob,
    d_adaptation,
    dog,
    dowg,
    group_rates,
    heavy_ball,
    hypergradient_adam,
    hypergradient_sgd,
    master_weights,
    mechanic,
    momo,
    momo_adam,
    nesterov,
    polyak,
    prodigy,
    rmsprop,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_momentum,
    scale_by_rmsprop,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
)
from lrx.rates import Controller, Rate, Schedule
from lrx.reading import NoRateError, learning_rate, learning_rates, monitor, update_count
from lrx.restoring import CarriedOver, carry_over
from lrx.run_state import apply_updates, eval_params, stopped
from lrx.schedules import (
    constant,
    cosine_decay,
    cosine_restarts,
    cyclical,
    exponential_decay,
    interpolate,
    inverse_sqrt_decay,
    inverse_time_decay,
    join,
    linear_decay,
    one_cycle,
    one_cycle_momentum,
    piecewise_constant,
    polynomial_decay,
    refined,
    scale_for_batch_size,
    step_decay,
    tabulated,
    warmup,
    warmup_cosine_decay,
    warmup_linear_decay,
    warmup_stable_decay,
)
from lrx.training import STOP, Batches, DivergenceError, History, TrainingInterrupted, Workload, train
from lrx.tuning import halve_until_trains, optuna_objective, range_test, select, successive_halving, sweep
