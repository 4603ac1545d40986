"""A landscape is the loss on a plane: exactly on quadratics, in any type, compiled once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.diagnostics.planes import draw_directions, principal_directions

COMPILED = "/jax/core/compile/backend_compile_duration"


def bowl(params):
    """A quadratic of two leaves, of which one is a kernel."""
    return 0.5 * jnp.sum(jnp.array([[1.0, 4.0]]) * params["kernel"] ** 2) + jnp.sum((params["bias"] - 1.0) ** 2)


def point(kernel=(1.0, 2.0), bias=(3.0,)):
    return {"kernel": jnp.array([kernel]), "bias": jnp.array(bias)}


AXES = point((1.0, 0.0), (0.0,)), point((0.0, 0.0), (2.0,))


def test_the_plane_of_a_quadratic_is_its_formula_along_both_directions():
    found = lrx.landscape(bowl, point(), directions=AXES, extent=2.0, num_points=5)
    a, b = np.meshgrid(found.first, found.second, indexing="ij")
    np.testing.assert_array_equal(found.first, [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(found.losses, 0.5 * ((1 + a) ** 2 + 16) + (2 + 2 * b) ** 2, rtol=1e-6)
    assert found.losses.dtype == np.float32
    assert found.centre == pytest.approx(12.5)


def test_several_points_at_once_give_the_same_plane_as_one_after_the_other():
    one = lrx.landscape(bowl, point(), directions=AXES, num_points=5, points_at_once=1)
    several = lrx.landscape(
        bowl, point(), directions=AXES, num_points=5, points_at_once=4
    )  # the last chunk is filled up
    np.testing.assert_allclose(several.losses, one.losses, rtol=1e-6)
    assert several.centre == one.centre


@pytest.mark.slow
def test_random_directions_have_the_norm_of_every_filter_and_leave_biases_alone():
    params = {"conv": jax.random.normal(jax.random.key(1), (3, 3, 2, 4)), "bias": jnp.ones(4)}
    one, other = draw_directions(params, jax.random.key(0), 2, "filter", -1)
    for direction in (one, other):
        np.testing.assert_allclose(
            jnp.sum(direction["conv"] ** 2, axis=(0, 1, 2)), jnp.sum(params["conv"] ** 2, axis=(0, 1, 2)), rtol=1e-5
        )
        assert not direction["bias"].any()
    assert not np.allclose(one["conv"], other["conv"])
    (first,) = draw_directions(params, jax.random.key(0), 1, "filter", 0)
    np.testing.assert_allclose(
        jnp.sum(first["conv"] ** 2, axis=(1, 2, 3)), jnp.sum(params["conv"] ** 2, axis=(1, 2, 3)), rtol=1e-5
    )
    (layered,) = draw_directions(params, jax.random.key(0), 1, "layer", -1)
    assert float(jnp.sum(layered["bias"] ** 2)) == pytest.approx(4.0)


def test_a_plane_does_not_change_if_one_layer_is_scaled_up_and_the_next_one_down():
    x = jax.random.normal(jax.random.key(0), (32, 3))

    def loss(params):
        return jnp.mean((jax.nn.relu(x @ params["first"]) @ params["second"]) ** 2)

    params = {
        "first": jax.random.normal(jax.random.key(1), (3, 5)),
        "second": jax.random.normal(jax.random.key(2), (5, 2)),
    }
    scaled = {"first": 8 * params["first"], "second": params["second"] / 8}
    planes = [lrx.landscape(loss, each, num_points=3).losses for each in (params, scaled)]
    np.testing.assert_allclose(planes[0], planes[1], rtol=1e-5)
    planes = [lrx.landscape(loss, each, num_points=3, normalization=None).losses for each in (params, scaled)]
    assert not np.allclose(planes[0], planes[1], rtol=0.5)


def circle(number=12):
    """Points of an ellipse with half axes 3 and 1, in a random plane of the parameters."""
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 2)))[0]
    angles = np.linspace(0, 2 * np.pi, number, endpoint=False)
    flat = np.stack([3 * np.cos(angles), np.sin(angles)], axis=1) @ plane.T
    return [{"a": jnp.array(row[:6].reshape(2, 3), jnp.float32), "b": jnp.float32(row[6])} for row in flat]


def norm_squared(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def test_a_trajectory_in_a_plane_is_explained_by_it_and_found_again_from_its_coordinates():
    points = circle()
    found = lrx.landscape(norm_squared, points[-1], directions="trajectory", trajectory=points, num_points=4)
    np.testing.assert_allclose(found.variance, [0.9, 0.1], rtol=1e-5)
    for at, expected in zip(found.trajectory, points, strict=True):
        rebuilt = {
            name: points[-1][name] + at[0] * found.directions[0][name] + at[1] * found.directions[1][name]
            for name in expected
        }
        np.testing.assert_allclose(rebuilt["a"], expected["a"], atol=1e-5)
        np.testing.assert_allclose(rebuilt["b"], expected["b"], atol=1e-5)
    assert found.first[0] < found.trajectory[:, 0].min() < found.trajectory[:, 0].max() < found.first[-1]
    assert found.second[0] < found.trajectory[:, 1].min() < found.trajectory[:, 1].max() < found.second[-1]
    assert "90.0 % and 10.0 %" in str(found)


def test_a_trajectory_with_a_leading_axis_is_the_same_as_a_list():
    points = circle()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    planes = [
        lrx.landscape(norm_squared, points[0], directions="trajectory", trajectory=each, num_points=2)
        for each in (points, stacked)
    ]
    np.testing.assert_array_equal(planes[0].losses, planes[1].losses)


def test_a_trajectory_is_projected_on_a_plane_that_is_not_its_own():
    trajectory = [point((1.0, 7.0), (3.0,)), point((2.0, 7.0), (5.0,))]
    found = lrx.landscape(bowl, point(), directions=AXES, trajectory=trajectory, num_points=2)
    np.testing.assert_allclose(found.trajectory, [[0, 0], [1, 1]], atol=1e-6)
    assert found.variance is None


def test_points_on_a_line_get_a_second_direction_that_is_perpendicular():
    points = [point((float(i), 2.0 * i), (0.0,)) for i in range(4)]
    (one, other), variance = principal_directions(points)
    np.testing.assert_allclose(variance, [1, 0])
    product = sum(float(jnp.sum(a * b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert abs(product) < 1e-5
    assert float(norm_squared(other)) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(one["kernel"], np.array([[1, 2]]) / np.sqrt(5), rtol=1e-5)


def test_leaves_keep_their_types_and_whole_numbers_stay():
    params = {"kernel": jnp.full((2, 2), 2.0, jnp.bfloat16), "count": jnp.int32(3)}
    seen = []

    def loss(params):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype, params))
        return jnp.sum(params["kernel"]).astype(jnp.float32) * jnp.arange(5.0)[params["count"]]

    found = lrx.landscape(loss, params, num_points=3)
    assert seen[-1] == {"kernel": jnp.bfloat16, "count": jnp.int32}
    assert found.centre == 24
    again = lrx.landscape(loss, params, num_points=2, directions="trajectory", trajectory=[params, _shift(params)])
    assert again.directions[0]["count"].dtype == jnp.float32
    assert not again.directions[0]["count"].any()


def _shift(params):
    return {"kernel": params["kernel"] + jnp.arange(4.0).reshape(2, 2), "count": params["count"]}


def test_an_equal_loss_on_other_data_compiles_nothing_and_a_changed_one_is_seen():
    events = []
    scale = {"of": 1.0}

    def loss_on(data):
        return lambda params: scale["of"] * jnp.mean((data * params["kernel"]) ** 2) + jnp.sum(params["bias"])

    def plane(loss):
        return lrx.landscape(loss, point(), directions=AXES, num_points=3).losses

    plane(loss_on(jnp.ones((4, 2))))
    jax.monitoring.register_event_duration_secs_listener(listener := lambda event, *_, **__: events.append(event))
    try:
        doubled = loss_on(jnp.asarray(np.full((4, 2), 2.0, np.float32)))
        events.clear()
        twice = plane(doubled)
        assert COMPILED not in events
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert twice[1, 1] == pytest.approx(np.mean([4 * 1, 4 * 4]) + 3)
    scale["of"] = 10.0
    assert plane(doubled)[1, 1] == pytest.approx(10 * np.mean([4 * 1, 4 * 4]) + 3)


def test_points_where_the_loss_is_not_finite_are_kept_counted_and_left_white(tmp_path):
    found = lrx.landscape(
        lambda params: jnp.sum(jnp.log(params["kernel"])), point((1.0, 1.0)), directions=AXES, num_points=5, extent=2.0
    )
    assert np.isnan(found.losses[0]).all()
    assert np.isneginf(found.losses[1]).all()
    assert "not finite  10 of 25 points" in str(found)
    found.plot().savefig(tmp_path / "contours.png")
    found.plot_surface().savefig(tmp_path / "surface.png")


def test_the_figure_has_the_trajectory_and_says_what_its_directions_explain():
    points = circle()
    figure = lrx.landscape(
        norm_squared, points[0], directions="trajectory", trajectory=points, num_points=5, progress="ellipse"
    ).plot(title="an ellipse")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "an ellipse"
    assert "90.0 % of the variance" in axes.get_xlabel()
    assert len(axes.lines[0].get_xdata()) == len(points)


def test_progress_shows_points_and_the_least_loss(capsys):
    lrx.landscape(bowl, point(), directions=AXES, num_points=2, progress=True)
    printed = capsys.readouterr().out
    assert "landscape: step 4 of 4" in printed
    assert "least loss 8" in printed
    lrx.landscape(bowl, point(), directions=AXES, num_points=2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"loss": lambda p: p["bias"] * jnp.ones(2)},
            ValueError,
            r"loss must return a scalar, got one of shape \(2,\)",
        ),
        ({"loss": lambda p: jnp.int32(1)}, TypeError, "loss must return a floating-point number, got int32"),
        ({"loss": 3.0}, TypeError, "loss must be a function, got loss=3.0"),
        ({"loss": lambda p: jnp.sum(p["bias"]) * jnp.nan}, ValueError, "loss must be finite at params, got nan"),
        (
            {"params": {"bias": jnp.arange(2)}},
            ValueError,
            "params must hold at least one floating-point number, got int32",
        ),
        ({"params": {"bias": jnp.ones(2, jnp.complex64)}}, TypeError, "params must be real, got complex64 at 'bias'"),
        (
            {"params": {"bias": jnp.ones(2), "f": len}},
            TypeError,
            "params must be a tree of arrays, got <built-in function len> at 'f'",
        ),
        (
            {"params": {"bias": jnp.ones(2)}},
            ValueError,
            "params must have a leaf of at least two axes that is not zero",
        ),
        (
            {"params": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(1)}, "normalization": "layer"},
            ValueError,
            "params must have a leaf that is not zero for normalization='layer', got none: give normalization=None",
        ),
        ({"num_points": 1}, ValueError, "num_points must be a whole number of points along each side >= 2"),
        ({"points_at_once": 0}, ValueError, "points_at_once must be a whole number of points >= 1"),
        ({"extent": 0.0}, ValueError, "extent must be a finite number > 0"),
        ({"normalization": "filters"}, ValueError, "normalization must be one of 'filter', 'layer'"),
        ({"directions": "pca"}, ValueError, "directions must be one of 'random', 'trajectory'"),
        ({"directions": "trajectory"}, ValueError, 'trajectory must be given with directions="trajectory"'),
        ({"directions": AXES[:1]}, ValueError, "or a pair of pytrees like params, got 1 of them"),
        ({"directions": 2}, TypeError, "or a pair of pytrees like params, got directions=2"),
        ({"directions": (AXES[0], AXES[0])}, ValueError, "directions must be two that are neither zero nor parallel"),
        ({"directions": (AXES[0], point(bias=()))}, ValueError, r"directions\[1\] must have the structure and shapes"),
        ({"directions": AXES, "normalization": "layer"}, ValueError, "normalization must be left out unless"),
        ({"trajectory": [point()]}, ValueError, "trajectory must have at least two points, got 1"),
        ({"trajectory": [point(), 3]}, ValueError, r"trajectory\[1\] must have the structure and shapes of params"),
        ({"trajectory": 3}, TypeError, "trajectory must be a list of pytrees like params"),
        (
            {"trajectory": [point(), point(bias=(jnp.nan,))]},
            ValueError,
            r"trajectory\[1\] must be finite, got a number that is not",
        ),
        (
            {"trajectory": [point(), point()], "directions": "trajectory"},
            ValueError,
            "trajectory must have points that differ",
        ),
        ({"progress": 3}, TypeError, "progress must be True, False"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    options = {"loss": bowl, "params": point(), "num_points": 2, **change}
    if "params" not in change and "normalization" not in change:
        options.setdefault("directions", AXES)
    with pytest.raises(error, match=message):
        lrx.landscape(options.pop("loss"), options.pop("params"), **options)


def test_one_number_spans_no_plane_and_a_traced_one_is_refused():
    with pytest.raises(ValueError, match="params must hold at least two numbers, which span a plane, got 1"):
        lrx.landscape(
            lambda w: w**2, jnp.float32(1.0), directions="trajectory", trajectory=[jnp.float32(0), jnp.float32(1)]
        )
    with pytest.raises(TypeError, match="params must be known arrays, got a traced one"):
        jax.jit(lambda w: lrx.landscape(lambda w: jnp.sum(w), w))(jnp.ones((2, 2)))
