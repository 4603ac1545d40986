"""Guards: what keeps a run alive, one method a file."""

from lrx.guards.rollback import apply_updates, rollback_on_divergence

__all__ = ["apply_updates", "rollback_on_divergence"]
