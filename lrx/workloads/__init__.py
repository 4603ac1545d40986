"""Data sets and Flax models, combined into `Workload` objects that `lrx.train` takes.

>>> from lrx.workloads import make_workload
>>> workload = make_workload("digits", "mlp", batch_size=64, widths=(32,))
>>> workload.name
'digits-mlp'
"""

from lrx.workloads.images import dataset_workload, make_workload, pixel_transform, shift_and_mirror
