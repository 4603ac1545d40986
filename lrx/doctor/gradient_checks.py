"""Checks of gradients and updates, layer by layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.thresholds import Thresholds

SMALLEST = 1e-3  # of the largest norm: smaller ones are those of a loss that is fitted
CHECKED = {
    "dead-layer": "the units of each layer without a gradient",
    "vanishing-gradients": "the layers' gradients, relative to each other",
    "exploding-gradients": "the loss at smaller initial parameters, and the norms of gradients over steps",
    "frozen-by-mistake": "the update ratio of each parameter, and gradients of zero though the loss depends on it",
    "eps-too-large": "eps, against the root of the mean square of the gradients",
}


@dataclasses.dataclass(frozen=True)
class GradientEvidence:
    """Gradients at the initial parameters; lists have an entry for each leaf.

    Attributes:
      paths: names of the leaves.
      dimensions: numbers of axes.
      rms: root mean square of the gradients of minibatches.
      param_rms: root mean square of the parameters.
      silent_units: share of a leaf's units that have no gradient in any minibatch.
      moved: largest entry of an update at the peak of the rate.
      perturbed: relative change of the loss when a leaf without a gradient is perturbed; NaN for the others.
      loss: mean loss.
      small_loss: loss at a tenth of the initial parameters.
      norms: norms of what labels add to the gradients of minibatches at the initial parameters; if no labels are
        known, norms of the gradients over the steps of a branch that learns.
      eps: eps of the method; NaN if there is none.
      update_rms: root mean square of the updates in a pilot run, mean over its steps.
      update_ratios: the same over the root mean square of the parameters at the end of that run.
    """

    paths: list[str]
    dimensions: list[int]
    rms: list[float]
    param_rms: list[float]
    silent_units: list[float]
    moved: list[float]
    perturbed: list[float]
    loss: float
    small_loss: float
    norms: list[float]
    eps: float
    update_rms: list[float]
    update_ratios: list[float]


def check_gradients(seen: GradientEvidence, limits: Thresholds) -> list[Finding]:
    """Return what is wrong with gradients and updates."""
    found = [check(seen, limits) for check in (_frozen, _dead, _vanishing, _exploding, _eps)]
    return [finding for finding in found if finding is not None]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _stops_gradient(seen: GradientEvidence, limits: Thresholds) -> np.ndarray:
    """Return for each leaf whether the loss depends on it, though its gradient is zero."""
    perturbed = np.nan_to_num(np.array(seen.perturbed, float), nan=0.0)
    return (np.array(seen.rms) == 0) & (np.abs(perturbed) > limits.perturbed)


def _frozen(seen: GradientEvidence, limits: Thresholds) -> Finding | None:
    rms, moved = np.array(seen.rms), np.array(seen.moved)
    still = (rms > 0) & (moved == 0)
    stopped = _stops_gradient(seen, limits)
    slow = _moves_slowly(seen, limits) & ~still
    frozen = [path for path, flag in zip(seen.paths, still | stopped | slow, strict=True) if flag]
    if not frozen:
        return None
    numbers: dict[str, float] = {"frozen": len(frozen), "parameters": len(seen.paths)}
    why, where = "change the loss, but have a gradient of zero", "stop_gradient in the model"
    if slow.any():
        ratios = np.array(seen.update_ratios)
        numbers |= {"update_ratio": float(ratios[slow].max()), "largest_update_ratio": float(ratios.max())}
        why = f"have update ratios of at most {ratios[slow].max():.1g}, where others have {ratios.max():.1g}"
        where = "the masks, groups and factors of the optimizer"
    if still.any():
        why, where = "have a gradient, but updates of zero", "the masks and groups of the optimizer"
    return Finding(
        "frozen-by-mistake",
        "likely",
        len(frozen) / len(seen.paths),
        f"{len(frozen)} of {len(seen.paths)} parameters {why}: {_listed(frozen)}.",
        numbers,
        Remedy(f"If they are to be trained, look at {where}."),
    )


def _moves_slowly(seen: GradientEvidence, limits: Thresholds) -> np.ndarray:
    """Return for each leaf whether its updates are small by themselves, per gradient, and per parameter.

    Gradient descent has the same updates per gradient everywhere, and Adam the same updates, so that neither has such
    leaves, unless groups with other rates make them.
    """
    updates, rms = np.array(seen.update_rms, float), np.array(seen.rms, float)
    ratios = np.array(seen.update_ratios, float)
    if not (np.isfinite(updates).all() and np.isfinite(rms).all() and len(updates)):
        return np.zeros(len(rms), bool)
    per_gradient = np.where(rms > 0, updates / np.where(rms > 0, rms, 1.0), np.inf)
    most = per_gradient[np.isfinite(per_gradient)].max(initial=0.0)
    found: np.ndarray = (
        (updates > 0)
        & (updates < limits.slow_update * updates.max())
        & (per_gradient < limits.slow_update * most)
        & (ratios < limits.slow_update * ratios.max())
    )
    return found


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _dead(seen: GradientEvidence, limits: Thresholds) -> Finding | None:
    stopped = _stops_gradient(seen, limits)
    silent = np.array(seen.silent_units)
    leaves = list(zip(seen.paths, silent, seen.dimensions, strict=True))
    # A bias without a gradient beside a kernel that has one adds nothing to the loss, as one that a difference or a
    # normalization takes away again: its layer learns.
    learning = {_layer(path) for path, share, dimension in leaves if dimension >= 2 and share < limits.dead_share}
    dead = [
        (path, share)
        for (path, share, dimension), stop in zip(leaves, stopped, strict=True)
        if not stop
        and ((dimension >= 2 and share >= limits.dead_share) or (share == 1 and _layer(path) not in learning))
    ]
    if not dead:
        return None
    paths = [path for path, _ in dead]
    return Finding(
        "dead-layer",
        "certain" if max(share for _, share in dead) == 1 else "likely",
        max(share for _, share in dead) * max(0.5, len(dead) / len(seen.paths)),
        f"{len(dead)} parameters have units without a gradient in any minibatch: {_listed(paths)}.",
        {"parameters": len(dead), "share_of_units": float(max(share for _, share in dead))},
        Remedy(
            "Look at the initial values and the activations of these layers: units whose inputs are always below "
            "zero learn nothing behind a ReLU. A leaky activation, smaller biases or a lower rate keep them alive."
        ),
    )


def _vanishing(seen: GradientEvidence, limits: Thresholds) -> Finding | None:
    kernels = [
        (rms, path)
        for rms, path, dimension in zip(seen.rms, seen.paths, seen.dimensions, strict=True)
        if dimension >= 2 and rms > 0
    ]
    if len(kernels) < 2:
        return None
    (least, path), most = min(kernels), max(seen.rms)
    if not np.isfinite(most) or least > limits.vanishing_hint * most:
        return None
    is_clear = least <= limits.vanishing * most
    if not is_clear and not abs(seen.loss - seen.small_loss) <= limits.same_loss * abs(seen.loss):
        return None
    why = "layers far from the loss hardly learn" if is_clear else "and a tenth of the parameters has the same loss"
    return Finding(
        "vanishing-gradients",
        "likely" if is_clear else "hint",
        0.8,
        f"The gradient of {path} is {least / most:.1g} of the largest one{':' if is_clear else ','} {why}.",
        {
            "least_rms": least,
            "largest_rms": most,
            "ratio": least / most,
            "loss": seen.loss,
            "loss_at_a_tenth_of_the_parameters": seen.small_loss,
        },
        Remedy(
            "Initialise with the scale of the activation (He or LeCun), add normalisation or residual connections, "
            "or use activations that do not saturate."
        ),
    )


def _exploding(seen: GradientEvidence, limits: Thresholds) -> Finding | None:
    norms = np.array([norm for norm in seen.norms if np.isfinite(norm) and norm > 0])
    spike = _largest_rise(norms)
    ratio = seen.loss / seen.small_loss if seen.small_loss > 0 else 1.0
    numbers = {
        "loss": seen.loss,
        "loss_at_a_tenth_of_the_parameters": seen.small_loss,
        "largest_rise_of_the_norm": spike,
    }
    if ratio > limits.initial_ratio or not np.isfinite(ratio):
        return Finding(
            "exploding-gradients",
            "likely",
            0.8,
            f"The initial loss is {seen.loss:.3g}, and {seen.small_loss:.3g} at a tenth of the initial parameters: the "
            "activations grow from layer to layer.",
            numbers,
            Remedy("Initialise smaller, with the scale of the activation (He or LeCun), or add normalisation."),
        )
    if spike > limits.spike:
        usual = float(np.median(norms))
        return Finding(
            "exploding-gradients",
            "likely",
            0.5,
            f"The norm of the gradient is {norms.max():.3g} in a step, and {usual:.3g} in the median: single "
            "minibatches decide where the parameters go.",
            numbers | {"median_norm": usual},
            Remedy("Clip the gradient's norm at its usual size.", Change(max_norm=float(f"{usual:.2g}"))),
        )
    return None


def _largest_rise(norms: np.ndarray) -> float:
    """Return the largest ratio of a norm to one before it; norms that only fall, as in training, have none above 1."""
    if len(norms) < 4:
        return 1.0
    before = np.maximum(np.minimum.accumulate(norms)[:-1], SMALLEST * norms.max())
    return float(np.max(norms[1:] / before))


def _eps(seen: GradientEvidence, limits: Thresholds) -> Finding | None:
    if not np.isfinite(seen.eps) or seen.eps <= 0:
        return None
    rms = np.array([rms for rms in seen.rms if rms > 0])
    if not len(rms):
        return None
    usual = float(np.median(rms))
    if seen.eps < limits.eps_ratio * usual:
        return None
    return Finding(
        "eps-too-large",
        "likely",
        min(1.0, 1 - usual / seen.eps) if seen.eps > usual else 0.1,
        f"eps is {seen.eps:.1g}, and the root mean square of the gradients {usual:.1g}: eps dominates what the "
        f"gradient is divided by, and steps have {usual / (usual + seen.eps):.1g} of their usual size.",
        {"eps": seen.eps, "gradient_rms": usual, "ratio": seen.eps / usual},
        Remedy("Use a smaller eps.", Change(eps=1e-8)),
    )
