"""Side-by-side measurements; each is run as `python -m lrx.benchmarks.NAME`."""
