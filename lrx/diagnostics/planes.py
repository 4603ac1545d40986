"""Planes in the space of the parameters: directions, their scale, and the place of a trajectory on a plane."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any  # a pytree of arrays
TINY = 1e-10  # added to the norm of a direction, as in the source
FLAT = 1e-6  # of the largest variance: a smaller one is rounding error in float32


def is_float(leaf: Any) -> bool:
    """Return whether an array has a real floating-point type."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def draw_directions(
    params: Tree, key: jax.Array, number: int, normalization: str | None, filter_axis: int
) -> list[Tree]:
    """Draw Gaussian directions, scaled to the parameters.

    Raises:
      ValueError: if the parameters that the normalization scales to are all zero, or there are none.
    """
    found = _draw(params, key, number, normalization, filter_axis)
    if not all(norm(direction) > 0 for direction in found):
        kind = (
            "a leaf of at least two axes that is not zero" if normalization == "filter" else "a leaf that is not zero"
        )
        other = "'layer' or None" if normalization == "filter" else "None"
        raise ValueError(
            f"params must have {kind} for normalization={normalization!r}, got none: give normalization={other}."
        )
    return found


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _draw(params: Tree, key: jax.Array, number: int, normalization: str | None, filter_axis: int) -> list[Tree]:
    leaves, structure = jax.tree.flatten(params)
    sizes = [leaf.size if is_float(leaf) else 0 for leaf in leaves]
    # All numbers are drawn at once, because each drawing call takes the compiler a second.
    numbers = jnp.split(jax.random.normal(key, (number, sum(sizes)), jnp.float32), np.cumsum(sizes)[:-1], axis=1)
    found = []
    for place in range(number):
        drawn = [
            _scale_to(part[place].reshape(leaf.shape), leaf.astype(jnp.float32), normalization, filter_axis)
            if is_float(leaf)
            else jnp.zeros(leaf.shape, jnp.float32)
            for part, leaf in zip(numbers, leaves, strict=True)
        ]
        found.append(jax.tree.unflatten(structure, drawn))
    return found


def _scale_to(direction: jax.Array, leaf: jax.Array, normalization: str | None, filter_axis: int) -> jax.Array:
    if normalization is None:
        return direction
    if normalization == "filter" and leaf.ndim < 2:
        return jnp.zeros_like(direction)
    axes = None
    if normalization == "filter":
        axes = tuple(axis for axis in range(leaf.ndim) if axis != filter_axis % leaf.ndim)

    def length(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))

    return direction * (length(leaf) / (length(direction) + TINY))


def as_points(trajectory: Any, params: Tree) -> list[Tree]:
    """Return the points of a trajectory: trees like the parameters, or one tree with a leading axis of points.

    Raises:
      ValueError: if there are fewer than two, or one has not the structure and shapes of the parameters.
      TypeError: if it is neither.
    """
    structure, shapes = jax.tree.structure(params), [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    stacked: Any = jax.tree.structure(trajectory)
    if stacked == structure:
        leaves = jax.tree.leaves(trajectory)
        if all(np.shape(leaf)[1:] == shape and np.ndim(leaf) for leaf, shape in zip(leaves, shapes, strict=True)):
            number = {np.shape(leaf)[0] for leaf in leaves}
            if len(number) == 1:
                times = range(number.pop())
                trajectory = [jax.tree.unflatten(structure, [leaf[time] for leaf in leaves]) for time in times]
    if not isinstance(trajectory, Iterable) or isinstance(trajectory, dict | str):
        raise TypeError(
            "trajectory must be a list of pytrees like params, or one such pytree with a leading axis of points, got a "
            f"{type(trajectory).__name__}."
        )
    points = list(trajectory)
    for place, point in enumerate(points):
        require_like(f"trajectory[{place}]", point, params)
    if len(points) < 2:
        raise ValueError(f"trajectory must have at least two points, got {len(points)}: keep the parameters of a run.")
    return points


def require_like(name: str, tree: Any, params: Tree) -> None:
    """Check that a tree has the structure and shapes of the parameters, and finite numbers."""
    structure: Any = jax.tree.structure(tree)
    leaves = jax.tree.leaves(tree)
    if structure != jax.tree.structure(params) or [np.shape(leaf) for leaf in leaves] != [
        np.shape(leaf) for leaf in jax.tree.leaves(params)
    ]:
        raise ValueError(
            f"{name} must have the structure and shapes of params, got {structure} with shapes "
            f"{[np.shape(leaf) for leaf in leaves]}."
        )
    if not all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in leaves if is_float(leaf)):
        raise ValueError(f"{name} must be finite, got a number that is not: leave out what comes after a divergence.")


