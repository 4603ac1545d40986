"""Do activations move equally far at every width? The check of the maximal update parametrization."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.extra_args import tolerant_update
from lrx.figures import PALETTE, panels
from lrx.training.sampling import keys_of
from lrx.training.step import initial, step
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLAT = 0.1  # of an exponent of the width


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck:
    """How far activations move in the first steps, by width.

    Attributes:
      widths: (widths,) int.
      changes: name to (widths, steps, seeds) float64, the root mean square of the change of an activation since the
        start, after each step.
      initial: name to (widths, seeds) float64, the root mean square of the activation at the start.
    """

    widths: np.ndarray
    changes: dict[str, np.ndarray]
    initial: dict[str, np.ndarray]

    @property
    def slopes(self) -> dict[str, float]:
        """Name to the exponent s of `change ~ width^s` after the last step; 0 if activations move equally far."""
        found = {}
        for name, values in self.changes.items():
            logs = np.log(values[:, -1].mean(axis=1))
            found[name] = float(np.polyfit(np.log(self.widths), logs, 1)[0])
        return found

    def __repr__(self) -> str:
        slopes = ", ".join(f"{name} {slope:+.2f}" for name, slope in self.slopes.items())
        return f"CoordinateCheck(widths {', '.join(map(str, self.widths))}; exponents of the width: {slopes})"

    def __str__(self) -> str:
        wide = max(map(len, self.changes))
        rows = [f"{'change of':{wide}}  " + "  ".join(f"{width:>9}" for width in self.widths) + "   exponent"]
        for name, slope in self.slopes.items():
            cells = [f"{value:>9.3g}" for value in self.changes[name][:, -1].mean(axis=1)]
            note = "" if abs(slope) <= FLAT else "  grows" if slope > 0 else "  shrinks"
            rows.append(f"{name:{wide}}  " + "  ".join(cells) + f"  {slope:>+9.2f}{note}")
        return "\n".join(rows)

    def plot(self, *, title: str = "") -> Figure:
        """Draw the change of each activation over the width, a line for each step; needs matplotlib.

        Args:
          title: what was trained, such as "digits: adam with muP".

        Raises:
          ImportError: if matplotlib is not installed.
        """
        names = list(self.changes)
        figure, axes = panels(len(names), size=(3.4 * len(names) + 1, 3.6), sharey=True)
        for panel, name in zip(axes, names, strict=True):
            means = self.changes[name].mean(axis=2)
            for place in range(means.shape[1]):
                color = PALETTE[place % len(PALETTE)]
                panel.plot(self.widths, means[:, place], "o-", color=color, ms=4, label=f"{place + 1}")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_xlabel("width")
            panel.set_title(f"{name}: width^{self.slopes[name]:.2f}", fontsize=9, loc="left")
        axes[0].set_ylabel("change of the activation")
        axes[-1].legend(title="steps", fontsize=8)
        figure.suptitle(title, fontsize=10, x=0.02, ha="left")
        return figure


def coordinate_check(
    make: Callable[[int], tuple[Workload, optax.GradientTransformation, Callable[[Any, Any], dict[str, jax.Array]]]],
    widths: Sequence[int],
    *,
    num_steps: int = 4,
    seeds: int | Sequence[int] = 2,
) -> CoordinateCheck:
    """Measure how far activations move in the first steps, at several widths.

    Each network is trained for a few steps. With h_t an activation on the first minibatch after t steps, the result
    holds the root mean square of h_t - h_0. In the maximal update parametrization (`lrx.mup_factors`) it does not
    depend on the width; in the usual one it grows with it under Adam, so that a wider network needs a lower rate. If an
    activation moves less, the wider the network, wide layers stop learning.

    Args:
      make: `width -> (workload, tx, activations)`, where `activations(params, batch)` returns {name: array}, for
        example of the hidden layers and of the output. The same names and rate at each width.
      widths: at least two, increasing.
      num_steps: steps, at least 1.
      seeds: number of runs of each width (with seeds 0, 1, ...), or the list of seeds.

    Returns:
      A `CoordinateCheck`; print it for a table with the exponent of the width.

    Raises:
      ValueError: if an argument is out of its range, or activations have other names at another width.
      TypeError: if an argument is of the wrong type.

    Differs from the source: the root mean square in place of the mean of magnitudes.

    Source:
      G. Yang, E. Hu et al., 2021, arXiv:2203.03466, appendix D.1.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x, y = jax.random.normal(jax.random.key(0), (32, 4)), jax.random.normal(jax.random.key(1), (32, 1))
      >>> def activations(params, batch):
      ...     hidden = batch[0] @ params["first"]
      ...     return {"hidden": hidden, "output": hidden @ params["last"]}
      >>> def init_fn(key, width):
      ...     return {"first": jax.random.normal(key, (4, width)) / 2, "last": jnp.ones((width, 1)) / width}
      >>> def make(width):
      ...     workload = lrx.Workload.from_functions(
      ...         lambda params, batch, key: jnp.mean((activations(params, batch)["output"] - batch[1]) ** 2),
      ...         lambda key: init_fn(key, width),
      ...         lrx.Batches((x, y), batch_size=32),
      ...     )
      ...     factors = lrx.mup_factors(init_fn, (16, width))
      ...     return factors.scale_workload(workload), factors.scale_rates(lrx.adam(0.01)), activations
      >>> found = lrx.coordinate_check(make, (16, 64), num_steps=2)
      >>> bool(abs(found.slopes["output"]) < 0.3)
      True
    """
    if not callable(make):
        raise TypeError(f"make must be a function width -> (workload, tx, activations), got make={make!r}.")
    if not isinstance(widths, Sequence) or len(widths) < 2:
        raise ValueError(f"widths must be at least two, got widths={widths!r}: give (64, 128, 256).")
    _checks.increasing_steps("widths", list(widths))
    _checks.steps("num_steps", num_steps)
    seed_array = as_seeds(seeds)
    changes: dict[str, list[np.ndarray]] = {}
    first: dict[str, list[np.ndarray]] = {}
    for width in widths:
        workload, tx, activations = make(int(width))
        require_workload(workload)
        require_descent_on(workload, tx)
        measure = _first_steps(workload, tx, activations, int(num_steps))
        found = [jax.device_get(measure(workload.batches.arrays, jnp.int32(seed))) for seed in seed_array]
        if changes and found[0].keys() != changes.keys():
            raise ValueError(
                f"activations must have the same names at each width, got {', '.join(found[0])} at {width} and "
                f"{', '.join(changes)} before."
            )
        for name in found[0]:
            sizes = np.stack([each[name] for each in found], axis=-1).astype(np.float64)  # (1 + steps, seeds)
            first.setdefault(name, []).append(sizes[0])
            changes.setdefault(name, []).append(sizes[1:])
    return CoordinateCheck(
        np.array([int(width) for width in widths]),
        {name: np.stack(values) for name, values in changes.items()},
        {name: np.stack(values) for name, values in first.items()},
    )


def _first_steps(
    workload: Workload, tx: Any, activations: Callable[..., Any], num_steps: int
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """Return `(arrays, seed) -> {name: (1 + steps,)}`: an activation's size, and that of its change after each step."""
    sampling, update = workload.batches.sampling, tolerant_update(tx)

    @jax.jit
    def measure(arrays: Any, seed: jax.Array) -> Any:
        keys = keys_of(seed)
        permutation = sampling.permutation(arrays, keys.shuffle, jnp.int32(0))
        probe, _ = sampling.draw(arrays, permutation, keys.step, jnp.int32(0))
        state = initial(workload.init, tx, keys.init)
        start = activations(state.params, probe)

        def size(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))

        def one(state: Any, count: jax.Array) -> Any:
            epoch = count // (len(permutation) // sampling.batch_size)
            order = sampling.permutation(arrays, keys.shuffle, epoch)
            batch, key = sampling.draw(arrays, order, keys.step, count)
            state, _ = step(workload.loss_fn, update, state, batch, key, count)
            moved = activations(state.params, probe)
            return state, jax.tree.map(lambda after, before: size(after - before), moved, start)

        _, sizes = jax.lax.scan(one, state, jnp.arange(num_steps, dtype=jnp.int32))
        return jax.tree.map(lambda begin, rest: jnp.concatenate([size(begin)[None], rest]), start, sizes)

    return measure
