"""Write torch.json: what PyTorch's optimizers and schedulers do, step by step in float64.

Run in an environment of its own that has torch (the CPU build is enough) and numpy, and commit what it writes:

    python tests/references/make_torch.py

Optimizers get the same stream of gradients, which does not depend on the parameters; the parameters after each step
are recorded. Of schedulers the rate at each step is recorded, from step 0 on and only as far as PyTorch's own formula
holds: its cosine rises again after T_max, and its 1cycle jumps up at total_steps. Each case is the class and its
arguments, from which both the object and the text of the call are made.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 40
THETA = [1.0, -2.0, 0.5, 0.0625]

# id, class in torch.optim, its arguments, and the scheduler that changes its rate, if any.
OPTIMIZERS: list[tuple[str, str, dict[str, Any], tuple[str, dict[str, Any]] | None]] = [
    *(
        (f"sgd{name}{suffix}", "SGD", {"lr": 0.02, **arguments}, scheduler)
        for suffix, scheduler in [("", None), ("-step-decay", ("StepLR", {"step_size": 12, "gamma": 0.3}))]
        for name, arguments in [
            ("", {}),
            ("-momentum", {"momentum": 0.9}),
            ("-nesterov", {"momentum": 0.9, "nesterov": True}),
        ]
    ),
    ("adagrad", "Adagrad", {"lr": 0.1, "eps": 1e-10}, None),
    ("adagrad-large-eps", "Adagrad", {"lr": 0.1, "eps": 0.1}, None),
    ("adagrad-cosine", "Adagrad", {"lr": 0.1, "eps": 1e-10}, ("CosineAnnealingLR", {"T_max": STEPS})),
    ("rmsprop", "RMSprop", {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}, None),
    ("rmsprop-large-eps", "RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 0.1}, None),
    ("rmsprop-cosine", "RMSprop", {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}, ("CosineAnnealingLR", {"T_max": STEPS})),
    ("adam", "Adam", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}, None),
    ("adam-large-eps", "Adam", {"lr": 0.05, "betas": [0.8, 0.95], "eps": 0.1}, None),
    (
        "adam-cosine",
        "Adam",
        {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8},
        ("CosineAnnealingLR", {"T_max": STEPS}),
    ),
    *(
        (
            f"adamw-{decay}{suffix}",
            "AdamW",
            {"lr": 0.05, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": decay},
            scheduler,
        )
        for suffix, scheduler in [("", None), ("-cosine", ("CosineAnnealingLR", {"T_max": STEPS}))]
        for decay in (0.01, 0.1)
    ),
]

# id, class in torch.optim.lr_scheduler, its arguments, the rate given to the optimizer, and how many steps to record.
SCHEDULERS: list[tuple[str, str, dict[str, Any], float, int]] = [
    ("step", "StepLR", {"step_size": 30, "gamma": 0.1}, 0.1, 130),
    ("step-short", "StepLR", {"step_size": 7, "gamma": 0.5}, 0.3, 100),
    ("multi-step", "MultiStepLR", {"milestones": [30, 80, 95], "gamma": 0.1}, 0.1, 120),
    ("constant-factor", "ConstantLR", {"factor": 0.25, "total_iters": 20}, 0.1, 60),
    ("linear-up", "LinearLR", {"start_factor": 0.1, "end_factor": 1.0, "total_iters": 50}, 0.1, 80),
    ("linear-down", "LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 90}, 0.1, 110),
    ("exponential", "ExponentialLR", {"gamma": 0.95}, 0.1, 200),
    ("exponential-slow", "ExponentialLR", {"gamma": 0.999}, 0.3, 200),
    ("polynomial-1", "PolynomialLR", {"total_iters": 90, "power": 1.0}, 0.1, 110),
    ("polynomial-2", "PolynomialLR", {"total_iters": 90, "power": 2.0}, 0.1, 110),
    ("polynomial-0.9", "PolynomialLR", {"total_iters": 90, "power": 0.9}, 0.1, 110),
    ("cosine", "CosineAnnealingLR", {"T_max": 120, "eta_min": 0.0}, 0.1, 121),
    ("cosine-floor", "CosineAnnealingLR", {"T_max": 97, "eta_min": 0.003}, 0.1, 98),
    ("restarts", "CosineAnnealingWarmRestarts", {"T_0": 40, "T_mult": 1, "eta_min": 0.0}, 0.1, 130),
    ("restarts-doubling", "CosineAnnealingWarmRestarts", {"T_0": 20, "T_mult": 2, "eta_min": 0.001}, 0.1, 200),
    *(
        (f"cyclic-{name}", "CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, **arguments, "cycle_momentum": False}, 0.1, 150)
        for name, arguments in [
            ("triangular", {"step_size_up": 25, "mode": "triangular"}),
            ("triangular-uneven", {"step_size_up": 10, "step_size_down": 30, "mode": "triangular"}),
            ("triangular2", {"step_size_up": 25, "mode": "triangular2"}),
            ("exp-range", {"step_size_up": 25, "mode": "exp_range", "gamma": 0.99}),
        ]
    ),
    *(
        (
            f"one-cycle-{anneal}{suffix}",
            "OneCycleLR",
            {
                "max_lr": 0.1,
                "total_steps": total,
                "pct_start": share,
                "anneal_strategy": anneal,
                "three_phase": three_phase,
                "cycle_momentum": True,
                "base_momentum": 0.85,
                "max_momentum": 0.95,
                "div_factor": 25.0,
                "final_div_factor": 1e4,
            },
            0.1,
            total,
        )
        for anneal in ("cos", "linear")
        # With 97 steps and a share of 0.25 the climb ends between two steps, at 23.25.
        for suffix, total, share, three_phase in [
            ("", 100, 0.3, False),
            ("-uneven", 97, 0.25, False),
            ("-three-phase", 100, 0.3, True),
        ]
    ),
    (
        "warmup-cosine",
        "SequentialLR",
        {
            "schedulers": [
                ["LinearLR", {"start_factor": 0.1, "end_factor": 1.0, "total_iters": 20}],
                ["CosineAnnealingLR", {"T_max": 100, "eta_min": 0.001}],
            ],
            "milestones": [20],
        },
        0.1,
        121,
    ),
]


def gradients() -> np.ndarray:
    """Build a stream of float32 numbers of all signs and several sizes, including zeros."""
    stream = np.random.default_rng(7).normal(size=(STEPS, len(THETA))) * [1.0, 0.1, 3.0, 0.01]
    stream[15] = 0.0  # a step without any gradient, in which momentum goes on
    stream[:3, 3] = 0.0  # a coordinate that sees its first gradient late
    stream[20:25, 1] = 0.0
    return stream.astype(np.float32).astype(np.float64)


def optimizer_text(name: str, arguments: dict[str, Any]) -> str:
    """Write the call that `make_optimizer` makes."""
    given = (f"{key}={tuple(value) if key == 'betas' else value!r}" for key, value in arguments.items())
    return f"torch.optim.{name}({', '.join(['[theta]', *given])})"


def scheduler_text(name: str, arguments: dict[str, Any]) -> str:
    """Write the call that `make_scheduler` makes."""

    def shown(value: Any, key: str) -> str:
        return f"[{', '.join(scheduler_text(*child) for child in value)}]" if key == "schedulers" else repr(value)

    given = (f"{key}={shown(value, key)}" for key, value in arguments.items())
    return f"torch.optim.lr_scheduler.{name}({', '.join(['optimizer', *given])})"


def make_optimizer(name: str, parameters: Any, arguments: dict[str, Any]) -> Any:
    import torch

    betas = {"betas": tuple(arguments["betas"])} if "betas" in arguments else {}
    return getattr(torch.optim, name)([parameters], **{**arguments, **betas})


def make_scheduler(name: str, optimizer: Any, arguments: dict[str, Any]) -> Any:
    import torch

    if "schedulers" in arguments:
        children = [make_scheduler(child, optimizer, given) for child, given in arguments["schedulers"]]
        arguments = {**arguments, "schedulers": children}
    return getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)


def path_of(name: str, arguments: dict[str, Any], scheduler: tuple[str, dict[str, Any]] | None) -> list[list[float]]:
    """Return the parameters after each step."""
    import torch

    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer(name, theta, arguments)
    schedule = None if scheduler is None else make_scheduler(scheduler[0], optimizer, scheduler[1])
    path = []
    for gradient in gradients():
        theta.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        if schedule is not None:
            schedule.step()
        path.append(theta.detach().tolist())
    return path


def rates_of(name: str, arguments: dict[str, Any], rate: float, steps: int) -> dict[str, list[float]]:
    """Return the rate of each step, and the momentum if the scheduler sets it."""
    import torch

    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer("SGD", theta, {"lr": rate, "momentum": 0.9})
    scheduler = make_scheduler(name, optimizer, arguments)
    rates, momenta = [], []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return {"rates": rates, "momenta": momenta} if arguments.get("cycle_momentum") else {"rates": rates}


def main() -> None:
    import torch

    lines = []
    for name, family, arguments, scheduler in OPTIMIZERS:
        call = f"optimizer = {optimizer_text(family, arguments)}"
        if scheduler is not None:
            call += f"; scheduler = {scheduler_text(*scheduler)}"
        case = {"id": name, "call": call, "class": family, "arguments": arguments, "scheduler": scheduler}
        lines.append(("optimizers", case | {"path": path_of(family, arguments, scheduler)}))
    for name, family, arguments, rate, steps in SCHEDULERS:
        call = f"optimizer = {optimizer_text('SGD', {'lr': rate, 'momentum': 0.9})}; "
        call += f"scheduler = {scheduler_text(family, arguments)}"
        case = {"id": name, "call": call, "class": family, "arguments": arguments, "lr": rate}
        lines.append(("schedulers", case | rates_of(family, arguments, rate, steps)))
    # One case a line, so that a change of one shows as one.
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    head = {"versions": versions, "theta": THETA, "gradients": gradients().tolist()}
    parts = [f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in head.items()]
    for kind in ("optimizers", "schedulers"):
        cases = ",\n".join(json.dumps(case, separators=(",", ":")) for where, case in lines if where == kind)
        parts.append(f'"{kind}":[\n{cases}\n]')
    # Written by json's own repr of floats, which reads back as the same number.
    Path(__file__).with_name("torch.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
