"""What does the applied rate do over a run with a warm-up, a divergence and plateaus?

A perceptron on scikit-learn's digits, with SGD at a peak that is too high. The rate is a product: a warm-up, and a
controller that halves it if the validation loss stops falling; a rollback takes the run back if the loss explodes, and
halves the rate too. The applied rate is read from the state at every step. Ends in the figure of the README.

    python examples/applied_rate.py --out rate.png
"""

import argparse

import numpy as np

import lrx
from lrx.figures import BLUE, GREEN, ORANGE, SKY, VERMILION, panels, save
from lrx.workloads import make_workload

EPOCH = 44  # steps


def train(epochs=22, peak=0.4, seed=0):
    workload = make_workload("digits", "mlp", batch_size=32)
    rate = lrx.warmup(peak, 200) * lrx.reduce_on_plateau(factor=0.5, patience=2, feedback="observed", start_after=200)
    tx = lrx.rollback_on_divergence(lrx.sgd(rate, momentum=0.9), factor=0.5)
    return lrx.train(workload, tx, epochs=epochs, seed=seed, feedback_metric="loss")


def plot(history):
    """Draw the applied rate over the losses, and mark where the run went back and where a plateau was found."""
    back = np.flatnonzero(np.diff(history.metrics["rollback/rollbacks"])) + 1
    plateaus = np.flatnonzero(np.diff(history.metrics["reduce_on_plateau/scale"])) + 1
    figure, (above, below) = panels(1, 2, size=(8.0, 4.8), sharex=True, height_ratios=(1, 1))
    above.plot(history.rate, color=BLUE)
    above.set_yscale("log")
    above.set_ylim(history.rate.max() / 200, history.rate.max() * 2)
    above.set_ylabel("applied learning rate")
    below.plot(history.loss, color=SKY, lw=0.5, alpha=0.6)
    of_an_epoch = np.convolve(history.loss, np.ones(EPOCH) / EPOCH, mode="valid")
    below.plot(
        np.arange(len(of_an_epoch)) + EPOCH - 1, of_an_epoch, color=BLUE, label="training loss, mean of an epoch"
    )
    below.plot(history.evaluation_steps - 1, history.evaluations["loss"], "o-", color=ORANGE, ms=3, label="test loss")
    below.set_yscale("log")
    below.set_ylim(1e-3, 5.0)
    below.set_ylabel("loss")
    below.set_xlabel("step")
    for axes in (above, below):
        for color, name, steps in ((VERMILION, "rolled back", back), (GREEN, "plateau", plateaus)):
            for place, step in enumerate(steps):
                axes.axvline(step, color=color, lw=0.9, ls="--", label=name if axes is below and not place else None)
    below.legend(loc="lower left", fontsize=8)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--out", default="applied_rate.png")
    arguments = parser.parse_args()
    save(plot(train(arguments.epochs)), arguments.out)
    print(f"wrote {arguments.out}")
