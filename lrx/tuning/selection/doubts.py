"""What a selection does not know, in sentences: rates that were not tried, range tests without a fall, short runs."""

from __future__ import annotations

import math

from lrx.tuning.selection.policy import Certainty, Observed
from lrx.tuning.selection.rates import sees_fall

LIKELY = 0.05  # probability of being better by 1 %, above which a method that was not trained to the end is named
FEWEST = 2  # rates of a method, at least, of which one lies at an edge


def list_doubts(observed: Observed, certainty: Certainty, method: str, rate: float) -> list[str]:
    """Return what a choice leaves open.

    Args:
      observed: all range tests and runs.
      certainty: how sure the choice is.
      method: the chosen method.
      rate: its rate.
    """
    found = list(_flat_tests(observed))
    found += _edge(observed, method, rate)
    longest = max((each.training.stop for each in observed.runs), default=0)
    stops = [each.training.stop for each in observed.runs if each.training.run[:2] == (method, rate)]
    own = max(stops, default=longest)
    if own < observed.num_steps:
        which = "chosen" if own < longest else "longest"
        found.append(f"the {which} run has {own:,} of {observed.num_steps:,} steps: the rest of the way was not seen.")
    dropped = [each for each in certainty.rivals if each.length < longest and each.probability > LIKELY]
    if dropped:
        shown = ", ".join(f"{each.method} (after {each.length:,} steps)" for each in dropped[:3])
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        found.append(f"these were not trained further, and may still be better: {shown}{more}.")
    if math.isnan(certainty.probability):
        found.append("no run was made with two lengths, so how far the order of the table holds is not known.")
    return found


def _flat_tests(observed: Observed) -> list[str]:
    latest = {probe.method: test for probe, test in observed.range_tests}
    return [
        f"the range test of {method} saw no fall from {test.rates[0]:.2g} to "
        f"{test.rates[-1] if test.diverged_at is None else test.diverged_at:.2g}: its default decided which rates "
        "were tried."
        for method, test in latest.items()
        if not sees_fall(test)
    ]


def edge_of(observed: Observed, method: str, rate: float) -> str:
    """Return "lowest" or "highest" if a method's rate is at that edge of those that were tried with it, else ""."""
    leader = observed.portfolio[method].variant_of or method
    rates = sorted(
        {
            each.training.run.rate
            for each in observed.runs
            if each.training.run.method in (method, leader) and not each.diverged
        }
    )
    diverged = [
        each.training.run.rate
        for each in observed.runs
        if each.training.run.method in (method, leader) and each.diverged
    ]
    if len(rates) + len(set(diverged)) < FEWEST or not rates:
        return ""
    if math.isclose(rate, rates[-1], rel_tol=1e-6) and not any(each > rate for each in diverged):
        return "highest"
    return "lowest" if math.isclose(rate, rates[0], rel_tol=1e-6) else ""


def _edge(observed: Observed, method: str, rate: float) -> list[str]:
    edge = edge_of(observed, method, rate)
    if not edge:
        return []
    further = "higher" if edge == "highest" else "lower"
    return [f"the chosen rate is the {edge} that was tried with this method: a {further} one may be better."]
