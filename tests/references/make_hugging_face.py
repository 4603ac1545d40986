"""Write hugging_face.json: the rates of the schedulers of transformers, step by step.

Run with transformers' own optimization.py and its version, and commit what it writes:

    pip download transformers==5.24.0 --no-deps && unzip transformers-*.whl transformers/optimization.py
    python tests/references/make_hugging_face.py transformers/optimization.py 5.24.0

Its schedules are functions of the step, by which PyTorch's LambdaLR multiplies the rate. So PyTorch is not needed: a
stand-in for LambdaLR returns the function, and stand-ins for the other imports are never used.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

LR, WARMUP, TOTAL = 0.1, 10, 100
# name: the function of transformers that makes it, and its arguments
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "constant": ("get_constant_schedule", {}),
    "constant_with_warmup": ("get_constant_schedule_with_warmup", {"num_warmup_steps": WARMUP}),
    "inverse_sqrt": ("get_inverse_sqrt_schedule", {"num_warmup_steps": WARMUP}),
    **{
        name: (function, {"num_warmup_steps": WARMUP, "num_training_steps": TOTAL, **specific})
        for name, function, specific in [
            ("linear", "get_linear_schedule_with_warmup", {}),
            ("cosine", "get_cosine_schedule_with_warmup", {}),
            ("cosine_with_restarts", "get_cosine_with_hard_restarts_schedule_with_warmup", {"num_cycles": 3}),
            ("polynomial", "get_polynomial_decay_schedule_with_warmup", {}),
            ("cosine_with_min_lr", "get_cosine_with_min_lr_schedule_with_warmup", {"min_lr_rate": 0.1}),
            (
                "cosine_warmup_with_min_lr",
                "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
                {"min_lr_rate": 0.1},
            ),
            ("warmup_stable_decay", "get_wsd_schedule", {"num_decay_steps": 20, "min_lr_ratio": 0.1}),
        ]
    },
}


class StandIn(types.ModuleType):
    """A module that has every attribute."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__call__": lambda self, decorated: decorated})


class StandIns:
    """Finds a stand-in for every module that is not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        known = name.split(".")[0] in ("torch", "transformers")
        return importlib.machinery.ModuleSpec(name, self) if known else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: Any) -> None:
        if module.__name__ == "transformers.utils":
            module.logging = types.SimpleNamespace(get_logger=lambda name: None)
        if module.__name__ == "transformers.trainer_utils":
            module.SchedulerType = type("SchedulerType", (type,), {"__getattr__": lambda cls, name: name})(
                "Names", (), {}
            )


def main(source: Path, version: str) -> None:
    sys.meta_path.insert(0, StandIns())  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("transformers.optimization", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["LambdaLR"] = lambda optimizer, function, last_epoch=-1: function
    optimizer = types.SimpleNamespace(defaults={"lr": LR})
    rates = {}
    for name, (function, arguments) in SCHEDULES.items():
        factor = getattr(module, function)(optimizer, **arguments)
        rates[name] = [LR * factor(step) for step in range(TOTAL)]
    path = Path(__file__).with_name("hugging_face.json")
    path.write_text(json.dumps({"transformers": version, "rates": rates}, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
