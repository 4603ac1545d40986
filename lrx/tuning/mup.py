"""The rate of a narrow network for a wide one: factors of rates and initial values, found from shapes at two widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._paths import Path, named_leaves, write_path
from lrx.optimizers.groups import group_rates
from lrx.training.workload import Workload

OPTIMIZERS = ("adam", "sgd")
VECTORS = ("bias", "scale")  # last parts of the paths of leaves that have no inputs
QUERIES = ("query",)
NEAR = 0.15  # an exponent this near to a half of a whole number is taken for it


@dataclasses.dataclass(frozen=True)
class MupLeaf:
    """The factors of one leaf.

    Attributes:
      kind: "input", whose outputs alone grow (embeddings, biases and norms too); "hidden", whose inputs and outputs
        grow; "output", whose inputs alone grow; "query", a hidden leaf that makes queries of attention, or its bias; or
        "fixed".
      base_shape: the shape at the base width.
      shape: the shape at the other width.
      rate: multiplies the learning rate.
      initial: multiplies the initial values.
    """

    kind: str
    base_shape: tuple[int, ...]
    shape: tuple[int, ...]
    rate: float
    initial: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MupFactors:
    """Factors of rates and initial values under which the best rate of one width is that of another.

    Attributes:
      widths: the base width, and that of the network.
      optimizer: "adam" or "sgd".
      leaves: path to `MupLeaf`.
    """

    widths: tuple[int, int]
    optimizer: str
    leaves: dict[str, MupLeaf]

    def label_of(self, path: str, leaf: Any = None) -> str:
        """Return the group of a leaf, for `lrx.group_rates`: its kind, with the factor if a kind has several.

        Raises:
          ValueError: if there is no leaf of that path.
        """
        del leaf
        if path not in self.leaves:
            raise ValueError(
                f"path must be one of the parameters that the factors were made for, got {path!r}: there are "
                f"{', '.join(self.leaves)}."
            )
        kind, rate = self.leaves[path].kind, self.leaves[path].rate
        several = len({other.rate for other in self.leaves.values() if other.kind == kind}) > 1
        return f"{kind} x {rate:g}" if several else kind

    @property
    def rates(self) -> dict[str, float]:
        """Group to the factor of its rate, for `lrx.group_rates`."""
        return {self.label_of(path): leaf.rate for path, leaf in self.leaves.items()}

    def scale_rates(self, tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        """Return a transformation whose rate is multiplied, `lrx.group_rates(tx, self.label_of, self.rates)`."""
        return group_rates(tx, self.label_of, self.rates)

    def scale_initial(self, params: Any) -> Any:
        """Return initial parameters, multiplied.

        Raises:
          ValueError: if their paths or shapes are not those that the factors were made for.
        """
        found = {write_path(path): leaf for path, leaf in named_leaves(params)}
        shapes = {path: tuple(jnp.shape(leaf)) for path, leaf in found.items()}
        wanted = {path: leaf.shape for path, leaf in self.leaves.items()}
        if shapes != wanted:
            unlike = next(path for path in {**wanted, **shapes} if wanted.get(path) != shapes.get(path))
            raise ValueError(
                f"params must be those of width {self.widths[1]}, got {shapes.get(unlike, 'nothing')} at {unlike!r}, "
                f"where they have {wanted.get(unlike, 'nothing')}."
            )
        scaled = [
            leaf if self.leaves[path].initial == 1 else jnp.asarray(leaf * self.leaves[path].initial, leaf.dtype)
            for path, leaf in found.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(params), scaled)

    def scale_workload(self, workload: Workload) -> Workload:
        """Return a workload whose initial parameters are multiplied."""

        def init(key: jax.Array) -> tuple[Any, Any]:
            params, model_state = workload.init(key)
            return self.scale_initial(params), model_state

        return dataclasses.replace(workload, init=init)

    def __repr__(self) -> str:
        groups = ", ".join(f"{label} {rate:.3g}" for label, rate in self.rates.items())
        return f"MupFactors(width {self.widths[0]} to {self.widths[1]}, {self.optimizer}; rates: {groups})"

    def __str__(self) -> str:
        wide = max(map(len, self.leaves), default=0)
        rows = [f"{'':{wide}}  {'kind':8}  {'shape':>24}  {'rate':>8}  {'initial':>8}"]
        for path, leaf in self.leaves.items():
            shape = f"{_shape(leaf.base_shape)} to {_shape(leaf.shape)}"
            rows.append(f"{path:{wide}}  {leaf.kind:8}  {shape:>24}  {leaf.rate:>8.4g}  {leaf.initial:>8.4g}")
        return "\n".join(rows)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def mup_factors(
    init_fn: Callable[[jax.Array, int], Any],
    widths: Sequence[int],
    *,
    optimizer: str = "adam",
    filter_axis: int = -1,
    key: jax.Array | None = None,
) -> MupFactors:
    """Find the factors under which the best rate of a narrow network is that of a wide one, by shapes at two widths.

    In the usual parametrization a wider network needs a lower rate: each output of a layer sums over more inputs, whose
    updates point the same way. In the maximal update parametrization (muP) each layer's output moves equally far at
    every width, so that a rate can be tuned on a narrow network. Which dimensions of a leaf grow decides its factors,
    with r the ratio of the widths:

        kind      what grows           initial standard deviation    rate, Adam    rate, SGD
        input     outputs              as at the base width          1             r
        hidden    inputs and outputs   times r^(-1/2)                1 / r         1
        output    inputs               times r^(-1)                  1 / r         1 / r

    The initial values are compared as they are drawn at both widths: what `init_fn` does by itself, such as
    1 / sqrt(inputs), needs no factor. Attention divides by sqrt(d), and muP by d: the kernel that makes queries, a leaf
    of three axes (inputs, heads, d) of a path that holds "query", starts and moves less by r^(-1/2).

    Use both: `factors.scale_rates(tx)`, and `factors.scale_initial(params)` or `factors.scale_workload(workload)`.
    Check a network with `lrx.coordinate_check`. A kernel that serves as embedding and as output cannot have the factors
    of both: use separate ones.

    Args:
      init_fn: `(key, width) -> params`, the initial parameters of the network of a width, dicts or modules.
      widths: (base, width): the width at which the rate is tuned, and that of the network. At the base width all
        factors are 1.
      optimizer: "adam", for methods that divide by the size of gradients (Adam, AdamW, RMSProp, Lion); "sgd", for those
        that do not, with momentum or without.
      filter_axis: the axis of a kernel that counts outputs: -1 in Flax and Haiku, 0 in Equinox and PyTorch.
      key: key of the initial values that are compared; `jax.random.key(0)` by default.

    Returns:
      `MupFactors`; print it for a table of the leaves.

    Raises:
      ValueError: if the widths are not two, the leaves of both widths differ in their paths or numbers of axes, or none
        grows, or more than two axes of a leaf grow.
      TypeError: if `init_fn` is not a function.

    Differs from the source: no multiplier is needed in the forward pass (table 3, not table 8, of the source), since
    the initial values and rates of the output and of queries carry it; the epsilon of Adam is not scaled.

    Source:
      G. Yang, E. Hu et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
      NeurIPS 2021, arXiv:2203.03466, table 3, and definition 4.1 for attention.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> def init_fn(key, width):
      ...     keys = jax.random.split(key, 3)
      ...     shapes = {"first": (8, width), "second": (width, width), "last": (width, 10)}
      ...     return {
      ...         name: jax.random.normal(key, shape) / shape[0] ** 0.5
      ...         for key, (name, shape) in zip(keys, shapes.items())
      ...     }
      >>> factors = lrx.mup_factors(init_fn, (64, 256))
      >>> print(factors)
              kind                         shape      rate   initial
      first   input               8x64 to 8x256         1         1
      last    output            64x10 to 256x10      0.25       0.5
      second  hidden           64x64 to 256x256      0.25         1
      >>> tx = factors.scale_rates(lrx.adam(1e-2))
      >>> state = tx.init(factors.scale_initial(init_fn(jax.random.key(1), 256)))
      >>> print(lrx.learning_rate(state, "hidden"))
      0.0025
    """
    if not callable(init_fn):
        raise TypeError(f"init_fn must be a function (key, width) -> params, got init_fn={init_fn!r}.")
    if not isinstance(widths, Sequence) or len(widths) != 2:
        raise ValueError(f"widths must be two, (base, width), got widths={widths!r}.")
    for place, width in enumerate(widths):
        _checks.steps(f"widths[{place}]", width, unit="units")
    _checks.one_of("optimizer", optimizer, OPTIMIZERS)
    base, width = (int(each) for each in widths)
    key = jax.random.key(0) if key is None else key
    other = width if width != base else 2 * base  # of the base width itself: which dimensions grow is seen elsewhere
    shapes = [_shapes_of(init_fn, each) for each in (base, other)]
    if shapes[0].keys() != shapes[1].keys():
        unlike = sorted(map(write_path, set(shapes[0]) ^ set(shapes[1])))
        raise ValueError(f"init_fn must return the same leaves at both widths, but only one has {', '.join(unlike)}.")
    if shapes[0] == shapes[1]:
        raise ValueError(
            f"init_fn must return larger arrays at a larger width, got the same at {base} and {other}: use its second "
            "argument."
        )
    spreads = _spreads(init_fn, base, other, key) if width != base else {}
    leaves = {}
    for path, small in shapes[0].items():
        leaf = _classify(path, small, shapes[1][path], optimizer, filter_axis, spreads.get(path, (0.0, 0.0)))
        if width == base:
            leaf = dataclasses.replace(leaf, shape=small, rate=1.0, initial=1.0)
        leaves[write_path(path)] = leaf
    return MupFactors((base, width), optimizer, leaves)


def _shapes_of(init_fn: Callable[[jax.Array, int], Any], width: int) -> dict[Path, tuple[int, ...]]:
    tree = jax.eval_shape(lambda key: init_fn(key, width), jax.random.key(0))
    return {path: tuple(leaf.shape) for path, leaf in named_leaves(tree)}


def _spreads(init_fn: Any, base: int, width: int, key: jax.Array) -> dict[Path, tuple[float, float]]:
    """Return the root mean squares of each leaf's initial values at both widths."""

    @jax.jit
    def measure(key: jax.Array) -> list[list[jax.Array]]:
        return [
            [jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32)))) for _, leaf in named_leaves(init_fn(key, each))]
            for each in (base, width)
        ]

    small, large = jax.device_get(measure(key))
    paths = [path for path, _ in named_leaves(jax.eval_shape(lambda key: init_fn(key, base), key))]
    return {path: (float(one), float(two)) for path, one, two in zip(paths, small, large, strict=True)}


