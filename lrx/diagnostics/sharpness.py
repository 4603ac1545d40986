"""The sharpness of a loss: the largest eigenvalues of its Hessian, which limit the rate of gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.diagnostics.eigenvalues import Eigenpairs, largest_eigenvalues
from lrx.diagnostics.losses import flatten
from lrx.diagnostics.programs import Evaluate, TracedLoss
from lrx.diagnostics.stability import left_out
from lrx.figures import BLUE, VERMILION, panels
from lrx.training.program_cache import Cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROGRAMS = Cache(maxsize=32)


class Sharpness(NamedTuple):
    """The largest eigenvalues of a Hessian; a tuple of arrays, so that compiled functions can return it.

    `float(found)` is the largest eigenvalue.

    Attributes:
      eigenvalues: (k,) float32, descending, in units of the loss over those of the parameters squared; with a
        preconditioner, in units of one over the rate. NaN if the loss, a gradient or a product with the Hessian is not
        finite.
      residuals: (k,) float32, ||H v - lambda v|| for unit vectors v: an eigenvalue lies within this distance of each.
      products: () int32, products with the Hessian, each about twice the cost of a gradient.
      converged: () bool, whether all residuals are below the tolerance, or below what float32 can resolve.
      eigenvectors: tree like the parameters with a leading axis of k, float32, or None if they were not asked for;
        None for leaves that hold no floating-point numbers.
    """

    eigenvalues: jax.Array
    residuals: jax.Array
    products: jax.Array
    converged: jax.Array
    eigenvectors: Any = None

    @property
    def largest(self) -> jax.Array:
        """The largest eigenvalue, () float32."""
        return self.eigenvalues[..., 0]

    def __float__(self) -> float:
        return float(self.largest)

    def __repr__(self) -> str:
        if isinstance(self.eigenvalues, jax.core.Tracer) or jnp.ndim(self.eigenvalues) != 1:
            return f"Sharpness(eigenvalues of shape {jnp.shape(self.eigenvalues)})"
        values = ", ".join(f"{value:.5g}" for value in np.asarray(self.eigenvalues))
        end = "" if bool(self.converged) else ", not converged"
        worst = float(jnp.max(self.residuals))
        return f"Sharpness({values}; residual {worst:.1e}, {int(self.products)} products{end})"

    def plot(self, *, limit: ArrayLike | None = None) -> Figure:
        """Draw the eigenvalues with their residuals; needs matplotlib.

        Args:
          limit: a line to compare them with, such as `lrx.stability_limit(state)`.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure, (axes,) = panels(size=(6.0, 4.0))
        places = np.arange(1, len(self.eigenvalues) + 1)
        errors = np.asarray(self.residuals)
        axes.errorbar(places, np.asarray(self.eigenvalues), errors, fmt="o", color=BLUE, capsize=3, label="eigenvalue")
        if limit is not None:
            axes.axhline(float(limit), color=VERMILION, ls="--", lw=1.4, label="stability limit")
            axes.legend(frameon=False)
        axes.set_xticks(places)
        axes.set(xlabel="eigenvalue of the Hessian, from the largest", ylabel="curvature")
        return figure


