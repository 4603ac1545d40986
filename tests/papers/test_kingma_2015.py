"""Kingma and Ba (2015): the models and rates are the paper's, and every verdict can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing
from small_images import grey_dataset

import lrx
from lrx import papers
from lrx.papers import kingma_2015
from lrx.papers.kingma_2015 import correction, steps, training
from lrx.papers.steps import last_steps
from lrx.records import Result
from lrx.workloads.perceptron import make_perceptron_workload

TINY = Tiny(
    kingma_2015.Size(1, (8,), 0, 1, 8, 2, 1),
    "digits",
    {
        "training.REGRESSION": {"Adam": training.REGRESSION["Adam"]},
        "training.PERCEPTRON": {
            name: training.PERCEPTRON[name]._replace(rates=(0.01,)) for name in ("Adam", "SGD-Nesterov")
        },
        "training.FIGURE_1": (),
        "training.FIGURE_2": ("SGD-Nesterov",),
        "correction.RATES": (1e-3, 1e-2),
        "training.strategy_of_networks": lambda: "vmap",
        "correction.strategy_of_networks": lambda: "vmap",
        "steps.QUIET_STEPS": 1000,
        "steps.TRAINING_STEPS": 50,
    },
)

GROWING = 14  # the claim that does not hold: the bound of section 2.1 is none for growing gradients
PAIRS = [(b1, b2) for b1 in correction.B1 for b2 in correction.B2]


def arm(loss, seeds=2):
    each = [[loss] * 3] * seeds
    return {
        "rates": [0.1, 1.0],
        "final_loss": [[9.0] * seeds, [loss] * seeds],
        "best": 1,
        "steps": [1, 2, 3],
        "loss": each,
    }


def made_up():
    """A result in which every claim holds but the one that does not."""
    regression = {"AdaGrad": 1.2, "AdaGrad, constant rate": 1.1, "SGD-Nesterov": 0.98, "Adam": 1.0, "Adam, scaled": 1.0}
    perceptron = {"AdaGrad": 1.3, "RMSProp": 1.2, "SGD-Nesterov": 1.1, "Adam": 1.0}
    corrected, uncorrected = [500, 200, 120, 100, 150], [450, 190, 130, 140, None]
    by_seed = [[[loss, loss] for loss in losses] for losses in (corrected, uncorrected)]
    stated = [steps.paper_bound(*pair) for pair in PAIRS]
    true = [steps.true_bound(*pair) for pair in PAIRS]
    curves = {
        "regression": {name: arm(loss) for name, loss in regression.items()},
        "perceptron": {name: arm(loss) for name, loss in perceptron.items()},
        "autoencoder": [[by_seed] * 3] * 2,
        "streams": np.reshape(np.stack([stated, true], axis=1), (2, 3, 2)).tolist(),
        "training": {"steps": [10, 20], "longest": np.ones((2, 3, 2, 2)).tolist()},
    }
    settings = kingma_2015.SCALES["cpu"].size._asdict() | {
        "steps_per_epoch": 468,
        "b1": correction.B1,
        "b2": correction.B2,
        "rates": correction.RATES,
    }
    return Result("kingma_2015", "cpu", "mnist", [0, 1], settings, curves, 1.0)


def test_all_claims_but_that_on_growing_gradients_hold_for_a_made_up_result():
    assert failing(made_up()) == [GROWING]


def reached(kind, name, loss):
    def change(curves):
        curves[kind][name]["final_loss"][1] = [loss, loss]

    return change


def curve(curves):
    curves["regression"]["Adam, scaled"]["loss"][1][2] *= 1.05


def autoencoder(b1, b2, rate, loss):
    def change(curves):
        curves["autoencoder"][b1][b2][1][rate] = [loss, loss]

    return change


def stream(kind, factor):
    def change(curves):
        curves["streams"][1][1][kind] *= factor

    return change


def longest_step(b1, b2, longest):
    def change(curves):
        curves["training"]["longest"][b1][b2] = [[1.0, longest], [1.0, longest]]

    return change


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (reached("regression", "SGD-Nesterov", 0.94), 0),
        (reached("regression", "AdaGrad", 0.99), 1),
        (reached("regression", "SGD-Nesterov", 1.21), 2),
        (reached("regression", "AdaGrad, constant rate", 0.99), 3),
        (reached("perceptron", "AdaGrad", 0.99), 4),
        (reached("perceptron", "RMSProp", 0.99), 5),
        (reached("perceptron", "SGD-Nesterov", 0.99), 6),
        (curve, 7),
        (autoencoder(0, 2, 4, 149), 8),
        (autoencoder(1, 2, 2, 119), 9),
        (autoencoder(0, 0, 1, 97), 10),
        (stream(0, 0.98), 11),
        (longest_step(1, 1, 3.3), 12),
        (stream(1, 0.98), 15),
        (longest_step(1, 0, 1.1), 13),
        (longest_step(0, 0, 10.1), 16),
    ],
)
def test_a_claim_fails_when_its_numbers_do(change, fails):
    assert failing(made_up(), change) == sorted([GROWING, fails])


def test_the_claim_on_growing_gradients_would_hold_were_the_bound_one():
    def change(curves):
        curves["streams"] = np.array(curves["streams"])[..., [0, 0]].tolist()

    assert failing(made_up(), change) == [GROWING + 1]


def test_rates_of_the_regression_fall_with_the_root_of_t():
    np.testing.assert_allclose(training.over_root(2.0)(jnp.array([0, 3, 99])), [2.0, 1.0, 0.2], rtol=1e-6)
    tx = training.REGRESSION["Adam"].make(0.1)
    params, state, rates = jnp.zeros(1), tx.init(jnp.zeros(1)), []
    for _ in range(4):
        params, state = tx.update(jnp.ones(1), state, params)
        rates.append(-float(params[0]))  # of a constant gradient, Adam's direction is 1
    np.testing.assert_allclose(rates, 0.1 / np.sqrt([1, 2, 3, 4]), rtol=1e-5)


def directions(tx, gradients):
    state, found = tx.init(jnp.zeros(gradients.shape[1])), []
    for gradient in gradients:
        updates, state = tx.update(jnp.asarray(gradient), state)
        found.append(updates)
    return np.array(found)


def test_adam_without_bias_correction_is_the_transcription_and_without_momentum_rmsprop():
    gradients = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    for b1, b2 in PAIRS:
        factors = correction.uncorrection(b1, b2, 30)
        found = directions(lrx.adam(0.1 * lrx.tabulated(factors), b1=b1, b2=b2, eps=0.0), gradients)
        m, v, wanted = 0.0, 0.0, []
        for gradient in gradients.astype(np.float64):
            m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
            wanted.append(-0.1 * m / np.sqrt(v))
        np.testing.assert_allclose(found, wanted, rtol=5e-4, err_msg=f"{b1}, {b2}")  # 1 - 0.9999 in float32
        if b1 == 0:
            np.testing.assert_allclose(found, directions(lrx.rmsprop(0.1, decay=b2, eps=0.0), gradients), rtol=5e-4)


@pytest.mark.parametrize(("b1", "b2"), PAIRS)
def test_largest_step_is_what_cauchy_and_schwarz_give_for_the_weights_summed_up(b1, b2):
    age = np.arange(200_000.0)
    first, second = (1 - b1) * b1**age, (1 - b2) * b2**age
    seen = second > 1e-300
    assert steps.true_bound(b1, b2) == pytest.approx(np.sqrt(np.sum(first[seen] ** 2 / second[seen])), rel=1e-4)


def test_bound_of_the_paper_has_its_two_cases():
    assert steps.paper_bound(0.9, 0.999) == pytest.approx(3.1623, rel=1e-4)
    assert steps.paper_bound(0.95, 0.99) == 1.0


@pytest.mark.slow
def test_streams_attain_both_bounds():
    b1, b2 = correction.B1, correction.B2
    sparse, growing = np.moveaxis(last_steps(steps.adam_of(1.0), b1, b2, steps.growing_gradients, 20_000), -1, 0)
    for found, bound in ((sparse, steps.paper_bound), (growing, steps.true_bound)):
        np.testing.assert_allclose(found, [[bound(one, other) for other in b2] for one in b1], rtol=0.08)
    assert growing[1, 1] == pytest.approx(7.27, abs=0.01)


def test_perceptron_of_figure_2_has_two_hidden_layers_of_a_thousand():
    for scale in ("cpu", "paper"):
        workload = make_perceptron_workload(grey_dataset(), kingma_2015.SCALES[scale].size.widths, dropped=0.5)
        params = jax.eval_shape(workload.init, jax.random.key(0))[0]
        sizes = 784 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 10 + 10
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sizes
        assert workload.batches.batch_size == 128


def test_paper_scale_is_the_papers():
    size = kingma_2015.SCALES["paper"].size
    assert (size.regression_epochs, size.epochs, size.widths) == (45, 200, (1000, 1000))
    assert (size.hidden, size.latent, size.autoencoder_epochs) == (500, 50, 100)


def test_figures_follow_from_the_saved_numbers(tmp_path):
    loaded = papers.load_result(made_up().save(tmp_path / "result.json"))
    figures = kingma_2015.plot(loaded)
    assert set(figures) == {"training", "bias_correction", "steps"}
    assert len(figures["bias_correction"].axes) == 6
