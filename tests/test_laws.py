"""The laws of DESIGN.md, 1 to 7, over every public transformation.

The cases are in cases.py, bad values in test_refusals.py, the meshes of law 8 in laws/test_meshes.py. Law 9 is read by
people, law 10 is in the tests of each method.
"""

from __future__ import annotations

import functools
import inspect
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CASES,
    CONTROLLED_COMPOSITIONS,
    CONTROLLERS,
    NOT_TRANSFORMATIONS,
    OPTIMIZERS,
    PACKAGES,
    Case,
    all_cases,
    all_optimizers,
    all_schedules,
    all_sweeps,
    itself,
    public_factories,
    traceable_parameters,
)
from flax import nnx
from flax.training.train_state import TrainState
from problems import (
    STREAM,
    assert_trees_close,
    assert_trees_equal,
    gradient_stream,
    mixed_params,
    reference,
    signature_of,
    value_stream,
    vector_params,
)

import lrx
import lrx.controllers
import lrx.optimizers
import lrx.schedules

INT32_MAX = 2**31 - 1
NAN, INF = float("nan"), float("inf")


# ----------------------------------------------------------------------------------------------- found by inspection


def test_every_public_name_is_a_factory_with_a_case_or_is_excluded_with_a_reason():
    public = {name for package in PACKAGES for name in package.__all__}
    factories = public_factories()
    assert public == set(factories) | set(NOT_TRANSFORMATIONS)
    assert all(reason for reason in NOT_TRANSFORMATIONS.values())
    cased = {case.make for case in CASES.values()}
    missing = sorted(name for name, factory in factories.items() if factory not in cased)
    assert not missing, f"no case is written down for {missing}"


def test_packages_export_all_they_define_and_lrx_re_exports_it():
    for package in PACKAGES:
        functions = {
            name for name, member in vars(package).items() if inspect.isfunction(member) and not name.startswith("_")
        }
        assert functions == set(package.__all__)
        for name in package.__all__:
            assert getattr(lrx, name) is getattr(package, name)
            assert name in lrx.__all__


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_hyperparameter_of_a_factory_is_swept_by_a_case(name):
    factory = public_factories()[name]
    swept = {parameter for case in CASES.values() if case.make is factory for parameter in case.sweep}
    assert traceable_parameters(factory) <= swept


@all_cases
def test_cases_make_transformations(case):
    tx = case()
    assert isinstance(tx, optax.GradientTransformation)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


# ------------------------------------------------------------------------------------- one program for each case


class Program:
    """The compiled update of a case on the mixed tree, shared by the tests of one process."""

    def __init__(self, case: Case):
        self.tx = case()
        self.traces = 0

        def update(gradients: Any, state: Any, params: Any, value: Any) -> Any:
            self.traces += 1
            return self.tx.update(gradients, state, params, value=value)

        self.update = jax.jit(update)

    def run(self, params: Any, state: Any, stream: list[Any], values: list[float]) -> list[tuple[Any, Any, Any]]:
        """Give (updates, state, params) after each step; a case with observed feedback sees no value here."""
        rows = []
        for gradients, value in zip(stream, values, strict=True):
            updates, state = self.update(gradients, state, params, jnp.asarray(value, jnp.float32))
            params = optax.apply_updates(params, updates)
            rows.append((updates, state, params))
        return rows


@functools.cache
def program(case: Case) -> Program:
    return Program(case)


def eager_run(tx: Any, params: Any, stream: list[Any], values: list[float], *, moving: bool = False) -> tuple[Any, Any]:
    """Give all updates and the last state, without compiling anything; observed feedback is given as well."""
    tx = optax.with_extra_args_support(tx)
    state, rows = tx.init(params), []
    for gradients, value in zip(stream, values, strict=True):
        state = observed(state, value)
        updates, state = tx.update(gradients, state, params, value=value)
        rows.append(updates)
        params = optax.apply_updates(params, updates) if moving else params
    return rows, state


