"""The tasks that the rules of `lrx.select` were developed on, nine, and five related ones that they were not."""

from __future__ import annotations

from lrx.training import Workload
from lrx.workloads import dataset_workload, make_workload
from lrx.workloads.datasets import load
from lrx.workloads.linear import make_breast_cancer_workload, make_least_squares_workload, make_sparse_workload
from lrx.workloads.suite.task import DataDir, Task
from lrx.workloads.text import make_text_workload

IMAGES = 2000  # of CIFAR-10, on which the convolutional network is trained
TEST_IMAGES = 1000  # on which it is tested


def _small_resnet(data_dir: DataDir) -> Workload:
    return dataset_workload(load("cifar10", data_dir).first(IMAGES, TEST_IMAGES), "resnet8", batch_size=32)


EARLIER: dict[str, Task] = {
    "digits-logistic": Task(lambda data_dir: make_workload("digits", "mlp", batch_size=32, widths=()), 400),  # noqa: ARG005
    "breast_cancer-logistic": Task(lambda data_dir: make_breast_cancer_workload(), 300),  # noqa: ARG005
    "digits-mlp": Task(lambda data_dir: make_workload("digits", "mlp", batch_size=32, widths=(64, 64)), 800),  # noqa: ARG005
    "mnist-mlp": Task(lambda data_dir: make_workload("mnist", "mlp", data_dir=data_dir, widths=(64, 64)), 1400),
    "cifar10-mlp": Task(
        lambda data_dir: make_workload("cifar10", "mlp", data_dir=data_dir, widths=(128,), augment=False), 1170
    ),
    "cifar10-resnet8": Task(_small_resnet, 200),
    "topics-transformer": Task(lambda data_dir: make_text_workload(), 300, "loss", "min"),  # noqa: ARG005
    "sparse-logistic": Task(lambda data_dir: make_sparse_workload(), 1000),  # noqa: ARG005
    "least_squares": Task(lambda data_dir: make_least_squares_workload(), 1000, "loss", "min"),  # noqa: ARG005
}

# Held out: never used while developing `lrx.select`.
UNSEEN: dict[str, Task] = {
    "mnist-logistic": Task(lambda data_dir: make_workload("mnist", "mlp", data_dir=data_dir, widths=()), 1000),
    "digits-deep": Task(
        lambda data_dir: make_workload("digits", "mlp", batch_size=64, widths=(32, 32, 32, 32)),  # noqa: ARG005
        600,
    ),
    "cifar10-deep": Task(
        lambda data_dir: make_workload(
            "cifar10", "mlp", data_dir=data_dir, batch_size=64, widths=(64, 64, 64), augment=False
        ),
        1000,
    ),
    "sparse-small": Task(
        lambda data_dir: make_sparse_workload(num_features=500, num_train=3000, seed=7),  # noqa: ARG005
        500,
    ),
    "least_squares-flat": Task(
        lambda data_dir: make_least_squares_workload(num_features=50, power=1.0, noise=0.3, batch_size=16),  # noqa: ARG005
        800,
        "loss",
        "min",
    ),
}
