"""What is known from other tasks: which method at which rate does well, and what a part of a run says about its end.

The numbers are fitted by `lrx bench select_prior` to stored curves of the tasks of `lrx.workloads.suite`. A regret R is
0 for the best method and rate of a task and 1 for its initial parameters, and

    phi(R) = ln(min(R, 1) + 0.01)

is what is predicted. A configuration c is a method at a rate. Its values are phi of the regret at the end, and phi of
the gap to the best of the runs that were seen after the same part of their length, for each of `PARTS`. They are taken
as jointly normal:

    cov(value (p, c), value (q, d)) = s(p, c) s(q, d) [ T(p, c; q, d) / 2 + B(p, q) C(c, d) / 2 ],

with s the standard deviations over the tasks, T the correlations of the values that the tasks show, B the correlations
of the parts, and C a kernel by which configurations with the same optimizer, the same method and near rates are alike.
What was seen of some runs so tells about all configurations, with an uncertainty.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrx.tuning.selection.portfolio import PORTFOLIO, Method

PARTS = (1 / 9, 1 / 3, 3**-0.5, 1.0)  # of a run, after which it may be stopped
REGRET = len(PARTS)  # place of the regret behind the parts
NEAR = 0.01  # regret that is as good as none
SHOWN = 0.5  # weight of the correlations that the tasks show
SAME = (0.1, 0.3, 0.5)  # weights of the kernel: any two configurations, the same optimizer, the same method
JITTER = 1e-4  # variance that is added to every observation
FILE = Path(__file__).with_name("experience.json")


class Configuration(NamedTuple):
    """A method at a rate."""

    method: str
    place: int  # of the rate: half decades from the method's default

    def rate(self, portfolio: Mapping[str, Method]) -> float:
        """Return the rate, a float32 value."""
        method = portfolio[self.method]
        return float(np.float32(method.default * 10.0 ** (self.place / 2))) if method.has_rate else method.default


class Values(NamedTuple):
    """Some of the values of configurations, as an index of arrays (parts + 1, configurations)."""

    parts: np.ndarray  # places among `PARTS`, or `REGRET`
    places: np.ndarray  # of the configurations


class Seen(NamedTuple):
    """What a run showed after a part of its length."""

    configuration: Configuration
    part: int  # place among `PARTS`
    gap: float  # phi of the gap to the best run that was seen there


def phi(gap: float) -> float:
    """Return the logarithm of a regret or a gap, which is bounded at both ends."""
    return math.log(min(max(gap, 0.0), 1.0) + NEAR) if math.isfinite(gap) else math.log(1.0 + NEAR)


@dataclasses.dataclass(frozen=True, eq=False)
class Experience:
    """What was fitted.

    Attributes:
      configurations: the configurations, n of them.
      means: (parts + 1, n) means of the values; the last row is that of the regret.
      deviations: (parts + 1, n) their standard deviations.
      profiles: (parts + 1, tasks, n) how the values on each task differ from their means, so that the products of
        profiles[p, :, c] and profiles[q, :, d] are the correlations that the tasks show, T.
      between: (parts + 1, parts + 1) correlations of the parts, B.
      noise: (parts,) variances of the gaps between seeds.
    """

    configurations: tuple[Configuration, ...]
    means: np.ndarray
    deviations: np.ndarray
    profiles: np.ndarray
    between: np.ndarray
    noise: np.ndarray

    def relevant(self, portfolio: Mapping[str, Method]) -> dict[str, Method]:
        """Return the methods of a portfolio that are known, or that a caller has added to those of lrx."""
        known = {configuration.method for configuration in self.configurations}
        return {name: method for name, method in portfolio.items() if name in known or name not in PORTFOLIO}

    def serves(self, portfolio: Mapping[str, Method]) -> bool:
        """Return whether a portfolio has every method that is known."""
        return {configuration.method for configuration in self.configurations} <= set(portfolio)

    def extend(self, names: Sequence[str]) -> Experience:
        """Return the experience with methods of which nothing is known, at their default rates.

        Each is expected to be as good as the best of what is known, so that it is tried early, and tells little about
        others: only by the kernel.

        Args:
          names: their names; those that are known are left out.
        """
        known = {configuration.method for configuration in self.configurations}
        new = tuple(Configuration(name, 0) for name in dict.fromkeys(names) if name not in known)
        if not new:
            return self
        best = int(np.argmin(self.means[REGRET]))

        def widen(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.repeat(values[:, [best]], len(new), axis=1)], axis=1)

        parts, tasks, number = self.profiles.shape
        # A new method has tasks of its own, by which its parts are correlated as those of the others.
        own = np.linalg.cholesky(self.between)
        profiles = np.zeros((parts, tasks + len(new) * parts, number + len(new)))
        profiles[:, :tasks, :number] = self.profiles
        for place in range(len(new)):
            profiles[:, tasks + place * parts : tasks + (place + 1) * parts, number + place] = own
        return Experience(
            self.configurations + new,
            widen(self.means),
            widen(self.deviations),
            profiles,
            self.between,
            self.noise,
        )

    @functools.cached_property
    def places(self) -> dict[Configuration, int]:
        """Place of each configuration."""
        return {configuration: place for place, configuration in enumerate(self.configurations)}

    @functools.cached_property
    def _alike(self) -> np.ndarray:
        """(n, n) how alike the configurations are, C."""
        return _kernel(self.configurations)

    @functools.cached_property
    def _before(self) -> np.ndarray:
        """(n, n) covariances of the regrets, before anything is seen."""
        every = self._regrets
        return self.correlations(every, every) * np.outer(self.deviations[REGRET], self.deviations[REGRET])

    @property
    def _regrets(self) -> Values:
        """The regrets of all configurations."""
        number = len(self.configurations)
        return Values(np.full(number, REGRET), np.arange(number))

    def correlations(self, values: Values, others: Values) -> np.ndarray:
        """Return (values, others) the correlations of values with others, T / 2 + B C / 2."""
        shown = self.profiles[values.parts, :, values.places] @ self.profiles[others.parts, :, others.places].T
        between = self.between[np.ix_(values.parts, others.parts)]
        return SHOWN * shown + (1 - SHOWN) * between * self._alike[np.ix_(values.places, others.places)]

    def predict(self, seen: Sequence[Seen]) -> tuple[np.ndarray, np.ndarray]:
        """Return what phi of the regrets of all configurations is predicted to be.

        Args:
          seen: what runs have shown.

        Returns:
          (n,) means and (n, n) covariances.
        """
        means, deviations = self.means[REGRET], self.deviations[REGRET]
        if not seen:
            return means, self._before
        at = Values(
            np.array([each.part for each in seen]), np.array([self.places[each.configuration] for each in seen])
        )
        scales = self.deviations[at]
        covariance = self.correlations(at, at) * np.outer(scales, scales)
        covariance[np.diag_indices(len(seen))] += self.noise[at.parts] + JITTER
        across = self.correlations(self._regrets, at) * np.outer(deviations, scales)
        shift = np.array([each.gap for each in seen]) - self.means[at]
        solved = np.linalg.solve(covariance, np.column_stack([shift, across.T]))
        after = self._before - across @ solved[:, 1:]
        after[np.diag_indices(len(after))] = np.maximum(np.diag(after), JITTER)
        return means + across @ solved[:, 0], after

    def to_json(self) -> str:
        """Return everything as JSON, a line for each configuration; its profiles are in hundredths."""
        rows = []
        for place, configuration in enumerate(self.configurations):
            values = np.concatenate([self.means[:, place], self.deviations[:, place]]).round(3)
            profiles = np.round(100 * self.profiles[:, :, place]).astype(int)
            rows.append(json.dumps([*configuration, values.tolist(), profiles.tolist()], separators=(",", ":")))
        head = {"between": self.between.round(3).tolist(), "noise": self.noise.round(3).tolist()}
        return json.dumps(head)[:-1] + ', "configurations": [\n' + ",\n".join(rows) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> Experience:
        """Read what `to_json` wrote."""
        read: dict[str, Any] = json.loads(text)
        rows = read["configurations"]
        means, deviations = np.split(np.array([row[2] for row in rows]).T, 2)
        profiles = np.moveaxis(np.array([row[3] for row in rows]), 0, -1) / 100
        return cls(
            tuple(Configuration(*row[:2]) for row in rows),
            means,
            deviations,
            profiles,
            np.array(read["between"]),
            np.array(read["noise"]),
        )


def _kernel(configurations: Sequence[Configuration]) -> np.ndarray:
    """Return (n, n) how alike configurations are by their names and rates; 1 for equal ones."""
    methods = np.array([configuration.method for configuration in configurations])
    optimizers = np.array([name.split(",")[0] for name in methods.tolist()])
    places = np.array([configuration.place for configuration in configurations], float)
    by_name = [np.ones((len(methods), len(methods))), *(each[:, None] == each[None] for each in (optimizers, methods))]
    alike = sum(weight * same for weight, same in zip(SAME, by_name, strict=True)) / sum(SAME)
    return np.asarray(alike * np.exp(-0.5 * (places[:, None] - places[None]) ** 2))


@functools.cache
def shipped() -> Experience:
    """Return the experience of all tasks of the suite."""
    return Experience.from_json(FILE.read_text())
