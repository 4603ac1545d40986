"""Measurements that explain what a learning rate does: functions of losses, gradients, schedules and states."""

from lrx.diagnostics.sharpness import Sharpness, sharpness

__all__ = ["Sharpness", "sharpness"]
