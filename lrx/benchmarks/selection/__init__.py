"""Parts of the benchmark of `select`: stored curves, regret, replayed strategies and their report."""
