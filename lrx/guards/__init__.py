"""Guards: transformations that keep a run alive, one method a file."""

from typing import TYPE_CHECKING

from lrx.guards.rollback import rollback_on_divergence as rollback_on_divergence

if not TYPE_CHECKING:  # type checkers take the names from the imports, each `as` itself
    __all__ = sorted(name for name, value in globals().items() if callable(value) and not name.startswith("_"))
