"""The largest curvature at which an optimizer is stable at the rate of its state, and its preconditioner."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._foreign import adapt
from lrx._walk import nodes_on_path, state_of
from lrx.reading import learning_rates
from lrx.states import has_method, method_name

# A state with one of these methods is a rate, a factor or a wrapper: it leaves the direction of the gradient as it is.
_TRANSPARENT = ("rate", "factor", "injected_rate", "within", "on_path", "stops", "gathering")


def stability_limit(state: Any) -> jax.Array:
    """Return the sharpness above which steps at the rate that a state shows are unstable on a quadratic.

    With rate alpha and momentum beta along an eigenvector of curvature lambda, the method is a linear recurrence in the
    distance x from the minimum. Its roots lie inside the unit circle up to the limit, where one of them is -1:

        gradient descent   x' = (1 - alpha lambda) x                                      2 / alpha
        heavy ball         z^2 - (1 + beta - alpha lambda) z + beta                       (2 + 2 beta) / alpha
        Nesterov           z^2 - (1 + beta) (1 - alpha lambda) z + beta (1 - alpha lambda)
                                                                            (2 + 2 beta) / (alpha (1 + 2 beta))

    RMSProp and AdaGrad are gradient descent, and Adam and AdamW a heavy ball whose gradients have the weight 1 - beta,
    so that its limit is (2 + 2 beta) / (alpha (1 - beta)), with their preconditioners held at the present value. For
    these it is a limit of the preconditioned sharpness: give `preconditioner=lrx.preconditioner_of(state)` to
    `lrx.sharpness`. A network that is trained on all of its data at once hovers at the limit; minibatches keep the
    sharpness below it.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`), with one
        rate for all parameters. The rate is `lrx.learning_rate(state)`, the momentum that of the latest update. May be
        traced.

    Returns:
      () float32, in the units of `lrx.sharpness`; infinite if the rate is 0. Clipping, and the decay of `adamw`, which
      lowers the limit by the factor 1 - alpha weight_decay / 2, are left out; a link without a state, such as
      `optax.add_decayed_weights`, is not seen.

    Raises:
      ValueError: if the state belongs to a method whose stability is not known, such as a learning-rate-free one, to
        several groups with rates of their own, or holds no rate.
      TypeError: if `state` is a transformation or None.

    Source: B. Polyak, USSR Comput. Math. Math. Phys. 4(5), 1964; J. Cohen et al., 2021, arXiv:2103.00065, appendix B,
    for momentum; J. Cohen et al., 2022, arXiv:2207.14484, section 2, for preconditioners.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.stability_limit(lrx.sgd(0.1).init(jnp.zeros(2))))
      20.0
      >>> print(lrx.stability_limit(lrx.heavy_ball(0.1, momentum=0.5).init(jnp.zeros(2))))
      30.0
    """
    state = state_of("stability_limit", state)
    views = _views(state, "stable_product")
    if len(views) > 1:
        raise ValueError(
            f"the state must hold one momentum, got {', '.join(method_name(_state(view)) for view in views)}: the "
            "stability of two after each other is not known."
        )
    rates = learning_rates(state)
    if len(rates) > 1:
        raise ValueError(
            f"the state must hold one rate for all parameters, got the groups {', '.join(sorted(rates))}: give the "
            "state of a run without groups, or compare sharpness and limit of one group at a time."
        )
    rate = next(iter(rates.values()))
    product = views[0].stable_product() if views else jnp.float32(2.0)
    still = rate == 0
    return jnp.where(still, jnp.inf, product / jnp.where(still, 1.0, rate)).astype(jnp.float32)


def preconditioner_of(state: Any) -> Any:
    """Return what a method divides the gradient by, as a diagonal: the P of theta' = theta - alpha P^-1 g.

        Adam, AdamW       P = (1 - b1^t) (sqrt(v^ + eps_root) + eps)
        RMSProp           P = sqrt(v + eps), or sqrt(v) + eps
        AdaGrad           P = sqrt(G + eps), or sqrt(G) + eps

    The factor 1 - b1^t is Adam's bias correction of the first moment.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`). May be
        traced. A state of your own has a method `preconditioner()`.

    Returns:
      A tree like the parameters, float32; None for a method that does not divide, such as gradient descent with or
      without momentum: `lrx.sharpness` takes both. In place of parameters that do not move, those of a frozen group of
      `group_rates`, it has an `optax.MaskedNode`. Before the first update Adam's is 0, and cannot be used.

    Raises:
      ValueError: if the state belongs to a method whose preconditioner is not known, or holds several of them.
      TypeError: if `state` is a transformation or None.

    Source: J. Cohen et al., "Adaptive gradient methods at the edge of stability", 2022, arXiv:2207.14484, section 2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.rmsprop(0.1, decay=0.75, eps=0.0)
      >>> _, state = tx.update(jnp.array([4.0, 2.0]), tx.init(jnp.zeros(2)))
      >>> print(lrx.preconditioner_of(state))
      [2. 1.]
    """
    views = _views(state_of("preconditioner_of", state), "preconditioner")
    if len(views) > 1:
        raise ValueError(
            f"the state must hold one preconditioner, got {', '.join(method_name(_state(view)) for view in views)}: "
            "what two after each other do to a loss is not known."
        )
    return views[0].preconditioner() if views else None


def left_out(preconditioner: Any, params: Any) -> tuple[int, ...]:
    """Return the places of the leaves of parameters that a preconditioner leaves out, by an `optax.MaskedNode`.

    There are none if it is not like the parameters.
    """
    try:
        flags = jax.tree.map(
            lambda node, own: jax.tree.map(lambda _: _is_left_out(node), own),
            preconditioner,
            params,
            is_leaf=_is_left_out,
        )
    except ValueError:
        return ()
    return tuple(place for place, flag in enumerate(jax.tree.leaves(flags)) if flag)


def _is_left_out(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _state(view: Any) -> Any:
    return getattr(view, "state", view)


def _views(node: Any, method: str) -> list[Any]:
    """Return the states on the path that have a method; refuse a state of which nothing is known."""
    view = adapt(node)
    if has_method(view, "stable_product") or has_method(view, "preconditioner"):
        return [view] if has_method(view, method) else []
    if has_method(view, "groups"):
        groups = view.groups()
        if len(groups) > 1:
            raise ValueError(
                f"the state must belong to one method for all parameters, got groups {', '.join(map(str, groups))}: "
                "give the state of one."
            )
    elif not any(has_method(view, each) for each in _TRANSPARENT) and _has_numbers(node):
        raise ValueError(
            f"the state must belong to a method whose stability is known, got {type(node).__name__}: that of gradient "
            "descent, momentum, RMSProp, AdaGrad, Adam and AdamW is, in lrx's own optimizers, such as lrx.adam. A "
            "state of your own tells it by stable_product() and preconditioner()."
        )
    below = view.groups().values() if has_method(view, "groups") else nodes_on_path(view, node)
    found = [] if has_method(view, "rate") else [found for each in below for found in _views(each, method)]
    if found and isinstance(node, optax.MaskedState) and any(map(_is_left_out, _nodes(node))):
        raise ValueError(
            "the state must belong to one method for all parameters, got that of an optax.masked, which passes the "
            "gradients of some on as they are: freeze them by lrx.group_rates, or give the state of one group."
        )
    return found


def _nodes(state: Any) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=_is_left_out)


def _has_numbers(node: Any) -> bool:
    """Return whether a state holds floating-point numbers itself, which may change the direction of a gradient."""
    if not isinstance(node, tuple) or not hasattr(node, "_fields"):
        return False
    for field in node:
        leaves = jax.tree.leaves(field, is_leaf=lambda each: isinstance(each, tuple) and hasattr(each, "_fields"))
        if any(hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
            return True
    return False
