"""Feedback controllers: factors that follow the loss, one method a file."""

from lrx.controllers.plateau import reduce_on_plateau

__all__ = ["reduce_on_plateau"]
