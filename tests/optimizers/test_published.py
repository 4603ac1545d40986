"""Methods against what their authors published, on the real MNIST; the recipes are those of `lrx.papers`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest

import lrx
from lrx.papers import baydin_2018, orabona_2017
from lrx.training import Workload, train
from lrx.tuning import Execution
from lrx.workloads import make_workload

pytestmark = [
    pytest.mark.slow,
    pytest.mark.optimized,
    pytest.mark.skipif(not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data"),
]


@functools.cache
def workload_of(model: str) -> Workload:
    return baydin_2018.workload_of("mnist", None, baydin_2018.WIDTHS[model])


# Each rule in logistic regression, and one in the perceptron. Methods with a fixed rate are compared in the paper's
# result; here one of them shows that the recipe is that of the authors.
@pytest.mark.parametrize(
    ("model", "name"),
    [("logistic regression", name) for name in ("SGD", *baydin_2018.PAIRS)] + [("perceptron", "SGDN-HD")],
)
def test_hypergradient_descent_reaches_the_published_losses(model: str, name: str) -> None:
    workload = workload_of(model)
    losses = {
        (curve, epoch): values[name]
        for (of, curve, epoch), values in baydin_2018.PUBLISHED.items()
        if of == model and name in values and epoch <= 2
    }
    assert losses
    history = train(workload, baydin_2018.method(name), epochs=max(epoch for _, epoch in losses))
    by_epoch = history.loss.reshape(-1, workload.batches.steps_per_epoch).mean(axis=1)
    reached = {"training": by_epoch, "validation": history.evaluations["loss"]}
    for (curve, epoch), value in losses.items():
        np.testing.assert_allclose(reached[curve][epoch - 1], value, rtol=baydin_2018.TOLERANCE)


def test_cocob_reaches_the_published_log() -> None:
    workload = orabona_2017.workload_of("mnist", None, (1000, 1000))
    found = train(workload, lrx.cocob(), epochs=2).evaluations
    cost, error = orabona_2017.PUBLISHED[1]
    assert found["training_loss"][0] <= cost  # well below, so that the paper's own claim fails
    assert found["error"][0] <= error
    cost, error = orabona_2017.PUBLISHED[2]
    np.testing.assert_allclose(found["training_loss"][1], cost, rtol=orabona_2017.COST_TOLERANCE)
    np.testing.assert_allclose(found["error"][1], error, atol=orabona_2017.ERROR_TOLERANCE)


# F. Schaipp et al., "MoMo: Momentum Models for Adaptive Learning Rates", ICML 2024, arXiv:2305.07583: the accuracy
# hardly depends on the rate, where that of SGD with momentum does.
def test_momo_keeps_its_accuracy_over_four_decades_of_rates() -> None:
    workload = make_workload("mnist", "mlp", widths=(128,))
    rates = {"lr": np.logspace(-3, 1, 3)}

    def spread(tx: Callable[[Any], optax.GradientTransformation]) -> float:
        found = lrx.sweep(workload, lambda lr: tx(lr), rates, num_steps=500, execution=Execution("vmap"))
        accuracy = np.nan_to_num(found.evaluations["accuracy"], nan=0.1)  # of a run that diverged
        return float(np.ptp(accuracy))

    momo, sgd = spread(lambda lr: lrx.momo(lr)), spread(lambda lr: lrx.sgd(lr, momentum=0.9))
    assert momo < sgd / 3, (momo, sgd)
