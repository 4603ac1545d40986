"""The loss on a plane through the parameters: along random directions, along given ones, or along a trajectory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx.diagnostics.landscape_result import Landscape
from lrx.diagnostics.losses import which_move
from lrx.diagnostics.planes import (
    as_points,
    coordinates,
    draw_directions,
    is_float,
    principal_directions,
    require_like,
)
from lrx.diagnostics.programs import TracedLoss
from lrx.training.program_cache import Cache
from lrx.training.progress import ProgressMeter, reporter, require_progress

NORMALIZATIONS = ("filter", "layer")
MARGIN = 0.1  # of the span of a trajectory, on each side of it
NARROWEST = 0.2  # of the wider side of a plane that holds a trajectory
MOST_MEMORY = 2 * 2.0**30  # bytes, for the intermediate results of the points that are evaluated at a time
MOST_POINTS = 64  # evaluated at a time on an accelerator

_PROGRAMS = Cache(maxsize=16)


def landscape(
    loss: Callable[[Any], Any],
    params: Any,
    *,
    directions: str | Sequence[Any] = "random",
    trajectory: Any = None,
    extent: float = 1.0,
    num_points: int = 25,
    normalization: str | None = "filter",
    filter_axis: int = -1,
    points_at_once: int | None = None,
    key: jax.Array | None = None,
    progress: bool | str | None = False,
) -> Landscape:
    """Measure the loss on a plane through the parameters.

    With theta the parameters and d_1, d_2 two directions, the result holds

        f(a, b) = L(theta + a d_1 + b d_2)

    on a grid of a and b. One small program evaluates a point, or several at a time, and is called until the plane is
    complete: memory does not grow with the plane. A second plane of the same loss, also on other data of the same
    shapes, compiles nothing.

    `directions` decides what the plane shows:

    - "random": Gaussian directions, scaled filter by filter to the parameters, `d_ij <- d_ij ||theta_ij|| / ||d_ij||`.
      A network does not change if a layer is multiplied by ten and the next one divided by ten; with this scale its
      plane does not change either, so that the widths of two minima can be compared.
    - "trajectory": the two principal directions of `trajectory`, unit vectors, with the fraction of the trajectory's
      variance along each. Little of a path is left in two random directions, which are nearly perpendicular to it.
    - a pair of directions: pytrees like the parameters, used as they are, as `(end - start, other - start)`.

    A loss on many examples holds fewer intermediate results if it goes over them in chunks, with `jax.lax.map`.

    Args:
      loss: `params -> loss`, a real scalar; for example the loss of a fixed batch. If it uses batch normalization,
        decide in it whether with the running statistics or with those of the batch.
      params: pytree of arrays, the origin of the plane. Arrays of whole numbers stay as they are.
      directions: "random", "trajectory" or a pair, as above.
      trajectory: parameters at several times: a list of pytrees like `params`, or one with a leading axis of points; at
        least two points. The result holds their projection on the plane, whatever the directions.
      extent: half the width of the plane in lengths of the directions, > 0. For "trajectory" a factor of the smallest
        plane that holds `params` and the trajectory with a margin of a tenth.
      num_points: points along each side, at least 2; with an odd number, `params` is one of them for directions
        other than "trajectory".
      normalization: scale of random directions: "filter" as above, with 0 for leaves of fewer than two axes (biases,
        norms); "layer", leaf by leaf; or None, Gaussian with variance 1.
      filter_axis: the axis of a kernel that counts filters: -1 in Flax and Haiku, 0 in Equinox and PyTorch.
      points_at_once: points evaluated at a time; by default 1 on a CPU, elsewhere up to 64 that fit into 2 GiB.
      key: key of random directions; `jax.random.key(0)` by default.
      progress: False shows nothing; True a bar, or lines without a terminal; None a bar on a terminal only; a string is
        its title.

    Returns:
      A `Landscape`.

    Raises:
      ValueError: if an argument is out of its range, the loss is not a scalar or not finite at `params`, the
        parameters hold no floating-point number, the trajectory has one point or does not move, or the directions span
        no plane; before the plane is evaluated.
      TypeError: if an argument is of the wrong type, the loss is not real, or a parameter is complex or traced.

    Differs from the source: biases and the parameters of norms are not moved by random directions, which the source has
    as an option.

    Source:
      H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
      arXiv:1712.09913, sections 4 and 7.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> bowl = lambda params: jnp.sum(params["w"] ** 2) + params["b"] ** 2
      >>> params = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(())}
      >>> one, other = {"w": jnp.ones((1, 1)), "b": jnp.zeros(())}, {"w": jnp.zeros((1, 1)), "b": 2 * jnp.ones(())}
      >>> found = lrx.landscape(bowl, params, directions=(one, other), num_points=3)
      >>> print(found.losses)
      [[5. 1. 5.]
       [4. 0. 4.]
       [5. 1. 5.]]
      >>> found
      Landscape(3 x 3 points, loss 0 at params, 0 to 5 on the plane)
    """
    which_move(params)
    if not all(map(_checks.is_concrete, jax.tree.leaves(params))):
        raise TypeError("params must be known arrays, got a traced one: call landscape outside of jit and vmap.")
    _checks.positive("extent", extent)
    _checks.steps("num_points", num_points, at_least=2, unit="points along each side")
    if points_at_once is not None:
        _checks.steps("points_at_once", points_at_once, unit="points")
    require_progress(progress)
    if normalization is not None:
        _checks.one_of("normalization", normalization, NORMALIZATIONS)
    if not (isinstance(directions, str) and directions == "random") and normalization != "filter":
        raise ValueError(
            f'normalization must be left out unless directions="random", got normalization={normalization!r}: other '
            "directions are used as they are."
        )
    params = jax.tree.map(jnp.asarray, params)
    points = None if trajectory is None else as_points(trajectory, params)
    variance = None
    if isinstance(directions, str):
        _checks.one_of("directions", directions, ("random", "trajectory"))
        if directions == "random":
            key = jax.random.key(0) if key is None else key
            chosen = draw_directions(params, key, 2, normalization, filter_axis)
        elif points is None:
            raise ValueError('trajectory must be given with directions="trajectory": a list of parameters of a run.')
        else:
            chosen, variance = principal_directions(points)
    else:
        chosen = _as_pair(directions, params)
    projected = coordinates(points or [], params, chosen)
    traced = TracedLoss(loss, params)
    if isinstance(directions, str) and directions == "trajectory":
        sides = sides_around(np.concatenate([projected, np.zeros((1, 2))]), int(num_points), float(extent))
    else:
        sides = [np.linspace(-float(extent), float(extent), int(num_points))] * 2
    with reporter(
        progress,
        "landscape",
        step=0,
        total=int(num_points) ** 2,
        batch_size=1,
        unit="points",
        loss_name="least loss",
    ) as status:
        centre, losses = evaluate_plane(traced, params, chosen, sides, points_at_once, status)
    return Landscape(
        losses, centre, sides[0], sides[1], (chosen[0], chosen[1]), None if points is None else projected, variance
    )


def _as_pair(directions: Any, params: Any) -> list[Any]:
    wanted = 'directions must be "random", "trajectory" or a pair of pytrees like params'
    if not isinstance(directions, tuple | list):
        raise TypeError(f"{wanted}, got directions={directions!r}.")
    if len(directions) != 2:
        raise ValueError(f"{wanted}, got {len(directions)} of them.")
    for place, direction in enumerate(directions):
        require_like(f"directions[{place}]", direction, params)
    return [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), direction) for direction in directions]


def sides_around(points: np.ndarray, num_points: int, extent: float) -> list[np.ndarray]:
    """Return the coordinates along both sides of a plane that holds points, (n, 2), with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    spans = np.maximum(high - low, NARROWEST * np.max(high - low)) * (1 + 2 * MARGIN) * extent
    middles = (low + high) / 2
    return [np.linspace(m - span / 2, m + span / 2, num_points) for m, span in zip(middles, spans, strict=True)]