def sharpness(
    loss: Callable[[Any], Any],
    params: Any,
    *,
    num_eigenvalues: int = 1,
    tol: ArrayLike = 1e-4,
    key: jax.Array | None = None,
    preconditioner: Any = None,
    eigenvectors: bool = False,
    max_products: int = 1000,
) -> Sharpness:
    """Return the largest eigenvalues of the Hessian of a loss.

    Gradient descent with rate alpha is stable along an eigenvector of curvature lambda while alpha lambda < 2, so
    2 / sharpness is the largest rate that a quadratic allows; `stability_limit` has the limits of other methods.
    Networks become sharper while they train, until the sharpness stays near the limit (the edge of stability).

    With a preconditioner P, as `preconditioner_of` returns it, these are the eigenvalues of P^-1 H, found as those of
    P^(-1/2) H P^(-1/2), which is symmetric.

    The Hessian is never formed. Lanczos' method is begun with as many random vectors as eigenvalues are asked for, the
    first of them halfway to the gradient, so that an eigenvalue of multiplicity k is found k times. It restarts when
    its basis is full and stops when each residual ||H v - lambda v|| is at most `tol` |lambda|, or is rounding error:
    2e-6 of the largest image H v of a unit vector.

    Calls with equal losses compile one program: the loss is traced at each call, and the arrays that it closes over,
    such as a batch, are arguments of the program.

    Args:
      loss: `params -> loss`, a scalar, twice differentiable, such as `workload.loss_at(0)`. It is differentiated in
        float32, whatever the types of the parameters are.
      params: pytree of real arrays, at which the Hessian is taken; leaves that hold no floating-point numbers are held
        fixed. May be traced.
      num_eigenvalues: k, number of eigenvalues, from 1 to the number of parameters.
      tol: largest residual relative to its eigenvalue, > 0; may be traced. The error of an isolated eigenvalue is
        about the square of the residual over the distance to the next, so 1e-2 is often enough for a picture.
      key: key of the random vectors; `jax.random.key(0)` by default. May be traced.
      preconditioner: None, or a tree like `params` of positive numbers, the diagonal of P. May be traced. Where it has
        an `optax.MaskedNode`, as of a frozen group, the parameters are held fixed.
      eigenvectors: whether to return them. With a preconditioner they are the directions u in the space of the
        parameters with H u = lambda P u and u . P u = 1; without one they are unit vectors.
      max_products: largest number of products with the Hessian, >= 1; the 5 k + 4 of the first basis are always made.

    Returns:
      A `Sharpness`. Memory: about 5 k + 10 float32 copies of the parameters, whatever the number of products, and that
      of a product with the Hessian.

    Raises:
      ValueError: if `loss` does not return a scalar, `params` holds no floating-point numbers, `num_eigenvalues` is not
        from 1 to their number, `tol` is not positive, or `preconditioner` has another structure or other shapes, or a
        number that is not positive.
      TypeError: if `loss` is not a function to a real number, or a parameter is complex.

    Differs from the source: each new direction is made orthogonal to all rows of the basis, twice, since rounding
    destroys orthogonality in float32; if nothing but rounding error is left of it, a random direction takes its place.

    Source: C. Lanczos, Journal of Research of the National Bureau of Standards 45, 1950, pages 255-282; K. Wu, H.
    Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 22(2),
    2000; J. Cohen et al., 2021, arXiv:2103.00065, section 2, and 2022, arXiv:2207.14484, for preconditioners.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> curvatures = jnp.array([-9.0, 1.0, 2.0, 5.0])
      >>> found = lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(4), num_eigenvalues=2)
      >>> print(found.eigenvalues.round(3))
      [5. 2.]
      >>> print(f"gradient descent is stable up to a rate of {2 / float(found):.3f}")
      gradient descent is stable up to a rate of 0.400
    """
    held = left_out(preconditioner, params)
    if held and len(held) == len(jax.tree.leaves(params)):
        raise ValueError("preconditioner must be that of at least one parameter, got one that leaves all of them out.")
    flat = flatten(params, held)
    traced = TracedLoss(loss, params)
    _checks.steps("num_eigenvalues", num_eigenvalues, unit="eigenvalues")
    _checks.not_above("num_eigenvalues", num_eigenvalues, "the number of parameters", flat.point.size)
    _checks.positive("tol", tol)
    _checks.flag("eigenvectors", eigenvectors)
    _checks.steps("max_products", max_products, unit="products")
    root = None if preconditioner is None else jnp.sqrt(_flat_preconditioner(preconditioner, params, held))
    wanted = (int(num_eigenvalues), int(max_products), held)
    find = traced.compile_once(_PROGRAMS, wanted, lambda evaluate: jax.jit(_program(evaluate, *wanted)))
    found = find(traced.constants, params, root, tol, jax.random.key(0) if key is None else key)
    vectors = jax.vmap(lambda vector: flat.split(_over(vector, root)))(found.vectors) if eigenvectors else None
    return Sharpness(found.values, found.residuals, found.products, found.converged, vectors)


def _program(evaluate: Evaluate, number: int, max_products: int, held: tuple[int, ...]) -> Callable[..., Eigenpairs]:
    """Return `(constants, params, root, tol, key) -> eigenpairs` of a loss."""

    def find(constants: Any, params: Any, root: jax.Array | None, tol: ArrayLike, key: jax.Array) -> Eigenpairs:
        flat = flatten(params, held)
        gradient, hessian_times = jax.linearize(
            jax.grad(lambda point: evaluate(constants, flat.unravel(point))), flat.point
        )
        return largest_eigenvalues(
            lambda vector: _over(hessian_times(_over(vector, root)), root),
            _over(gradient, root),
            number,
            tol=tol,
            max_products=max_products,
            key=key,
        )

    return find


def _over(vector: jax.Array, root: jax.Array | None) -> jax.Array:
    return vector if root is None else vector / root


def _flat_preconditioner(preconditioner: Any, params: Any, held: tuple[int, ...]) -> jax.Array:
    """Return the diagonal of a preconditioner, (n,) float32, after a check that it fits what is not held."""
    moving = [each for place, each in enumerate(jax.tree_util.tree_leaves_with_path(params)) if place not in held]
    wanted, given = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
        for leaves in (moving, jax.tree_util.tree_leaves_with_path(preconditioner))
    )
    unlike = [name for name in {**wanted, **given} if wanted.get(name) != given.get(name)]
    if unlike:
        name = unlike[0]
        raise ValueError(
            f"preconditioner must be like params, but at {name!r} it is {given.get(name, 'absent')} and params are "
            f"{wanted.get(name, 'absent')}: give lrx.preconditioner_of(state) of the state that goes with params."
        )
    leaves = [
        jnp.asarray(leaf, jnp.float32).ravel()
        for leaf, (_, own) in zip(jax.tree.leaves(preconditioner), moving, strict=True)
        if jnp.issubdtype(jnp.result_type(own), jnp.floating)
    ]
    diagonal = jnp.concatenate(leaves)
    if _checks.is_concrete(diagonal) and not bool(jnp.all(diagonal > 0)):
        raise ValueError(
            f"preconditioner must be positive, got {float(jnp.min(diagonal)):g}: before the first update, and where a "
            "parameter has had no gradient, that of Adam is its eps alone, which must then be above 0."
        )
    return diagonal
