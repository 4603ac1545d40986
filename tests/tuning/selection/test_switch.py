"""A method in a switch takes the steps that it takes alone, whether it sees arrays or one vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.extra_args import tolerant_update
from lrx.tuning import PORTFOLIO
from lrx.tuning.selection.grouping import group, merge
from lrx.tuning.selection.switch import LARGE, MOST_LARGE, Branch, _ravel, _unravel, switch

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.full(3, 0.5)}
STEPS = 5


def loss_of(params: Any) -> jax.Array:
    return 0.5 * sum(jnp.sum((leaf - 0.2) ** 2) for leaf in jax.tree.leaves(params))


def loss_along(tx: optax.GradientTransformation, params: Any, state: Any, _: Any) -> Any:
    loss, grads = jax.value_and_grad(loss_of)(params)
    extra = {"value": loss, "grad": grads, "value_fn": loss_of}
    updates, state = tolerant_update(tx)(grads, state, params, **extra)
    return lrx.apply_updates(params, updates, state), state


def trained(tx: optax.GradientTransformation) -> tuple[Any, Any]:
    params, state = PARAMS, tx.init(PARAMS)
    return jax.lax.fori_loop(0, STEPS, lambda _, carry: loss_along(tx, *carry, None), (params, state))


def require_equal_steps(branches: Sequence[Branch], alone: Sequence[Callable[[], Any]]) -> None:
    together = jax.jit(lambda place: trained(switch(branches, place)))
    each_alone = jax.jit(lambda: [trained(make()) for make in alone])()
    for place, (branch, (expected, expected_state)) in enumerate(zip(branches, each_alone, strict=True)):
        params, state = together(jnp.int32(place))
        at, expected_at = state.evaluation_point(place, params), lrx.eval_params(expected_state, expected)
        for found, right in ((params, expected), (at, expected_at)):
            for leaf in found:
                np.testing.assert_allclose(found[leaf], right[leaf], rtol=1e-5, err_msg=branch.name)
        assert (at is params) == (expected_at is expected)


FEW: dict[str, Callable[[], optax.GradientTransformation]] = {
    "momentum": lambda: lrx.sgd(0.1, momentum=0.9),
    "average": lambda: lrx.schedule_free_sgd(0.5),
    "global norm": lambda: optax.chain(optax.clip_by_global_norm(0.5), lrx.adam(0.1)),
}


@pytest.mark.parametrize(("flat", "large"), [(False, LARGE), (True, LARGE), (True, 6), (True, 1)])
def test_a_method_takes_the_steps_that_it_takes_alone(flat: bool, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrx.tuning.selection.switch.LARGE", large)
    require_equal_steps([Branch(make(), name, flat) for name, make in FEW.items()], list(FEW.values()))


@pytest.mark.slow
def test_all_methods_of_the_portfolio_take_the_steps_that_they_take_alone() -> None:
    makes = [functools.partial(method.make, 0.01, 20) for method in PORTFOLIO.values()]
    flat = [method.flat for method in PORTFOLIO.values()]
    branches = [Branch(make(), *rest) for make, *rest in zip(makes, PORTFOLIO, flat, strict=True)]
    require_equal_steps(branches, makes)


def test_methods_that_see_arrays_and_such_that_see_vectors_share_a_pool() -> None:
    flat = [False, True, False]
    branches = [Branch(make(), name, one) for (name, make), one in zip(FEW.items(), flat, strict=True)]
    require_equal_steps(branches, list(FEW.values()))
    shapes = jax.eval_shape(lambda: switch(branches, jnp.int32(0)).init(PARAMS))
    slots = sorted(leaf.shape for leaf in shapes.pool if leaf.ndim)
    # Momentum alone and Adam's two moments take the same slots of the arrays' shapes; z is a vector.
    assert slots == sorted([(2, 3), (2, 3), (3,), (3,), (9,)])


def test_updates_leave_the_switch_as_vectors() -> None:
    branches = [Branch(make(), name, flat=True) for name, make in FEW.items()]
    state = jax.eval_shape(switch(branches, jnp.int32(0)).init, PARAMS)
    update = jax.make_jaxpr(lambda place, state: switch(branches, place).update(PARAMS, state, PARAMS)[0])
    (chosen,) = [step for step in update(jnp.int32(0), state).eqns if step.primitive.name == "cond"]
    assert {value.aval.shape for value in chosen.outvars} == {(9,), ()}, "divided into arrays in each branch"


def test_the_largest_leaves_stay_as_they_are_and_the_others_become_vectors() -> None:
    half = jnp.bfloat16
    tree = {
        "kernel": jnp.ones((64, LARGE // 64)),
        "bias": jnp.arange(3.0),
        "half": jnp.ones((2, LARGE), half),
        "matrix": jnp.arange(6.0).reshape(2, 3),
        "scale": jnp.ones([], half),
    }
    parts = _ravel(tree)
    assert [(part.shape, part.dtype) for part in parts] == [
        ((2, LARGE), half), ((64, LARGE // 64), jnp.float32), ((9,), jnp.float32), ((1,), half)
    ]  # fmt: skip
    assert parts[1] is tree["kernel"]
    jax.tree.map(np.testing.assert_array_equal, _unravel(parts, tree), tree)
    many = {str(place): jnp.ones(LARGE + place) for place in range(MOST_LARGE + 2)}
    assert [part.size - LARGE for part in _ravel(many)] == [2, 3, 4, 5, LARGE + 1]


def test_parameters_that_are_kept_in_the_state_are_those_after_the_update() -> None:
    few = {"kept": lambda: lrx.master_weights(lrx.sgd(0.1)), "plain": lambda: lrx.sgd(0.1)}
    require_equal_steps([Branch(make(), name) for name, make in few.items()], list(few.values()))


def test_a_controller_that_stops_a_run_stops_it_here() -> None:
    stopping = lrx.sgd(0.1 * lrx.early_stopping(patience=0))
    tx = switch([Branch(lrx.sgd(0.1), "goes on"), Branch(stopping, "stops")], jnp.int32(1))
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = tx.update(PARAMS, state, PARAMS, value=jnp.float32(1.0))
    assert lrx.stopped(state)
    tx = switch([Branch(lrx.sgd(0.1), "goes on"), Branch(stopping, "stops")], jnp.int32(0))
    assert not lrx.stopped(tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))[1])


def test_a_state_whose_types_change_is_refused_by_name() -> None:
    tx = optax.GradientTransformation(lambda p: jnp.int32(0), lambda u, s, p=None: (u, jnp.float32(s)))
    both = switch([Branch(tx, "counts in floats"), Branch(lrx.sgd(0.1), "plain")], jnp.int32(0))
    with pytest.raises(
        TypeError, match=r"portfolio\['counts in floats'\].make must give a transformation whose update k"
    ):
        both.update(PARAMS, both.init(PARAMS), PARAMS)
    tx = optax.GradientTransformation(lambda p: jnp.int32(0), lambda u, s, p=None: (u, (s, s)))
    alone = switch([Branch(tx, "grows")], jnp.int32(0))
    with pytest.raises(TypeError, match="keeps the structure of its state"):
        alone.update(PARAMS, alone.init(PARAMS), PARAMS)


def test_methods_that_differ_in_their_schedules_share_an_update() -> None:
    tx = [
        lrx.sgd(lrx.linear_decay(0.1, 10), momentum=0.9),
        lrx.sgd(0.1),
        lrx.sgd(lrx.one_cycle(0.3, 10), momentum=0.9),
        lrx.sgd(jnp.float32(0.2), momentum=0.9),
        lrx.sgd(0.1 * lrx.relative_adaptation(), momentum=0.9),
        optax.sgd(0.1),
    ]
    flat = [True] * len(tx)
    assert group(tx, flat) == (0, 1, 0, 0, 2, 3)
    assert group(tx[:3], [True, True, False]) == (0, 1, 2), "vectors and arrays are not the same"
    of_portfolio = group([method.make(0.01, 20) for method in PORTFOLIO.values()], [True] * len(PORTFOLIO))
    assert len(set(of_portfolio)) == len(PORTFOLIO) - 5, "three schedules of SGD, four of AdamW"
    members = [tx[0], tx[2], tx[3]]
    together = jax.jit(lambda place: trained(merge(members, place)))
    for place, member in enumerate(members):
        found, _ = together(jnp.int32(place))
        expected, _ = jax.jit(functools.partial(trained, member))()
        for leaf in found:
            np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-6)
