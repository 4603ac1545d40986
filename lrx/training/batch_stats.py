"""Batch statistics at parameters other than those of the training steps, for example at their average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lrx import _checks
from lrx.run_state import eval_params, moves_evaluation
from lrx.training.checks import workload_key
from lrx.training.program_cache import Cache, Latest
from lrx.training.sampling import Sampling, pass_keys
from lrx.training.step import State
from lrx.training.stream import Stream
from lrx.training.workload import ModelState, Params, Workload, require_workload

NUM_BATCHES = 200  # to go over


def recompute_batch_stats(
    workload: Workload, params: Params, model_state: ModelState, *, num_batches: int = NUM_BATCHES, seed: int = 0
) -> ModelState:
    """Recompute a model's batch statistics at parameters other than those of the training steps.

    The training loss is evaluated on minibatches at `params`, without a gradient and without an update, and the model's
    own running averages forget the old statistics: with the decay d of batch normalization, d^num_batches of them are
    left (at 200 batches 7e-10 for d = 0.9, and 13 % for d = 0.99). `train` does so before it evaluates a method whose
    `eval_params` are not the parameters it trains.

    Args:
      workload: model, training data and loss.
      params: parameters to compute the statistics at, `lrx.eval_params(history.opt_state, history.params)`.
      model_state: the statistics to start from.
      num_batches: minibatches to go over, in the order of a new permutation, epoch by epoch; a forward pass each.
      seed: seed of the permutation, the transforms and the loss.

    Returns:
      The new model state, of the same structure, shapes and types; one without arrays comes back as it is.

    Raises:
      ValueError: if `num_batches` is not a whole number above 0.
      TypeError: if `workload` is not a `Workload`.

    Source:
      The rule of `torch.optim.swa_utils.update_bn`; P. Izmailov et al., "Averaging Weights Leads to Wider Optima and
      Better Generalization", 2018, arXiv:1803.05407, algorithm 1.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> from lrx.training import Batches, Workload, recompute_batch_stats, train
      >>> def loss_fn(weight, mean, x, key):
      ...     return jnp.mean((weight * x - 3.0) ** 2), 0.9 * mean + 0.1 * jnp.mean(weight * x)
      >>> init = lambda key: (jnp.zeros([]), jnp.zeros([]))
      >>> workload = Workload("mean", init, loss_fn, Batches(jnp.ones(32), batch_size=8))
      >>> history = train(workload, lrx.schedule_free_sgd(0.2), steps=20)
      >>> weight = lrx.eval_params(history.opt_state, history.params)
      >>> mean = recompute_batch_stats(workload, weight, history.model_state)
      >>> bool(jnp.isclose(mean, weight)), bool(jnp.isclose(history.model_state, weight))
      (True, False)
    """
    require_workload(workload)
    _checks.steps("num_batches", num_batches)
    if not jax.tree.leaves(model_state):
        return model_state
    batches = workload.batches
    if isinstance(batches, Stream):
        batches = batches.take(min(num_batches, batches.steps_per_epoch))
    forward = _PASSES.find_program(workload_key(workload), (workload.loss_fn, batches.sampling), _forward_pass)
    return forward(params, model_state, batches.arrays, np.int32(seed), np.int32(num_batches))


_PASSES = Cache(maxsize=16)


def _forward_pass(latest: Latest[tuple[Callable[..., Any], Sampling]]) -> Callable[..., Any]:
    @jax.jit
    def run(params: Params, model_state: ModelState, arrays: Any, seed: jax.Array, number: jax.Array) -> ModelState:
        loss_fn, sampling = latest.parts
        shuffle_key, step_key = pass_keys(seed)
        permutation = sampling.permutation(arrays, shuffle_key, None)

        def body(count: jax.Array, state: ModelState) -> ModelState:
            batch, loss_key = sampling.draw(arrays, permutation, step_key, count)
            return loss_fn(params, state, batch, loss_key)[1]

        return jax.lax.fori_loop(0, number, body, model_state)

    return run


def evaluation_point(workload: Workload, state: State, seed: int = 0) -> tuple[Params, ModelState]:
    """Return the parameters to evaluate a run at, and the model state that belongs to them."""
    params = eval_params(state.opt_state, state.params)
    return params, model_state_at(workload, params, state, seed)


def model_state_at(workload: Workload, params: Params, state: State, seed: int = 0) -> ModelState:
    """Return the model state at `params`, the evaluation point of a run; recomputed if the run trained at others."""
    if not moves_evaluation(state.opt_state, state.params):
        return state.model_state
    return recompute_batch_stats(workload, params, state.model_state, seed=seed)
