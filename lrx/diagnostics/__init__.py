"""Measurements that explain what a learning rate does: functions of losses, gradients, schedules and states."""

from lrx.diagnostics.landscape import landscape
from lrx.diagnostics.landscape_result import Landscape
from lrx.diagnostics.sharpness import Sharpness, sharpness

__all__ = ["Landscape", "Sharpness", "landscape", "sharpness"]
