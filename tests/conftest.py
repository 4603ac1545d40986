"""What holds for the whole suite: fixed examples, no silent broadcasting, and programs compiled once."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from pathlib import Path

import hypothesis
import jax


def _machine() -> str:
    """Return a short name of this kind of processor: a compiled program is at home on one."""
    known = Path("/proc/cpuinfo")
    flags = [line for line in known.read_text().splitlines() if line.startswith("flags")][:1] if known.exists() else []
    return hashlib.sha256(repr((platform.machine(), platform.processor(), flags)).encode()).hexdigest()[:8]


# Most of the suite's time is compiling small programs, and most of them have been compiled before: by the other worker,
# by a subprocess that a test starts, or by the latest run. The environment hands the folder on to subprocesses.
PROGRAMS = Path(os.environ.get("LRX_TEST_CACHE", tempfile.gettempdir())) / f"lrx-{jax.__version__}-{_machine()}"
for name, value in {
    "jax_compilation_cache_dir": str(PROGRAMS),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    os.environ.setdefault(name.upper(), str(value))
    jax.config.update(name, type(value)(os.environ[name.upper()]))

# Arrays of different ranks meet only where the code says so; scalars are free.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a shape compiles, so a deadline would measure the compiler; the examples are the same each time.
hypothesis.settings.register_profile("lrx", deadline=None, derandomize=True, max_examples=30, database=None)
hypothesis.settings.load_profile("lrx")
