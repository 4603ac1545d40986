"""Side-by-side measurements; each is run by `lrx bench NAME`."""

from lrx.benchmarks.registry import available
