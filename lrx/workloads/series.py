"""Series of numbers in time: tones to be classified by pitch, and seasonal series to be forecast."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.supervised import Examples


def tone_network(num_classes: int, *, window: int = 16, widths: tuple[int, int] = (12, 16)) -> Network:
    """Build two convolutions in time with ReLU, the mean over time and a linear layer: (n, length) -> (n, classes).

    Args:
      num_classes: width of the output.
      window: samples that the first convolution sees, with a stride of 4; the second sees three of its outputs.
      widths: channels of the two convolutions.
    """
    shapes = [(window, widths[0]), (3 * widths[0], widths[1]), (widths[1], num_classes)]

    def convolve(layer: Any, x: jax.Array, size: int, stride: int) -> jax.Array:
        # (n, length, channels) -> (n, positions, size channels) @ kernel
        last = x.shape[1] - size
        seen = jnp.concatenate([x[:, i : last + i + 1 : stride] for i in range(size)], axis=-1)
        return jax.nn.relu(seen @ layer["kernel"] + layer["bias"][None, None])

    def apply(layers: Any, waves: jax.Array) -> jax.Array:
        x = convolve(layers[0], waves[..., None], window, 4)
        x = convolve(layers[1], x, 3, 1)
        return affine(layers[2], x.mean(axis=1))

    return Network(lambda key: he_normal(key, shapes), apply)


def draw_tones(number: int, rng: np.random.Generator, *, length: int = 64, noise: float = 0.5) -> Examples:
    """Draw waves of a tone and its octave that fade, with normal noise, and which of six pitches it is.

    Pitches are 4 * 2^(k / 3) periods in a wave, k = 0 to 5, and out of tune by up to 3 %; phases, the octave's loudness
    and the speed of the fading are random.

    Args:
      number: number of waves.
      rng: generator of the numbers.
      length: samples of a wave.
      noise: standard deviation of the noise.

    Returns:
      Waves (number, length) and pitches (number,).
    """
    pitches = rng.integers(6, size=number)
    frequencies = 4 * 2 ** (pitches / 3) * rng.uniform(0.97, 1.03, size=number)
    phases, loudness = rng.uniform(0, 2 * np.pi, size=(2, number, 1)), rng.uniform(0.2, 0.8, size=(number, 1))
    t = np.arange(length)[None] / length
    angles = 2 * np.pi * frequencies[:, None] * t
    waves = np.sin(angles + phases[0]) + loudness * np.sin(2 * angles + phases[1])
    waves = waves * np.exp(-rng.uniform(0, 2, size=(number, 1)) * t) + noise * rng.normal(size=(number, length))
    return waves.astype(np.float32), pitches.astype(np.int32)


def draw_seasons(number: int, rng: np.random.Generator, *, history: int = 24, horizon: int = 8) -> Examples:
    """Draw series of a trend, a season and correlated noise, cut into what is known and what is to be forecast.

    A season has 8 or 12 steps and two harmonics of random sizes and phases. The noise is an autoregression with the
    coefficient 0.7. A series is scaled by the mean and the standard deviation of what is known.

    Args:
      number: number of series.
      rng: generator of the numbers.
      history: known steps.
      horizon: steps to forecast.

    Returns:
      Known values (number, history) and the following ones (number, horizon).
    """
    t = np.arange(history + horizon)[None]
    angles = 2 * np.pi * t / rng.choice([8, 12], size=(number, 1))
    sizes, phases = rng.uniform(0, 1, size=(2, number, 1)), rng.uniform(0, 2 * np.pi, size=(2, number, 1))
    season = np.sin(angles + phases[0]) + sizes[0] * np.sin(2 * angles + phases[1])
    values = 0.05 * rng.normal(size=(number, 1)) * t + season
    error = np.zeros(number)
    for step in range(history + horizon):
        error = 0.7 * error + 0.3 * rng.normal(size=number)
        values[:, step] += error
    known = values[:, :history]
    scaled = (values - known.mean(axis=1, keepdims=True)) / known.std(axis=1, keepdims=True)
    return scaled[:, :history].astype(np.float32), scaled[:, history:].astype(np.float32)
