"""Draw faults in the code with a seed, and measure which tests catch them.

The commands, in the order of use, on Linux with Python 3.12 or newer. `--tree` is the checkout to measure; `catch`
changes its files and restores them, so nothing else may use it meanwhile.

    python tests/mutants/run.py draw   --tree CHECKOUT --faults FAULTS.json     # 10 faults in each room, seed 0
    python tests/mutants/run.py record --tree CHECKOUT --touched TOUCHED        # which test runs which function
    python tests/mutants/run.py catch  --tree CHECKOUT --faults FAULTS.json --touched TOUCHED --results RESULTS.jsonl
    python tests/mutants/run.py report --faults FAULTS.json --results BEFORE.jsonl AFTER.jsonl

`record` writes one JSON file for each test file, `catch` one line for each fault; both continue where they were
stopped. `catch --markers "not slow"` measures the first tier alone. `catch --again RESULTS.jsonl` measures only the
faults that those results did not catch. A fault is kept as (function, statement before, statement after), so it is
found again after the function has moved to another file. If names in the statement have changed, the most similar
statement is taken; if there is none, `catch` draws another fault in the same room and records that.

For each fault, `catch` runs the test files that run the fault's file, up to the first failure: first those of its
room, then the others; within them, tests that run its function come first, and quick tests come before slow ones.
Before `record` has run, names in the text of a test take the place of what it runs. A survivor has passed all of
these tests, or as many as `--budget` CPU-s allow; its line says which. A fault that makes a test hang counts as
caught. The tests of papers, benchmarks, workloads, the command line and guides take part only with `--far`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import faults  # noqa: E402

# The files of lrx in which faults are drawn, and the tests nearest to them.
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rates": (
        ("rates.py", "states.py", "feedback.py", "observing.py"),
        (
            *(f"tests/test_{name}" for name in ("rate", "states", "schedule", "products")),
            *(f"tests/controllers/test_{name}.py" for name in ("feedback", "observations")),
        ),
    ),
    "schedules": (("schedules/*.py",), ("tests/schedules/",)),
    "optimizers": (("optimizers/*.py",), ("tests/optimizers/",)),
    "controllers": (("controllers/*.py", "guards/*.py"), ("tests/controllers/", "tests/guards/")),
    "reading": (
        ("reading.py", "editing.py", "restoring.py", "_foreign.py", "rate_paths.py"),
        tuple(
            f"tests/test_{name}"
            for name in ("reading", "editing", "monitor", "counting", "wrappers", "flax", "restoring", "states")
        ),
    ),
    "training": (("training/*.py", "training/*/*.py"), ("tests/training/",)),
    "tuning": (("tuning/*.py", "tuning/*/*.py"), ("tests/tuning/",)),
}
IDLE_SECONDS = 120.0
INTERNAL_ERROR = 3  # pytest's exit status
# The suite's own meta-tests are about the tests.
LEFT_OUT = "not mutants"
FAR = (
    "tests/papers/",
    "tests/benchmarks/",
    "tests/workloads/",
    "tests/test_cli.py",
    "tests/test_guides.py",
    "tests/test_ex",
)


def test_files(tree: Path) -> list[str]:
    """Return the test files of a checkout, and the folders of lrx for its docstring examples: near ones first."""
    files = [str(path.relative_to(tree)) for path in sorted((tree / "tests").rglob("test_*.py"))]
    files = [file for file in files if "/mutants/" not in file]
    near = [prefix for _, prefixes in ROOMS.values() for prefix in prefixes]
    order = sorted(files, key=lambda file: (file.startswith(FAR), not file.startswith(tuple(near))))
    return ["lrx", *order]


def cpu_seconds(group: int) -> float:
    """Return the CPU-s of the processes of a group that are running."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wait(process: subprocess.Popen[str]) -> str | None:
    """Return what a process writes until it ends; None if it has computed nothing for a while.

    The clock on the wall alone would take a busy machine for a hang.
    """
    spent = -1.0
    while True:
        try:
            return process.communicate(timeout=IDLE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            before, spent = spent, cpu_seconds(process.pid)
            if spent - before < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return None


def run_tests(tree: Path, plan: dict[str, Any], arguments: list[str]) -> dict[str, Any] | None:
    """Run pytest in `tree` under a plan; return what the plugin wrote, or None if it did not come to that."""
    with tempfile.TemporaryDirectory() as folder:
        out, where = Path(folder, "out.json"), Path(folder, "plan.json")
        where.write_text(json.dumps(plan | {"out": str(out)}))
        environment = os.environ | {"MUTANT_PLAN": str(where), "PYTHONPATH": f"{tree}:{HERE}", "JAX_PLATFORMS": "cpu"}
        if plan["kind"] == "run":
            environment["PYTHONDONTWRITEBYTECODE"] = "1"  # no compiled file of a mutant stays behind
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "observed_tests"]
        process = subprocess.Popen(
            [*command, "-k", LEFT_OUT, *arguments],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        output = wait(process)
        if output is None:
            return {"caught_by": "a wait without end", "how": "no CPU used"} if plan["kind"] == "run" else None
        if out.exists():
            found = json.loads(out.read_text()) | {"rc": process.returncode}
            if plan["kind"] == "run" and process.returncode == INTERNAL_ERROR and not found["caught_by"]:
                found |= {"caught_by": "start of pytest", "how": output[-300:]}  # in an import of a hook
            return found
        return {"caught_by": "start of pytest", "how": output[-300:], "rc": process.returncode}


def record(arguments: argparse.Namespace) -> None:
    arguments.touched.mkdir(parents=True, exist_ok=True)
    for file in test_files(arguments.tree):
        if file.startswith(FAR) and not arguments.far:
            continue
        out = arguments.touched / (file.replace("/", "+") + ".json")
        if out.exists():
            continue
        found = run_tests(arguments.tree, {"kind": "record", "budget": 90.0}, ["-m", "", file])
        if found and "tests" in found:
            out.write_text(json.dumps(found))
            seconds = sum(row[0] for row in found["tests"].values())
            print(f"{file}: {len(found['tests'])} tests, {seconds:.0f} CPU-s, whole: {found['whole']}", flush=True)
        else:
            print(f"{file}: {found}", flush=True)


def rooms_of(tree: Path) -> dict[str, dict[str, str]]:
    """Return the sources in which each room's faults are drawn, by file."""
    library, found = tree / "lrx", {}
    for room, (patterns, _) in ROOMS.items():
        paths = sorted(path for pattern in patterns for path in library.glob(pattern))
        paths = [path for path in paths if path.name not in ("__init__.py", "figures.py")]
        found[room] = {str(path.relative_to(library)): path.read_text() for path in paths}
    return found


def draw(arguments: argparse.Namespace) -> None:
    rng, drawn = random.Random(arguments.seed), []
    for room, sources in rooms_of(arguments.tree).items():
        drawn += faults.draw(room, sources, arguments.number, rng, set())
    arguments.faults.write_text(json.dumps([fault._asdict() for fault in drawn], indent=1) + "\n")
    print(f"{len(drawn)} faults: {dict(Counter(fault.kind for fault in drawn))}")


def touching(touched: Path) -> dict[str, dict[str, Any]]:
    """Return, for each test file, what `record` wrote of it, the functions by name."""
    found = {}
    for path in sorted(touched.glob("*.json")):
        record = json.loads(path.read_text())
        names = [name.replace("<locals>.", "") for name in record["functions"]]
        for test, (seconds, outcome, numbers) in record["tests"].items():
            file = test.split("::")[0]
            row = found.setdefault(file, {"files": set(), "tests": {}})
            functions = {names[number] for number in numbers}
            row["files"] |= {name.split("::")[0] for name in functions}
            row["tests"][test] = (seconds, outcome, functions)
    return found


def catch_one(tree: Path, fault: faults.Fault, known: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Apply one fault, run the tests nearest to it, restore the file; return the line of the results."""
    found = faults.find(fault, faults.sources_of(tree))
    if found is None:
        return {"gone": True}
    path, mutated = tree / "lrx" / found[0], found[1]
    near = (*ROOMS[fault.room][1], f"lrx/{found[0]}")
    name = f"{found[0]}::{fault.function}"
    words = {word.strip("_").lower() for word in (path.stem, *fault.function.split(".")[:2])}

    def mentioned(said: str) -> bool:
        return any(word in said.lower() for word in words)

    # Unless `record` has been there, a test file may run anything; the names in its text are then the best sign.
    files = [*(file for file in test_files(tree) if file != "lrx" and file not in known), f"lrx/{found[0]}"]
    files = [file for file in files if arguments.far or not file.startswith(FAR)]
    order: dict[str, Any] = {}
    for file in files:
        order[file] = [1, not file.startswith(near), 1 - mentioned((tree / file).read_text()), 5.0]
    skip = []
    for file, row in known.items():
        if found[0] not in row["files"]:
            continue
        files.append(file)
        for test, (seconds, outcome, functions) in row["tests"].items():
            order[test] = [0 if name in functions else 2, not file.startswith(near), 1 - mentioned(test), seconds]
            skip += [test] if outcome == "failed" else []
    files = list(dict.fromkeys(files))
    plan = {"kind": "run", "skip": skip, "order": order, "words": sorted(words)}
    line: dict[str, Any] = {"file": found[0], "caught_by": None, "tests": 0, "seconds": 0.0}
    original, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mutated)
        stages = [
            [file for file in files if file.startswith(near)],
            [file for file in files if not file.startswith(near)],
        ]
        for files in stages[arguments.beyond : 1 if arguments.near else 2]:
            left = arguments.budget - line["seconds"]
            if not files or line["caught_by"] or left < 5.0:
                continue
            result = run_tests(tree, plan | {"budget": left}, ["-x", "-m", arguments.markers, *files])
            line |= {key: result[key] for key in ("caught_by", "how", "stopped") if result and result.get(key)}
            line["tests"] += result.get("tests", 0)
            line["seconds"] = round(line["seconds"] + result.get("seconds", 0.0), 1)
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return line


def catch(arguments: argparse.Namespace) -> None:
    known, tree = touching(arguments.touched), arguments.tree
    drawn = [faults.Fault(**row) for row in json.loads(arguments.faults.read_text())]
    if arguments.again:
        known_caught = {row["fault"] for row in read(arguments.again) if caught(row)}
        drawn = [fault for fault in drawn if fault.name not in known_caught]
    done = {row["fault"] for row in read(arguments.results)}
    # One room after the other, so that a stopped run has some of each.
    by_room = [[fault for fault in drawn if fault.room == room] for room in ROOMS]
    for fault in (fault for row in itertools.zip_longest(*by_room) for fault in row if fault):
        if fault.name in done:
            continue
        line = catch_one(tree, fault, known, arguments)
        if line.get("gone"):
            sources = rooms_of(tree)[fault.room]
            for other in faults.draw(fault.room, sources, 1, random.Random(fault.name), set(drawn)):
                line = {"instead": other._asdict()} | catch_one(tree, other, known, arguments)
        row = {"fault": fault.name, "room": fault.room, "kind": fault.kind} | line
        with arguments.results.open("a") as results:
            results.write(json.dumps(row) + "\n")
        verdict = f"caught by {line['caught_by']}" if line.get("caught_by") else "SURVIVED"
        print(f"{fault.room}: {fault.name!r}: {verdict} ({line.get('seconds')} CPU-s)", flush=True)


def read(path: Path | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []


def caught(row: dict[str, Any]) -> bool:
    """Return whether a test failed."""
    return bool(row.get("caught_by"))


def report(arguments: argparse.Namespace) -> None:
    drawn = [faults.Fault(**row) for row in json.loads(arguments.faults.read_text())]
    # A fault may have several lines, of its room's tests and of those beyond: one that caught it counts.
    results = [{row["fault"]: row for row in sorted(read(path), key=caught)} for path in arguments.results]
    print("| room | faults |" + "".join(f" caught ({path.stem}) |" for path in arguments.results))
    print("|---|---|" + "---|" * len(results))
    for room in ROOMS:
        names = [fault.name for fault in drawn if fault.room == room]
        counts = [sum(caught(rows[name]) for name in names if name in rows) for rows in results]
        totals = [sum(name in rows for name in names) for rows in results]
        cells = "".join(f" {count} of {total} |" for count, total in zip(counts, totals, strict=True))
        print(f"| {room} | {len(names)} |{cells}")
    for path, rows in zip(arguments.results, results, strict=True):
        print(f"\nNot caught ({path.stem}):")
        for row in rows.values():
            if not caught(row):
                print(
                    f"- {row['room']}, {row['kind']}: `{row['fault']}` ({row['tests']} tests, {row['seconds']} CPU-s)"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "draw", "catch", "report"])
    parser.add_argument("--tree", type=lambda text: Path(text).resolve(), default=HERE.parents[1])
    parser.add_argument("--touched", type=Path, help="the folder of what each test file runs")
    parser.add_argument("--faults", type=Path, help="the drawn faults")
    parser.add_argument("--results", type=Path, nargs="+", help="the lines of `catch`")
    parser.add_argument("--again", type=Path, help="measure only the faults that these results did not catch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=10, help="faults in each room")
    parser.add_argument("--near", action="store_true", help="run only the tests of the fault's room")
    parser.add_argument("--beyond", action="store_true", help="run only the other tests")
    parser.add_argument(
        "--far", action="store_true", help="run the tests of papers, benchmarks, workloads and guides too"
    )
    parser.add_argument("--markers", default="", help="pytest's -m")
    parser.add_argument("--budget", type=float, default=360.0, help="CPU-s of tests for one fault")
    arguments = parser.parse_args()
    # A shell starts background jobs with the signal ignored, so that tests of an interruption would fail in them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments.command == "catch":
        (arguments.results,) = arguments.results
    {"record": record, "draw": draw, "catch": catch, "report": report}[arguments.command](arguments)


if __name__ == "__main__":
    main()
