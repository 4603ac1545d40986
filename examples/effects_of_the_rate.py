"""What does the rate do to a run: too small, good, too large?

A perceptron is trained with SGD at three rates, from the same parameters and on the same minibatches. The paths are
drawn on the plane of the parameters that explains them best, with the losses below. Ends in the figures of the guide
examples/guides/why-does-it-not-train.md.

    python examples/effects_of_the_rate.py --data digits --out effects_digits.png
    python examples/effects_of_the_rate.py --data cifar10 --out effects_cifar10.png
"""

import argparse

import lrx
from lrx.figures import save
from lrx.workloads import make_workload

RATES = {
    "digits": {"too small": 0.003, "good": 0.3, "too large": 3.0},
    "cifar10": {"too small": 0.001, "good": 0.05, "too large": 1.0},
}


def compare(data="digits", num_steps=300, num_points=25):
    workload = make_workload(data, "mlp", widths=(32,), batch_size=64)
    return lrx.compare_rates(workload, lrx.sgd, RATES[data], num_steps=num_steps, num_points=num_points)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=RATES, default="digits")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", default="effects_of_the_rate.png")
    arguments = parser.parse_args()
    found = compare(arguments.data, arguments.steps)
    print(found)
    save(found.plot(title=f"{arguments.data}: perceptron, SGD"), arguments.out)