def observed(state: Any, value: Any) -> Any:
    """Give a state an observation where it holds a controller."""
    try:
        return lrx.observe(state, value=value)
    except ValueError as error:
        if "no controller" not in str(error):
            raise
        return state


def is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def has_nan(tree: Any) -> bool:
    return any(bool(jnp.any(jnp.isnan(leaf))) for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------- what building does


BUILT_FRESH = """
import sys

sys.path.insert(0, "tests")
import cases
import jax

transformations = [case() for case in cases.CASES.values()]
jax.config.update("jax_num_cpu_devices", 8)
print(len(transformations), jax.device_count())
"""


@pytest.mark.slow
def test_building_transformations_leaves_the_devices_to_be_chosen():
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, "-W", "error", "-c", BUILT_FRESH]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert result.stdout.split() == [str(len(CASES)), "8"], result.stderr


@all_cases
def test_what_is_built_within_a_program_keeps_nothing_of_it(case):
    built = []
    with jax.checking_leaks():
        jax.make_jaxpr(lambda: built.append(case()))()
    assert built


def test_factors_that_are_computed_within_a_program_are_good_after_it():
    params = {"a": jnp.ones(2), "bb": jnp.ones(2)}
    tx = lrx.group_rates(lrx.sgd(1.0), lambda path, leaf: path, lambda label: jnp.exp2(-jnp.float32(len(label))))
    updates, _ = tx.update(params, jax.jit(tx.init)(params))
    assert_trees_close(updates, {"a": -0.5 * params["a"], "bb": -0.25 * params["bb"]})


# ------------------------------------------------------------------------------------- law 1: pure and compiled once


@all_cases
def test_law_1_update_compiles_once_and_repeats_itself(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = p.tx.init(params)
    before = jax.tree.map(np.array, (params, state, stream))
    first = p.run(params, state, stream, values)
    second = p.run(params, p.tx.init(params), stream, values)
    assert_trees_equal(first, second)
    assert_trees_equal((params, state, stream), before)
    assert p.traces == 1


@all_cases
def test_law_1_state_is_a_stable_carry(case):
    tx = case()
    for params in (mixed_params(), vector_params(), jnp.asarray(1.0)):
        gradients = gradient_stream(params, 1)[0]
        state = tx.init(params)

        def body(state, gradients=gradients, params=params):
            return tx.update(gradients, state, params, value=0.5)[1]

        assert signature_of(state) == signature_of(jax.eval_shape(tx.init, params))
        assert signature_of(state) == signature_of(jax.eval_shape(body, state))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.tree.map(jax.typeof, state)))
        jax.eval_shape(lambda state: jax.lax.fori_loop(0, 2, lambda _, carry: body(carry), state), state)


@all_cases
def test_law_1_a_scan_equals_the_steps_one_by_one(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()

    def body(carry, feedback):
        gradients, value = feedback
        updates, state = p.tx.update(gradients, carry, params, value=value)
        return state, updates

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stream)
    state, updates = jax.jit(lambda *xs: jax.lax.scan(body, *xs))(p.tx.init(params), (stacked, jnp.asarray(values)))
    rows, state_by_step = [], p.tx.init(params)
    for gradients, value in zip(stream, values, strict=True):
        update, state_by_step = p.update(gradients, state_by_step, params, jnp.float32(value))
        rows.append(update)
    assert_trees_close(updates, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))
    assert_trees_close(state, state_by_step)


# ------------------------------------------------------------------------------------------------- law 2: sweepable


def sweep_values(case: Case, name: str) -> jax.Array:
    values = case.sweep[name]
    return jnp.asarray(values, jnp.int32 if all(isinstance(value, int) for value in values) else jnp.float32)


