"""Whole runs of the cases of `lrx bench diagnose`, what they end with, and what their histories are diagnosed with."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.benchmarks.diagnose_cases import Case
from lrx.benchmarks.diagnose_kinds import KINDS, STEPS
from lrx.diagnostics import sharpness, stability_limit
from lrx.doctor import diagnose as doctor
from lrx.doctor.optimizer_parts import read_optimizer
from lrx.doctor.probe import Probe
from lrx.training.history import History

if TYPE_CHECKING:
    from lrx.doctor.probe import Start

EXAMPLES = 1000  # of the final losses, at most


def run_fully(
    case: Case, seed: int, tx: Any = None, workload: Any = None, *, parts: int = 1, alone: int = 0
) -> tuple[list[Start], Any, Any]:
    """Train a case, in so many parts: return the ends of the parts, the losses and the rates of all steps.

    The last `alone` steps take the minibatches of other steps.
    """
    workload = case.workload() if workload is None else workload
    read = read_optimizer(case.tx() if tx is None else tx, jax.eval_shape(workload.init, jax.random.key(0))[0])
    probe = Probe(workload, read, seed)
    counts = np.arange(STEPS) // (1 if read.counts_minibatches else read.every)
    rates = read.rates(counts) if read.rebuilt else np.ones(STEPS)
    rows, ends, losses = probe.draw(STEPS), [], []
    rows[STEPS - alone :] = rows[:alone]
    at = probe.start()
    for chosen in np.array_split(np.arange(STEPS), parts):
        branches = probe.run([at], rates[None, chosen], rows[chosen])
        at = branches.ends[0]
        ends.append(at)
        losses.append(branches.losses[0])
    return ends, np.concatenate(losses), rates


class Evaluator:
    """The losses of a kind on its clean examples."""

    def __init__(self, kind: str) -> None:
        self.arrays = tuple(map(jnp.asarray, KINDS[kind].data()))
        self.function = jax.jit(lambda params, arrays: jnp.mean(KINDS[kind].loss(params, arrays)))

    def loss(self, at: Start, first: int = 0, last: int = 1000) -> float:
        """Return the mean loss of some examples; infinite if it is not finite."""
        value = float(self.function(at.params, tuple(x[first:last] for x in self.arrays)))
        return value if math.isfinite(value) else math.inf

    def sharpness_of_limit(self, case: Case, at: Start, size: int = EXAMPLES) -> float:
        """Return the sharpness at the end of a run with a constant rate, as a part of the limit of that rate."""
        arrays = tuple(x[:size] for x in self.arrays)
        loss = KINDS[case.kind].loss
        found = sharpness(lambda params: jnp.mean(loss(params, arrays)), at.params, tol=0.02, max_products=40)
        return float(found) / float(stability_limit(case.tx().init(at.params)))


def history_of(losses: np.ndarray, rates: np.ndarray, end: Start, evaluations: Any = (), steps: Any = ()) -> History:
    """Return the history of a run, with its evaluation losses and their steps."""
    return History(
        loss=losses.astype(np.float32),
        rate=rates.astype(np.float32),
        metrics={},
        evaluations={"loss": np.array(evaluations, np.float32)} if len(evaluations) else {},
        evaluation_steps=np.array(steps, np.int32),
        params=end.params,
        model_state=(),
        opt_state=end.opt_state,
    )


def diagnose_two_devices(history: History, other_params: Any) -> dict[str, Any]:
    """Diagnose a run whose parameters differ on a second device, in a process that has two.

    Returns:
      Its `steps_used` and `evidence`.
    """
    kept = jax.tree.map(np.asarray, (history.loss, history.rate, history.params, other_params))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.pickle"
        path.write_bytes(pickle.dumps(kept))
        done = subprocess.run(
            [sys.executable, "-m", "lrx.benchmarks.diagnose_runs", str(path)],
            env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _diagnose_file(path: Path) -> str:
    """Return the diagnosis of a run in a file, whose parameters are placed on the two devices of this process."""
    loss, rate, params, other = pickle.loads(path.read_bytes())
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()), ("copies",)), jax.sharding.PartitionSpec()
    )

    def place(*copies: Any) -> jax.Array:
        on_each = [jax.device_put(copy, device) for copy, device in zip(copies, jax.devices(), strict=True)]
        return jax.make_array_from_single_device_arrays(np.shape(copies[0]), everywhere, on_each)

    run = History(loss, rate, {}, {}, np.zeros(0, np.int32), jax.tree.map(place, params, other), (), ())
    found = doctor(run)
    return json.dumps({"steps_used": found.steps_used, "evidence": found.evidence})


if __name__ == "__main__":
    print(_diagnose_file(Path(sys.argv[1])))
