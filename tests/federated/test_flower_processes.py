"""A Flower server and three clients as processes over loopback, of which some fail.

Needs flwr, which is not in the environment of the other tests.
"""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrx.federated import simulate

pytest.importorskip("flwr", reason="needs flwr, which has an environment of its own")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, which starts the processes."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    return importlib.import_module("federated_flower")


@pytest.mark.slow
def test_training_goes_on_past_clients_that_fail_and_one_that_is_killed_and_comes_back(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    app = importlib.import_module("unreliable_app")
    with example.Processes(tmp_path, app.__file__, {"RESULT": str(tmp_path / "result.json")}) as processes:
        processes.start_server()
        clients = [processes.start_client(number) for number in range(3)]

        ended = threading.Event()

        def come_back() -> None:
            clients[2].wait()
            if not ended.is_set():
                processes.start_client(2)

        threading.Thread(target=come_back, daemon=True).start()
        try:
            processes.run()
        finally:
            ended.set()
    found = json.loads((tmp_path / "result.json").read_text())

    assert [each["counted"] for each in found["rounds"]] == [3, 3, 1, 1, 3]
    reasons = {(number, client.split(" (")[0]): reason for number, client, reason in found["refused"]}
    reasons.pop((5, "client 2"), None)  # the killed node may be asked once more, beside the one that came back
    assert set(reasons) == {(3, "client 1"), (3, "client 2"), (4, "client 1"), (4, "client 2")}
    assert "not finite" in reasons[3, "client 1"]
    assert "the shape of" in reasons[3, "client 2"]
    assert "above max_norm=10" in reasons[4, "client 1"]
    before, after = found["losses"]
    assert after < 0.7 * before  # the model is unharmed
    # Until then the rounds are those of the simulation.
    history = simulate(app.workload_of(), app.PARTITION, num_rounds=2, client=app.CLIENT, server=app.SERVER)
    for name in ("start_loss", "loss", "norm"):
        np.testing.assert_allclose([each[name] for each in found["rounds"][:2]], getattr(history, name), rtol=1e-4)
