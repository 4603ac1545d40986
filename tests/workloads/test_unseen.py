"""The tasks of kinds that no rule has seen: what each computes, against its definition."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning import learn

from lrx.workloads.adapters import adapted_network
from lrx.workloads.denoising import make_masked_workload
from lrx.workloads.distillation import make_distillation_workload, relative_entropy, ridge_scores
from lrx.workloads.equilibrium import equilibrium_network
from lrx.workloads.links import draw_links, link_network
from lrx.workloads.measurements import make_dictionary_workload, make_phases_workload
from lrx.workloads.mixtures import log_density, make_clusters_workload
from lrx.workloads.ranking import draw_lists, list_cross_entropy, scoring_network
from lrx.workloads.scenes import draw_scenes, location_network, place_images, segmentation_network
from lrx.workloads.series import draw_seasons, draw_tones, tone_network
from lrx.workloads.suite import KINDS, OUTCOMES, STRUCTURES, TASKS, UNSEEN
from lrx.workloads.symbols import chain_likelihood, draw_sequences, draw_tags, sorting_network, tag_network

KEY = jax.random.key(0)


def test_the_unseen_tasks_are_of_kinds_that_no_other_task_has() -> None:
    kinds = {task.kind for task in UNSEEN.values()}
    seen = {task.kind for tasks in (OUTCOMES, STRUCTURES) for task in tasks.values()} | set(KINDS)
    assert len(UNSEEN) >= 12
    assert len(kinds) >= 11
    assert not kinds & seen
    assert not set(UNSEEN) & (set(TASKS) | set(OUTCOMES) | set(STRUCTURES))


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSEEN)
def test_every_unseen_task_is_learnt_at_one_rate(name: str) -> None:
    task = UNSEEN[name]
    workload = task.make(None)
    assert workload.name == name
    found = learn(workload, 1e-2, steps=100)
    before, after = found.before[task.metric], found.after[task.metric]
    assert np.all(np.isfinite(found.losses))
    assert after < before - 0.02 * abs(before) if task.mode == "min" else after > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSEEN)
def test_the_first_gradient_of_an_unseen_task_is_finite_and_not_zero(name: str) -> None:
    workload = UNSEEN[name].make(None)
    batch = jax.tree.map(lambda x: x[: workload.batches.batch_size], workload.batches.arrays)
    params = jax.jit(workload.init)(KEY)[0]
    slopes = jax.jit(jax.grad(lambda params: workload.loss_fn(params, (), batch, KEY)[0]))(params)
    sizes = [float(jnp.abs(slope).max()) for slope in jax.tree.leaves(slopes)]
    assert np.all(np.isfinite(sizes))
    assert max(sizes) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSEEN)
def test_an_unseen_task_has_the_same_examples_each_time(name: str) -> None:
    first, second = (UNSEEN[name].make(None) for _ in range(2))
    for arrays in zip(*(jax.tree.leaves(each.batches.arrays) for each in (first, second)), strict=True):
        np.testing.assert_array_equal(*arrays)
    held_out = [jax.tree.leaves(each.evaluate.function.arrays) for each in (first, second)]
    for arrays in zip(*held_out, strict=True):
        np.testing.assert_array_equal(*arrays)


@pytest.mark.slow
def test_the_class_of_a_pixel_depends_on_its_surroundings_only() -> None:
    network = segmentation_network(3)
    params, rng = jax.jit(network.init)(KEY), np.random.default_rng(0)
    images, classes = draw_scenes(4, rng, size=20, noise=0.0)
    np.testing.assert_array_equal(images[..., 0], classes > 0)
    assert set(np.unique(classes)) == {0, 1, 2}
    changed = images.copy()
    changed[:, 0, 0] += 1
    moved = np.abs(network.apply(params, changed) - network.apply(params, images)).max(axis=(0, 3))
    assert network.apply(params, images).shape == (4, 20, 20, 3)
    assert moved[:2, :2].max() > 1e-3
    assert moved[10:].max() == moved[:, 10:].max() == 0


@pytest.mark.slow
def test_an_image_lies_where_its_place_says() -> None:
    images = np.ones((50, 3, 5, 1), np.float32)
    canvases, places = place_images(images, np.random.default_rng(0), size=8, noise=0.0)
    assert set(np.unique(places)) <= set(np.unique(np.float32([2 * i / room - 1 for room in (3, 5) for i in range(6)])))
    for canvas, (row, column) in zip(canvases[..., 0], places, strict=True):
        top, left = round((row + 1) / 2 * 5), round((column + 1) / 2 * 3)
        assert canvas.sum() == canvas[top : top + 3, left : left + 5].sum() == 15
    network = location_network(8, width=2)
    assert network.apply(jax.jit(network.init)(KEY), canvases).shape == (50, 2)


@pytest.mark.slow
def test_a_sorted_symbol_is_predicted_from_the_sequence_and_the_symbols_before_it() -> None:
    codes, in_order = draw_sequences(20, np.random.default_rng(0), vocabulary=7, length=4)
    np.testing.assert_array_equal(np.sort(codes[:, :4], axis=1), in_order)
    assert np.all(codes[:, 4] == 7)
    np.testing.assert_array_equal(codes[:, 5:], in_order[:, :-1])
    network = sorting_network(7, 4, width=4)
    params = jax.jit(network.init)(KEY)
    changed = codes.copy()
    changed[:, 6] = 0  # the second sorted symbol, from which the third is predicted
    moved = np.abs(network.apply(params, codes) - network.apply(params, changed)).max(axis=(0, 2))
    assert moved.shape == (4,)
    assert moved[:2].max() < 1e-5 < moved[2:].min()


@pytest.mark.slow
def test_the_likelihood_of_a_chain_is_a_share_of_all_sequences() -> None:
    rng = np.random.default_rng(0)
    potentials = rng.normal(size=(2, 3, 2, 2)).astype(np.float32)
    tags = np.int32([[0, 1, 1], [1, 0, 1]])

    def score(scores: np.ndarray, tags: tuple[int, ...]) -> float:
        return sum(scores[step, before, tag] for step, (before, tag) in enumerate(itertools.pairwise((0, *tags))))

    losses = []
    for scores, sequence in zip(potentials, tags, strict=True):
        total = sum(np.exp(score(scores, each)) for each in itertools.product(range(2), repeat=3))
        losses.append(np.log(total) - score(scores, tuple(sequence)))
    found = jax.jit(chain_likelihood)(potentials, tags)["loss"]
    assert float(found) == pytest.approx(np.mean(losses) / 3, rel=1e-4)


@pytest.mark.slow
def test_a_tag_is_scored_by_its_point_and_by_the_tag_before() -> None:
    points, tags = draw_tags(2000, np.random.default_rng(0), length=3)
    assert points.shape == (2000, 3, 4)
    moves = (tags[:, 1:] - tags[:, :-1]) % 4
    np.testing.assert_allclose(np.bincount(moves.ravel()) / moves.size, [0.3, 0.5, 0.1, 0.1], atol=0.03)
    network = tag_network(4, 4)
    params = jax.jit(network.init)(KEY)
    params["transitions"] = np.arange(16, dtype=np.float32).reshape(4, 4)
    found = network.apply(params, points[:2])
    assert found.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(found[:, :, 2] - found[:, :, 1], np.full((2, 3, 4), 4.0), atol=1e-4)
    point = network.apply(params, points[1:2, 2:])
    np.testing.assert_allclose(found[1, 2], point[0, 0], atol=1e-5)


@pytest.mark.slow
def test_a_tone_has_the_frequency_of_its_pitch() -> None:
    waves, pitches = draw_tones(600, np.random.default_rng(0), length=256, noise=0.0)
    spectrum = np.abs(np.fft.rfft(waves, n=4096, axis=1))
    loudest = spectrum[:, 16:].argmax(axis=1) + 16
    expected = 4 * 2 ** (pitches / 3) * 4096 / 256
    assert np.mean(np.abs(loudest / expected - 1) < 0.1) > 0.95
    network = tone_network(6)
    params = jax.jit(network.init)(KEY)
    found = network.apply(params, waves[:2, :64])
    windows = np.stack([waves[:2, start : start + 16] for start in range(0, 49, 4)], axis=1)
    first = np.maximum(windows @ np.asarray(params[0]["kernel"]), 0)
    second = np.concatenate([first[:, :-2], first[:, 1:-1], first[:, 2:]], axis=2) @ np.asarray(params[1]["kernel"])
    expected = np.maximum(second, 0).mean(axis=1) @ np.asarray(params[2]["kernel"])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_forecast_goes_on_with_what_is_known() -> None:
    known, following = draw_seasons(500, np.random.default_rng(0))
    assert known.shape == (500, 24)
    assert following.shape == (500, 8)
    np.testing.assert_allclose(known.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(known.std(axis=1), 1, atol=1e-5)
    # 24 steps are whole seasons of 8 and of 12: apart from the trend, what follows resembles the beginning.
    first, last = (part - part.mean(axis=1, keepdims=True) for part in (known[:, :8], following))
    assert np.corrcoef(first.ravel(), last.ravel())[0, 1] > 0.8


@pytest.mark.slow
def test_a_student_is_compared_with_the_teachers_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    given = rng.dirichlet(np.ones(3), size=6).astype(np.float32)
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.mean(np.sum(given * np.log(given / found), axis=1))
    assert float(relative_entropy(logits, given)["loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(relative_entropy(logits, found)["loss"]) == pytest.approx(0, abs=1e-6)
    certain = np.eye(3, dtype=np.float32)
    assert float(relative_entropy(np.zeros((3, 3), np.float32), certain)["loss"]) == pytest.approx(np.log(3))


@pytest.mark.slow
def test_the_teacher_is_fitted_to_the_labels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    examples = x, x[:, :3].argmax(axis=1).astype(np.int32)
    train, test = (tuple(part[rows] for part in examples) for rows in (slice(300), slice(300, None)))
    (scores,) = ridge_scores(train, (test[0],))
    assert np.mean(scores.argmax(axis=1) == test[1]) > 0.8
    workload = make_distillation_workload("taught", train, test, batch_size=10)
    np.testing.assert_allclose(workload.evaluate.function.arrays[1], jax.nn.softmax(scores / 0.2), atol=1e-5)


@pytest.mark.slow
def test_hidden_pixels_are_not_seen_and_only_they_count() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 6)).astype(np.float32)
    workload = make_masked_workload("images", images, images, hidden=4)
    params = jax.jit(workload.init)(KEY)[0]
    nothing = jax.tree.map(jnp.zeros_like, params)
    is_hidden = np.asarray(workload.evaluate.function.arrays[1]) < 0.5
    assert 0.4 < is_hidden.mean() < 0.6
    expected = np.mean(images[is_hidden] ** 2) / 2
    assert float(workload.evaluate(nothing, ())["loss"]) == pytest.approx(expected, rel=1e-4)
    # Every image has the same bias as its prediction, so a hidden pixel of that value is predicted without an error.
    alike = np.broadcast_to(np.arange(6, dtype=np.float32), (64, 6))
    constant = make_masked_workload("alike", alike, alike, hidden=4)
    nothing[-1]["bias"] = jnp.arange(6.0)
    assert float(constant.evaluate(nothing, ())["loss"]) == 0
    inputs = np.concatenate([images * ~is_hidden, is_hidden], axis=1)
    first, second = ({name: np.asarray(value) for name, value in layer.items()} for layer in params)
    found = np.maximum(inputs @ first["kernel"], 0) @ second["kernel"]
    expected = np.mean((found - images)[is_hidden] ** 2) / 2
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_signals_that_are_atoms_cost_only_the_size_of_their_codes() -> None:
    signals = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    workload = make_dictionary_workload("units", signals, num_atoms=3, penalty=0.2)
    params = {"codes": signals, "atoms": 5 * np.eye(3, dtype=np.float32)}
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(0.2, rel=1e-5)
    params["codes"] = np.zeros_like(signals)
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(0.5, rel=1e-5)
    found = jax.jit(workload.loss_fn)(params, (), workload.batches.arrays, KEY)[0]
    assert float(found) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.slow
def test_moduli_do_not_change_with_the_phase_of_the_signal() -> None:
    workload = make_phases_workload(size=4, num_train=50, num_test=20)
    params = np.asarray(jax.jit(workload.init)(KEY)[0])
    vectors, moduli = (np.asarray(part) for part in workload.evaluate.function.arrays)
    products = (vectors[:, 0] + 1j * vectors[:, 1]) @ (params[0] + 1j * params[1])
    expected = np.mean((np.abs(products) ** 2 - moduli) ** 2) / 2
    turned = (params[0] + 1j * params[1]) * np.exp(0.7j)
    for signal in (params, np.stack([turned.real, turned.imag]).astype(np.float32)):
        assert float(workload.evaluate(signal, ())["loss"]) == pytest.approx(expected, rel=1e-4)
    x = np.random.default_rng(0).normal(size=(2, 4)) / np.sqrt(2)  # the first numbers that the workload draws
    assert float(workload.evaluate(x.astype(np.float32), ())["loss"]) < 1e-8


@pytest.mark.slow
def test_the_density_of_a_mixture_is_a_sum_of_normal_densities() -> None:
    rng = np.random.default_rng(0)
    params = {
        "logits": np.float32([0.3, -0.4]),
        "means": rng.normal(size=(2, 3)).astype(np.float32),
        "log_scales": 0.3 * rng.normal(size=(2, 3)).astype(np.float32),
        "below": rng.normal(size=(2, 3, 3)).astype(np.float32),
    }
    points = rng.normal(size=(5, 3)).astype(np.float32)
    densities = np.zeros(5)
    weights = np.exp(params["logits"]) / np.exp(params["logits"]).sum()
    for weight, mean, logs, below in zip(weights, *(params[k] for k in ("means", "log_scales", "below")), strict=True):
        factor = np.diag(np.exp(logs)) + np.tril(below, -1)
        precision, gaps = factor @ factor.T, points - mean
        size = np.sqrt(np.linalg.det(precision / (2 * np.pi)))
        densities += weight * size * np.exp(-np.einsum("ni,ij,nj->n", gaps, precision, gaps) / 2)
    np.testing.assert_allclose(jax.jit(log_density)(params, points), np.log(densities), rtol=1e-4)


@pytest.mark.slow
def test_points_of_clusters_are_standardized() -> None:
    workload = make_clusters_workload(num_train=3000, num_test=100)
    np.testing.assert_allclose(np.mean(workload.batches.arrays, axis=0), 0, atol=0.1)
    np.testing.assert_allclose(np.std(workload.batches.arrays, axis=0), 1, atol=0.1)
    params = jax.tree.map(jnp.zeros_like, jax.jit(workload.init)(KEY)[0])
    # One standard normal distribution: ln(2 pi) / 2 + 1 / 2 for each number of a point.
    assert float(workload.evaluate(params, ())["loss"]) == pytest.approx(2 * np.log(2 * np.pi) + 2, rel=0.1)


@pytest.mark.slow
def test_the_iterations_of_a_contraction_reach_its_fixed_point() -> None:
    network = equilibrium_network(3, 2, width=4, iterations=100)
    params = jax.jit(network.init)(KEY)
    params["carry"] = 10 * params["carry"]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    carry = np.asarray(params["carry"], np.float64)
    carry = carry / np.sqrt(1 + np.sum(carry**2))
    assert np.linalg.norm(carry, 2) < 1
    z, fixed = np.zeros((5, 4)), x @ np.asarray(params["read"]["kernel"])
    for _ in range(1000):
        z = np.tanh(fixed + z @ carry)
    np.testing.assert_allclose(z, np.tanh(fixed + z @ carry), atol=1e-8)
    np.testing.assert_allclose(network.apply(params, x), z @ np.asarray(params["output"]["kernel"]), atol=1e-4)


@pytest.mark.slow
def test_adapters_begin_without_effect_and_are_of_low_rank() -> None:
    network, other = (adapted_network((5, 6, 7), 3, rank=1, seed=seed) for seed in (0, 1))
    params = jax.jit(network.init)(KEY)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape) * np.sqrt(2 / shape[0]) for shape in ((5, 6), (6, 7))]
    units = np.maximum(np.maximum(x @ kernels[0], 0) @ kernels[1], 0)
    output = np.asarray(params["output"]["kernel"])
    np.testing.assert_allclose(network.apply(params, x), units @ output, atol=1e-4)
    assert np.abs(other.apply(params, x) - units @ output).max() > 0.1
    params["adapters"][1]["up"] = jnp.ones((1, 7))
    added = np.asarray(params["adapters"][1]["down"]) @ np.ones((1, 7))
    units = np.maximum(np.maximum(x @ kernels[0], 0) @ (kernels[1] + added), 0)
    np.testing.assert_allclose(network.apply(params, x), units @ output, atol=1e-4)


@pytest.mark.slow
def test_a_link_leads_to_the_nearest_entity_after_a_shift() -> None:
    pairs, goals = draw_links(30, 3, np.random.default_rng(0))
    assert sorted(map(tuple, pairs.tolist())) == list(itertools.product(range(30), range(3)))
    assert np.all(goals != pairs[:, 0])
    rng = np.random.default_rng(0)  # the first numbers that are drawn are the places and the shifts
    places, shifts = rng.uniform(-1, 1, size=(30, 2)), 0.3 * rng.normal(size=(3, 2))
    network = link_network(30, 3, width=2)
    params = {"entities": places.astype(np.float32), "relations": shifts.astype(np.float32)}
    logits = np.array(network.apply(params, pairs))
    gaps = places[pairs[:, 0]][:, None] + shifts[pairs[:, 1]][:, None] - places[None]
    differences = -np.sum(gaps**2, axis=2) - logits  # the same for each entity
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=1e-5)
    logits[np.arange(90), pairs[:, 0]] = -np.inf
    np.testing.assert_array_equal(logits.argmax(axis=1), goals)
    assert jax.tree.map(np.shape, jax.jit(network.init)(KEY)) == {"entities": (30, 2), "relations": (3, 2)}


@pytest.mark.slow
def test_the_gain_of_a_list_is_one_in_the_order_of_its_grades() -> None:
    lists, grades = draw_lists(50, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(grades, axis=1), np.tile(np.float32([0, 0, 1, 1, 2, 2, 3, 3]), (50, 1)))
    perfect = list_cross_entropy(grades, grades)
    share = np.exp(np.sort(grades[0])) / np.exp(grades[0]).sum()
    assert float(perfect["gain"]) == pytest.approx(1, abs=1e-5)
    assert float(perfect["loss"]) == pytest.approx(-np.sum(share * np.log(share)), rel=1e-4)
    worst = list_cross_entropy(np.float32([[2, 1, 0]]), np.float32([[0, 1, 3]]))
    expected = (1 / np.log2(3) + 7 / np.log2(4)) / (7 + 1 / np.log2(3))
    assert float(worst["gain"]) == pytest.approx(expected, rel=1e-5)
    network = scoring_network(6)
    params = jax.jit(network.init)(KEY)
    np.testing.assert_allclose(network.apply(params, lists)[:, ::-1], network.apply(params, lists[:, ::-1]), atol=1e-5)
