"""Read the learning rate, the number of updates and everything else that a state shows.

All functions are pure, so they work on traced states, under `jax.vmap`, and on states restored from a checkpoint. They
find rates in a chain, inside an optimizer, and inside optax's and flax's wrappers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._foreign import adapt
from lrx._walk import join_labels, nodes_within, refuse_abstract, state_of
from lrx.rate_paths import NoRateError, counts_on_path, holds_only_arrays, is_restored, no_rate, paths_of, product_of
from lrx.states import Observation, array, has_method, method_name


def learning_rates(state: Any) -> dict[str, jax.Array]:
    """Read the learning rate of every parameter group.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      Group label to rate, () float32, including the factors outside of the groups. Groups nested in groups are
      named `outer/inner`, groups without a rate (frozen ones) are left out, and a state without groups has the one
      label `""`. See `learning_rate` for the factors that are included.

    Raises:
      NoRateError: a ValueError, if the state holds no rate, or holds two sets of groups (`group_rates` around an
        `optax.partition` by other labels) and does not record which of them share parameters.
      ValueError: if there are two rates on one path.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, optax, jax.numpy as jnp
      >>> tx = optax.partition({"body": lrx.sgd(0.1), "head": lrx.sgd(1.0)}, {"w": "body", "b": "head"})
      >>> state = tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)})
      >>> {label: float(rate) for label, rate in lrx.learning_rates(state).items()}
      {'body': 0.10000000149011612, 'head': 1.0}
    """
    return _rates("learning_rates", state)


def learning_rate(state: Any, group: Hashable | None = None) -> jax.Array:
    """Read the learning rate that the latest update used.

    The rate is the product of the rates and factors on the path of a gradient. Before the first update it is
    schedule(0); after a call that only accumulated or was skipped, the last applied rate; 0 once a controller has
    stopped the run. It is read through `optax.chain`, `partition`, `masked`, `MultiSteps`, `apply_if_finite`,
    `inject_hyperparams`, `contrib.sam` (whose adversary is not on the path) and flax's optimizers.

    Factors of optax's own links are included if their state holds the number: a number or schedule of
    `inject_hyperparams`, the scale of `contrib.reduce_on_plateau` and of `contrib.mechanize`, the step of a line
    search, and the estimate of `contrib.prodigy` and `contrib.dadapt_adamw` under `inject_hyperparams` (the estimate
    for the next update, without the bias correction). Factors that are not in a state cannot be read and are left out:
    `optax.scale`, `optax.scale_by_schedule`, and the rate of a whole optimizer such as `optax.adam(0.1)`. An optimizer
    with its own rate before an lrx rate makes the chain ascend, because both apply the sign. The states of
    `inject_hyperparams` and of most of `optax.contrib` show that, and raise an error here; the state of `optax.adam`
    does not, so `lrx.train` tests the direction of an update. A direction that is added outside of the rate, such as a
    weight decay, is not detected either.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).
      group: the group whose rate to read, if the state has several: its label, or the label as a string.

    Returns:
      () float32.

    Raises:
      NoRateError: a ValueError, if the state holds no rate, such as the state of `optax.adamw(schedule)`.
      ValueError: if there are two rates on one path, or several groups and `group` is not given.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.linear_decay(0.1, decay_steps=8))
      >>> state = tx.init(jnp.zeros(3))
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.ones(3), state)
      >>> print(lrx.learning_rate(state))
      0.075
    """
    rates = _rates("learning_rate", state)
    return rates[group_of(rates, group, "learning_rate")]


def _rates(function: str, state: Any) -> dict[str, jax.Array]:
    return {label: path.rate() for label, path in paths_of(state_of(function, state)).items()}


def group_of(rates: Mapping[str, Any], group: Hashable | None, function: str) -> str:
    """Return the label of the group asked for, or of the only group."""
    if group is not None:
        if str(group) not in rates:
            raise ValueError(
                f"group must be one of {sorted(rates)}, got group={group!r}: take all with learning_rates(state)."
                if rates.keys() != {""}
                else f"group must be left out, got group={group!r}: the state has no groups, but one rate for all."
            )
        return str(group)
    if len(rates) > 1:
        value = "" if function == "learning_rate" else "value, "
        raise ValueError(
            f"group must be one of {sorted(rates)} for this state, got group=None: give {function}(state, {value}"
            f"group={next(iter(rates))!r}), or take all with learning_rates(state)."
        )
    return next(iter(rates))


class _Entry(NamedTuple):
    """One thing that a state shows."""

    owner: str  # the method that shows it, behind the groups that it is in; "" without a method's name
    node: Any  # the state; it distinguishes two owners of one name
    field: str
    value: Any  # an array, or the `Observation` of a controller that takes observations


def _entries(node: Any, group: str = "", owner: Any = None) -> Iterator[_Entry]:
    """Return what the states show, under the label of their group and the name of their owner."""
    view = adapt(node)
    named = has_method(view, "belongs_to")
    owner = view.belongs_to() if named else node if owner is None else owner
    shown = view.shown() if has_method(view, "shown") else {}
    if not isinstance(shown, Mapping):
        raise TypeError(f"{type(view).__name__}.shown() must return a dict of name to scalar, got {shown!r}.")
    for name, value in shown.items():
        method, _, field = name.rpartition("/")
        yield _Entry(join_labels(group, method) if method else group, owner, field, array(value))
    if has_method(view, "groups"):
        for label, inner in view.groups().items():
            yield from _entries(inner, join_labels(group, label))
        return
    for child in nodes_within(view, node):
        if isinstance(child, Observation):
            yield _Entry(join_labels(group, method_name(owner)), owner, "observations", child)
        else:
            yield from _entries(child, group, owner if named and type(child) is type(owner) else None)


def named_entries(state: Any) -> Iterator[tuple[str, _Entry]]:
    """Return every entry with the name of its owner; names that repeat get a number."""
    nodes: dict[str, list[int]] = {}
    for entry in _entries(state):
        same = nodes.setdefault(entry.owner, [])
        if id(entry.node) not in same:
            same.append(id(entry.node))
        number = same.index(id(entry.node)) + 1
        yield (entry.owner if number == 1 or not entry.owner else f"{entry.owner}_{number}"), entry


def monitor(state: Any, *, scalars: bool = False) -> dict[str, Any]:
    """Collect every rate, factor, estimate and momentum of a state in a flat dict, for a logger.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).
      scalars: whether to return Python numbers, for loggers and `json.dumps`, in place of arrays. They are fetched from
        the device together; this does not work within a compiled function.

    Returns:
      Name to scalar. The rate is `learning_rate`, or `learning_rate/<group>` if there are groups. The factor set by
      `scale_learning_rate` or `set_learning_rate` is `scale`, or `scale/<group>`. The scalars of a controller or
      optimizer, except counts, are `<method>/<field>`, within a group `<group>/<method>/<field>`; the second of two
      methods with one name is `<method>_2/<field>`. The factor of an unsigned link is `factor`. A controller that takes
      its loss from `observe` shows the number of observations as `<method>/observations`. A measurement of
      `optax.snapshot` keeps its own name, so `optax.chain(optax.snapshot("gradient_norm", optax.tree.norm),
      lrx.sgd(0.1))` records norms. A state of your own adds what its method `shown()` returns.

    Raises:
      ValueError: if two rates lie on one path, or with `scalars` if the state is that of several vmapped members.
      TypeError: if `state` is a transformation or None, or if the state is traced and `scalars` is True.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(patience=5))
      >>> state = tx.init(jnp.zeros(3))
      >>> updates, state = tx.update(jnp.ones(3), state, value=2.0)
      >>> report = lrx.monitor(state)
      >>> print(report["learning_rate"], report["reduce_on_plateau/best_value"])
      0.1 2.0
      >>> lrx.monitor(lrx.sgd(0.25, momentum=0.5).init(jnp.zeros(3)), scalars=True)
      {'learning_rate': 0.25, 'scale': 1.0, 'momentum/momentum': 0.5}
    """
    state = state_of("monitor", state)
    report: dict[str, Any] = {}
    try:
        paths = paths_of(state)
    except NoRateError:
        paths = {}
    for label, path in paths.items():
        report[f"learning_rate/{label}" if label else "learning_rate"] = path.rate()
    for label, path in paths.items():
        if path.by_hand:
            report[f"scale/{label}" if label else "scale"] = product_of(path.by_hand)
    for name, entry in named_entries(state):
        value = array(entry.value.total) if isinstance(entry.value, Observation) else entry.value
        key = unique = f"{name}/{entry.field}" if name else entry.field
        copy = 2
        while unique in report:
            unique, copy = f"{key}_{copy}", copy + 1
        report[unique] = value
    return _as_scalars(report) if scalars else {name: _copy(value) for name, value in report.items()}


def _copy(value: Any) -> Any:
    """Return a copy, which outlives a state that is donated to the next step."""
    return jnp.array(value) if isinstance(value, jax.Array) and _checks.is_concrete(value) else value


def _as_scalars(report: Mapping[str, Any]) -> dict[str, Any]:
    if not all(map(_checks.is_concrete, report.values())):
        raise TypeError(
            "scalars must be False within a compiled function, got scalars=True: the numbers are not known yet. Return "
            "monitor(state), and take scalars outside."
        )
    values = jax.device_get(list(report.values()))
    known = {name: np.asarray(value) for name, value in zip(report, values, strict=True)}
    for name, value in known.items():
        if value.ndim:
            raise ValueError(
                f"scalars must be False for the state of several members, got {name} of shape {value.shape}: take one, "
                "monitor(jax.tree.map(lambda leaf: leaf[0], state), scalars=True)."
            )
    return {name: value.item() if value.dtype.kind in "biuf" else float(value) for name, value in known.items()}


def update_count(state: Any) -> jax.Array:
    """Return the number of updates that have been applied.

    Calls that only gather a gradient (`accumulate`, `optax.MultiSteps`) or that are skipped (`optax.apply_if_finite`)
    are not counted. Schedules and bias corrections are functions of this count. If `rollback_on_divergence` takes the
    run back, the count goes back too.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`). The state
        of an optax optimizer that counts its steps works too.

    Returns:
      () int32; it saturates at 2^31 - 1.

    Raises:
      ValueError: if nothing in the state counts updates, or groups of parameters have had different numbers of them.
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.accumulate(lrx.adam(1e-3), every=2)
      >>> state = tx.init(jnp.zeros(3))
      >>> for _ in range(5):
      ...     updates, state = tx.update(jnp.ones(3), state)
      >>> print(lrx.update_count(state))
      2
    """
    found = counts_on_path(state_of("update_count", state))
    # A link outside of a wrapper counts calls, so the counts of rates come first, and those of other states last.
    counts = next((counts for counts in found if counts), [])
    if not counts:
        raise ValueError(
            no_rate(state_of("update_count", state))
            if is_restored(state) or holds_only_arrays(state)
            else "the state counts no updates: build the optimizer with lrx (lrx.sgd(0.1)), or count them yourself."
        )
    counts = [refuse_abstract(count) for count in counts]
    known = jax.device_get(counts) if all(map(_checks.is_concrete, counts)) else []
    if any(np.any(count != known[0]) for count in known):
        numbers = sorted({int(number) for count in known for number in np.ravel(count)})
        raise ValueError(
            f"the state must hold one number of updates, got {numbers}: its groups have been updated at different "
            "times. Give the state of one group."
        )
    return _copy(counts[0])
