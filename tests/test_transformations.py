"""What transformations remember of the call that made them."""

from __future__ import annotations

import contextlib
import copy
import inspect
import operator
import pickle
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, Case, parametrized, public_factories

import lrx
from lrx.training.equality import key_of
from lrx.transformations import Built, factory

MADE = {name: case for name, case in CASES.items() if case.make in public_factories().values()}
all_made = pytest.mark.parametrize("case", MADE.values(), ids=MADE)
# A function has a name in a repr, and no value.
REBUILT = {name: case for name, case in MADE.items() if not any(map(inspect.isfunction, case.arguments.values()))}
PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def make(case: Case, **changed: Any) -> Any:
    return case.make(**{**case.arguments, **changed})


# --- repr, pickle, equality -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REBUILT.values(), ids=REBUILT)
def test_repr_rebuilds_what_every_factory_makes(case: Case) -> None:
    tx = make(case)
    assert eval(repr(tx), dict(vars(lrx))) == tx
    assert repr(eval(repr(tx), dict(vars(lrx)))) == repr(tx)


@all_made
def test_repr_is_the_call_and_short(case: Case) -> None:
    assert repr(make(case)).startswith(f"{case.make.__name__}(")
    assert len(repr(make(case))) < 200
    assert "0x" not in repr(make(case)).replace("0x", "", repr(make(case)).count("function"))


@pytest.mark.parametrize("case", REBUILT.values(), ids=REBUILT)
def test_pickles_and_copies_equal_what_they_are_made_of(case: Case) -> None:
    tx = make(case)
    for again in (pickle.loads(pickle.dumps(tx)), copy.copy(tx), copy.deepcopy(tx)):
        assert type(again) is type(tx)
        assert again == tx
        assert hash(again) == hash(tx)


@all_made
def test_equal_arguments_make_equal_transformations_and_others_do_not(case: Case) -> None:
    tx = make(case)
    assert tx == make(case)
    assert hash(tx) == hash(make(case))
    for name, values in case.sweep.items():
        values = [case.build.get(name, lambda value: value)(value) for value in values]
        others = [make(case, **{name: value}) for value in values]
        assert len(set(others)) == len(values), name


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, np.int64(1)), (1.0, np.float32(1)), (np.float32(1), np.float64(1)), (0.1, np.float64(0.1))],
)
def test_equal_numbers_are_equal_arguments(one: Any, other: Any) -> None:
    for make in (lrx.constant, lrx.sgd, lambda value: lrx.tabulated([0.5, other]) * value):
        assert make(one) == make(other)
        assert hash(make(one)) == hash(make(other))
        assert key_of(make(one)) == key_of(make(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(1), jnp.float32(1)), (jnp.asarray(1.0), jnp.float32(1)), (0.0, -0.0), (0.1, np.float32(0.1)),
        (1e300, np.float64(1.1e300)), (2**60, 2**60 + 1),
    ],
)  # fmt: skip
def test_other_numbers_and_arrays_make_other_transformations(one: Any, other: Any) -> None:
    # The type of an array may change the last bit, and what is traced.
    named = factory(lambda number: optax.scale(number))  # a factory of lrx refuses numbers above those of float32
    assert named(one) != named(other)
    assert named(one) == named(one)


def integral_arguments(case: Case, kind: type) -> dict[str, Any]:
    """Return an integral number for each hyperparameter that may be one, beside the others, of a type."""
    found: dict[str, Any] = {}
    for name, values in case.sweep.items():
        for number in (1, 2, 0, *(int(value) for value in values if value == int(value))):
            with contextlib.suppress(ValueError, TypeError):
                case(**found, **{name: kind(number)})
                found[name] = kind(number)
                break
    return found


@parametrized(CASES, variants=False)
def test_an_int_and_the_float_that_it_equals_make_the_same_program(case: Case) -> None:
    # This is why they may be equal arguments.
    def program(numbers: dict[str, Any]) -> str:
        tx = case(**numbers)
        return str(jax.make_jaxpr(lambda tree: tx.update(tree, tx.init(tree), tree, value=jnp.float32(1)))(PARAMS))

    ints, floats = integral_arguments(case, int), integral_arguments(case, float)
    assert ints == floats
    assert program(ints) == program(floats)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.dtype("bfloat16"), jnp.dtype(jnp.bfloat16), "bfloat16"])
