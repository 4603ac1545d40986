"""Tasks on sparse features, on words and on characters."""

from __future__ import annotations

from lrx.workloads.linear import make_sparse_workload
from lrx.workloads.suite.task import Task, accuracy_task, loss_task
from lrx.workloads.words import make_ngram_workload, make_sequence_workload, make_words_workload

TASKS: dict[str, Task] = {
    "sparse-logistic": accuracy_task("sparse features", make_sparse_workload, 1000),
    "topics-words": loss_task("sparse features", make_words_workload, 600),
    "topics-ngram": loss_task("text", make_ngram_workload, 600),
    "topics-attention": loss_task("text", make_sequence_workload, 400),
}
