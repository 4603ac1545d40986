"""Expressions build what Python would build, evaluate nothing, and point at what is wrong."""

import contextlib

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrx
from lrx.expressions import ExpressionError, names, parse, parse_optimizer, parse_schedule


@pytest.mark.parametrize(
    "text",
    [
        "constant(0.1)",
        "0.5 * warmup(cosine_decay(0.1, 2000), 200)",
        "join([0.1, linear_decay(0.4, 2)], [2])",
        "cyclical(0.01, 0.1, 400, mode='triangular2')",
        "step_decay(0.1, 30, factor=0.5) * cosine_decay(1.0, 100)",
    ],
)
def test_a_schedule_survives_the_round_trip_through_its_repr(text):
    schedule = parse(text)
    assert repr(parse(repr(schedule))) == repr(schedule)
    counts = jnp.arange(500)
    np.testing.assert_array_equal(schedule(counts), eval(text, vars(lrx))(counts))


def test_the_issues_own_example_trains():
    tx = parse_optimizer("sgd(warmup(cosine_decay(0.1, 2000), 200), momentum=0.9)")
    state = tx.init(jnp.ones(2))
    for _ in range(101):
        _, state = tx.update(jnp.ones(2), state)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.05, rtol=1e-6)


def test_a_chain_with_a_controller_is_an_optimizer():
    tx = parse_optimizer("chain(add_decayed_weights(1e-4), adam(1e-3 * reduce_on_plateau(patience=2)))")
    state = tx.init(jnp.ones(2))
    _, state = tx.update(jnp.ones(2), state, jnp.ones(2), value=1.0)
    assert "reduce_on_plateau/best_value" in lrx.monitor(state)


def test_arithmetic_on_numbers():
    assert parse("warmup_cosine_decay(0.1, 0.05, 20) / 2") == lrx.warmup_cosine_decay(0.1, 0.05, 20) / 2
    assert parse("5 * 390 + 2 ** 3 - 10 // 3 - -1") == 5 * 390 + 8 - 3 + 1


def test_every_public_factory_can_be_called():
    for package in (lrx.schedules, lrx.optimizers, lrx.controllers, lrx.guards):
        assert set(package.__all__) - {"group_rates"} <= set(names())


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("cosin_decay(0.1, 3)", 1, "cosin_decay is no name: did you mean cosine_decay"),
        (
            "sgd(cosine_decay(0.1, decay_step=3))",
            23,
            "decay_step is no argument of cosine_decay: did you mean decay_steps",
        ),
        (
            "sgd(warmup(0.1))",
            5,
            r"missing a required argument: 'warmup_steps': it is warmup\(schedule, warmup_steps, \*",
        ),
        ("sgd(0.1, 0.9)", 1, "too many positional arguments"),
        ("sgd(0.1, momentum=2)", 1, r"sgd: momentum must be in \[0, 1\), got momentum=2"),
        ("sgd(0.1", 4, "this is not an expression"),
        ("sgd(0.1).update", 1, "only calls, numbers"),
        ("sgd.init(0.1)", 1, "only a name may be called"),
        ("(lambda: 1)()", 2, "only a name may be called"),
        ("[x for x in (1, 2)]", 1, "only calls, numbers"),
        ("__import__('os')", 1, "__import__ is no name"),
        ("constant", 1, "constant must be called"),
        ("9 ** 9 ** 9", 1, "too large"),
        ("1e400", 1, "a number must be at most"),
        ("constant(0.1) / constant(0.2)", 17, "/ stands between numbers, or between a rate and a number"),
        ("1 / constant(0.1)", 5, "/ stands between numbers, or between a rate and a number"),
        ("constant(0.1) / 0", 1, "divisor must be a finite number >= 1e-38, got divisor=0"),
        ("constant(0.1) + 1", 17, r"\+ stands between numbers"),
        ("1 / 0", 1, "division by zero"),
        ("sgd(*[0.1])", 5, "not unpacked"),
        ("sgd(0.1, momentum=0.9, momentum=0.8)", 24, "momentum is given twice"),
        ("sgd(**{'a': 1})", 7, "not unpacked"),
        ("f'{1}'", 1, "only calls, numbers"),
        ("-constant(0.1)", 1, "a sign belongs to a number"),
        ("α + cosin(1)", 1, "is no name"),
        ("lrx.sgd(0.1)", 1, r"without a prefix: sgd\("),
        ("chain(clip(1.0), 0.1)", 1, r"link 2 must be a transformation, got 0.1: .* constant\(0.1\)"),
        ("chain()", 1, "at least one link"),
        ("(-8) ** 0.5", 1, "root of a negative number"),
        ("9" * 400, 1, "a number must be at most 1e.15 in size, got 400 digits"),
    ],
)
def test_an_error_points_at_its_place(text, column, message):
    with pytest.raises(ExpressionError, match=message) as caught:
        parse(text)
    shown, pointer = str(caught.value).split("\n")[:2]
    assert shown == text
    assert pointer.index("^") == column - 1


