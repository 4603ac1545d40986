"""Does `lrx.diagnose` name the fault of a run, and does its remedy repair the run?

    lrx bench diagnose
    lrx bench diagnose --half measured --seeds 1

Faults are planted with severities drawn from a range on small workloads of thirty-eight kinds, one fault at a time and,
in one case in ten, two; at least as many healthy runs with other schedules, rates and seeds are diagnosed too. The
rules and the thresholds of `lrx.doctor` were found on thirty-two of the kinds, all kinds of earlier measurements among
them. The other six were written down before any run on them, and no rule or threshold was changed before they were
measured. A fault that should cost something, such as a rate that is too high, counts only if it does: the final loss is
more than 5 % above that of the same run without it. Otherwise another severity is drawn, six times at most.

A planted fault counts as named on any level, hints included, since a hint points to it. A healthy run counts as having
a finding only above a hint. The table has the other two shares beside these.

Three earlier measurements, each on six other kinds that had not been used by then, with the rules of their time:

- seed 0: 90.0 % of the faults named, 83.3 % first, 79.7 % repaired, 3.8 % of the healthy runs with a finding;
- seeds 0 and 1: 84.7, 83.3, 82.0 and 0.3 %;
- seeds 0 and 1: 90.3, 80.6, 86.9 and 17.4 %. All findings in healthy runs were `dead-layer` on one kind, the scores of
  a ranking, whose output bias has no gradient. That rule was mended then.

Repairs are tried where the planted code is named and its remedy is a change of the optimizer, the run or the batch. A
run is repaired if its final loss after that change is within 5 % of that of the healthy run. Losses are those of the
clean training examples; for `overfits`, of held-out ones.

Of `edge-of-stability` a run is a case if its sharpness at the end of all steps is 0.8 to 1.5 times the limit of its
rate; `lrx.diagnose` sees the beginning only. For `devices-disagree`, a second device computes the last 1 to 25 steps
with minibatches of its own; the diagnosis is made in a process with two devices.

Every case is kept in runs.json, so that an interrupted benchmark resumes. The output is diagnose.json, diagnose.png,
which has the matrix of planted and named codes, and a README.md. Most of the time is spent in the compiler, which is
quicker with `XLA_FLAGS="--xla_backend_optimization_level=0"`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import typer

from lrx._checks import known
from lrx.benchmarks.diagnose_cases import FAMILIES, Case, healthy
from lrx.benchmarks.diagnose_faults import FAULTS, PAIRS, Draw, at_constant_rate
from lrx.benchmarks.diagnose_kinds import FOUND_ON, KINDS, MEASURED_ON, STEPS
from lrx.benchmarks.diagnose_report import summary, write
from lrx.benchmarks.diagnose_runs import Evaluator, diagnose_two_devices, history_of, run_fully
from lrx.doctor import diagnose as doctor
from lrx.doctor.evidence import as_evidence
from lrx.doctor.finding import Change
from lrx.doctor.optimizer_changes import apply_change
from lrx.doctor.optimizer_parts import read_optimizer
from lrx.doctor.probe import Probe
from lrx.records import Result, stopwatch, write_atomically

if TYPE_CHECKING:
    from lrx.doctor.probe import Start

HALVES = {"measured": MEASURED_ON, "found": FOUND_ON}
GRID = 10.0 ** np.arange(-3.5, 1.3, 0.25)  # of rates, to find the best one
HARM = 0.05  # rise of the final loss that a fault must cause, and within which a run counts as repaired
DRAWS = 6  # of severities, until a fault does harm
PARTS = 12  # evaluations of a run whose history is diagnosed
EDGE = (0.8, 1.5)  # sharpness over the limit, at the end of a run at the edge of stability
HELD_OUT = 0.3  # of the examples, for evaluations
BUDGET = 0.3


class Bench:
    """The cases of one kind, each measured once and kept in a file that all kinds share."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self.kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.evaluator = Evaluator(kind)

    def save(self) -> None:
        """Write what is kept, whole or not at all."""
        write_atomically(self.path, json.dumps(self.kept) + "\n")

    def keep(self, key: str, make: Any) -> Any:
        """Return what is kept under a key; it is made if there is nothing."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def best_rate(self, family: str) -> float:
        """Return the best rate of a grid for full runs with a cosine decay."""

        def search() -> float:
            losses = []
            for rate in GRID:
                case = Case(self.kind, family, float(f"{rate:.4g}"), _cosine)
                losses.append(np.mean([self.final(case, seed) for seed in (0, 1)]))
            return float(GRID[int(np.argmin(losses))])

        return float(self.keep(f"best | {self.kind} | {family}", search))

    def largest_stable(self, family: str) -> float:
        """Return the largest constant rate at which a run on large batches ends below its beginning, by bisection."""

        def search() -> float:
            low, high = self.best_rate(family) / 8, self.best_rate(family) * 64
            for _ in range(8):
                rate = float(f"{math.sqrt(low * high):.4g}")
                case = at_constant_rate(Case(self.kind, family, rate, _cosine))
                initial = self.evaluator.loss(Probe(case.workload(), _parts_of(case), 0).start())
                low, high = (rate, high) if self.final(case, 0) < initial else (low, rate)
            return low

        return float(self.keep(f"largest | {self.kind} | {family}", search))

    def final(self, case: Case, seed: int, tx: Any = None, workload: Any = None) -> float:
        """Return the final loss of a case."""
        return self.evaluator.loss(run_fully(case, seed, tx, workload)[0][-1])

    def case(self, codes: tuple[str, ...], family: str, seed: int, draw: int) -> tuple[Case, Case]:
        """Return the case with these faults, and the same without them."""
        name = f"{self.kind} | {'+'.join(codes)} | {family} | {seed} | {draw}"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        best = self.best_rate(family)
        sound = faulty = healthy(self.kind, family, best, rng)
        if codes:
            sound = faulty = dataclasses.replace(sound, schedule=_cosine, rate=float(f"{best:.4g}"))
        for code in codes:
            faulty = FAULTS[code].plant(faulty, Draw(best, rng, lambda: self.largest_stable(family)))
        if faulty.every > 1:
            sound = dataclasses.replace(sound, every=faulty.every, schedule=_short_cosine)
        return faulty, sound

    def measure(self, codes: tuple[str, ...], family: str, seed: int, index: int) -> None:
        """Measure a case, unless it is kept."""
        key = f"{self.kind} | {'+'.join(codes) or 'healthy'} | {family} | {seed} | {index}"

        def make() -> dict[str, Any] | None:
            for draw in range(DRAWS):
                faulty, sound = self.case(codes, family, seed, 100 * index + draw)
                ends = run_fully(faulty, seed)[0] if not faulty.history else []
                if faulty.history:
                    return_value = self._history_case(faulty, codes, seed)
                else:
                    values = self.evaluator.loss(ends[-1]), self.final(sound, seed)
                    return_value = None
                    if self._counts(codes, faulty, *values, seed):
                        found = doctor(faulty.workload(), faulty.tx(), steps=STEPS, budget=BUDGET, seed=seed)
                        return_value = self._record(faulty, found, *values, draw)
                if return_value is not None:
                    return return_value
            return None

        self.keep(key, make)

    def _counts(self, codes: tuple[str, ...], faulty: Case, lost: float, sound: float, seed: int) -> bool:
        """Return whether the faults of a case do the harm that they should."""
        if len(codes) != 1:
            return True
        (code,) = codes
        initial = self.evaluator.loss(Probe(faulty.workload(), _parts_of(faulty), seed).start())
        if code == "diverges":
            return not lost <= initial
        if code == "rate-too-high":
            return (1 + HARM) * sound < lost <= initial
        if code == "edge-of-stability":
            end = run_fully(faulty, seed)[0][-1]
            edge = self.evaluator.sharpness_of_limit(faulty, end) if lost < initial else 0.0
            return EDGE[0] < edge < EDGE[1]
        if code == "warmup-missing":
            warm = dataclasses.replace(faulty, schedule=_warm_cosine)
            value = self.final(warm, seed)
            return value < 1.05 * sound and lost > 1.15 * value
        return not FAULTS[code].harms or lost > (1 + HARM) * sound

    def _record(self, case: Case, found: Any, lost: float, sound: float, draw: int) -> dict[str, Any]:
        return {
            "severity": case.severity,
            "lost": lost,
            "sound": sound,
            "draw": draw,
            "steps_used": found.steps_used,
            "seconds": found.seconds,
            "evidence": found.evidence,
            "history": case.history,
        }

    def _history_case(self, faulty: Case, codes: tuple[str, ...], seed: int) -> dict[str, Any] | None:
        examples = len(self.evaluator.arrays[0])
        cut = int((1 - HELD_OUT) * examples)
        trained = dataclasses.replace(faulty, examples=faulty.examples or cut)
        ends, losses, rates = run_fully(trained, seed, parts=PARTS)
        if faulty.alone:
            return self._device_case(trained, ends[-1], losses, rates, seed)
        evaluated = [self.evaluator.loss(end, cut, examples) for end in ends]
        steps = np.cumsum([len(part) for part in np.array_split(np.arange(STEPS), PARTS)])
        if "overfits" in codes:
            lost, best = evaluated[-1], min(evaluated)
        else:
            lost = self.evaluator.loss(ends[-1])
            decayed = dataclasses.replace(trained, schedule=_cosine)
            best = self.final(decayed, seed) if codes else lost
        if codes and not lost > (1 + HARM) * best:
            return None
        shown = () if "noise-floor" in codes else (evaluated, steps)
        found = doctor(history_of(losses, rates, ends[-1], *shown), trained.workload(), trained.tx())
        return self._record(faulty, found, lost, best, 0) | {"evaluated": evaluated, "evaluation_steps": steps.tolist()}

    def _device_case(self, case: Case, end: Start, losses: Any, rates: Any, seed: int) -> dict[str, Any]:
        """Diagnose a run in whose last steps a second device has computed with minibatches of its own."""
        other = run_fully(case, seed, alone=case.alone)[0][-1]
        elapsed = stopwatch()
        found = diagnose_two_devices(history_of(losses, rates, end), other.params)
        lost = self.evaluator.loss(end)
        return {
            "severity": case.severity,
            "lost": lost,
            "sound": lost,
            "draw": 0,
            "steps_used": found["steps_used"],
            "seconds": elapsed(),
            "evidence": found["evidence"],
            "history": True,
        }

    def repaired(self, key: str, codes: tuple[str, ...], change: Change) -> float | None:
        """Return the final loss after the change of a remedy; None if it cannot be made."""
        _, _, family, seed, index = (part.strip() for part in key.split("|"))
        kept = self.kept[key]
        name = f"repaired | {key} | {json.dumps(change.given())}"

        def make() -> float | None:
            if kept["history"] and change.steps is not None:
                place = int(np.argmin(np.abs(np.array(kept["evaluation_steps"]) - change.steps)))
                return float(kept["evaluated"][place])
            case, _ = self.case(codes, family, int(seed), 100 * int(index) + kept["draw"])
            if kept["history"]:
                cut = int((1 - HELD_OUT) * len(self.evaluator.arrays[0]))
                case = dataclasses.replace(case, examples=case.examples or cut)
            if change.batch_size is not None:
                return self.final(dataclasses.replace(case, batch_size=min(change.batch_size, 1024)), int(seed))
            made = apply_change(_parts_of(case), change, STEPS // case.every)
            return None if made is None or made[0] is None else self.final(case, int(seed), made[0])

        value: float | None = self.keep(name, make)
        return value


def _cosine(peak: float) -> Any:
    from lrx.schedules import cosine_decay

    return cosine_decay(peak, STEPS)


def _short_cosine(peak: float) -> Any:
    from lrx.schedules import cosine_decay

    return cosine_decay(peak, STEPS // 4)


def _warm_cosine(peak: float) -> Any:
    from lrx.schedules import warmup_cosine_decay

    return warmup_cosine_decay(peak, STEPS // 5, STEPS)


def _parts_of(case: Case) -> Any:
    return read_optimizer(case.tx(), jax.eval_shape(case.workload().init, jax.random.key(0))[0])


def plan(kind: str, seeds: Iterable[int]) -> list[tuple[tuple[str, ...], str, int, int]]:
    """Return the cases of a kind: codes, family, seed and index."""
    cases: list[tuple[tuple[str, ...], str, int, int]] = []
    for seed in seeds:
        for place, (code, fault) in enumerate(FAULTS.items()):
            families = [FAMILIES[(seed + place + shift) % 2] for shift in (0, 1)]
            family = next((each for each in families if fault.suits(kind, each)), None)
            if family is not None:
                cases.append(((code,), family, seed, 0))
        pairs = [
            (pair, family)
            for pair in PAIRS
            for family in FAMILIES
            if all(FAULTS[code].suits(kind, family) for code in pair)
        ]
        chosen = np.random.default_rng(zlib.crc32(f"{kind} {seed}".encode())).permutation(len(pairs))[
            : round(len(cases) / 9 / len(list(seeds)))
        ]
        cases += [(*pairs[place], seed, 0) for place in chosen]
    number = len(cases)
    cases += [((), FAMILIES[index % 2], 10 + index // 2, index) for index in range(number)]
    return cases


def judge(bench: Bench, repair: bool = True) -> list[dict[str, Any]]:
    """Return for every kept case of a kind what is found in its evidence by the present thresholds."""
    rows = []
    for key, kept in list(bench.kept.items()):
        parts = [part.strip() for part in key.split("|")]
        if len(parts) != 5 or parts[0] != bench.kind or kept is None:
            continue
        codes = () if parts[1] == "healthy" else tuple(parts[1].split("+"))
        from lrx.doctor.diagnose import find

        findings = find(as_evidence(kept["evidence"]))
        row: dict[str, Any] = {
            "kind": bench.kind,
            "planted": list(codes),
            "family": parts[2],
            "severity": kept["severity"],
            "named": [[each.code, each.level] for each in findings],
            "harm": kept["lost"] / kept["sound"] - 1 if kept["sound"] > 0 else 0.0,
            "cost": kept["steps_used"] / STEPS,
            "seconds": kept["seconds"],
            "repair": None,
        }
        mended = next((each for each in findings if each.code in codes and each.remedy.change is not None), None)
        if repair and len(codes) == 1 and mended is not None and mended.remedy.change is not None:
            value = bench.repaired(key, codes, mended.remedy.change)
            row["repair"] = None if value is None else (value / kept["sound"] - 1 if math.isfinite(value) else math.inf)
        rows.append(row)
    return rows


def main(
    half: Annotated[str, typer.Option(help="found, measured or both: the kinds on which thresholds are.")] = "both",
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="Kinds of workloads; once for each.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every fault.")] = 2,
    folder: Annotated[Path, typer.Option("--out", help="Where results are written.")] = Path("lrx-results/diagnose"),
) -> None:
    """Measure, print and draw."""
    known("--half", half, ("both", *HALVES))
    chosen = kinds or [kind for name, members in HALVES.items() if half in ("both", name) for kind in members]
    for kind in chosen:
        known("--kind", kind, KINDS)
    folder.mkdir(parents=True, exist_ok=True)
    elapsed = stopwatch(folder / "seconds.txt")
    rows: list[dict[str, Any]] = []
    for kind in chosen:
        bench = Bench(kind, folder / "runs.json")
        for number, case in enumerate(plan(kind, range(seeds))):
            bench.measure(*case)
            if number % 10 == 9:
                bench.save()
                elapsed()
        rows += judge(bench)
        bench.save()
        print(f"{kind}: {elapsed():.0f} s", flush=True)
    settings = {"steps": STEPS, "budget": BUDGET, "halves": {name: list(members) for name, members in HALVES.items()}}
    curves: Mapping[str, Any] = {"rows": rows}
    result = Result("diagnose", "cpu", ", ".join(chosen), list(range(seeds)), settings, dict(curves), elapsed())
    print(f"\n{result.origin()}\n\n{summary(result)}\n")
    for path in write(result, folder):
        print(f"wrote {path}")
