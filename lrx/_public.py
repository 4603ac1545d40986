"""The public names of lrx: what is imported here, each name `as` itself for type checkers, is `lrx.<name>`.

The packages of transformations are taken whole. `lrx` loads this file when the first of the names is used.
"""

from lrx.controllers import *
from lrx.diagnostics import check_consistency as check_consistency
from lrx.diagnostics import landscape as landscape
from lrx.diagnostics import noise_scale as noise_scale
from lrx.diagnostics import preconditioner_of as preconditioner_of
from lrx.diagnostics import robbins_monro as robbins_monro
from lrx.diagnostics import sharpness as sharpness
from lrx.diagnostics import stability_limit as stability_limit
from lrx.doctor import compare_rates as compare_rates
from lrx.doctor import coordinate_check as coordinate_check
from lrx.doctor import critical_batch_size as critical_batch_size
from lrx.doctor import diagnose as diagnose
from lrx.doctor import sharpness_monitor as sharpness_monitor
from lrx.editing import restart_schedule as restart_schedule
from lrx.editing import scale_learning_rate as scale_learning_rate
from lrx.editing import set_learning_rate as set_learning_rate
from lrx.guards import *
from lrx.observing import observe as observe
from lrx.optimizers import *
from lrx.rates import Controller as Controller
from lrx.rates import Rate as Rate
from lrx.rates import Schedule as Schedule
from lrx.reading import NoRateError as NoRateError
from lrx.reading import learning_rate as learning_rate
from lrx.reading import learning_rates as learning_rates
from lrx.reading import monitor as monitor
from lrx.reading import update_count as update_count
from lrx.restoring import CarriedOver as CarriedOver
from lrx.restoring import carry_over as carry_over
from lrx.run_state import apply_updates as apply_updates
from lrx.run_state import eval_params as eval_params
from lrx.run_state import stopped as stopped
from lrx.schedules import *
from lrx.training import STOP as STOP
from lrx.training import Batches as Batches
from lrx.training import DivergenceError as DivergenceError
from lrx.training import History as History
from lrx.training import TrainingInterrupted as TrainingInterrupted
from lrx.training import Workload as Workload
from lrx.training import train as train
from lrx.tuning import halve_until_trains as halve_until_trains
from lrx.tuning import mup_factors as mup_factors
from lrx.tuning import optuna_objective as optuna_objective
from lrx.tuning import range_test as range_test
from lrx.tuning import select as select
from lrx.tuning import successive_halving as successive_halving
from lrx.tuning import sweep as sweep
