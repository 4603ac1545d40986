"""Guards: transformations that keep a run alive, one method a file."""

from lrx.guards.rollback import rollback_on_divergence

__all__ = ["rollback_on_divergence"]