def test_a_type_of_numbers_is_written_and_compared_by_its_name(dtype: Any) -> None:
    assert repr(lrx.adam(0.1, moment_dtype=dtype)) == "adam(0.1, moment_dtype='bfloat16')"
    assert lrx.adam(0.1, moment_dtype=dtype) == lrx.adam(0.1, moment_dtype="bfloat16")
    assert lrx.adam(0.1, moment_dtype=dtype) != lrx.adam(0.1, moment_dtype=np.float32)


def test_functions_and_foreign_transformations_are_compared_by_identity() -> None:
    def mask(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    assert lrx.adamw(0.1, mask=mask) == lrx.adamw(0.1, mask=mask)
    assert lrx.adamw(0.1, mask=mask) != lrx.adamw(0.1, mask=lambda params: mask(params))
    foreign = optax.sgd(0.1)
    assert lrx.accumulate(foreign, 2) == lrx.accumulate(foreign, 2) != lrx.accumulate(optax.sgd(0.1), 2)
    assert repr(lrx.adamw(0.1, mask=mask)) == "adamw(0.1, mask=mask)"
    assert repr(lrx.accumulate(foreign, 2)) == "accumulate(<GradientTransformationExtraArgs>, 2)"


def test_what_is_changed_after_the_call_changes_nothing_that_was_built() -> None:
    values, factors = np.array([0.3, 0.2], np.float32), {"a": 0.5, "b": 1.0}
    labels = {"w": "a", "b": "b"}
    schedule, groups = lrx.tabulated(values), lrx.group_rates(lrx.sgd(1.0), labels, factors)
    before = repr(schedule), repr(groups)
    values[0], factors["a"], labels["w"] = 9.0, 9.0, "b"
    assert (repr(schedule), repr(groups)) == before
    assert float(schedule(0)) == np.float32(0.3)
    assert pickle.loads(pickle.dumps(groups)) == groups
    updates, _ = groups.update(PARAMS, groups.init(PARAMS))
    np.testing.assert_allclose(updates["w"], -0.5 * PARAMS["w"])


def test_a_long_table_is_abbreviated_and_still_pickles() -> None:
    schedule = lrx.tabulated(np.linspace(0.1, 0.0, 5_000, dtype=np.float32))
    assert len(repr(schedule)) < 200
    assert "..." in repr(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_a_factory_that_returns_what_it_was_given_leaves_that_as_it_is() -> None:
    @factory
    def named(rate: Any) -> Any:
        return rate

    schedule, tx = lrx.cosine_decay(0.1, 20), lrx.sgd(0.1)
    assert repr(named(schedule)) == "named(cosine_decay(0.1, 20))"
    assert repr(named(tx)) == "named(sgd(0.1))"
    assert (repr(schedule), repr(tx)) == ("cosine_decay(0.1, 20)", "sgd(0.1)")
    assert named(schedule) != schedule
    np.testing.assert_array_equal(named(schedule)(np.arange(5)), schedule(np.arange(5)))


def test_a_rate_that_no_factory_has_made_says_so() -> None:
    made = lrx.rates.Rate.from_cores(lrx.constant(0.1).cores)
    assert repr(made) == "<Rate>"
    assert made == made
    assert made != lrx.rates.Rate.from_cores(lrx.constant(0.1).cores)
    with pytest.raises(TypeError, match="<Rate> must be made by a factory to be copied or pickled: put @factory"):
        pickle.dumps(made)


# --- what jax and optax do with the object ----------------------------------------------------------------------------


@all_made
def test_optax_and_jax_take_it_for_what_it_is(case: Case) -> None:
    tx = make(case)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert isinstance(tx, Built)
    assert optax.with_extra_args_support(tx) is tx
    assert jax.tree.leaves(tx) == []
    assert jax.tree.map(lambda leaf: leaf, {"tx": tx})["tx"] is tx
    init, update = tx
    assert (init, update) == (tx.init, tx.update)


def test_equal_transformations_compile_once_as_static_and_as_plain_arguments() -> None:
    traces = []

    def step(tx: Any, grads: Any) -> Any:
        traces.append(tx)
        return tx.update(grads, tx.init(grads), grads)[0]

    static, plain = jax.jit(step, static_argnums=0), jax.jit(step)
    for compiled in (static, plain):
        traces.clear()
        for _ in range(3):
            compiled(lrx.adamw(lrx.warmup(0.1, 5), b1=np.float32(0.8)), PARAMS)
        assert len(traces) == 1
        compiled(lrx.adamw(lrx.warmup(0.1, 6), b1=np.float32(0.8)), PARAMS)
        assert len(traces) == 2


def test_a_replaced_function_makes_a_plain_transformation() -> None:
    tx = lrx.adam(0.1)
    changed = tx._replace(update=lambda updates, state, params=None, **extra_args: (updates, state))
    assert type(changed) is optax.GradientTransformationExtraArgs
    assert changed.init is tx.init
    assert changed.update(1.0, ())[0] == 1.0


# --- calls that do not fit --------------------------------------------------------------------------------------------


MISFITS = {
    "adamw must be given only learning_rate by position, got 2 positional arguments: name 0.1, which may be b1=, b2=": (
        lambda: lrx.adamw(1e-3, 0.1)
    ),
    "must be given only peak_value by position, got 4 positional arguments: name 10, 80, 10, which may be warmup_": (
        lambda: lrx.warmup_stable_decay(1e-3, 10, 80, 10)
    ),
    "name 10, which may be warmup_steps=, decay_steps=": lambda: lrx.warmup_stable_decay(1e-3, 10, stable_steps=80),
    "must be given warmup_steps, decay_steps, got none: call warmup_stable_decay(peak_value, warmup_steps=..., ": (
        lambda: lrx.warmup_stable_decay(1e-3, stable_steps=80)
    ),
    "sgd must be given learning_rate, got none: call sgd(learning_rate)": lambda: lrx.sgd(),
    "adam must be given arguments that it has, got beta1=0.9: did you mean b1=?": lambda: lrx.adam(1e-3, beta1=0.9),
    "adam must be given arguments that it has, got lr=0.1: there are learning_rate, b1": lambda: lrx.adam(lr=0.1),
    "sgd must be given learning_rate once, got it by position and by name": lambda: lrx.sgd(0.1, learning_rate=0.1),
    "reduce_on_plateau must be given nothing by position, got 1 positional argument: name 0.5, which may be factor=": (
        lambda: lrx.reduce_on_plateau(0.5)
    ),
}


@pytest.mark.parametrize(("said", "call"), MISFITS.items())
def test_a_call_that_does_not_fit_is_answered_with_names(said: str, call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        call()


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_factory_answers_too_many_positional_arguments_with_names(name: str) -> None:
    made = public_factories()[name]
    with pytest.raises(TypeError, match=rf"{name} must be given (only .*|nothing) by position, got 9 positional argum"):
        made(*range(9))
    with pytest.raises(TypeError, match=rf"{name} must be given arguments that it has, got nothing_such=1"):
        made(nothing_such=1)
    assert all(
        parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(made).parameters.values()
    )


def test_training_with_equal_transformations_compiles_once() -> None:
    traces = []

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        traces.append(1)
        return jnp.mean((batch @ params) ** 2)

    data = lrx.Batches(np.ones((8, 2), np.float32), 4)
    workload = lrx.Workload.from_functions(loss_fn, lambda key: jnp.ones(2), data, name="ones")
    first = lrx.train(workload, lrx.adam(lrx.linear_decay(0.1, 3)), steps=3)
    traced = len(traces)
    again = lrx.train(workload, lrx.adam(lrx.linear_decay(0.1, 3)), steps=3)
    assert (traced, len(traces)) == (2, 3)  # not again for the program: once a call for its key, as the loss may change
    np.testing.assert_array_equal(first.loss, again.loss)
    lrx.train(workload, lrx.adam(lrx.linear_decay(0.1, 4)), steps=3)
    assert len(traces) > traced


@pytest.mark.parametrize("operate", [operator.mul, operator.add])
@pytest.mark.parametrize("swap", [False, True])
def test_a_transformation_is_not_repeated_or_joined_like_a_tuple(operate, swap):
    pair = lrx.sgd(0.1), 2 if operate is operator.mul else (1,)
    with pytest.raises(TypeError, match=r"a transformation has no arithmetic, got sgd\(0.1\)"):
        operate(*pair[:: -1 if swap else 1])
