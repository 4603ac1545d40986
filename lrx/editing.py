"""Edit a state by hand: its rate, and the step of its schedule.

All functions are pure: they return a new state of the same structure, so they work on traced states, under `jax.vmap`,
and on states restored from a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._foreign import Adapter, adapt
from lrx._walk import join_labels, nodes_below, nodes_on_path, refuse_objects, state_of
from lrx.rate_paths import UnknownPairsError, collect_path, pair_name, paths_of, product_of, set_by_hand
from lrx.reading import group_of
from lrx.run_state import stop_flags
from lrx.states import array, has_method


def _rebuild(node: Any, chosen: tuple[Any, ...], function: Callable[[Any], Any]) -> Any:
    """Rebuild a node with some of the nodes below it changed."""
    if not chosen:
        return node
    # Kept states come last, because they follow the edits of the states that act.
    changed = {id(inner): function(inner) for inner in sorted(chosen, key=lambda inner: has_method(inner, "kept"))}
    below, structure = jax.tree.flatten(node, is_leaf=lambda inner: inner is not node)
    return jax.tree.unflatten(structure, [changed.get(id(inner), inner) for inner in below])


def _edit_rates(node: Any, edit: Callable[[Any, str], Any], label: str = "") -> Any:
    """Rebuild a state with its rates edited.

    `edit` is called with each rate, and with each state that holds the factors of groups around rates, together with
    the label of its group. It returns the new state, or None to continue with the states within.
    """
    view = adapt(node)
    injected = has_method(view, "injected_rate") and view.injected_rate() is not None
    is_rate = has_method(view, "rate") or (
        injected and not any(collect_path(inner).holds_rate() for inner in view.within())
    )
    if (is_rate or has_method(view, "with_scale")) and (edited := edit(view, label)) is not None:
        return edited
    if has_method(view, "rate"):
        return node
    if has_method(view, "groups"):
        return view.with_groups(
            {name: _edit_rates(inner, edit, join_labels(label, name)) for name, inner in view.groups().items()}
        )
    kept = view.kept() if has_method(view, "kept") else ()
    return _rebuild(node, (*nodes_on_path(view, node), *kept), lambda inner: _edit_rates(inner, edit, label))


def scale_rates(state: Any, factor: jax.typing.ArrayLike) -> Any:
    """Multiply every rate of a state without any check, as a wrapper does within an update."""
    number = jnp.asarray(factor, jnp.float32)
    return _edit_rates(state, lambda view, _: view.scale_rate(number) if has_method(view, "scale_rate") else None)


def _edit_group(
    state: Any,
    group: str,
    labels: Mapping[str, Any],
    change_rate: Callable[[Any], Any],
    change_factor: Callable[[Any, str], Any],
) -> Any:
    """Rebuild a state with one group changed: its own rate or, if it shares a rate, its factor on that rate."""

    def is_own(label: str) -> bool:
        return {name for name in labels if not label or name == label or name.startswith(f"{label}/")} == {group}

    def on_rate(view: Any, label: str) -> Any:
        return None if has_method(view, "with_scale") or not is_own(label) else found(change_rate(view))

    def on_factor(view: Any, label: str) -> Any:
        own = (
            [name for name in view.factor() if serves_alone(view, label, name)]
            if has_method(view, "with_scale")
            else []
        )
        return found(change_factor(view, own[0])) if own else None

    def serves_alone(view: Any, label: str, name: str) -> bool:
        pairs = view.pairs() if has_method(view, "pairs") else {}
        if not pairs:
            return is_own(join_labels(label, name))
        return {join_labels(label, pair_name(inner, name)) for inner, owns in pairs.items() if name in owns} == {group}

    number = 0

    def found(changed: Any) -> Any:
        nonlocal number
        number += 1
        return changed

    for edit in (on_rate, on_factor):
        changed = _edit_rates(state, edit)
        if number:
            return changed
    raise ValueError(
        f"group must have a rate of its own to be changed alone, got group={group!r}, which shares it: make the groups "
        "by optax.partition or lrx.group_rates."
    )


def scale_learning_rate(state: Any, factor: jax.typing.ArrayLike, group: Hashable | None = None) -> Any:
    """Multiply the learning rate by hand, in the middle of a run.

    The factor is kept in the state: it acts on every later step of a schedule, survives a checkpoint and needs no
    recompilation. Repeated calls multiply, and `monitor` shows the product as `scale`. `set_learning_rate` takes the
    rate itself in place of a factor. The radius of `optax.contrib.sam`'s adversary is not scaled.

    Args:
      state: an optimizer state.
      factor: >= 0, () float; may be traced. For one factor for each member of a vmapped state, put `jax.vmap` around
        this call.
      group: the group to change, a label as `learning_rates` shows it; all groups by default.

    Returns:
      The new state, of the same structure. `learning_rate` shows the change from the next update on; a number in
      `optax.inject_hyperparams` changes at once.

    Raises:
      ValueError: if `factor` is negative, not finite or not a scalar; if the state holds no rate that can be scaled, or
        two rates on one path; if the group is not there or shares its rate with others; or if a factor could have no
        effect, because the schedule has ended at 0, a factor of 0 has been set, or a controller has stopped the run.
        (Traced values are not checked.)
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1)
      >>> state = lrx.scale_learning_rate(tx.init(jnp.zeros(2)), 0.5)
      >>> print(tx.update(jnp.ones(2), state)[0])
      [-0.05 -0.05]
    """
    refuse_objects("scale_learning_rate", state)
    state = state_of("scale_learning_rate", state)
    _checks.non_negative("factor", factor, "a negative rate would ascend")
    number = jnp.asarray(factor, jnp.float32)
    _refuse_after_stop(state)

    def scale(view: Any) -> Any:
        _refuse_fixed(view, setting=False)
        return view.scale_rate(number)

    if group is None:
        with contextlib.suppress(UnknownPairsError):  # all are scaled, whichever meet
            paths_of(state)
        return _edit_rates(state, lambda view, _: None if has_method(view, "with_scale") else scale(view))
    paths = paths_of(state)

    def scale_factor(view: Any, label: str) -> Any:
        scale = array(view.scale_by_hand()[label])
        if _is_known_to_be_0(scale):
            raise ValueError(_NO_EFFECT)
        return view.with_scale(scale * number, label)

    return _edit_group(state, group_of(paths, group, "scale_learning_rate"), paths, scale, scale_factor)


_NO_EFFECT = "factor can have no effect on a rate that was multiplied by 0: give set_learning_rate(state, value)."


def _is_known_to_be_0(number: Any) -> bool:
    return _checks.is_concrete(number) and not np.any(jax.device_get(number))


def set_learning_rate(state: Any, value: jax.typing.ArrayLike, group: Hashable | None = None) -> Any:
    """Set the learning rate by hand, in the middle of a run.

    The state keeps a factor under which the latest update would have used `value`; it replaces a factor that was set
    before. A constant rate is `value` from now on, and so is the first rate before the first update; but `dog` and
    `dowg` have no estimate of the rate by then, so that `value` is its multiple gamma. A schedule continues in
    proportion: with r_t the schedule, the next update uses `value r_{t+1} / r_t`, because a state does not hold the
    schedule and so does not know its next rate. To make the next rate `value`, set `value * r_t / r_{t+1}`, with `r_t =
    schedule(n - 1)`, `r_{t+1} = schedule(n)` and `n = lrx.update_count(state)`. To change to another schedule, pass
    this state to the transformation with that schedule: constant and scheduled rates have the same state.

    Args:
      state: an optimizer state.
      value: the rate, >= 0, () float; may be traced.
      group: the group to change, a label as `learning_rates` shows it; needed if there are several.

    Returns:
      The new state, of the same structure. `learning_rate` shows the change from the next update on; a number in
      `optax.inject_hyperparams` changes at once. In methods whose rate includes an estimate, such as `dog` and
      `prodigy`, the estimate continues from `value`. If the rate is 0 and traced, nothing is changed.

    Raises:
      ValueError: if `value` is negative, not finite or not a scalar; if the state holds no rate that can be set, or two
        rates on one path; if the group is not there, is not named among several, or shares its rate with others; or if
        the rate is 0 now, as at the beginning of a warm-up: no factor makes it `value`. (Traced values are not
        checked.)
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> schedule = lrx.linear_decay(0.4, decay_steps=4)
      >>> tx = lrx.sgd(schedule)
      >>> updates, start = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> state = lrx.set_learning_rate(start, 0.04)
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.ones(2), state)
      ...     print(f"{lrx.learning_rate(state):.3f}")
      0.030
      0.020
      0.010
      >>> state = lrx.set_learning_rate(start, 0.04 * schedule(0) / schedule(1))  # so that the next rate is 0.04
      >>> updates, state = tx.update(jnp.ones(2), state)
      >>> print(f"{lrx.learning_rate(state):.3f}")
      0.040
    """
    refuse_objects("set_learning_rate", state)
    state = state_of("set_learning_rate", state)
    _checks.non_negative("value", value, "a negative rate would ascend")
    paths = paths_of(state)
    chosen = group_of(paths, group, "set_learning_rate")
    _refuse_after_stop(state)
    number = jnp.asarray(value, jnp.float32)
    beside = product_of(paths[chosen].ahead)
    _refuse_zero_beside(beside)

    scales: list[jax.Array] = []

    def set_rate(view: Any) -> Any:
        if scales and has_method(view, "set_scale"):  # kept for later, from another step of the schedule
            return view.set_scale(scales[0])
        _refuse_fixed(view, setting=True)
        changed = view.set_rate(number / jnp.where(beside == 0, 1.0, beside))
        changed = jax.tree.map(lambda new, old: jnp.where(beside == 0, old, new), changed, _state(view))
        scales.extend(set_by_hand(adapt(changed)))
        return changed

    earlier: list[jax.Array] = []  # the scale of the group, if its rate is shared

    def without_scale(view: Any, label: str) -> Any:
        earlier.append(array(view.scale_by_hand()[label]))
        return view.with_scale(jnp.ones([], jnp.float32), label)

    changed = _edit_group(state, chosen, paths, set_rate, without_scale)
    if not earlier:
        return changed
    path = paths_of(changed)[chosen]
    base = product_of(path.rate_ahead + path.ahead)
    _refuse_zero_beside(base)
    scale = jnp.where(base == 0, earlier[-1], number / jnp.where(base == 0, 1.0, base))
    return _edit_group(changed, chosen, paths, set_rate, lambda view, label: view.with_scale(scale, label))


def _refuse_zero_beside(factor: jax.Array) -> None:
    if _is_known_to_be_0(factor):
        raise ValueError(
            "value can only be set where what multiplies the rate is not 0: set it at a step at which it is not."
        )


def _state(view: Any) -> Any:
    return view.state if isinstance(view, Adapter) else view


def _refuse_after_stop(state: Any) -> None:
    over = [flag for flag in stop_flags(state) if _checks.is_concrete(flag)]
    if any(np.all(jax.device_get(flag)) for flag in over):
        raise ValueError(
            "the rate can only be changed while a run goes on, got a state that is stopped, its rate 0 for good: "
            "go on with tx.init(params), or with lrx.carry_over(state, tx.init(params)) of a transformation "
            "without the controller that has stopped it."
        )


def _refuse_fixed(view: Any, *, setting: bool) -> None:
    if not has_method(view, "set_rate" if setting else "scale_rate"):
        raise ValueError(
            "the state holds no learning rate that could be scaled: its method, as cocob, takes none and computes its "
            "own. Use a method that takes a rate."
        )
    if has_method(view, "fixed") and (reason := view.fixed(setting)):
        raise ValueError(reason)


def restart_schedule(state: Any, step: jax.typing.ArrayLike = 0) -> Any:
    """Restart the schedule of the learning rate at a step of your choice, and keep everything else.

    Use it for another period of training that keeps the moments. The next update uses `schedule(step)`. The moments,
    their bias corrections, the states of controllers, the scale set by hand and `update_count` stay as they are.
    Schedules of other hyperparameters, such as a momentum, continue.

    Args:
      state: an optimizer state with an lrx rate, or the state of an optax optimizer with a schedule. (If the only count
        is that of the schedule, as in `optax.sgd(schedule)`, it sets `update_count` too.)
      step: the schedule's step at the next update, >= 0, () integer; may be traced.

    Returns:
      The new state, of the same structure. `learning_rate` shows the change from the next update on.

    Raises:
      ValueError: if `step` is not a whole number from 0 to 2^31 - 1, or nothing in the state has a step.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.linear_decay(0.1, decay_steps=4))
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(6):
      ...     updates, state = tx.update(jnp.ones(2), state)
      >>> state = lrx.restart_schedule(state)
      >>> updates, state = tx.update(jnp.ones(2), state)
      >>> print(f"{updates[0]:.4f}", lrx.learning_rate(state), lrx.update_count(state))
      -0.1000 0.1 7
    """
    refuse_objects("restart_schedule", state)
    state = state_of("restart_schedule", state)
    _checks.steps("step", step, at_least=0, hint="it is where the schedule goes on")
    number, found = jnp.asarray(step).astype(jnp.int32), 0

    def restart(node: Any) -> Any:
        nonlocal found
        view = adapt(node)
        node = _rebuild(node, nodes_on_path(view, node) if isinstance(view, Adapter) else nodes_below(node), restart)
        view = adapt(node)
        if not has_method(view, "restart"):
            return node
        found += 1
        return view.restart(number)

    restarted = restart(state)
    if not found:
        raise ValueError(
            "the state holds no step of a schedule: give the optimizer an lrx rate, lrx.adam(schedule), or a schedule "
            "of optax's."
        )
    return restarted
