"""The measurements of a diagnosis before a run: gradients at its beginning, and runs in miniature around its rate."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from lrx import _checks
from lrx.doctor.batch_checks import BatchEvidence
from lrx.doctor.data_checks import DataEvidence, count_not_finite
from lrx.doctor.gradient_checks import GradientEvidence
from lrx.doctor.optimizer_parts import OptimizerParts
from lrx.doctor.probe import Gradients, Probe, Start, branch_end, repeat
from lrx.doctor.rate_checks import Branch, RateEvidence, end_loss, last_steps
from lrx.training.workload import Workload

MINIBATCHES = 4  # whose gradients are measured at the same parameters
PAIRS = 6  # minibatches whose labels are permuted too
OTHER_STEPS = 3 * MINIBATCHES + 2 * PAIRS + 1  # of gradients and single losses, at most
BRANCHES = 3  # side by side, in one program
WIDE = 8.0  # factors of the rate of the first branches, to either side
NEAR = 2.8  # factors of the second, around the best
FEWEST = 5  # steps of a branch: fewer show nothing


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evidence of the probes."""

    data: DataEvidence
    gradients: GradientEvidence
    batch: BatchEvidence
    rates: RateEvidence | None
    steps_used: int


def branch_steps(steps: int, budget: float) -> tuple[int, int]:
    """Return how many steps a branch takes within a budget, and the number of rounds of branches.

    Raises:
      ValueError: if the budget is too small for one round.
    """
    _checks.in_interval("budget", budget, "(0, 1]", "it is the part of a run that probes may take")
    allowed = int(budget * steps) - OTHER_STEPS
    for rounds in (2, 1):
        number = allowed // (rounds * BRANCHES)
        while number >= FEWEST and rounds * BRANCHES * number + last_steps(number) > allowed:
            number -= 1
        if number >= FEWEST:
            return number, rounds
    least = FEWEST * BRANCHES + last_steps(FEWEST) + OTHER_STEPS
    raise ValueError(
        f"budget must allow {least} steps, got budget={budget}, which is {int(budget * steps)} of {steps} steps: "
        f"give budget={min(1.0, np.ceil(100 * least / steps) / 100):g}"
        + ("." if least <= steps else f", and a run of at least {least} steps.")
    )


def measure_run(workload: Workload, parts: OptimizerParts, *, steps: int, budget: float, seed: int) -> Measured:
    """Measure what a run will meet, within a budget of steps."""
    number, rounds = branch_steps(steps, budget)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(workload.batches.arrays)]
    bad, bad_examples = count_not_finite(arrays)
    probe = Probe(workload, parts, seed)
    start = probe.start()
    rows = probe.draw(MINIBATCHES)
    first = probe.gradients(start, rows)
    curve = _miniature(parts, steps, number)
    peak = float(curve.max()) if parts.rebuilt else 1.0
    moved = probe.update_sizes(start, first.largest, peak)
    small = probe.loss_at(start, rows[0], 0.1)
    perturbed = _perturbed(probe, start, first, rows[0])
    products = probe.label_products(start, probe.draw(PAIRS)) if probe.has_labels else np.zeros((0, 0))
    rates, middle, norms = _branches(probe, start, curve, number, rounds)
    later = probe.gradients(middle, probe.draw(MINIBATCHES))
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
        ),
        BatchEvidence.of(first, later, size, workload.batches.num_examples, parts.every),
        rates,
        probe.steps_used,
    )


def _miniature(parts: OptimizerParts, steps: int, number: int) -> np.ndarray:
    """Return the rates of a run in miniature, (number,): the whole schedule in these steps."""
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
    probe: Probe, start: Start, curve: np.ndarray, number: int, rounds: int
) -> tuple[RateEvidence, Start, list[float]]:
    """Run branches around the rate; return what they show, the end of the best one, and norms of gradients."""
    rows = probe.draw(number)
    starts = repeat(start, BRANCHES)
    factors = [1 / WIDE, 1.0, WIDE]
    outer = probe.run(starts, np.stack([curve * factor for factor in factors]), rows)
    found = [Branch(factor, "scaled", losses.tolist()) for factor, losses in zip(factors, outer.losses, strict=True)]
    # On the minibatches of the ends, so that the noise of minibatches cancels.
    initial = float(np.mean([probe.loss_at(start, row) for row in rows[-last_steps(number) :]]))
    ends = [end_loss(branch) for branch in found]
    place = int(np.nanargmin([end if np.isfinite(end) else np.inf for end in ends]))
    best = factors[place]
    middle = branch_end(outer, place)
    learns = ends[place] < initial
    norms = outer.gradient_norms[min(place, 1)].tolist() if learns else []
    if rounds == 2:
        plan = second_round(best, learns)
        ramp = np.minimum(1.0, (np.arange(number) + 0.5) / (0.5 * number))
        rates = [curve * factor * (ramp if kind == "warm" else 1.0) for factor, kind in plan]
        inner = probe.run(starts, np.stack(rates), rows)
        found += [
            Branch(factor, kind, losses.tolist()) for (factor, kind), losses in zip(plan, inner.losses, strict=True)
        ]
    return RateEvidence(found, initial, number), middle, norms


def second_round(best: float, learns: bool) -> list[tuple[float, str]]:
    """Return the factors and kinds of the second branches.

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
