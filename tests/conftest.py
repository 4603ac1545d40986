"""What holds for the whole suite: fixed examples, no silent broadcasting, and programs compiled once.

`pytest --cpu-times` prints the CPU seconds and the XLA compilations of each file and of the most expensive tests.
"""

from __future__ import annotations

import collections
import functools
import gc
import hashlib
import importlib
import itertools
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest
from jax._src.interpreters import mlir
from xdist.scheduler import LoadScopeScheduling

# A shell starts what runs in the background with interruptions ignored; tests of Ctrl-C need them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _machine() -> str:
    """Return a short name of this kind of processor: a compiled program runs on one kind only."""
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

# Programs of tests are small and run a few times: what the compiler takes counts, not what it gains. XLA's older
# generator of machine code, without optimizations and without a split for many cores, takes a third of the time. Tests
# that compute for longer are marked `optimized`. With LRX_TEST_CODE=users all tests run the code that users run. So CI
# runs the quick tests of the files in BITS, marked `bits`, which are about equal bits and exact rates. Versions of JAX
# after 0.10 may have the newer generator alone, and end the process at a flag that they do not know.
QUICK = os.environ.get("LRX_TEST_CODE") != "users"
OLDER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
BITS = {
    *(f"laws/test_{name}.py" for name in ("compiled_once", "exact_in_time", "resumable", "transcribed")),
    *(f"training/test_{name}.py" for name in ("branches", "loop", "resume", "stream")),
    *(f"tuning/test_{name}.py" for name in ("halving", "sweep")),
}
if QUICK:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11) and OLDER not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{OLDER} {os.environ.get('XLA_FLAGS', '')}".rstrip()

# JAX makes an MLIR context for each program that it lowers, in 5 ms, and its caches keep a megabyte of it. Programs of
# tests share one; a new one now and then lets go of the constants of the old one.
LOWERINGS = 100
if jax.__version_info__ < (0, 11):
    _make_context, _contexts = mlir.make_ir_context, itertools.count()

    @functools.lru_cache(maxsize=1)
    def _context_of(_: int) -> Any:
        return _make_context()

    mlir.make_ir_context = lambda: _context_of(next(_contexts) // LOWERINGS)

collect_ignore = ["federated/unreliable_app.py"]  # needs flwr

# Arrays of different ranks meet only where the code says so; scalars are free.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a shape compiles, so a deadline would measure the compiler; the examples are the same each time.
for profile, examples in {"first tier": 10, "all": 30}.items():
    hypothesis.settings.register_profile(profile, deadline=None, derandomize=True, max_examples=examples, database=None)


# ------------------------------------------------------------------------------------------------------------ workers


def scope_of(nodeid: str) -> str:
    """Return what shares compiled programs: in the laws the tests of a case, elsewhere those of a file."""
    path, _, name = nodeid.partition("::")
    _, parametrized, parameters = name.partition("[")
    return f"case {parameters.rstrip(']').split('-')[-1]}" if "/laws/" in path and parametrized else path


class ByProgram(LoadScopeScheduling):
    """Hand a scope to one worker, in the order of `pytest_collection_modifyitems`."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.nodeid.partition("::")[0].removeprefix("tests/") in BITS:
        item.add_marker("bits")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with scopes of slow tests, then with large ones: the workers end together if what is left is small."""
    if hasattr(config, "workerinput"):
        slow: dict[str, list[bool]] = collections.defaultdict(list)
        for item in items:
            slow[scope_of(item.nodeid)].append(item.get_closest_marker("slow") is not None)
        place = {scope: (-sum(marks) / len(marks), -len(marks)) for scope, marks in slow.items()}
        items.sort(key=lambda item: place[scope_of(item.nodeid)])


@hypothesis.given(hypothesis.strategies.none())
def _draw_once(nothing: None) -> None:
    """Let hypothesis make its random generator."""


def pytest_collection_finish() -> None:
    _draw_once()  # hypothesis 6.100 warns if the collector does not see who holds its generator
    # Thousands of tests and all modules stay for good: the collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    # `cases` collects the units; within a test that hypothesis draws, it would define other such tests.
    if "units" in sys.modules:
        importlib.import_module("cases")


def _optimize(item: pytest.Item, quick: bool) -> None:
    if item.get_closest_marker("optimized"):
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))
        jax.config.update("jax_disable_most_optimizations", quick)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _optimize(item, quick=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    _optimize(item, quick=QUICK)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return ByProgram(config, log) if config.getvalue("dist") == "load" else None


# --------------------------------------------------------------------------------------------------------- CPU times


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-times", action="store_true", help="print CPU seconds and XLA compilations by file and test")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of xdist, by the number of tests alone
    hypothesis.settings.load_profile("first tier" if config.option.markexpr == "not slow" else "all")
    if config.getoption("--cpu-times"):
        config.pluginmanager.register(CpuTimes(), "cpu-times")


class CpuTimes:
    """Measure the CPU seconds of each test, its threads and subprocesses, and the programs that it compiled."""

    def __init__(self) -> None:
        self.compiled = 0
        self.last = self.read()
        self.tests: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, *_: Any, **__: Any) -> None:
        self.compiled += event == "/jax/core/compile/backend_compile_duration"

    def read(self) -> tuple[float, int]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime, self.compiled

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Any:
        self.last = self.read()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        report = yield
        before, self.last = self.last, self.read()
        report.user_properties = [("spent", [now - then for now, then in zip(self.last, before, strict=True)])]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, spent in report.user_properties:
            if name == "spent":
                self.tests[report.nodeid] = [sum(pair) for pair in zip(self.tests[report.nodeid], spent, strict=True)]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        def table(title: str, key: Any, rows: int) -> None:
            sums: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
            for test, (seconds, compiled) in self.tests.items():
                sums[key(test)] = [sum(pair) for pair in zip(sums[key(test)], (seconds, compiled, 1), strict=True)]
            terminalreporter.section(f"CPU seconds, compilations and tests, by {title}")
            for name, (seconds, compiled, number) in sorted(sums.items(), key=lambda row: -row[1][0])[:rows]:
                terminalreporter.write_line(f"{seconds:9.2f} {compiled:7.0f} {number:6.0f}  {name}")

        table("all", lambda test: "all", 1)
        table("file", lambda test: test.split("::")[0], 200)
        table("test function", lambda test: test.split("[")[0], 60)
        table("test", lambda test: test, 60)
