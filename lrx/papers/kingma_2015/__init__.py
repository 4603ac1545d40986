"""Adam: each coordinate steps by about the rate, whatever its gradient's size, from the first step on.

D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980. With m_0 = v_0 = 0,

    m_t = b1 m_{t-1} + (1 - b1) g_t             m^ = m_t / (1 - b1^t)
    v_t = b2 v_{t-1} + (1 - b2) g_t^2           v^ = v_t / (1 - b2^t)
    theta_t = theta_{t-1} - alpha m^ / (sqrt(v^) + eps)

The figures are figure 1, left (L2-regularized logistic regression on MNIST, minibatches of 128, alpha_t = alpha / sqrt
t: Adam as fast as SGD with Nesterov momentum, both faster than AdaGrad), figure 2a (a perceptron with two hidden layers
of 1,000 ReLU and dropout, minibatches of 128: Adam below AdaGrad, RMSProp and SGD-Nesterov), figure 4 (a variational
autoencoder with and without the bias correction, over b1, b2 and alpha), and the two statements of section 2.1: the
step does not change with the scale of the gradients, and it is at most

    alpha (1 - b1) / sqrt(1 - b2)   if 1 - b1 > sqrt(1 - b2),   alpha otherwise.

The first is the step for a gradient that comes after only zeros. It does not bound the step for every sequence of
gradients: by Cauchy and Schwarz the bound is, for long runs and b1^2 < b2,

    alpha (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)),

and gradients that grow by b2 / b1 a step attain it: 7.3 alpha in place of 3.2 alpha for the usual b1 = 0.9, b2 = 0.999.

Adam without bias correction is Adam with the rate alpha (1 - b1^t) / sqrt(1 - b2^t), up to eps (section 2): here it is
`lrx.adam` with a table of rates. For b2 near 1 it starts with a rate that is far too large.

    lrx reproduce kingma_2015                     digits, small networks: 45 seconds on 2 CPU cores
    lrx reproduce kingma_2015 --scale cpu         MNIST: 25 minutes on 2 CPU cores
    lrx reproduce kingma_2015 --scale paper       MNIST, 45 and 200 epochs and the whole autoencoder: for a GPU

Differs from the source: it names no rates, weight decay, dropout probabilities or initial weights, and searched the
momentum too. Here the L2 term is 1e-4 / 2 ||W||^2, dropout of one half is on both hidden layers, the momentum is 0.9,
the decay of RMSProp is 0.9, weights start He-normal (those of the regression at 0), and rates come from a grid by
factors of sqrt 10; those of the perceptron are chosen in short runs with one seed. AdaGrad runs with alpha / sqrt t, as
in the text, and with a constant rate, as its authors define it. At cpu the perceptron is trained for 5 epochs, after
which AdaGrad is still ahead of Adam (figure 2a shows up to 200), and a smaller autoencoder for fewer epochs. Figure 1,
right (film reviews), figure 2b and figure 3 are left out, and AdaDelta, which lrx does not have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lrx.figures import Figure
from lrx.papers.kingma_2015 import correction, steps, training
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result
from lrx.workloads.autoencoder import make_autoencoder_workload
from lrx.workloads.datasets import load
from lrx.workloads.perceptron import make_perceptron_workload


class Size(NamedTuple):
    """Sizes of the networks, and epochs of their training."""

    regression_epochs: int
    widths: tuple[int, ...]  # of the perceptron's hidden layers
    trial_epochs: int  # of the perceptron with each rate and one seed, to choose its rates; 0: in the full runs
    epochs: int  # of the perceptron with the best rates and all seeds
    hidden: int  # units of the autoencoder's two hidden layers
    latent: int
    autoencoder_epochs: int


SCALES = {
    "demo": Scale(
        "digits: logistic regression for 45 epochs, a perceptron of 2 x 100 units for 30, an autoencoder",
        "45 s, 2 CPU cores",
        Size(45, (100, 100), 0, 30, 32, 4, 20),
        "digits",
    ),
    "cpu": Scale(
        "MNIST: logistic regression for 45 epochs, a perceptron of 2 x 1000 units for 5, a small autoencoder",
        "25 minutes, 2 CPU cores",
        Size(45, (1000, 1000), 1, 5, 64, 10, 1),
        "mnist",
    ),
    "paper": Scale(
        "MNIST: logistic regression for 45 epochs, a perceptron of 2 x 1000 units for 200, the whole autoencoder",
        "an hour, one data-centre GPU (estimated)",
        Size(45, (1000, 1000), 20, 200, 500, 50, 100),
        "mnist",
    ),
}
BATCH_SIZE = 128
L2 = 1e-4
DROPPED = 0.5


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the three models, and measure the steps."""
    dataset = load(job.data, job.data_dir)
    regression = make_perceptron_workload(dataset, l2=L2, batch_size=BATCH_SIZE)
    perceptron = make_perceptron_workload(dataset, size.widths, dropped=DROPPED, batch_size=BATCH_SIZE)
    coder = make_autoencoder_workload(dataset, size.hidden, size.latent, batch_size=BATCH_SIZE)
    epoch = regression.batches.steps_per_epoch
    grid = {"b1": correction.B1, "b2": correction.B2, "rates": correction.RATES}
    return size._asdict() | {"steps_per_epoch": epoch} | grid, {
        "regression": training.compare_on_regression(regression, job, size.regression_epochs),
        "perceptron": training.compare_on_perceptron(perceptron, job, size.trial_epochs, size.epochs),
        "autoencoder": correction.measure(coder, job, size.autoencoder_epochs),
        **steps.measure(regression, job.seeds),
    }


def claims(result: Result) -> list[Claim]:
    """Compare the methods at their best rates, Adam in other units and uncorrected, and its steps with bounds."""
    return training.claims(result) + correction.claims(result) + steps.claims(result)


def plot(result: Result) -> dict[str, Figure]:
    """Draw figures 1 and 2a, figure 4, and the steps beside their bounds."""
    return {
        "training": training.plot(result),
        "bias_correction": correction.plot(result),
        "steps": steps.plot(result),
    }


PAPER = Paper(
    name="kingma_2015",
    title="Adam: A Method for Stochastic Optimization",
    authors="D. P. Kingma, J. Ba",
    year=2015,
    source="ICLR 2015, arXiv 1412.6980",
    figure="figures 1 (left), 2a and 4, and the step bound of section 2.1",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("regression",), ("perceptron",)),
)
