"""Tasks on sparse features, on words and on characters."""

from __future__ import annotations

from lrx.training import Workload
from lrx.workloads.linear import make_sparse_workload
from lrx.workloads.suite.task import Task, accuracy_task, loss_task
from lrx.workloads.text import make_text_workload
from lrx.workloads.words import make_ngram_workload, make_words_workload


def _small_transformer() -> Workload:
    return make_text_workload(length=16, batch_size=8, width=16, num_layers=1, num_heads=2)


TASKS: dict[str, Task] = {
    "sparse-logistic": accuracy_task("sparse features", make_sparse_workload, 1000),
    "topics-words": loss_task("sparse features", make_words_workload, 600),
    "topics-ngram": loss_task("text", make_ngram_workload, 600),
    "topics-transformer": loss_task("text", _small_transformer, 400),
}
