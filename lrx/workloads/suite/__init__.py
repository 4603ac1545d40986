"""Small tasks of many kinds for comparing methods and ways to choose one.

A rule is found on some kinds and judged on others; tasks of one kind are never on both sides. A full run of a task
takes 0.01 to 0.2 seconds of CPU as one of many runs in a sweep, plus the compilation. There are more tasks of other
kinds: `OUTCOMES`, `STRUCTURES`, and `UNSEEN`, on which the rules of `lrx.select` were measured once, after they were
fixed.

Example:
  >>> from lrx.workloads.suite import KINDS, OUTCOMES, STRUCTURES, TASKS, UNSEEN
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
  >>> len(TASKS), len(OUTCOMES), len(STRUCTURES), len(UNSEEN)
  (31, 10, 10, 15)
"""

from lrx.workloads.suite.outcomes import OUTCOMES as OUTCOMES
from lrx.workloads.suite.structures import STRUCTURES as STRUCTURES
from lrx.workloads.suite.task import Task as Task
from lrx.workloads.suite.tasks import KINDS as KINDS
from lrx.workloads.suite.tasks import TASKS as TASKS
from lrx.workloads.suite.unseen import UNSEEN as UNSEEN