@pytest.mark.parametrize(
    ("text", "shown", "column"),
    [
        ("sgd(\n  0.1,\n  momentun=3)", "  momentun=3)", 3),
        ("sgd(0.1,\n ))", " ))", 3),
        ("sgd(0.1,\r\n momentum=y)", " momentum=y)", 11),
        ("[1,\x0c y]", "[1,\x0c y]", 6),
    ],
)
def test_an_error_points_at_its_own_line(text, shown, column):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    lines = str(caught.value).split("\n")
    assert lines[0] == shown
    assert lines[1].index("^") == column - 1


def test_an_odd_spelling_warns_of_nothing(recwarn):
    assert parse(r"'\d'") == r"\d"
    assert not recwarn.list


def test_too_long_and_too_deep_are_refused():
    with pytest.raises(ExpressionError, match="at most 2,000 characters"):
        parse("1" + "+1" * 2000)
    with pytest.raises(ExpressionError, match="nested deeper"):
        parse("[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgd(0.1)", "this is a transformation"),
        ("0.1 * reduce_on_plateau()", "follows feedback"),
        ("[0.1]", "this is a list"),
        ("None", "this is None"),
        ("True", "this is True"),
        ("-1", "must be a finite number >= 0"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(text, message):
    with pytest.raises(ExpressionError, match=message) as caught:
        parse_schedule(text)
    assert str(caught.value).startswith(f"{text}\n^ ")
    assert float(parse_schedule("0.25")(3)) == 0.25


@pytest.mark.parametrize("text", ["0.1", "cosine_decay(0.1, 10)", "reduce_on_plateau()"])
def test_what_is_no_optimizer_is_refused_with_a_way_out(text):
    with pytest.raises(ExpressionError, match=r"as sgd\("):
        parse_optimizer(text)


@pytest.mark.parametrize("text", ["clip(1.0)", "chain(scale_by_adam())", "chain(reduce_on_plateau())"])
def test_an_optimizer_without_a_rate_is_refused_because_it_would_ascend(text):
    with pytest.raises(ExpressionError, match="no rate turns its direction downhill"):
        parse_optimizer(text)


def test_an_optimizer_with_two_rates_is_refused():
    with pytest.raises(ExpressionError, match="2 learning rates on the path"):
        parse_optimizer("chain(sgd(0.1), cosine_decay(0.1, 10))")


@pytest.mark.parametrize("text", ["[sgd(0.1)]", "'sgd'", "None"])
def test_what_is_no_transformation_is_no_optimizer(text):
    with pytest.raises(ExpressionError, match="an optimizer must stand here, but this is"):
        parse_optimizer(text)


def test_a_chain_closed_by_a_rate_is_an_optimizer():
    tx = parse_optimizer("chain(scale_by_adam(), cosine_decay(0.1, 10))")
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert np.all(np.asarray(updates) < 0)


def test_optax_links_are_optax_own():
    assert isinstance(parse("clip_by_global_norm(1.0)"), optax.GradientTransformation)


_pieces = st.sampled_from(
    ["sgd", "constant", "(", ")", "0.1", ",", "*", "**", "[", "]", "momentum=", "'", "1e9", ".", " ", "x"]
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=40), st.lists(_pieces, max_size=12).map("".join)))
def test_no_text_ends_in_another_error(text):
    for build in (parse, parse_schedule, parse_optimizer):
        with contextlib.suppress(ExpressionError):
            build(text)