def evaluate_plane(
    loss: TracedLoss,
    params: Any,
    directions: Sequence[Any],
    sides: Sequence[np.ndarray],
    points_at_once: int | None = None,
    status: ProgressMeter | None = None,
) -> tuple[float, np.ndarray]:
    """Return the loss at the parameters, and (points along the first side, points along the second) float32.

    Raises:
      ValueError: if the loss at the parameters is not finite.
    """
    places = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)
    at_once, program = _compile(loss, params, directions, points_at_once, len(places))
    centre = float(program(loss.constants, params, directions, np.zeros((at_once, 2), np.float32))[0])
    if not np.isfinite(centre):
        raise ValueError(f"loss must be finite at params, got {centre}: look at the data and at the parameters.")
    losses = np.empty(len(places), np.float32)
    if status is not None:
        status.start()
    for first in range(0, len(places), at_once):
        chunk = places[first : first + at_once]
        filled = np.concatenate([chunk, np.zeros((at_once - len(chunk), 2), np.float32)])
        # Read at once: a CPU would otherwise begin with several chunks, each with its memory.
        losses[first : first + len(chunk)] = np.asarray(program(loss.constants, params, directions, filled))[
            : len(chunk)
        ]
        if status is not None and status.enabled:
            known = losses[: first + len(chunk)]
            status.update(first + len(chunk), float(np.min(known[np.isfinite(known)], initial=np.inf)), np.nan)
    return centre, losses.reshape(len(sides[0]), len(sides[1]))


def _compile(
    loss: TracedLoss, params: Any, directions: Sequence[Any], points_at_once: int | None, number: int
) -> tuple[int, Any]:
    """Return how many points are evaluated at a time, and the compiled function that does."""
    arguments = (loss.constants, params, list(directions))
    on_cpu = next(iter(jax.tree.leaves(directions)[0].devices())).platform == "cpu"
    at_once = min(int(points_at_once or (1 if on_cpu else MOST_POINTS)), number)
    places = tuple(leaf.sharding for leaf in jax.tree.leaves(arguments))
    while True:
        build = functools.partial(_compile_points, arguments=arguments, at_once=at_once)
        program = loss.compile_once(_PROGRAMS, (at_once, places), build)
        memory = program.memory_analysis()
        if points_at_once is not None or at_once == 1 or memory is None or memory.temp_size_in_bytes <= MOST_MEMORY:
            return at_once, program
        at_once //= 2


def _compile_points(evaluate: Callable[[Any, Any], jax.Array], arguments: Any, at_once: int) -> Any:
    """Compile `(constants, params, directions, places) -> losses`, for places of shape (at_once, 2)."""

    def at(constants: Any, params: Any, directions: Any, place: jax.Array) -> jax.Array:
        def move(leaf: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
            if not is_float(leaf):
                return leaf
            wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            return (wide + place[0] * one + place[1] * other).astype(leaf.dtype)

        return evaluate(constants, jax.tree.map(move, params, *directions))

    def at_each(constants: Any, params: Any, directions: Any, places: jax.Array) -> jax.Array:
        if at_once == 1:  # a mapped convolution is slow on a CPU
            return at(constants, params, directions, places[0])[None]
        return jax.vmap(at, in_axes=(None, None, None, 0))(constants, params, directions, places)

    return jax.jit(at_each).lower(*arguments, jax.ShapeDtypeStruct((at_once, 2), jnp.float32)).compile()