def principal_directions(
    points: Sequence[Tree], weights: Sequence[float] | None = None
) -> tuple[list[Tree], np.ndarray]:
    """Return the two principal directions of points, as unit vectors, and the fraction of the variance along each.

    The points' mean is subtracted. If all of them lie on a line, the second direction is perpendicular to it and
    otherwise random, and its fraction is 0. The sign is such that the last point lies beyond the first.

    Args:
      points: at least two, trees of the same structure and shapes.
      weights: weight of the square of each point's distance from the mean; 1 by default.

    Raises:
      ValueError: if all points are the same, or the parameters have fewer than two numbers.
    """
    like = points[0]
    columns = list(zip(*(_moving(point, like) for point in points), strict=True))
    size = sum(len(column[0]) for column in columns)
    if size < 2:
        raise ValueError(f"params must hold at least two numbers, which span a plane, got {size}.")
    weight = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    matrices = []  # of a leaf each, (points, size of the leaf): distances from the mean times sqrt(weight)
    for column in columns:
        rows = np.stack(column).astype(np.float64)
        rows = (rows - np.average(rows, axis=0, weights=weight)) * np.sqrt(weight)[:, None]
        matrices.append(rows.astype(np.float32))
    # The matrix of all points has as few rows as there are points, and its square is small.
    gram = np.sum([np.asarray(matrix @ matrix.T, np.float64) for matrix in matrices], axis=0)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1].astype(np.float32)
    if not values[0] > 0:
        raise ValueError("trajectory must have points that differ, got the same one each time: keep others of the run.")
    found: list[list[Any]] = [[vectors[:, 0] @ matrix for matrix in matrices]]
    if values[1] > FLAT * values[0]:
        found.append([vectors[:, 1] @ matrix for matrix in matrices])
    else:
        values[1:] = 0
        rng = np.random.default_rng(0)
        found.append([np.asarray(rng.normal(size=matrix.shape[1]), np.float32) for matrix in matrices])
    units: list[list[Any]] = []
    for parts in found:
        for earlier in units:  # which is left of rounding errors, or of a random direction
            along = _product(parts, earlier)
            parts = [part - np.float32(along) * other for part, other in zip(parts, earlier, strict=True)]
        forward = _product(parts, [column[-1] - column[0] for column in columns])
        length = np.copysign(np.sqrt(_product(parts, parts)), 1 if forward >= 0 else -1)
        units.append([part / np.float32(length) for part in parts])
    return [_as_tree(parts, like) for parts in units], values[:2] / values.sum()


def coordinates(points: Sequence[Tree], origin: Tree, directions: Sequence[Tree]) -> np.ndarray:
    """Return (points, 2): the place of each point's projection on a plane, in lengths of the directions.

    Raises:
      ValueError: if the directions are zero or parallel.
    """
    along = [_moving(direction, origin) for direction in directions]
    start = _moving(origin, origin)
    gram = np.array([[_product(left, right) for right in along] for left in along])
    if not np.all(np.diag(gram) > 0) or gram[0, 1] ** 2 > (1 - FLAT) * gram[0, 0] * gram[1, 1]:
        raise ValueError("directions must be two that are neither zero nor parallel: give others, or another key.")
    found = []
    for point in points:
        away = [part - begin for part, begin in zip(_moving(point, origin), start, strict=True)]
        found.append([_product(away, direction) for direction in along])
    return np.linalg.solve(gram, np.reshape(found, (-1, 2)).T).T


def _moving(tree: Tree, like: Tree) -> list[np.ndarray]:
    """Return (size,) float32 of each leaf that is moved, those of a floating-point type in `like`."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return [np.asarray(leaf, np.float32).ravel() for leaf, model in leaves if is_float(model)]


def _as_tree(parts: Sequence[np.ndarray], like: Tree) -> Tree:
    """Return a tree of float32 arrays from the parts that `_moving` returns; 0 for what is not moved."""
    rest = iter(parts)
    leaves = [
        next(rest).reshape(np.shape(leaf)) if is_float(leaf) else np.zeros(np.shape(leaf))
        for leaf in jax.tree.leaves(like)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf, jnp.float32) for leaf in leaves])


def _product(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    return sum(float(np.dot(one, other)) for one, other in zip(left, right, strict=True))


def norm(tree: Tree) -> float:
    """Return the Euclidean length of a direction."""
    parts = _moving(tree, tree)
    return float(np.sqrt(_product(parts, parts)))
