"""Measurements that explain what a learning rate does: functions of losses, gradients, schedules and states."""

from lrx.diagnostics.consistency import Consistency, Disagreement, check_consistency
from lrx.diagnostics.landscape import landscape
from lrx.diagnostics.landscape_result import Landscape
from lrx.diagnostics.noise_scale import NoiseScale, noise_scale
from lrx.diagnostics.parallel_step import ParallelCheck, check_parallel_step
from lrx.diagnostics.robbins_monro import RobbinsMonro, robbins_monro
from lrx.diagnostics.sharpness import Sharpness, sharpness
from lrx.diagnostics.stability import preconditioner_of, stability_limit

__all__ = [
    "Consistency",
    "Disagreement",
    "Landscape",
    "NoiseScale",
    "ParallelCheck",
    "RobbinsMonro",
    "Sharpness",
    "check_consistency",
    "check_parallel_step",
    "landscape",
    "noise_scale",
    "preconditioner_of",
    "robbins_monro",
    "sharpness",
    "stability_limit",
]
