"""Tasks for comparing methods of choosing a method: small, of many kinds, with folds of kinds.

>>> from lrx.workloads.suite import FOLDS, KINDS, TASKS
>>> sorted(kind for fold in FOLDS for kind in fold) == sorted(KINDS)
True
"""

from lrx.workloads.suite.folds import FOLDS as FOLDS
from lrx.workloads.suite.folds import KINDS as KINDS
from lrx.workloads.suite.folds import TASKS as TASKS
from lrx.workloads.suite.task import Task as Task
