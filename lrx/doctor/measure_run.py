"""The measurements of a diagnosis before a run: gradients at its beginning, and pilot runs around its rate."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from lrx import _checks
from lrx.doctor.batch_checks import BatchEvidence
from lrx.doctor.data_checks import DataEvidence, count_not_finite
from lrx.doctor.gradient_checks import GradientEvidence
from lrx.doctor.heart_checks import HeartEvidence
from lrx.doctor.optimizer_parts import OptimizerParts
from lrx.doctor.probe import Branches, Gradients, Probe, Start
from lrx.doctor.rate_checks import Branch, RateEvidence, end_loss, last_steps, relative_fall
from lrx.doctor.stability_checks import PRODUCTS, StabilityEvidence, measure_early_stability
from lrx.doctor.thresholds import THRESHOLDS
from lrx.training.workload import Workload

MINIBATCHES = 4  # whose gradients are measured at the same parameters
PAIRS = 6  # minibatches whose labels are permuted too
OTHER_STEPS = 3 * MINIBATCHES + 2 * PAIRS + 1  # of gradients and single losses, at most
BRANCHES = 3  # of a round
WIDE = 8.0  # factors of the rate of the first branches, to either side
NEAR = 2.8  # factors of the second, around the best
FEWEST = 5  # steps of a branch: fewer show nothing
ENOUGH = 10  # steps of a branch, for two further probes: the curvature, and a minibatch that is overfitted
CURVATURE_SHARE = 0.15  # of what branches may take, at most 8 minibatches for each product


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evidence of the probes."""

    data: DataEvidence
    gradients: GradientEvidence
    batch: BatchEvidence
    rates: RateEvidence
    heart: HeartEvidence | None
    stability: StabilityEvidence | None
    steps_used: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a budget is spent on.

    Attributes:
      steps: of a branch.
      rounds: of branches.
      curvature_minibatches: of the loss whose sharpness is measured; 0 if the budget is too small for further probes.
    """

    steps: int
    rounds: int
    curvature_minibatches: int


def plan_probes(steps: int, budget: float) -> Plan:
    """Return what a budget is spent on.

    Raises:
      ValueError: if the budget is too small for one round of branches.
    """
    _checks.in_interval("budget", budget, "(0, 1]", "it is the part of a run that probes may take")
    allowed = int(budget * steps) - OTHER_STEPS
    minibatches = int(np.clip(CURVATURE_SHARE * allowed / (2 * PRODUCTS), 1, 8))
    for rounds, further in ((2, True), (2, False), (1, False)):
        branches = rounds * BRANCHES + further  # one more tries to overfit a minibatch
        room = allowed - further * 2 * PRODUCTS * minibatches
        number = room // branches
        least = ENOUGH if further else FEWEST
        while number >= least and branches * number + last_steps(number) > room:
            number -= 1
        if number >= least:
            return Plan(number, rounds, further * minibatches)
    least = FEWEST * BRANCHES + last_steps(FEWEST) + OTHER_STEPS
    raise ValueError(
        f"budget must allow {least} steps, got budget={budget}, which is {int(budget * steps)} of {steps} steps: "
        f"give budget={min(1.0, np.ceil(100 * least / steps) / 100):g}"
        + ("." if least <= steps else f", and a run of at least {least} steps.")
    )


def measure_run(workload: Workload, parts: OptimizerParts, *, steps: int, budget: float, seed: int) -> Measured:
    """Measure what a run will meet, within a budget of steps."""
    plan = plan_probes(steps, budget)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(workload.batches.arrays)]
    bad, bad_examples = count_not_finite(arrays)
    probe = Probe(workload, parts, seed)
    start = probe.start()
    rows = probe.draw(MINIBATCHES)
    first = probe.gradients(start, rows)
    curve = _pilot_rates(parts, steps, plan.steps)
    peak = float(curve.max()) if parts.rebuilt else 1.0
    moved = probe.update_sizes(start, first.largest, peak)
    small = probe.loss_at(start, rows[0], 0.1)
    perturbed = _perturbed(probe, start, first, rows[0])
    products, at_first = np.zeros((0, 0)), [first.products]
    if probe.has_labels:
        products, more = probe.label_products(start, probe.draw(PAIRS))
        at_first.append(more)
    rates, outer, best = _branches(probe, start, curve, plan, steps, parts.every)
    later = probe.gradients(outer.ends[best], probe.draw(MINIBATCHES))
    learns = end_loss(rates.branches[best]) < rates.initial
    norms = outer.gradient_norms[min(best, 1)].tolist() if learns else []
    updates = outer.update_rms[1].mean(axis=0)
    at_end = [
        np.sqrt(np.mean(np.abs(np.asarray(leaf)).astype(float) ** 2)) for leaf in jax.tree.leaves(outer.ends[1].params)
    ]
    heart = stability = None
    if plan.curvature_minibatches:
        heart = _learn_by_heart(probe, start, curve, rates, rows[0])
        stability = measure_early_stability(probe, outer, peak, probe.draw(plan.curvature_minibatches))
    size = workload.batches.examples_per_step
    return Measured(
        DataEvidence(
            not_finite=bad,
            examples_not_finite=bad_examples,
            examples=workload.batches.num_examples,
            loss=float(first.losses[0]),
            half_losses=first.half_losses.tolist(),
            batch_size=size,
            label_products=products.tolist(),
        ),
        GradientEvidence(
            paths=first.paths,
            dimensions=first.dimensions.tolist(),
            rms=first.rms.tolist(),
            param_rms=first.param_rms.tolist(),
            silent_units=first.silent_units.tolist(),
            moved=moved.tolist(),
            perturbed=perturbed,
            loss=float(first.losses[0]),
            small_loss=small,
            norms=np.sqrt(np.diag(products)).tolist() if probe.has_labels else norms,
            eps=float("nan") if parts.eps is None else parts.eps,
            update_rms=updates.tolist(),
            update_ratios=(updates / np.maximum(at_end, 1e-30)).tolist(),
        ),
        BatchEvidence.of(
            at_first,
            [later.products],
            batch_size=size,
            examples=workload.batches.num_examples,
            every=parts.every,
            fall=relative_fall(rates),
        ),
        rates,
        heart,
        stability,
        probe.steps_used,
    )


def _pilot_rates(parts: OptimizerParts, steps: int, number: int) -> np.ndarray:
    """Return the rates of a pilot run, (number,): the whole schedule in these steps."""
    if parts.schedule is None or not parts.rebuilt:
        return np.ones(number)
    clock = 1 if parts.counts_minibatches else parts.every
    counts = ((np.arange(number) + 0.5) * steps / number / clock).astype(np.int64)
    return parts.rates(counts)


def _perturbed(probe: Probe, start: Start, first: Gradients, row: np.ndarray) -> list[float]:
    """Return the relative change of the loss when each leaf without a gradient is perturbed; NaN for the others."""
    silent = np.flatnonzero((first.rms == 0) & np.isfinite(first.losses[0]))[:MINIBATCHES]
    found = np.full(len(first.paths), np.nan)
    for place in silent:
        noise = np.zeros(len(found))
        noise[place] = 0.3 * max(first.param_rms[place], 0.1)
        changed = probe.loss_at(start, row, noise=noise)
        found[place] = (changed - first.losses[0]) / max(abs(first.losses[0]), 1e-30)
    return found.tolist()


def _branches(
    probe: Probe, start: Start, curve: np.ndarray, plan: Plan, steps: int, every: int
) -> tuple[RateEvidence, Branches, int]:
    """Run branches around the rate; return what they show, those of the first round, and the best of them."""
    number = plan.steps
    rows = probe.draw(number)
    factors = [1 / WIDE, 1.0, WIDE]
    outer = probe.run([start] * BRANCHES, np.stack([curve * factor for factor in factors]), rows)
    found = [Branch(factor, "scaled", losses.tolist()) for factor, losses in zip(factors, outer.losses, strict=True)]
    # On the minibatches of the ends, so that the noise of minibatches cancels.
    initial = float(np.mean([probe.loss_at(start, row) for row in rows[-last_steps(number) :]]))
    ends = [end_loss(branch) for branch in found]
    best = int(np.argmin(ends))
    if plan.rounds == 2:
        chosen = second_round(factors[best], ends[best] < initial)
        starts = [outer.ends[0] if kind == "warm" else start for _, kind in chosen]
        inner = probe.run(starts, np.stack([curve * factor for factor, _ in chosen]), rows)
        found += [
            Branch(factor, kind, losses.tolist()) for (factor, kind), losses in zip(chosen, inner.losses, strict=True)
        ]
    return RateEvidence(found, initial, number, max(1, steps // every), steps), outer, best


def second_round(best: float, learns: bool) -> list[tuple[float, str]]:
    """Return the factors and kinds of the second branches.

    A "warm" one begins where the branch at the lowest rate of the first round has ended.

    Args:
      best: the best factor of the first.
      learns: whether its end is below the initial loss.
    """
    if best < 1 and not learns:
        return [(1 / WIDE**power, "scaled") for power in (2, 3, 4)]
    if best < 1:
        return [(1 / WIDE**2, "scaled"), (1 / NEAR, "scaled"), (1.0, "warm")]
    if best > 1:
        return [(NEAR, "scaled"), (WIDE**2, "scaled"), (WIDE**3, "scaled")]
    return [(1 / NEAR, "scaled"), (NEAR, "scaled"), (1.0, "warm")]


def _learn_by_heart(
    probe: Probe, start: Start, curve: np.ndarray, rates: RateEvidence, row: np.ndarray
) -> HeartEvidence:
    """Train on one minibatch alone, at a rate that the branches have shown to be safe."""
    fall = relative_fall(rates)
    factor = factor_by_heart(rates, fall > THRESHOLDS.learnt)
    found = probe.run([start], curve[None] * factor, np.repeat(row[None], len(curve), axis=0))
    return HeartEvidence(factor, found.losses[0].tolist(), fall, rates.run_steps)


def factor_by_heart(rates: RateEvidence, learns: bool) -> float:
    """Return the factor of the rate for a run on one minibatch.

    If no branch learns, the lowest end may be that of a rate which moves nothing, and nothing is learnt at it. The
    highest rate at which the loss does not rise moves as much as is safe.

    Args:
      rates: the branches.
      learns: whether the best of them learns.
    """
    scaled = [branch for branch in rates.branches if branch.kind == "scaled"]
    safe = rates.initial + THRESHOLDS.learnt * abs(rates.initial)
    kept = [branch.factor for branch in scaled if end_loss(branch) <= safe]
    return max(kept) if kept and not learns else min(scaled, key=end_loss).factor
