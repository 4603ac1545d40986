"""How far the batch may grow: branches from one state, with larger batches and rates, on the same examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.diagnostics.noise_scale import FEWEST, NoiseScale, noise_scale
from lrx.doctor.batch_branches import CriticalBatchSize
from lrx.editing import scale_learning_rate
from lrx.optimizers.accumulation import accumulate
from lrx.run_state import eval_params
from lrx.training.checks import optimizer_shapes, workload_key
from lrx.training.identity import describe
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import Plan, choose_plan
from lrx.training.program_cache import Cache, Latest
from lrx.training.progress import reporter, require_progress
from lrx.training.runs import advance, curves, run_at, to_host
from lrx.training.sampling import Sampling, pass_keys
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on

RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"sqrt": np.sqrt, "linear": np.asarray}
LAST = 0.25  # of a branch, in which its loss is measured after each update of the largest batch
NUM_POINTS = 64  # of the curve of each branch
PASS_SEED = 2**31 - 1  # of the minibatches on which the branches are measured

_PROGRAMS = Cache(maxsize=16)


def critical_batch_size(
    workload: Workload,
    start: Any,
    *,
    tx: optax.GradientTransformation,
    multiples: Sequence[int] = (1, 2, 4, 8, 16, 32),
    rule: str = "sqrt",
    updates: int = 16,
    tolerance: float = 0.01,
    measure_on: int = 32,
    seeds: int | Sequence[int] = 3,
    progress: bool | str | None = None,
) -> CriticalBatchSize:
    """Measure the largest multiple of the batch size that keeps the loss per example, by branches from one state.

    From a state of a run, a branch for each multiple k continues with batches k times as large, and with the rate times
    sqrt(k) or k. All branches see the same examples in the same order, so that the branch of k makes 1/k of the
    updates. The loss of each is then the training loss, always on the same minibatches, over the last quarter of its
    updates. Up to the critical batch size it is that of the branch of 1; beyond, examples are wasted.

    A batch of k minibatches is made by `lrx.accumulate`: its gradient is their mean. So all branches have the same
    shapes, and run side by side in one compiled program. Batch normalization sees the minibatches, not the batch.

    Beside it stands the gradient noise scale of the state (`lrx.noise_scale`), which is cheaper, and not
    a safe proxy for networks.

    The rate of the state should be about the best one for its batch size. If it is much lower, each batch size loses by
    the rule "sqrt", since the sum of the rates falls: the result is then 1, whatever the noise.

    The critical batch size grows while a run trains, from about one example at first. So measure it at several times of
    a run, from checkpoints or callbacks; a batch can be used from the time on at which the critical one is as large.

    Args:
      workload: the model, its data and its loss; its batch size is that of k = 1.
      start: where the branches begin: a `History`, a `lrx.training.Moment`, or `(params, model_state, opt_state)`.
      tx: the transformation to which the optimizer's state belongs; it holds an lrx rate, or one of
        `optax.inject_hyperparams`. A schedule counts updates, so its rate changes less in the branch of a large k.
      multiples: k, increasing whole numbers; the first is 1.
      rule: "sqrt" multiplies the rate by sqrt(k), as for Adam; "linear" by k, as for SGD while noise dominates.
      updates: updates of the branch of the largest k, at least 1; more if the multiples have a larger common multiple.
      tolerance: the loss may be this much above that of the branch of 1, relative to its magnitude, > 0.
      measure_on: minibatches on which the loss is measured each time, and the noise scale, at least 3.
      seeds: number of orders of the examples (seeds 0, 1, ...), or the list of seeds. With a seed other than the run's
        own, the branches see an order of the examples that the run has not seen.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `CriticalBatchSize`.

    Raises:
      ValueError: if an argument is out of its range, the state is not one of `tx`, its rate cannot be scaled
        (`lrx.scale_learning_rate`), or `tx` ascends; before anything is trained.
      TypeError: if an argument is of the wrong type.

    Differs from the source: it trains each branch with real batches, and reads the training loss, smoothed, against a
    tolerance; here batches are accumulated, and the loss is measured on the same minibatches for all.

    Source:
      W. Merrill et al., "Critical Batch Size Revisited", 2025, arXiv:2505.23971, the branched training; S. McCandlish
      et al., 2018, arXiv:1812.06162, for the critical batch size.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jax.random.normal(jax.random.key(0), (512, 4))
      >>> noise = jax.random.normal(jax.random.key(1), (512,))
      >>> line = lrx.Workload.from_functions(
      ...     lambda w, batch, key: jnp.mean((batch[0] @ w - batch[1]) ** 2),
      ...     lambda key: jnp.zeros(4),
      ...     lrx.Batches((x, x @ jnp.ones(4) + noise), batch_size=4),
      ... )
      >>> tx = lrx.sgd(0.01)
      >>> found = lrx.critical_batch_size(line, lrx.train(line, tx, steps=400), tx=tx, multiples=(1, 2, 4))
      >>> found
      CriticalBatchSize(at least 16 examples, 4 times the batch size of 4)
    """
    require_workload(workload)
    _checks.transformation(tx)
    wanted = _as_multiples(multiples)
    _checks.one_of("rule", rule, list(RULES))
    _checks.steps("updates", updates, unit="updates")
    _checks.positive("tolerance", tolerance)
    _checks.steps("measure_on", measure_on, at_least=FEWEST, unit="minibatches")
    require_progress(progress)
    seed_array = as_seeds(seeds)
    params, model_state, opt_state = _as_start(start, tx)
    factors = RULES[rule](wanted.astype(np.float64)).astype(np.float32)
    scale_learning_rate(opt_state, float(factors[-1]))  # refuses a state whose rate cannot be scaled
    require_descent_on(workload, tx)

    rounds = math.lcm(*wanted.tolist())  # minibatches, after which no branch is in the middle of an update
    num_steps = int(updates) * rounds
    times = [count * rounds for count in range(int(updates) - max(int(LAST * updates), 1) + 1, int(updates) + 1)]
    family = RunFamily(workload, _Accumulated(tx), num_steps, min(NUM_POINTS, num_steps))
    hyper = {"multiple": wanted.astype(np.float32)}
    losses, by_step = [], []
    with reporter(
        progress,
        f"critical_batch_size, {workload.name}",
        step=0,
        total=len(wanted) * len(seed_array) * num_steps,
        batch_size=workload.batches.examples_per_step,
        unit="examples",
    ) as status:
        plan = choose_plan(family, hyper, seed_array)
        status.start()
        for first in range(0, len(wanted), plan.members):
            chunk = slice(first, first + plan.members)
            runs = _begin(plan, wanted[chunk], factors[chunk], seed_array, (params, model_state, opt_state))
            given = {name: values[chunk] for name, values in hyper.items()}
            number, step, each = len(wanted[chunk]), 0, []
            for time in times:
                before = len(seed_array) * (first * num_steps + number * step)
                runs = advance(plan, runs, given, seed_array, step, time, status, before)
                each.append(_losses(workload, runs, number, int(measure_on)))
                step = time
            losses.append(np.mean(each, axis=0, dtype=np.float64).astype(np.float32))
            by_step.append(curves(runs)[:, :number].swapaxes(0, 1))
    return CriticalBatchSize(
        noise=_noise_scale(workload, params, model_state, int(measure_on)),
        multiples=wanted,
        factors=factors,
        examples=workload.batches.examples_per_step,
        losses=np.concatenate(losses),
        tolerance=float(tolerance),
        curves=np.concatenate(by_step),
        steps=family.point_steps,
        rule=rule,
    )


@dataclasses.dataclass(frozen=True)
class _Accumulated:
    """The factory of branches; equal for equal optimizers, so that it compiles once."""

    tx: optax.GradientTransformation

    def __call__(self, hyper: Mapping[str, Any], count: Any) -> optax.GradientTransformation:
        del count
        return accumulate(self.tx, hyper["multiple"])


def _as_multiples(multiples: Any) -> np.ndarray:
    listed = list(multiples) if isinstance(multiples, Sequence | np.ndarray) and not isinstance(multiples, str) else []
    if len(listed) < 2 or listed[0] != 1:
        raise ValueError(f"multiples must begin with 1 and hold more, got multiples={multiples!r}: give (1, 2, 4, 8).")
    _checks.increasing_steps("multiples", listed)
    return np.array([int(multiple) for multiple in listed])


def _as_start(start: Any, tx: optax.GradientTransformation) -> tuple[Any, Any, Any]:
    """Return parameters, model state and optimizer state.

    Raises:
      TypeError: if there are none.
      ValueError: if the optimizer's state is not one of `tx`.
    """
    parts = ("params", "model_state", "opt_state")
    if all(hasattr(start, part) for part in parts):
        start = tuple(getattr(start, part) for part in parts)
    if not (isinstance(start, tuple) and len(start) == len(parts)):
        raise TypeError(
            "start must be a History, a Moment or (params, model_state, opt_state), got a "
            f"{type(start).__name__}: give lrx.train(workload, tx, steps=1000)."
        )
    params, model_state, opt_state = jax.tree.map(jnp.asarray, start)
    shapes = optimizer_shapes(tx, params)
    structure: Any = jax.tree.structure(opt_state)
    wanted, given = describe(shapes), describe(opt_state)
    if structure != jax.tree.structure(shapes) or wanted != given:
        unlike = [leaf for leaf in {**wanted, **given} if wanted.get(leaf) != given.get(leaf)]
        detail = ""
        if unlike:
            name = unlike[0]
            detail = f", in which {name or 'it'} is {given.get(name, 'absent')} and not {wanted.get(name, 'absent')}"
        raise ValueError(f"start must hold a state of tx, got another{detail}: give the tx of the run.")
    return params, model_state, opt_state


def _begin(
    plan: Plan, multiples: np.ndarray, factors: np.ndarray, seeds: np.ndarray, start: tuple[Any, Any, Any]
) -> Runs:
    """Build the branches before their first step."""
    runs = to_host(plan.start({"multiple": multiples.astype(np.float32)}, seeds), len(multiples))

    @jax.jit
    def branch(state: Any, start: tuple[Any, Any, Any], factors: jax.Array) -> Any:
        params, model_state, opt_state = start
        scaled = jax.vmap(lambda factor: scale_learning_rate(opt_state, factor))(factors)

        def spread(axes: tuple[int, ...], tree: Any, like: Any) -> Any:
            return jax.tree.map(lambda x, y: jnp.broadcast_to(jnp.expand_dims(x, axes), y.shape), tree, like)

        return state._replace(
            params=spread((0, 1), params, state.params),
            model_state=spread((0, 1), model_state, state.model_state),
            opt_state=state.opt_state._replace(inner=spread((0,), scaled, state.opt_state.inner)),
        )

    return plan.put(runs._replace(state=branch(runs.state, start, jnp.asarray(factors))))


def _losses(workload: Workload, runs: Runs, number: int, minibatches: int) -> np.ndarray:
    """Return (members, seeds) float32: the loss of each run, on the same minibatches; infinite if it diverged."""
    loss_of, drawn = _losses_of(workload, minibatches)
    diverged = np.asarray(runs.diverged)
    found = np.full((number, diverged.shape[0]), np.inf, np.float32)
    for member, seed in np.ndindex(found.shape):
        if not diverged[seed, member]:
            state = jax.device_put(run_at(runs.state, seed, member), jax.local_devices()[0])
            params = eval_params(state.opt_state, state.params)
            losses = [loss_of(params, state.model_state, batch, key) for batch, key in drawn]
            found[member, seed] = np.mean(jax.device_get(losses), dtype=np.float64)
    return np.where(np.isnan(found), np.inf, found)


def _noise_scale(workload: Workload, params: Any, model_state: Any, minibatches: int) -> NoiseScale:
    """Return the gradient noise scale at the start, from the minibatches on which losses are measured."""
    loss_of, drawn = _losses_of(workload, minibatches)
    return noise_scale(
        lambda params, drawn: loss_of(params, model_state, *drawn),
        params,
        drawn,
        batch_size=workload.batches.examples_per_step,
    )


def _losses_of(workload: Workload, minibatches: int) -> tuple[Callable[..., jax.Array], list[tuple[Any, jax.Array]]]:
    """Return `(params, model_state, batch, key) -> loss`, and minibatches with keys."""
    parts = workload.batches.sampling, workload.loss_fn
    draw, loss_of = _PROGRAMS.find_program(workload_key(workload), parts, _compile_losses)
    return loss_of, [draw(workload.batches.arrays, jnp.int32(count)) for count in range(minibatches)]


def _compile_losses(
    latest: Latest[tuple[Sampling, Callable[..., Any]]],
) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """Return functions that draw a minibatch of a pass that belongs to no run, and that return its loss."""

    @jax.jit
    def draw(arrays: Any, count: jax.Array) -> tuple[Any, jax.Array]:
        sampling = latest.parts[0]
        shuffle, step = pass_keys(PASS_SEED)
        epoch = count // (len(sampling.in_order(arrays)) // sampling.batch_size)
        return sampling.draw(arrays, sampling.permutation(arrays, shuffle, epoch), step, count)

    @jax.jit
    def loss_of(params: Any, model_state: Any, batch: Any, key: jax.Array) -> jax.Array:
        loss_fn = latest.parts[1]
        return loss_fn(params, model_state, batch, key)[0].astype(jnp.float32)

    return draw, loss_of
