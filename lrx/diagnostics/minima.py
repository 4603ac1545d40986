"""How sharp a minimum is: how far the loss rises in a box around it, and near the middle of planes through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

ROUNDING = 1e-6  # of distances
LARGEST = 1e30  # loss of a point where it is not finite


def rise_in_box(loss: Callable[[Any], jax.Array], params: Any, epsilon: float, *, num_iterations: int = 10) -> float:
    """Return by how many percent of 1 + f the loss f rises in the box |y_i| <= epsilon (|x_i| + 1) around parameters x.

    The maximum is that of a few iterations of L-BFGS-B.

    Args:
      loss: `params -> loss`.
      params: the middle of the box.
      epsilon: the size of the box.
      num_iterations: the most iterations.

    Source:
      N. S. Keskar et al., "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", ICLR 2017,
      arXiv:1609.04836, metric 2.1 with A = I.
    """
    from scipy.optimize import minimize  # of JAX's own dependencies

    flat, unravel = ravel_pytree(params)
    negative = jax.jit(jax.value_and_grad(lambda y: -loss(unravel(flat + y))))

    def call(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = negative(jnp.asarray(y, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    side = epsilon * (np.abs(np.asarray(flat, np.float64)) + 1)
    start = np.zeros_like(side)
    bounds, options = np.stack([-side, side], axis=1), {"maxiter": num_iterations}
    found = minimize(call, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    here = -call(start)[0]
    return 100 * (-float(found.fun) - here) / (1 + here)


def distances(points: int) -> np.ndarray:
    """Return the distances of a plane's points from its middle, (points, points), in parts of its extent."""
    side = np.linspace(-1, 1, points)
    return np.hypot(side[:, None], side[None, :])


def median_rise(planes: np.ndarray, centres: np.ndarray, near: float) -> np.ndarray:
    """Return by how much the loss rises around each of some minima, the median over the near points of a plane.

    Args:
      planes: (minima, points, points) losses, the minimum in the middle.
      centres: (minima,) losses at the minima.
      near: the largest distance of a near point, in parts of the plane's extent.
    """
    away = distances(planes.shape[-1])
    losses = np.where(np.isfinite(planes), planes, np.inf)[:, (away > 0) & (away <= near + ROUNDING)]
    return np.median(losses, axis=1) - centres


def concavity(planes: np.ndarray, near: float) -> np.ndarray:
    """Return the mean over near points of |lambda_min| / |lambda_max| where lambda_min of the plane is below 0.

    The curvatures are those of the plane, from differences between neighbouring points.

    Args:
      planes: as for `median_rise`, as is `near`.
      near: see `planes`.

    Returns:
      (minima,): 0 where a plane is convex.
    """
    planes = np.clip(np.where(np.isfinite(planes), planes, LARGEST), None, LARGEST)
    middle, inner = planes[:, 1:-1, 1:-1], slice(1, -1)
    first = planes[:, 2:, inner] - 2 * middle + planes[:, :-2, inner]
    second = planes[:, inner, 2:] - 2 * middle + planes[:, inner, :-2]
    mixed = (planes[:, 2:, 2:] - planes[:, 2:, :-2] - planes[:, :-2, 2:] + planes[:, :-2, :-2]) / 4
    centre, spread = (first + second) / 2, np.hypot((first - second) / 2, mixed)
    low, high = centre - spread, centre + spread
    largest = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-12)
    at = distances(planes.shape[-1])[inner, inner] <= near + ROUNDING
    return (np.maximum(-low, 0) / largest)[:, at].mean(axis=1)


def ring_medians(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses over the distance from the middle of planes: medians over the points of each ring.

    Args:
      planes: as for `median_rise`; a loss that is not finite is left out.

    Returns:
      (rings,) mean distances, in parts of the extent, and (minima, rings) medians.
    """
    away = distances(planes.shape[-1])
    edges = np.linspace(0, 1, len(away) // 2 + 2) - ROUNDING
    upper = [*edges[1:-1], 1 + ROUNDING]
    rings = [(away >= low) & (away < high) for low, high in zip(edges[:-1], upper, strict=True)]
    finite = np.where(np.isfinite(planes), planes, np.nan)
    medians = [np.nanmedian(finite[:, ring], axis=1) for ring in rings]
    return np.array([away[ring].mean() for ring in rings]), np.stack(medians, axis=1)
