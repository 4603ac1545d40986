"""Master weights: float32 copies of narrow parameters, so that no step is rounded away."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from lrx import _checks
from lrx._leaves import copies, require_params
from lrx._positions import add_steps, combine, round_like, upcast_gradients, updates_to
from lrx.run_state import eval_params
from lrx.states import shows
from lrx.transformations import factory


@shows()
class MasterWeightsState(NamedTuple):
    """State of `master_weights`."""

    master: Any  # the parameters in at least float32
    inner: Any

    def within(self) -> tuple[Any, ...]:
        """Return the state of the transformation that updates the master weights."""
        return (self.inner,)

    def evaluation_params(self, params: Any) -> Any:
        """Return the evaluation point of the transformation, from the master weights."""
        point = eval_params(self.inner, self.master)
        return params if point is self.master else combine(lambda _, x: x, params, point)

    def applied_params(self, params: Any) -> Any:
        """Return the rounded master weights."""
        return combine(lambda _, x: x, params, self.master)


@factory
def master_weights(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Update float32 copies of the parameters, and round them to the parameters.

    A bfloat16 number has 8 significant bits: 1 + 0.001 is 1, so parameters of size 1 do not move under steps of 1e-3.
    Here `tx` sees gradients and parameters in float32 and updates `m_t = m_{t-1} + u_t`; the parameters are
    `bfloat16(m_t)`. All of its statistics that have the parameters' type become float32 too. This costs 4 bytes for
    each parameter, float32 ones included, and doubles the first moment (`adam(moment_dtype=jnp.bfloat16)` halves that
    again).

    Use it as the outermost transformation. `lrx.apply_updates(params, updates, state)` returns the rounded
    copies exactly; `lrx.train` uses it. `optax.apply_updates` adds `bfloat16(m_t) - params`, which is the same unless a
    parameter more than halves, doubles or changes its sign in one step; then it may be off by one rounding, until the
    next step. With float32 gradients the sum is exact too. Parameters that are changed by hand need a new `init`;
    otherwise the copies overwrite the change.

    Args:
      tx: the transformation of float32 parameters, with its rate.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and what `tx` needs; a
      `value_fn` is called with parameters in their own types. `eval_params` returns the evaluation point of `tx`.

    Raises:
      ValueError: if `update` gets no `params`.
      TypeError: if `tx` is not a gradient transformation.

    Source:
      P. Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, section 3.1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.master_weights(lrx.sgd(1e-3))
      >>> params = jnp.ones(2, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(100):
      ...     updates, state = tx.update(jnp.ones(2, jnp.bfloat16), state, params)
      ...     params = lrx.apply_updates(params, updates, state)
      >>> print(params, state.master.round(4))
      [0.898438 0.898438] [0.9 0.9]
    """
    _checks.transformation(tx)
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> MasterWeightsState:
        master = copies(params, upcast=True)
        return MasterWeightsState(master, inner.init(copies(master)))

    def update(
        updates: Any, state: MasterWeightsState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, MasterWeightsState]:
        require_params("master_weights", params, updates, "which follow its copies")
        value_fn = extra_args.get("value_fn")
        if callable(value_fn):
            extra_args["value_fn"] = lambda trial: value_fn(round_like(trial, params))
        steps, after = inner.update(upcast_gradients(updates), state.inner, state.master, **extra_args)
        master = add_steps(state.master, steps, updates)
        return updates_to(master, params, updates), MasterWeightsState(master, after)

    return optax.GradientTransformationExtraArgs(init, update)
