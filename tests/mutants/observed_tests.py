"""A pytest plugin for `tests/mutants/run.py`: record what each test runs, or run the tests nearest to a fault first.

The file named by the environment variable `MUTANT_PLAN` says which. Functions are recorded by `sys.monitoring` (Python
3.12), which costs next to nothing: an event is reported once for each test and function.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

PLAN: dict[str, Any] = json.loads(Path(os.environ["MUTANT_PLAN"]).read_text()) if "MUTANT_PLAN" in os.environ else {}
LIBRARY = os.path.join(os.getcwd(), "lrx") + os.sep


class Recorder:
    """Record, for each test, its CPU seconds, its outcome and the functions of lrx that it started."""

    def __init__(self, budget: float) -> None:
        self.budget, self.tests, self.functions, self.started = budget, {}, {}, set()
        sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "mutants")
        sys.monitoring.register_callback(sys.monitoring.COVERAGE_ID, sys.monitoring.events.PY_START, self.start)
        sys.monitoring.set_events(sys.monitoring.COVERAGE_ID, sys.monitoring.events.PY_START)

    def start(self, code: Any, _offset: int) -> object:
        if code.co_filename.startswith(LIBRARY):
            self.started.add(f"{code.co_filename[len(LIBRARY) :]}::{code.co_qualname}")
        return sys.monitoring.DISABLE

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.started.clear()
        sys.monitoring.restart_events()
        begin = time.process_time()
        self.outcome = "passed"
        result = yield
        numbers = [self.functions.setdefault(name, len(self.functions)) for name in sorted(self.started)]
        self.tests[item.nodeid] = [round(time.process_time() - begin, 3), self.outcome, numbers]
        if time.process_time() > self.budget:
            item.session.shouldstop = "the budget is spent"
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.outcome = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        whole = len(self.tests) == len(session.items)
        record = {"whole": whole, "functions": list(self.functions), "tests": self.tests}
        Path(PLAN["out"]).write_text(json.dumps(record))


class NearestFirst:
    """Run the tests in the order of the plan, stop at the first that fails, at one that hangs, or out of budget."""

    def __init__(self, budget: float) -> None:
        self.budget, self.result = budget, {"caught_by": None, "stopped": None, "tests": 0}
        self.current: tuple[str, float, float] | None = None
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """End the process if a test takes ten times its usual time, or more memory than the machine can spare."""
        while True:
            time.sleep(1.0)
            current = self.current
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            reason = None
            if current and time.process_time() > current[1] + max(60.0, 10.0 * current[2]):
                reason = "hangs"
            if pages * os.sysconf("SC_PAGE_SIZE") > 8 << 30:
                reason = "takes 8 GiB"
            if reason:
                self.result |= {"caught_by": current[0] if current else "collection", "how": reason}
                self.write()
                os._exit(1)

    def write(self) -> None:
        self.result["seconds"] = round(time.process_time(), 1)
        Path(PLAN["out"]).write_text(json.dumps(self.result))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        skipped, order = set(PLAN["skip"]), PLAN["order"]
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in skipped])

        def rank(item: pytest.Item) -> tuple[float, ...]:
            file = item.nodeid.split("::")[0]
            runs, room, mentioned, seconds = order.get(item.nodeid) or order.get(file) or (1, 1, 1, 5.0)
            named = any(word in item.nodeid.lower() for word in PLAN["words"])
            return runs, room, not named, mentioned, seconds

        items[:] = sorted((item for item in items if item.nodeid not in skipped), key=rank)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        usual = PLAN["order"].get(item.nodeid, [5.0])[-1]
        self.current = (item.nodeid, time.process_time(), usual)
        result = yield
        self.current = None
        self.result["tests"] += 1
        if time.process_time() > self.budget and not self.result["caught_by"]:
            self.result["stopped"] = "budget"
            item.session.shouldstop = "the budget is spent"
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.result["caught_by"]:
            self.result |= {"caught_by": report.nodeid, "how": str(report.longreprtext.splitlines()[-1:])[:200]}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.result["caught_by"]:
            self.result |= {"caught_by": f"import of {report.nodeid}", "how": "collection"}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.write()


def pytest_configure(config: pytest.Config) -> None:
    if PLAN:
        kind = Recorder if PLAN["kind"] == "record" else NearestFirst
        config.pluginmanager.register(kind(PLAN["budget"]))
