"""The largest eigenvalues of a symmetric matrix that is known by its products with vectors.

Lanczos' method with thick restarts (K. Wu, H. Simon, SIAM J. Matrix Anal. Appl. 22, 2000), begun with as many vectors
as eigenvalues are asked for, so that a multiple eigenvalue is found as often as it occurs (the band Lanczos method, A.
Ruhe, Math. Comp. 33, 1979). The basis has a fixed number of rows: when it is full, its best combinations are kept, and
the rest is filled again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Below this part of the largest image seen so far, a float32 remainder is rounding error.
NEGLIGIBLE = 1e-5
# Below this part of the largest image, a residual cannot be told from rounding in float32.
ROUNDING = 2e-6
COLUMNS = 2**16  # of the basis that a restart combines at a time, so that it needs no second basis


class Eigenpairs(NamedTuple):
    """Eigenvalues with their vectors and errors."""

    values: jax.Array  # (number,) float32, descending
    vectors: jax.Array  # (number, n) float32, orthonormal
    residuals: jax.Array  # (number,) float32: ||A v - lambda v||
    products: jax.Array  # () int32: products with the matrix
    converged: jax.Array  # () bool: whether the residuals are below the tolerance


class _Basis(NamedTuple):
    rows: jax.Array  # (size + block, padded n) float32, orthonormal; 0 where not yet filled
    projected: jax.Array  # (size + block, size + block) float32: products of the rows with the images of the rows
    norm: jax.Array  # () float32: the largest image so far


class _Cycle(NamedTuple):
    basis: _Basis
    begin: jax.Array  # () int32: rows whose images are known already
    values: jax.Array
    residuals: jax.Array
    products: jax.Array


def _rows_for(number: int, n: int) -> tuple[int, int, int]:
    """Return how many rows have an image, how many wait for theirs, and how many a restart keeps."""
    size, kept = 4 * number + 4, number + number // 2 + 2
    return (size, number, kept) if size + number <= n else (n, min(number, n), min(number, n))


def largest_eigenvalues(
    times: Callable[[jax.Array], jax.Array],
    first: jax.Array,
    number: int,
    *,
    tol: Any,
    max_products: int,
    key: jax.Array,
) -> Eigenpairs:
    """Return the largest eigenvalues of a symmetric matrix, and their vectors.

    Args:
      times: product of the matrix with a vector, (n,) float32 -> (n,) float32.
      first: (n,) float32, a direction in which large eigenvalues are likely.
      number: eigenvalues to find, 1 to n.
      tol: residual at which an eigenvalue is good enough, over its absolute value.
      max_products: products with the matrix at most, but for those of the first basis.
      key: key of the random directions.
    """
    n = first.size
    size, block, kept = _rows_for(number, n)
    width = -(-n // -(-n // COLUMNS))
    padded = -(-n // width) * width

    def image_of(vector: jax.Array) -> jax.Array:
        return jnp.pad(times(vector[:n]).astype(jnp.float32), (0, padded - n))

    def draw(place: Any, count: Any) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, count), place)
        return jnp.pad(jax.random.normal(own, (n,), jnp.float32), (0, padded - n))

    def orthogonal(direction: jax.Array, rows: jax.Array) -> jax.Array:
        for _ in range(2):  # once leaves rounding errors that grow
            direction = _unit(direction)
            direction = direction - _matmul(_matmul(rows, direction), rows)
        return _unit(direction)

    def start() -> _Basis:
        rows = jnp.zeros((size + block, padded), jnp.float32)
        for place in range(block):
            direction = _unit(draw(place, 0))
            if place == 0:
                given = _unit(jnp.pad(first, (0, padded - n)))
                # Of two opposite directions the sum would be 0, as half of the time in one dimension.
                direction = direction + jnp.where(given @ direction < 0, -1.0, 1.0) * given
            rows = rows.at[place].set(orthogonal(direction, rows))
        return _Basis(rows, jnp.zeros((size + block,) * 2, jnp.float32), jnp.zeros([], jnp.float32))

    def add(place: jax.Array, carry: tuple[_Basis, jax.Array]) -> tuple[_Basis, jax.Array]:
        (rows, projected, norm), products = carry
        image = image_of(rows[place])
        norm = jnp.maximum(norm, jnp.linalg.norm(image))
        column = _matmul(rows, image)
        rest = image - _matmul(column, rows)
        length = jnp.linalg.norm(rest)
        # The directions so far then span an invariant subspace of the matrix.
        closed = length <= NEGLIGIBLE * norm
        direction = jax.lax.cond(closed, lambda: draw(place + block, products + 1), lambda: rest)
        projected = projected.at[:, place].set(column).at[place + block, place].set(jnp.where(closed, 0.0, length))
        # If the basis is the whole space, the last directions are rounding errors, whose images are not asked for.
        rows = rows.at[place + block].set(orthogonal(direction, rows))
        return _Basis(rows, projected, norm), products + 1

    def combinations(projected: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the eigenvalues within the basis, descending, their combinations in columns, and the residuals."""
        upper = jnp.triu(projected[:size, :size])  # below the diagonal, rows were not filled yet
        symmetric = upper + jnp.triu(upper, 1).T
        # Some eigenvalue routines do not return from a matrix with NaN.
        known = jnp.all(jnp.isfinite(symmetric))
        values, columns = jnp.linalg.eigh(jnp.where(known, symmetric, 0.0))
        values, columns = jnp.where(known, values[::-1], jnp.nan), columns[:, ::-1]
        waiting = jnp.where(known, projected[size:, :size], 0.0)
        return values, columns, jnp.linalg.norm(_matmul(waiting, columns), axis=0)

    def restart(basis: _Basis, values: jax.Array, columns: jax.Array) -> _Basis:
        mixing = jnp.zeros((size + block,) * 2, jnp.float32)
        mixing = mixing.at[:kept, :size].set(columns[:, :kept].T)
        mixing = mixing.at[kept : kept + block, size:].set(jnp.eye(block, dtype=jnp.float32))
        parts = basis.rows.reshape(size + block, padded // width, width)

        def mix(index: jax.Array, parts: jax.Array) -> jax.Array:
            return parts.at[:, index].set(_matmul(mixing, parts[:, index]))

        rows = jax.lax.fori_loop(0, padded // width, mix, parts).reshape(basis.rows.shape)
        projected = jnp.zeros_like(basis.projected).at[jnp.arange(kept), jnp.arange(kept)].set(values[:kept])
        return basis._replace(rows=rows, projected=projected)

    def allowed(values: jax.Array, norm: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.asarray(tol, jnp.float32) * jnp.abs(values), ROUNDING * norm)

    def unfinished(state: _Cycle) -> jax.Array:
        large = state.residuals > allowed(state.values, state.basis.norm)  # False for NaN
        return jnp.any(large) & (state.products + (size - kept) + number <= max_products)

    def cycle(state: _Cycle) -> _Cycle:
        basis, products = jax.lax.fori_loop(state.begin, jnp.int32(size), add, (state.basis, state.products))
        values, columns, residuals = combinations(basis.projected)
        return _Cycle(restart(basis, values, columns), jnp.int32(kept), values[:number], residuals[:number], products)

    large = jnp.full(number, jnp.inf, jnp.float32)
    state = _Cycle(start(), jnp.int32(0), jnp.zeros(number, jnp.float32), large, jnp.int32(0))
    state = jax.lax.while_loop(unfinished, cycle, cycle(state)) if size < n else cycle(state)
    # What rounding has left of the relations within the basis is not trusted: each pair is measured once.
    vectors = jax.vmap(_unit)(state.basis.rows[:number, :n])
    images = jax.lax.map(lambda vector: image_of(jnp.pad(vector, (0, padded - n)))[:n], vectors)
    values = jnp.sum(vectors * images, axis=1)
    residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
    order = jnp.argsort(-values)
    values, residuals = values[order], residuals[order]
    converged = jnp.all(residuals <= 2 * allowed(values, state.basis.norm))  # twice: two ways to round
    return Eigenpairs(values, vectors[order], residuals, state.products + number, converged)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
