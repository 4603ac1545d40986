"""The noisy quadratic on which a method follows its transcription in plain NumPy (law 10)."""

from __future__ import annotations

import numpy as np

STEPS = 60
RNG = np.random.default_rng(0)
SCALES = np.array([3.0, 1.0, 0.3, 2.0, 0.5, 1.5])
NOISE = 0.1 * RNG.standard_normal((STEPS, 6))
START = RNG.standard_normal(6)


def loss_at(theta: np.ndarray, t: int) -> float:
    """Return the loss at a step; each step has its own noise."""
    return float(0.5 * np.sum(SCALES * theta**2) + NOISE[t] @ theta + 1.0)


def gradient_at(theta: np.ndarray, t: int) -> np.ndarray:
    """Return the gradient of the loss at a step."""
    return SCALES * theta + NOISE[t]
