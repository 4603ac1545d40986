"""What holds for the whole suite: fixed examples, and no silent broadcasting."""

from __future__ import annotations

import hypothesis
import jax

# Arrays of different ranks meet only where the code says so; scalars are free.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a shape compiles, so a deadline would measure the compiler; the examples are the same each time.
hypothesis.settings.register_profile("lrx", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.load_profile("lrx")
