"""The sharpness is the largest eigenvalue of the Hessian: of quadratics, exactly."""

from __future__ import annotations

import functools
import re

import jax
import jax.export
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx

SIZE = 60
QUADRATICS = {
    "few eigenvalues": np.repeat(np.arange(1.0, 11), 6),
    "condition number 1e8": np.geomspace(1e-8, 1, SIZE),
    "power law": 50 * np.arange(1.0, SIZE + 1) ** -2,
    "indefinite": np.concatenate([[-9.0], np.linspace(-1, 1, SIZE - 2), [5.0]]),
    "negative definite": -np.repeat(np.arange(1.0, 13), 5),
    "one eigenvalue": np.full(SIZE, 7.0),
    "one, negative": np.full(SIZE, -7.0),
    "three eigenvalues": np.repeat([1.0, 2.0, 5.0], SIZE // 3),
    "zero": np.zeros(SIZE),
    "large": np.repeat(1e8 * np.arange(1.0, 11), 6),
    "small": np.repeat(1e-8 * np.arange(1.0, 11), 6),
}


def quadratic(eigenvalues):
    """The matrix of a quadratic in random directions, and a point."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))[0]
    return (directions * np.asarray(eigenvalues)) @ directions.T, rng.normal(size=len(eigenvalues))


@functools.partial(jax.jit, static_argnums=2)
def sharpness_of(matrix, point, number):
    return lrx.sharpness(lambda x: 0.5 * x @ (matrix @ x), point, num_eigenvalues=number)


@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", QUADRATICS)
def test_the_largest_eigenvalues_of_a_quadratic_are_found_as_often_as_they_occur(name, number):
    eigenvalues = np.sort(QUADRATICS[name])[::-1]
    found = sharpness_of(*(jnp.asarray(part, jnp.float32) for part in quadratic(eigenvalues)), number)
    assert found.eigenvalues.dtype == found.residuals.dtype == jnp.float32
    np.testing.assert_allclose(
        found.eigenvalues, eigenvalues[:number], rtol=1e-4, atol=1e-6 * np.abs(eigenvalues).max()
    )
    assert bool(found.converged)
    allowed = np.maximum(1e-4 * np.abs(eigenvalues[:number]), 4e-6 * np.abs(eigenvalues).max())
    assert np.all(np.asarray(found.residuals) <= allowed)


@pytest.mark.slow
def test_of_a_multiple_of_the_identity_every_direction_is_an_eigenvector():
    # For some random vectors not even a rounding error is left of the first image; a direction of zeros would have the
    # eigenvalue 0.
    def found(value, key):
        return lrx.sharpness(lambda x: value * jnp.sum(x**2), jnp.ones(40), num_eigenvalues=2, key=key).eigenvalues

    keys, values = jax.random.split(jax.random.key(0), 12), jnp.tile(jnp.array([-4.0, 0.0, 4.0]), 4)
    expected = jnp.broadcast_to(2 * values[:, None], (12, 2))
    np.testing.assert_allclose(jax.jit(jax.vmap(found))(values, keys), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_eigenvalues_of_a_small_matrix_are_found(size):
    curvatures = jnp.arange(1.0, size + 1) - 2.5
    found = jax.jit(lambda x: lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), x, num_eigenvalues=size))
    for point in (jnp.ones(size), -jnp.ones(size)):  # in one dimension, one of the gradients is minus the random vector
        np.testing.assert_allclose(found(point).eigenvalues, curvatures[::-1], rtol=1e-5)


@pytest.mark.slow
def test_products_are_made_until_the_residual_is_below_the_tolerance():
    curvatures = jnp.linspace(0.1, 1, 200)

    @jax.jit
    def found(tol):
        return lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(200), tol=tol)

    coarse, fine = found(0.1), found(1e-4)
    assert coarse.products < fine.products
    assert 1e-4 < coarse.residuals[0] <= 0.1
    assert fine.residuals[0] <= 1e-4
    stopped = lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(200), tol=1e-4, max_products=20)
    assert not bool(stopped.converged)
    assert stopped.products <= 20
    assert stopped.residuals[0] > 1e-4
    assert repr(stopped).endswith("not converged)")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_products():
    size = 200_000
    curvatures = jnp.linspace(0.1, 1, size)

    def bytes_for(max_products):
        def of(x):
            return lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), x, max_products=max_products)

        return (
            jax.jit(of).lower(jax.ShapeDtypeStruct((size,), jnp.float32)).compile().memory_analysis().temp_size_in_bytes
        )

    few, many = bytes_for(20), bytes_for(10_000)
    assert few == many
    assert many <= 18 * 4 * size  # the basis has 9 rows; the rest are the image, the direction and the loss


def test_parameters_that_an_optimizer_leaves_out_are_held_fixed():
    params = {"first": jnp.ones(3), "second": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}

    def loss(params):
        curvatures = jnp.array([6.0, 2.0, -4.0])
        return 50 * jnp.sum(params["second"]["kernel"] ** 2) + 0.5 * jnp.sum(curvatures * params["first"] ** 2)

    over = {"first": jnp.full(3, 2.0), "second": {"kernel": optax.MaskedNode(), "bias": optax.MaskedNode()}}
    found = lrx.sharpness(loss, params, num_eigenvalues=3, preconditioner=over, eigenvectors=True)
    np.testing.assert_allclose(found.eigenvalues, [3.0, 1.0, -2.0], rtol=1e-4)
    assert found.eigenvectors["second"] == {"kernel": None, "bias": None}
    np.testing.assert_allclose(np.abs(found.eigenvectors["first"]), np.eye(3) / 2**0.5, atol=1e-3)  # u . P u = 1
    with pytest.raises(ValueError, match=r"num_eigenvalues must be <= the number of parameters, got .*=4, .*=3"):
        lrx.sharpness(loss, params, num_eigenvalues=4, preconditioner=over)
    with pytest.raises(ValueError, match=r"preconditioner must be that of at least one parameter"):
        lrx.sharpness(loss, params, preconditioner=jax.tree.map(lambda _: optax.MaskedNode(), params))
    tx = lrx.group_rates(lrx.adam(0.1), {"first": "moves", "second": "frozen"}, {"frozen": 0.0, "moves": 1.0})
    gradient = jax.grad(loss)(params)
    _, state = tx.update(gradient, tx.init(params), params)
    over = lrx.preconditioner_of(state)
    alone = lrx.sharpness(lambda first: loss(params | {"first": first}), params["first"], preconditioner=over["first"])
    np.testing.assert_allclose(float(lrx.sharpness(loss, params, preconditioner=over)), float(alone), rtol=1e-5)


def test_a_state_that_passes_some_gradients_on_as_they_are_is_refused():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    for mask in ({"a": True, "b": False}, {"a": True, "b": True}):
        tx = optax.chain(optax.masked(lrx.scale_by_adam(), mask), lrx.constant(0.1))
        _, state = tx.update(params, tx.init(params), params)
        for read in (lrx.preconditioner_of, lrx.stability_limit):
            if mask["b"]:
                read(state)
                continue
            with pytest.raises(ValueError, match=r"one method for all parameters, got that of an optax\.masked"):
                read(state)


@pytest.mark.slow
def test_eigenvectors_solve_the_problem_with_the_preconditioner():
    matrix, point = (jnp.asarray(part, jnp.float32) for part in quadratic(np.linspace(-1, 4, SIZE)))
    diagonal = jnp.linspace(0.5, 2.0, SIZE)
    params = {"a": point[:20].reshape(4, 5), "b": point[20:]}

    def join(tree):
        return jnp.concatenate([tree["a"].ravel(), tree["b"]])

    def split(vector):
        return {"a": vector[:20].reshape(4, 5), "b": vector[20:]}

    @jax.jit
    def find(matrix, params, diagonal):
        return lrx.sharpness(
            lambda tree: 0.5 * join(tree) @ (matrix @ join(tree)),
            params,
            num_eigenvalues=2,
            preconditioner=split(diagonal),
            eigenvectors=True,
        )

    found = find(matrix, params, diagonal)
    roots = np.sqrt(np.asarray(diagonal, np.float64))
    expected = np.linalg.eigvalsh(np.asarray(matrix, np.float64) / roots / roots[:, None])[::-1]
    np.testing.assert_allclose(found.eigenvalues, expected[:2], rtol=1e-4)
    for place in range(2):
        vector = join(jax.tree.map(lambda leaf, place=place: leaf[place], found.eigenvectors))
        np.testing.assert_allclose(matrix @ vector, found.eigenvalues[place] * diagonal * vector, atol=1e-3)
        assert float(vector @ (diagonal * vector)) == pytest.approx(1, rel=1e-5)


@pytest.mark.slow
def test_sharpness_of_a_tree_is_that_of_the_whole_hessian():
    batch = jax.random.normal(jax.random.key(0), (20, 3)), jax.random.normal(jax.random.key(1), (20,))

    def loss_fn(params):
        hidden = jnp.tanh(batch[0] @ params["kernel"] + params["bias"][None])
        return jnp.mean((hidden @ params["out"] - batch[1]) ** 2)

    shapes = {"kernel": (3, 4), "bias": (4,), "out": (4,)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda x: loss_fn(unravel(x))))(flat)
    expected = np.linalg.eigvalsh(np.asarray(hessian, np.float64))[-1]
    found = jax.jit(lambda params: lrx.sharpness(loss_fn, params))(params)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_sharpness_takes_leaves_of_several_types_and_is_mapped_over_points_and_keys():
    def loss_fn(params):
        return 2 * params["a"].astype(jnp.float32) ** 2 + params["b"] ** 4

    points = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.array([0.0, 1.0, 2.0])}
    keys = jax.random.split(jax.random.key(7), 3)

    def of(params, key):
        return lrx.sharpness(loss_fn, {**params, "steps": 3}, key=key, eigenvectors=True)

    found = jax.jit(jax.vmap(of))(points, keys)
    np.testing.assert_allclose(found.largest, [4, 12, 48], rtol=1e-4)
    assert found.eigenvectors["steps"] is None  # an integer is held fixed
    np.testing.assert_allclose(jnp.abs(found.eigenvectors["a"][:, 0]), [1, 0, 0], atol=1e-3)


@pytest.mark.parametrize("x64", [False, True])
def test_sharpness_lowers_for_accelerators_and_is_float32_with_64_bit_types_too(x64):
    with jax.enable_x64(x64):
        function = jax.jit(lambda x: lrx.sharpness(lambda x: jnp.sum(jnp.tanh(x) ** 2), x).largest)
        point = jax.ShapeDtypeStruct((30,), jnp.float32)
        assert jax.eval_shape(function, point).dtype == jnp.float32
        text = jax.export.export(function, platforms=("cuda", "tpu"))(point).mlir_module()
    assert "callback" not in text
    assert not re.search(r"tensor<\d+x[^>]*f64>", text) if x64 else "f64" not in text


@pytest.mark.slow
def test_a_loss_that_is_not_finite_has_no_sharpness():
    found = jax.jit(
        lambda x: lrx.sharpness(lambda x: jnp.sum(x**2) + jnp.where(x[0] > 0, jnp.nan, 0.0) * x[0], x).largest
    )
    assert np.isnan(found(jnp.ones(30)))
    assert found(-jnp.ones(30)) == pytest.approx(2.0)


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("loss", "params", "options", "error", "message"),
    [
        (total, jnp.ones(3), {"num_eigenvalues": 0}, ValueError, "^num_eigenvalues must be a whole number of eigen"),
        (
            total,
            jnp.ones(3),
            {"num_eigenvalues": 4},
            ValueError,
            "^num_eigenvalues must be <= the number of parameters",
        ),
        (total, jnp.ones(3), {"tol": 0.0}, ValueError, "^tol must be a finite number > 0"),
        (total, jnp.ones(3), {"max_products": 0}, ValueError, "^max_products must be a whole number of products"),
        (total, jnp.ones(3), {"eigenvectors": 1}, TypeError, "^eigenvectors must be True or False"),
        (total, {}, {}, ValueError, "^params must hold at least one floating-point number, got no leaves"),
        (total, jnp.arange(3), {}, ValueError, "^params must hold at least one floating-point number, got int32"),
        (total, {"w": jnp.ones(3, jnp.complex64)}, {}, TypeError, "^params must be real, got complex64 at 'w'"),
        (lambda x: x, jnp.ones(3), {}, ValueError, r"^loss must return a scalar, got one of shape \(3,\)"),
        (lambda x: (total(x), 0), jnp.ones(3), {}, TypeError, "^loss must return one number, got a tuple"),
        (lambda x: jnp.sum(x > 0), jnp.ones(3), {}, TypeError, "^loss must return a floating-point number, got int32"),
        (3.0, jnp.ones(3), {}, TypeError, "^loss must be a function, got loss=3.0"),
        (total, {"w": jnp.ones(3)}, {"preconditioner": {"w": jnp.ones(2)}}, ValueError, "^preconditioner must be like"),
        (total, jnp.ones(3), {"preconditioner": jnp.zeros(3)}, ValueError, "^preconditioner must be positive, got 0"),
    ],
)
def test_what_has_no_sharpness_is_refused(loss, params, options, error, message):
    with pytest.raises(error, match=message):
        lrx.sharpness(loss, params, **options)


def test_the_eigenvalues_are_drawn_beside_a_limit():
    curvatures = jnp.array([1.0, 5.0])
    found = lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(2), num_eigenvalues=2)
    assert repr(found).startswith("Sharpness(5, 1; residual ")
    axes = found.plot(limit=4.0).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [5, 1], rtol=1e-5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["stability limit", "eigenvalue"]


def test_an_equal_loss_on_other_data_compiles_nothing_and_a_changed_one_is_seen():
    events, scale = [], {"of": 1.0}

    def loss_on(data):
        return lambda x: scale["of"] * 0.5 * jnp.sum(data * x**2)

    point = jnp.asarray(np.ones(3, np.float32))
    measure = functools.partial(lrx.sharpness, params=point, key=jax.random.key(1))
    np.testing.assert_allclose(float(measure(loss_on(jnp.asarray(np.arange(1.0, 4, dtype=np.float32))))), 3, rtol=1e-4)
    other = loss_on(jnp.asarray(np.arange(2.0, 5, dtype=np.float32)))
    jax.monitoring.register_event_duration_secs_listener(listener := lambda event, *_, **__: events.append(event))
    try:
        found = measure(other)
        assert "/jax/core/compile/backend_compile_duration" not in events
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    np.testing.assert_allclose(float(found), 4, rtol=1e-4)
    scale["of"] = 10.0
    np.testing.assert_allclose(float(measure(other)), 40, rtol=1e-4)


def test_a_rule_of_ones_own_for_the_derivative_makes_another_loss():
    def with_slope(slope):
        @jax.custom_jvp
        def loss(x):
            return jnp.sum(x**2)

        loss.defjvp(lambda primals, tangents: (loss(*primals), jnp.sum(slope * primals[0] * tangents[0])))
        return loss

    for slope in (6.0, 2.0):
        found = lrx.sharpness(lambda x, slope=slope: with_slope(slope)(x), jnp.ones(3))
        assert float(found) == pytest.approx(slope, rel=1e-4)


def test_the_data_of_a_loss_may_be_traced():
    data = jnp.arange(3.0)
    largest = jax.jit(lambda x: lrx.sharpness(lambda w: jnp.sum(jax.nn.relu(w * x) ** 2), jnp.ones(3)).largest)
    assert float(largest(data)) == pytest.approx(8.0, rel=1e-4)