def _classify(
    path: Path,
    small: tuple[int, ...],
    large: tuple[int, ...],
    optimizer: str,
    filter_axis: int,
    spread: tuple[float, float],
) -> MupLeaf:
    """Return the factors of a leaf, given its shapes and the spread of its initial values at both widths."""
    name = write_path(path)
    if len(small) != len(large):
        raise ValueError(f"init_fn must return the same axes at both widths, got {small} and {large} at {name!r}.")
    ratios = {axis: two / one for axis, (one, two) in enumerate(zip(small, large, strict=True)) if one != two}
    if len(ratios) > 2:
        raise ValueError(f"at most two axes of a leaf may grow with the width, got {small} and {large} at {name!r}.")
    if not ratios:
        return MupLeaf("fixed", small, large, 1.0, 1.0)
    is_query = len(small) >= 2 and len(small) == 3 - (path[-1] in VECTORS) and any(part in QUERIES for part in path)
    fewer = ratios.get(len(small) - 1, 1.0) ** -0.5 if is_query else 1.0  # a query's size, by 1 / sqrt(d)
    last = filter_axis % len(small)
    if len(ratios) == 2:
        kind, growing = "hidden", ratios.pop(min(ratios))
        out = next(iter(ratios.values()))
        if last < len(small) - 1:  # outputs come first
            growing, out = out, growing
        power, rate, rate_sgd = -0.5, 1 / growing, out / growing
    else:
        ((axis, growing),) = ratios.items()
        if len(small) == 1 or axis == last or path[-1] in VECTORS:
            kind, power, rate, rate_sgd = "input", 0.0, 1.0, growing
        else:
            kind, power, rate, rate_sgd = "output", -1.0, 1 / growing, 1 / growing
    initial = 1.0
    if min(spread) > 0:
        found = float(np.log(spread[1] / spread[0]) / np.log(growing))
        nearest = round(2 * found) / 2
        initial = float(growing ** (power - (nearest if abs(found - nearest) < NEAR else found)))
    if is_query:
        kind = "query"
    return MupLeaf(kind, small, large, rate * fewer if optimizer == "adam" else rate_sgd * fewer**2, initial * fewer)
