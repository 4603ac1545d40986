"""Law 3: composable with optax, Flax and Equinox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from branches import taking_branches
from cases import CASES, all_states
from flax import nnx
from flax.training.train_state import TrainState
from laws.programs import BARE, NAN, bare_run, eager_run, observed
from problems import (
    assert_trees_close,
    assert_trees_equal,
    gradient_stream,
    signature_of,
    value_stream,
    vector_params,
)
from units import Case, itself


@all_states
def test_unknown_extra_args_are_ignored_and_value_is_keyword_only(case):
    params = vector_params()
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    state = observed(tx.init(params), 1.0)
    updates, _ = tx.update(gradients, state, params, value=1.0, unheard_of=object())
    assert_trees_equal(updates, bare_run(case)[0][0])
    with pytest.raises(TypeError):
        tx.update(gradients, tx.init(params), params, 1.0)


@all_states
def test_what_is_missing_is_named_and_what_is_not_needed_is_not_asked_for(case):
    params = vector_params()
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    if case.needs_value:
        with pytest.raises(ValueError, match=r"needs the loss: pass it as tx.update\(.*value=loss"):
            tx.update(gradients, tx.init(params), params)
        with pytest.raises(ValueError, match="value must be a scalar"):
            tx.update(gradients, tx.init(params), params, value=jnp.ones(3))
    value = {"value": 1.0} if case.needs_value else {}
    if case.needs_params:
        with pytest.raises(ValueError, match=r"needs the parameters, .*: pass tx.update\(grads, state, params\)"):
            tx.update(gradients, tx.init(params), **value)
    else:
        tx.update(gradients, tx.init(params), **value)


def _labels(case: Case) -> Callable[[Any], Any]:
    # Where coordinates are coupled, those of another group do not count.
    return lambda params: dict.fromkeys(params, "first") | {"b": "first" if case.coupled else "second"}


def _injected(case: Case) -> Any:
    # Unless told not to, optax evaluates a function that is an argument, and passes on its value of the step.
    static = tuple(name for name, value in case.arguments.items() if callable(value))
    return case.complete(optax.inject_hyperparams(case.make, static_args=static)(**case.arguments))


def _nested(case: Case) -> Any:
    chain = optax.chain(optax.identity(), optax.chain(case()))
    return optax.named_chain(("only", optax.masked(chain, {"a": True, "b": True})))


WRAPPERS: dict[str, Callable[[Case], Any]] = {
    "partition": lambda case: optax.partition({"first": case(), "second": case()}, _labels(case)),
    "inject_hyperparams": _injected,
    "chain in masked in named_chain": _nested,
}


@all_states
def test_wrappers_of_optax_give_the_same_updates(case):
    params = vector_params()
    stream, values = gradient_stream(params, BARE), value_stream(BARE)
    rows, _ = bare_run(case)
    for name, wrap in WRAPPERS.items():
        tx = wrap(case)
        wrapped, state = eager_run(tx, params, stream, values, moving=True)
        for row, expected in zip(wrapped, rows, strict=True):
            np.testing.assert_equal(jax.tree.structure(row), jax.tree.structure(expected), err_msg=name)
            assert_trees_close(row, expected)
        assert signature_of(state) == signature_of(tx.init(params)), name


def skip_and_repeat(case: Case, compiled: Callable[[Any], Any]) -> None:
    """Check that `apply_if_finite` gives the same updates and skips a gradient that is not finite."""
    params = vector_params()
    stream, values = gradient_stream(params, BARE), value_stream(BARE)
    tx = optax.with_extra_args_support(optax.apply_if_finite(case(), max_consecutive_errors=3))
    update = compiled(tx.update)
    wrapped, state = eager_run(
        optax.GradientTransformationExtraArgs(tx.init, update), params, stream, values, moving=True
    )
    assert_trees_close(wrapped, bare_run(case)[0])
    assert signature_of(state) == signature_of(tx.init(params))
    skipped, kept = update(jax.tree.map(lambda leaf: leaf * NAN, stream[0]), state, params, value=1.0)
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(skipped))
    assert_trees_equal(kept.inner_state, state.inner_state)


def accumulate_and_repeat(case: Case, compiled: Callable[[Any], Any]) -> None:
    """Check that `MultiSteps` applies the mean of the gradients."""
    params = vector_params()
    stream, values = gradient_stream(params, 2), value_stream(2)
    multi = optax.MultiSteps(case(), every_k_schedule=2)
    state = multi.init(params)
    update = compiled(lambda gradients, state, params, value: multi.update(gradients, state, params, value=value))
    for gradients, value, row in zip(stream, values, bare_run(case)[0][:2], strict=True):
        state = observed(state, value)
        updates, state = update(jax.tree.map(lambda leaf: leaf + 0.5, gradients), state, params, value)
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
        updates, state = update(jax.tree.map(lambda leaf: leaf - 0.5, gradients), state, params, value)
        assert_trees_close(updates, row, rtol=1e-4, atol=1e-6)
        params = optax.apply_updates(params, updates)


BRANCHING = {"apply_if_finite": skip_and_repeat, "MultiSteps": accumulate_and_repeat}


@all_states
def test_wrappers_with_branches_give_the_same_updates(case):
    bare_run(case)
    with taking_branches():
        for check in BRANCHING.values():
            check(case, itself)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["adamw", "reduce_on_plateau"])
@pytest.mark.parametrize("wrapper", BRANCHING)
def test_compiled_wrappers_with_branches_give_the_same_updates(wrapper, label):
    BRANCHING[wrapper](CASES[label], jax.jit)


@pytest.mark.slow
@all_states
def test_the_branches_of_wrappers_agree_in_the_types_of_the_state(case):
    # Where they do not, JAX refuses to trace them; what they compute is above.
    params = vector_params()
    for tx in (optax.apply_if_finite(case(), 3), optax.MultiSteps(case(), 2).gradient_transformation()):
        state = tx.init(params)
        _, after = jax.eval_shape(lambda state, tx=tx: tx.update(params, state, params, value=1.0), state)
        assert signature_of(after) == signature_of(state)


@all_states
def test_masked_leaves_pass_untouched(case):
    params = vector_params()
    stream, values = gradient_stream(params, 2), value_stream(2)
    masked, _ = eager_run(optax.masked(case(), {"a": True, "b": False}), params, stream, values)
    alone, _ = eager_run(case(), {"a": params["a"]}, [{"a": gradients["a"]} for gradients in stream], values)
    for row, expected, gradients in zip(masked, alone, stream, strict=True):
        assert_trees_close(row, {"a": expected["a"], "b": gradients["b"]})


class _Model(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Param(vector_params()["a"])
        self.b = nnx.Param(vector_params()["b"])


@all_states
def test_nnx_optimizer_gives_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, BARE), value_stream(BARE)
    model = _Model()
    optimizer = nnx.Optimizer(model, case(), wrt=nnx.Param)
    for gradients, value in zip(stream, values, strict=True):
        state = nnx.state(model, nnx.Param)
        leaves = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(gradients))
        optimizer.opt_state = observed(optimizer.opt_state, value)
        optimizer.update(model, leaves, value=value)
    assert_trees_close({"a": model.a[...], "b": model.b[...]}, bare_run(case)[1][-1])


@all_states
def test_train_state_gives_the_same_parameters_by_observed_feedback(case):
    params = vector_params()
    stream, values = gradient_stream(params, BARE), value_stream(BARE)
    if case.searches:
        return  # a loss function cannot be observed
    feedback = {"feedback": "observed"} if case.needs_value else {}
    train_state = TrainState.create(apply_fn=itself, params=params, tx=case(**feedback))
    for gradients, value in zip(stream, values, strict=True):
        train_state = train_state.replace(opt_state=observed(train_state.opt_state, value))
        train_state = train_state.apply_gradients(grads=gradients)
    assert_trees_close(train_state.params, bare_run(case)[1][-1])


class _Module(eqx.Module):
    a: jax.Array
    b: jax.Array
    table: jax.Array
    name: str = eqx.field(static=True)
    activation: Callable[..., Any] = jax.nn.relu


@all_states
def test_equinox_models_give_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, 2), value_stream(2)
    model = _Module(**params, table=jnp.arange(3), name="model")
    tx = case()
    # Made with the integer table, for which there is no gradient: where a leaf has none, the state keeps its place.
    state = tx.init(eqx.filter(model, eqx.is_array))
    for gradients, value in zip(stream, values, strict=True):
        grads = _Module(**gradients, table=None, name="model", activation=None)
        state = observed(state, value)
        updates, after = tx.update(grads, state, eqx.filter(model, eqx.is_array), value=value)
        assert signature_of(state) == signature_of(after)
        state, model = after, eqx.apply_updates(model, updates)
    assert_trees_close({"a": model.a, "b": model.b}, bare_run(case)[1][1])
    assert_trees_equal(model.table, jnp.arange(3))
