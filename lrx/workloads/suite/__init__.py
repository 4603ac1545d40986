"""Small tasks of many kinds for comparing methods and ways to choose one, and folds of the kinds.

A rule is found on the kinds of some folds and judged on those of the others; tasks of one kind are never on both sides.
A full run of a task takes 0.01 to 0.2 seconds of CPU as one of many runs in a sweep, plus the compilation.
`lrx.workloads.suite.last.LAST` has tasks of kinds that are in no fold, for one measurement at the end, and
`lrx.workloads.suite.latest.LATEST` more of them, which were measured once, after the next rules.

Example:
  >>> from lrx.workloads.suite import FOLDS, KINDS, TASKS
  >>> for kind in KINDS:
  ...     print(f"{kind}:", ", ".join(name for name, task in TASKS.items() if task.kind == kind))
  tables: diabetes-units, wine-unscaled, breast_cancer-single
  input scales: friedman-large-inputs, digits-small-inputs
  sparse features: sparse-logistic, topics-words
  text: topics-ngram, topics-attention
  convolutions: digits-convolution, cifar10-convolution
  perceptrons: digits-narrow, cifar10-perceptron
  attention: digits-attention, mnist-attention
  labels: mnist-mislabelled, digits-rare
  fine-tuning: digits-new-classes, mnist-to-digits
  metric learning: digits-contrastive, digits-triplets
  generative models: digits-autoencoder, moons-flow
  physics: oscillator, pendulum
  rewards: digits-bandit, balance
  convex: least_squares, least_absolute
  plateaus: factored-pairs, factored-triples
  >>> sorted(kind for fold in FOLDS for kind in fold) == sorted(KINDS)
  True
"""

from lrx.workloads.suite.folds import FOLDS as FOLDS
from lrx.workloads.suite.folds import KINDS as KINDS
from lrx.workloads.suite.folds import TASKS as TASKS
from lrx.workloads.suite.task import Task as Task