def factors_shown(state: Any) -> list[jax.Array]:
    """Every rate and factor that the state shows."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_shows) if _shows(node)]
    return [node.learning_rate if isinstance(node, lrx.states.RateState) else node.latest for node in found]


def _shows(node: Any) -> bool:
    return isinstance(node, lrx.states.RateState | lrx.states.FactorState)


@all_sweeps
def test_law_2_hyperparameters_are_swept_by_vmap_and_changed_without_recompiling(case, name):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)
    traces = 0

    def run(hyperparameter):
        nonlocal traces
        traces += 1
        rows, state = eager_run(case(**{name: hyperparameter}), params, stream, values)
        return rows, factors_shown(state)

    swept = sweep_values(case, name)
    by_argument = jax.jit(run)
    results = [by_argument(value) for value in swept]
    assert traces == 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    assert_trees_close(jax.vmap(run)(swept), stacked)
    concrete = [run(value) for value in case.sweep[name]]
    # A power of a traced base is right to 5e-6 only, and Adam divides what is left after cancellation in its moments.
    assert_trees_close(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *concrete), rtol=2e-5, atol=1e-6)
    for shown in results:
        assert all(bool(factor >= 0) and bool(jnp.isfinite(factor)) for factor in shown[1])


@all_sweeps
def test_law_2_a_sweep_changes_what_comes_out(case, name):
    # A hyperparameter that does nothing would pass every sweep: two of its values must differ in some update,
    # or in where to evaluate.
    params = vector_params()
    stream, values = gradient_stream(params, len(case.values)), list(case.values)
    if case.coupled:  # estimates of a distance grow while gradients point one way
        stream = [jax.tree.map(lambda leaf: leaf + 1, gradients) for gradients in stream]

    def updates(value):
        tx = case(**{name: value})
        if len(values) > 8:
            tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))
        rows, state = eager_run(tx, params, stream, values, moving=True)
        return jax.tree.leaves((rows, lrx.eval_params(state, params)))

    first, *rest = (updates(value) for value in case.sweep[name])
    assert any(not np.array_equal(a, b) for other in rest for a, b in zip(first, other, strict=True))


@all_schedules
def test_law_2_rates_are_finite_and_not_negative_for_any_traced_duration(case):
    durations = {
        name: jnp.asarray([0, 1, 2, 2**30, INT32_MAX], jnp.int32)
        for name in case.sweep
        if all(isinstance(value, int) for value in case.sweep[name])
    }
    counts = jnp.asarray([0, 1, 2, 3, 1000, 2**30, INT32_MAX], jnp.int32)
    for name, lengths in durations.items():
        rates = jax.vmap(lambda value, name=name: case(**{name: value})(counts))(lengths)
        assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0))), name


# ------------------------------------------------------------------------------------------------ law 3: composable


@all_cases
def test_law_3_unknown_extra_args_are_ignored_and_value_is_keyword_only(case):
    params = vector_params()
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    plain = tx.update(gradients, tx.init(params), params, value=1.0)
    assert_trees_equal(plain, tx.update(gradients, tx.init(params), params, value=1.0, unheard_of=object()))
    with pytest.raises(TypeError):
        tx.update(gradients, tx.init(params), params, 1.0)


@all_cases
def test_law_3_what_is_missing_is_named_and_what_is_not_needed_is_not_asked_for(case):
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


WRAPPERS: dict[str, Callable[[Case], Any]] = {
    "chain": lambda case: optax.chain(optax.identity(), optax.chain(case())),
    "partition": lambda case: optax.partition({"first": case(), "second": case()}, _labels(case)),
    "masked": lambda case: optax.masked(case(), {"a": True, "b": True}),
    "apply_if_finite": lambda case: optax.apply_if_finite(case(), max_consecutive_errors=3),
    "inject_hyperparams": _injected,
    "named_chain": lambda case: optax.named_chain(("only", case())),
}


@all_cases
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_law_3_wrappers_of_optax_give_the_same_updates(case, wrapper):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    rows, _ = eager_run(case(), params, stream, values)
    tx = WRAPPERS[wrapper](case)
    if wrapper == "apply_if_finite":  # its branches are compiled at every call, so once for all is faster
        tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))
    wrapped, state = eager_run(tx, params, stream, values)
    assert_trees_close(wrapped, rows)
    assert signature_of(state) == signature_of(tx.init(params))


@all_cases
def test_law_3_multi_steps_applies_the_mean_of_the_gradients(case):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)
    rows, _ = eager_run(case(), params, stream, values)
    multi = optax.MultiSteps(case(), every_k_schedule=2)
    state = multi.init(params)
    update = jax.jit(lambda gradients, state, value: multi.update(gradients, state, params, value=value))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        state = observed(state, value)
        updates, state = update(jax.tree.map(lambda leaf: leaf + 0.5, gradients), state, value)
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
        updates, state = update(jax.tree.map(lambda leaf: leaf - 0.5, gradients), state, value)
        assert_trees_close(updates, row, rtol=1e-4, atol=1e-6)


@all_cases
def test_law_3_masked_leaves_pass_untouched(case):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    masked, _ = eager_run(optax.masked(case(), {"a": True, "b": False}), params, stream, values)
    alone, _ = eager_run(case(), {"a": params["a"]}, [{"a": gradients["a"]} for gradients in stream], values)
    for row, expected, gradients in zip(masked, alone, stream, strict=True):
        assert_trees_close(row, {"a": expected["a"], "b": gradients["b"]})


class _Model(nnx.Module):
    def __init__(self) -> None:
        self.a = nnx.Param(vector_params()["a"])
        self.b = nnx.Param(vector_params()["b"])


@all_cases
def test_law_3_nnx_optimizer_gives_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, 4), value_stream(4)
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    model = _Model()
    optimizer = nnx.Optimizer(model, case(), wrt=nnx.Param)
    for gradients, value, row in zip(stream, values, rows, strict=True):
        state = nnx.state(model, nnx.Param)
        leaves = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(gradients))
        optimizer.opt_state = observed(optimizer.opt_state, value)
        optimizer.update(model, leaves, value=value)
        params = optax.apply_updates(params, row)
    assert_trees_close({"a": model.a[...], "b": model.b[...]}, params)


@all_cases
def test_law_3_train_state_gives_the_same_parameters_by_observed_feedback(case):
    params = vector_params()
    stream, values = gradient_stream(params), value_stream()
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    if case.searches:
        return  # a loss function cannot be observed
    feedback = {"feedback": "observed"} if case.needs_value else {}
    train_state = TrainState.create(apply_fn=itself, params=params, tx=case(**feedback))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        train_state = train_state.replace(opt_state=observed(train_state.opt_state, value))
        train_state = train_state.apply_gradients(grads=gradients)
        params = optax.apply_updates(params, row)
    assert_trees_close(train_state.params, params)


class _Module(eqx.Module):
    a: jax.Array
    b: jax.Array
    table: jax.Array
    name: str = eqx.field(static=True)
    activation: Callable[..., Any] = jax.nn.relu


@all_cases
def test_law_3_equinox_models_give_the_same_parameters(case):
    params = vector_params()
    stream, values = gradient_stream(params, 4), value_stream(4)
    rows, _ = eager_run(case(), params, stream, values, moving=True)
    model = _Module(**params, table=jnp.arange(3), name="model")
    tx = case()
    # Made with the integer table, for which there is no gradient: where a leaf has none, the state keeps its place.
    state = tx.init(eqx.filter(model, eqx.is_array))
    for gradients, value, row in zip(stream, values, rows, strict=True):
        grads = _Module(**gradients, table=None, name="model", activation=None)
        state = observed(state, value)
        updates, after = tx.update(grads, state, eqx.filter(model, eqx.is_array), value=value)
        assert signature_of(state) == signature_of(after)
        state, model = after, eqx.apply_updates(model, updates)
        params = optax.apply_updates(params, row)
    assert_trees_close({"a": model.a, "b": model.b}, params)
    assert_trees_equal(model.table, jnp.arange(3))


# --------------------------------------------------------------------------------------------- law 4: typed numbers


def _typed(tree: Any, dtypes: Mapping[str, Any]) -> Any:
    return {name: leaf.astype(dtypes[name]) for name, leaf in tree.items()}


NARROW, WIDE = jnp.bfloat16, jnp.float32
TYPES = {
    "all narrow": ({"a": NARROW, "b": NARROW}, {"a": NARROW, "b": NARROW}),
    "mixed tree": ({"a": NARROW, "b": WIDE}, {"a": NARROW, "b": WIDE}),
    "narrow gradients": ({"a": WIDE, "b": WIDE}, {"a": NARROW, "b": NARROW}),
    "wide gradients": ({"a": NARROW, "b": NARROW}, {"a": WIDE, "b": WIDE}),
    "crossed": ({"a": NARROW, "b": WIDE}, {"a": WIDE, "b": NARROW}),
    "half": ({"a": jnp.float16, "b": WIDE}, {"a": jnp.float16, "b": jnp.float16}),
}


@all_cases
@pytest.mark.parametrize("types", TYPES)
def test_law_4_updates_have_the_type_of_their_gradient(case, types):
    of_params, of_gradients = TYPES[types]
    params = _typed(vector_params(), of_params)
    gradients = _typed(gradient_stream(vector_params(), 1)[0], of_gradients)
    tx = case()
    state = tx.init(params)
    updates, after = jax.eval_shape(lambda *xs: tx.update(*xs, value=1.0), gradients, state, params)
    assert {name: leaf.dtype for name, leaf in updates.items()} == of_gradients
    assert signature_of(state) == signature_of(after)
    scalars = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == ()]
    assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.floating)} <= {jnp.dtype(jnp.float32)}
    assert {dtype for dtype in scalars if jnp.issubdtype(dtype, jnp.integer)} <= {jnp.dtype(jnp.int32)}


@all_cases
def test_law_4_narrow_updates_are_the_wide_ones_rounded(case):
    params = vector_params()
    gradients = _typed(gradient_stream(params, 1)[0], {"a": NARROW, "b": NARROW})
    tx = case()
    narrow, narrow_state = tx.update(gradients, tx.init(params), params, value=1.0)
    wide, wide_state = tx.update(_typed(gradients, {"a": WIDE, "b": WIDE}), tx.init(params), params, value=1.0)
    # A chain rounds between its links, so that an update may be one rounding apart.
    assert_trees_close(narrow, _typed(wide, {"a": NARROW, "b": NARROW}))
    assert_trees_equal(narrow_state, wide_state)


@all_cases
def test_law_4_arithmetic_mixes_no_types_silently(case):
    params = {**vector_params(), "narrow": jnp.ones(2, jnp.bfloat16)}
    gradients = gradient_stream(params, 1)[0]
    tx = case()
    state = tx.init(params)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(tx.init, params)
        jax.eval_shape(lambda *xs: tx.update(*xs, value=jnp.bfloat16(1.0)), gradients, state, params)


@all_cases
@pytest.mark.parametrize(
    "params",
    [{}, (), None, {"gone": None}, 1.5, np.float32(2.0), jnp.asarray(1.0), [jnp.zeros((0, 3))]],
    ids=["empty dict", "empty tuple", "none", "none leaf", "float", "numpy scalar", "jax scalar", "empty array"],
)
def test_law_4_empty_trees_none_leaves_and_scalars_pass(case, params):
    tx = case()
    state = tx.init(params)
    for _ in range(2):
        updates, after = tx.update(params, state, params, value=1.0)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert signature_of(after) == signature_of(state)
        assert is_finite(updates)
        state = after


@all_cases
def test_law_4_counts_stay_at_their_largest_value(case):
    params = vector_params()
    tx = case()

    def at_the_end(path, leaf):
        name = jax.tree_util.keystr(path)
        return jnp.asarray(INT32_MAX, jnp.int32) if name.endswith("count") else leaf

    state = jax.tree.map_with_path(at_the_end, tx.init(params))
    last = [leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")]
    for gradients in gradient_stream(params, 2):
        updates, state = tx.update(gradients, observed(state, 1.0), params, value=1.0)
        assert is_finite(updates)
        counts = [
            leaf for path, leaf in jax.tree.leaves_with_path(state) if jax.tree_util.keystr(path).endswith(".count")
        ]
        assert_trees_equal(counts, last)
        integers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
        assert all(bool(leaf >= 0) for leaf in integers)


# --------------------------------------------------------------------------------------------- law 5: exact in time

COUNTS = np.concatenate([np.arange(10_001), [2**24 - 1, 2**24 + 1, 10**9, INT32_MAX - 1, INT32_MAX]])
# Long durations of every sort, at which float32 time would be off by many steps.
LONG = (7_777, 16_777_259, 1_500_000_001)
ENDLESS = {
    "constant",
    "cosine_restarts",
    "cyclical",
    "exponential_decay",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "step_decay",
}


def assert_exact(case: Case, rates: Any, schedule: Any, counts: np.ndarray = COUNTS) -> None:
    expected = reference(schedule, counts)
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(rates, np.float64), expected, rtol=case.tolerance, atol=1e-12 * expected[0])


@all_schedules
def test_law_5_rates_are_exact_at_every_step_for_known_arguments(case):
    schedule = case()
    assert_exact(case, schedule(COUNTS), schedule)
    for name, values in case.sweep.items():
        for value in values[1:]:
            schedule = case(**{name: value})
            assert_exact(case, schedule(COUNTS), schedule)


@all_schedules
def test_law_5_rates_are_exact_at_every_step_for_traced_arguments(case):
    traced = jax.jit(lambda arguments, counts: case(**arguments)(counts))
    for index in (1, 2):
        arguments = {name: case.sweep[name][index] for name in case.sweep}
        rates = traced({name: jnp.asarray(value) for name, value in arguments.items()}, COUNTS.astype(np.int32))
        rounded = {
            name: value if isinstance(value, int) else float(np.float32(value)) for name, value in arguments.items()
        }
        assert_exact(case, rates, case(**rounded))


@all_schedules
def test_law_5_rates_are_exact_over_long_durations(case):
    for name in case.durations:
        traced = jax.jit(lambda value, counts, name=name: case(**{name: value})(counts))
        for length in LONG:
            near = np.asarray([0, 1, length // 3, length // 2, length - 2, length - 1, length, length + 1])
            schedule = case(**{name: length})
            rates = traced(jnp.asarray(length), near.astype(np.int32))
            # Only the duration is traced: the other arguments are as given, and as exact as before.
            assert_exact(case, rates, schedule, near)


@all_schedules
def test_law_5_the_update_at_a_step_uses_the_schedule_there(case):
    schedule = case()
    state = schedule.init(None)
    # To the last bit where both are compiled; one operation at a time rounds elsewhere.
    update = jax.jit(schedule.update)
    np.testing.assert_allclose(state.learning_rate, schedule(0), rtol=5e-7)
    for count in (0, 1, 2, 5, 10_000, 2**24 + 1, INT32_MAX):
        updates, after = update(jnp.ones(2), state._replace(step=jnp.asarray(count, jnp.int32)))
        np.testing.assert_array_equal(np.asarray(updates), -np.full(2, schedule(count)))
        assert after.learning_rate == schedule(count)
    _, after = schedule.update(jnp.ones(2), state._replace(step=jnp.int32(5)))
    np.testing.assert_allclose(after.learning_rate, schedule(5), rtol=5e-7)


@all_schedules
def test_law_5_a_schedule_that_ends_holds_its_end_value(case):
    if case.end is None:
        family = case().family
        assert family in ENDLESS, f"no end is written down for {family}"
        return
    rates = np.asarray(case()(COUNTS))
    np.testing.assert_array_equal(rates[case.end :], rates[case.end])
    assert rates[case.end - 1] != rates[case.end]


# ------------------------------------------------------------------------------------------------ law 6: resumable


@pytest.fixture(scope="module")
def checkpointer():
    orbax = pytest.importorskip("orbax.checkpoint")
    with orbax.StandardCheckpointer() as saver:
        yield saver


@all_cases
def test_law_6_a_run_stopped_at_any_step_continues_bit_for_bit(case, checkpointer, tmp_path):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = observed(p.tx.init(params), 0.7)  # with an observation on its way
    rows = p.run(params, state, stream, values)
    stops = {"0": (params, state), **{str(step): row[1:][::-1] for step, row in enumerate(rows[:-1], 1)}}
    checkpointer.save(tmp_path / "run", stops)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "run", jax.tree.map(jnp.zeros_like, stops))
    for step in range(STREAM):
        resumed = p.run(*restored[str(step)], stream[step:], values[step:])
        assert_trees_equal(resumed, rows[step:])
    assert p.traces == 1


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_law_6_checkpoints_of_constant_and_scheduled_rates_swap(case):
    params = mixed_params()
    gradients = gradient_stream(params, 1)[0]
    rates = [0.1, lrx.constant(0.1), lrx.warmup(lrx.cosine_decay(0.1, 5), 2), lrx.cyclical(0.1, 0.2, 3) * 2.0]
    states = [case(learning_rate=rate).init(params) for rate in rates]
    assert len({str(signature_of(state)) for state in states}) == 1
    for rate in rates:
        tx = case(learning_rate=rate)
        for state in states:
            _, after = tx.update(gradients, state, params, value=1.0)
            assert signature_of(after) == signature_of(state)


@all_schedules
def test_law_6_a_schedule_is_rebuilt_by_its_repr_and_by_pickle(case):
    schedule = case()
    again = eval(repr(schedule), {name: getattr(lrx, name) for name in lrx.__all__})
    for rebuilt in (again, pickle.loads(pickle.dumps(schedule))):
        assert repr(rebuilt) == repr(schedule)
        np.testing.assert_array_equal(rebuilt(COUNTS), schedule(COUNTS))


@all_schedules
def test_law_6_all_schedules_have_one_state_tree(case):
    assert signature_of(case().init(None)) == signature_of(lrx.constant(0.1).init(None))


# ----------------------------------------------------------------------------------------------------- law 7: safe


@all_cases
def test_law_7_zero_gradients_move_nothing(case):
    p = program(case)
    params = mixed_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    rows = p.run(params, p.tx.init(params), [zeros] * STREAM, value_stream())
    for updates, state, _ in rows:
        assert case.decays or not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(updates))
        assert not has_nan((updates, state))


@all_cases
@pytest.mark.parametrize("size", [3e38, 1e30, 1e-30, 1e-44])
def test_law_7_no_finite_gradient_makes_nan(case, size):
    p = program(case)
    params = mixed_params()
    for signs in ([1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1]):
        stream = [jax.tree.map(lambda leaf, sign=sign: jnp.full_like(leaf, sign * size), params) for sign in signs]
        rows = p.run(params, p.tx.init(params), stream, value_stream())
        assert not has_nan([row[:2] for row in rows])


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_law_7_a_rate_of_zero_moves_nothing_and_harms_nothing(case):
    params = vector_params()
    stream = gradient_stream(params, 8)
    tx = case(learning_rate=lrx.join([lrx.warmup(lrx.linear_decay(0.1, 2), 2), 0.0, 0.1], [4, 6]))
    state = tx.init(params)
    for step, gradients in enumerate(stream):
        updates, state = tx.update(gradients, state, params, value=1.0)
        assert is_finite((updates, state))
        moved = any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(updates))
        # With the rate inside the velocity, what is in it rolls on.
        if step == 0 or (step in (4, 5) and not case.rolls_on):
            assert not moved, step
        if step in (1, 2, 6, 7):
            assert moved, step
    assert is_finite(optax.apply_updates(params, updates))


@all_schedules
def test_law_7_runs_of_one_step_are_finite(case):
    schedule = case(**dict.fromkeys(case.durations, 1))
    rates = schedule(np.asarray([0, 1, 2, 3, INT32_MAX]))
    assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0)))
    assert_exact(case, rates, schedule, np.asarray([0, 1, 2, 3, INT32_MAX]))


@all_optimizers
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_law_7_a_non_finite_gradient_stays_in_its_own_coordinate(case, bad):
    params = vector_params()
    stream = gradient_stream(params, 3)
    clean, _ = eager_run(case(), params, stream, [1.0] * 3)
    poisoned = [{**stream[0], "a": stream[0]["a"].at[1].set(bad)}, *stream[1:]]
    rows, _ = eager_run(case(), params, poisoned, [1.0] * 3)
    assert case.recovers or not is_finite(rows[0])
    for row, expected in zip(rows, clean, strict=True):
        if case.coupled:  # the statistic goes without this coordinate, and all others go on
            assert is_finite((row["b"], row["a"][::2]))
            continue
        assert_trees_equal(row["b"], expected["b"])
        assert_trees_equal(row["a"][::2], expected["a"][::2])


@all_cases
def test_law_7_apply_if_finite_skips_a_non_finite_gradient(case):
    params = vector_params()
    stream = gradient_stream(params, 3)
    bad = jax.tree.map(lambda leaf: leaf * NAN, stream[0])
    tx = optax.with_extra_args_support(optax.apply_if_finite(case(), max_consecutive_errors=3))
    update = jax.jit(tx.update)
    expected, state = update(stream[0], tx.init(params), params, value=1.0)
    skipped, kept = update(bad, state, params, value=1.0)
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(skipped))
    assert_trees_equal(kept.inner_state, state.inner_state)
    assert is_finite(expected)


FOLLOWING_LOSSES = {
    label: case
    for label, case in {**CONTROLLERS, **CONTROLLED_COMPOSITIONS}.items()
    if case.make not in (lrx.cumulative_path, lrx.warmup_until)
}


@pytest.mark.parametrize("case", FOLLOWING_LOSSES.values(), ids=FOLLOWING_LOSSES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_law_7_a_non_finite_value_changes_nothing_but_the_count(case, bad):
    params, tx = vector_params(), case()
    gradients = gradient_stream(params, 1)[0]

    def memories(values):
        state = tx.init(params)
        for value in values:
            _, state = tx.update(gradients, observed(state, value), params, value=value)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, lrx.states.ControllerState))
        return [(node.factor, node.memory) for node in nodes if isinstance(node, lrx.states.ControllerState)]

    assert memories([1.0])
    assert_trees_equal(memories([1.0, bad, 1.0, bad, 1.0]), memories([1.0, 1.0, 1.0]))


def _buffers(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.size]


@all_cases
def test_law_7_parameters_and_state_can_both_be_donated(case):
    # Hyperparameters as arrays, the user's own, which must outlive the donation as well.
    # Strongly typed, since a conversion would make the copy that is asked for.
    numbers = {name: sweep_values(case, name)[1] for name in case.sweep}
    params = vector_params()
    tx = case(**numbers)
    state = tx.init(params)
    stream, values = gradient_stream(params, 3), value_stream(3)
    buffers = _buffers((params, state, numbers))
    assert len(set(buffers)) == len(buffers)
    # An update outside jit leaves a state that can be donated too.
    _, eager = tx.update(stream[0], observed(tx.init(params), 1.0), params, value=1.0)
    assert len(set(_buffers((params, eager, numbers)))) == len(_buffers((params, eager, numbers)))

    def step(params, state, gradients, value):
        # Every leaf of the state is used, or JAX would drop it and donate nothing.
        probe = sum(jnp.sum(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(state))
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state, probe

    donating = jax.jit(step, donate_argnums=(0, 1))
    plain_params, plain_state = jax.tree.map(jnp.array, (params, state))
    for gradients, value in zip(stream, values, strict=True):
        plain_params, plain_state, _ = step(plain_params, plain_state, gradients, value)
        given = (params, state)
        params, state, _ = donating(params, state, gradients, value)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_trees_close((params, state), (plain_params, plain_state))
    assert not any(number.is_deleted() for number in numbers.values())
