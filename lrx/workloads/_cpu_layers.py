"""Convolution, batch norm and pooling, written so that a training step is fast on a CPU; the numbers are Flax's own."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNKS = 4  # of a batch, in which the gradient of a kernel is added up on a CPU


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve with a square kernel of odd size and as many zeros around the image as keep every pixel a centre.

    On CPUs the gradients are written by hand, elsewhere they are the automatic ones. XLA's CPU compiler is fast where
    channels come last and nothing is dilated; it reorders other convolutions only outside of loops, and training is
    a loop.

    Args:
      x: (n, height, width, channels).
      kernel: (size, size, channels, features); of size 3 where the stride is 2.
      stride: 1 or 2.

    Returns:
      (n, ceil(height / stride), ceil(width / stride), features).
    """
    return _convolution(x, kernel, stride)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    margin = kernel.shape[0] // 2
    padding = ((margin, margin), (margin, margin))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


def _convolution_gradients(stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(lambda x, kernel: _convolution(x, kernel, stride), x, kernel)[1](dy)


def _convolution_gradients_on_cpu(
    stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    if stride == 1:
        dx = _convolution(dy, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)
    else:
        dx = _halving_image_gradient(x, kernel, dy)

    # The kernel's gradient is a convolution too: of the images, with their channels as the batch and the batch as the
    # channels, by dy as a kernel. The transpositions are quicker chunk by chunk, and the loop keeps the compiler from
    # computing x anew inside of them, pixel by pixel in a bad order.
    n, chunks = x.shape[0], math.gcd(x.shape[0], _CHUNKS)
    margin = kernel.shape[0] // 2
    padding = [
        (margin, kernel.shape[0] - size - margin + stride * (outputs - 1))
        for size, outputs in zip(x.shape[1:3], dy.shape[1:3], strict=True)
    ]

    def add_chunk(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        images, kernels = (
            jax.lax.dynamic_index_in_dim(a.reshape(n // chunks, chunks, *a.shape[1:]), index, 1, keepdims=False)
            for a in (x, dy)
        )
        part = jax.lax.conv_general_dilated(
            *(images.transpose(3, 1, 2, 0), kernels.transpose(1, 2, 0, 3), (1, 1), padding),
            rhs_dilation=(stride, stride),
            dimension_numbers=_LAYOUT,
        )
        return total + part, None

    zeros = jnp.zeros((x.shape[3], *kernel.shape[:2], dy.shape[3]), dy.dtype)
    total, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(chunks))
    return dx, total.transpose(1, 2, 0, 3)


def _halving_image_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Give dx of a 3x3 convolution with stride 2 by one convolution with four times the channels."""
    (n, height, width, channels), (_, rows, columns, features) = x.shape, dy.shape
    # In one dimension y[i] = k[0] x[2i-1] + k[1] x[2i] + k[2] x[2i+1], so that
    # dx[2i] = k[1] dy[i] and dx[2i+1] = k[2] dy[i] + k[0] dy[i+1]; the tap 3 is a zero.
    taps = np.array([[1, 3], [2, 0]])
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    phases = padded[taps[:, :, None, None], taps[None, None, :, :]]  # (row phase, 2, column phase, 2, c, f)
    phases = phases.transpose(1, 3, 5, 0, 2, 4).reshape(2, 2, features, 4 * channels)
    dx = jax.lax.conv_general_dilated(dy, phases, (1, 1), ((0, 1), (0, 1)), dimension_numbers=_LAYOUT)
    dx = dx.reshape(n, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return dx.reshape(n, 2 * rows, 2 * columns, channels)[:, :height, :width]


def _convolution_backward(stride: int, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    by_hand, automatic = partial(_convolution_gradients_on_cpu, stride), partial(_convolution_gradients, stride)
    return jax.lax.platform_dependent(*saved, dy, cpu=by_hand, default=automatic)


convolution.defvjp(lambda x, kernel, stride: (_convolution(x, kernel, stride), (x, kernel)), _convolution_backward)


def _as_flax_calls_it(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any) -> jax.Array:
    return convolution(x, kernel, strides[0])


def conv(size: int, in_features: int, out_features: int, stride: int = 1, **options: Any) -> nnx.Conv:
    """Make Flax's layer of `convolution`."""
    window = in_features, out_features, (size, size), stride
    return nnx.Conv(*window, conv_general_dilated=_as_flax_calls_it, **options)


BATCH_NORM_EPSILON = 1e-5


@jax.custom_vjp
def normalize_batch(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Give `scale * (x - mean) / sqrt(variance + 1e-5) + bias`, the mean and the variance, by channel.

    The gradient is written by hand, in two passes over the data: derived automatically, it takes more. There is none
    through the mean and the variance that are returned.

    Args:
      x: (n, height, width, channels).
      scale: (channels,).
      bias: (channels,).

    Source: S. Ioffe, C. Szegedy, 2015, arXiv 1502.03167, algorithm 1 and section 3.
    """
    return _normalize_batch_forward(x, scale, bias)[0]


def _normalize_batch_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[Any, Any]:
    mean = jnp.mean(x, axis=(0, 1, 2))
    # In one pass over the data; rounding may make it negative where the variance is 0.
    variance = jnp.maximum(jnp.mean(x * x, axis=(0, 1, 2)) - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
    gain = scale * inverse
    y = x * _by_channel(gain) + _by_channel(bias - mean * gain)
    return (y, mean, variance), (x, mean, inverse, gain)


def _normalize_batch_backward(saved: Any, cotangents: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, gain = saved
    dy = cotangents[0]
    count = x.size // x.shape[-1]
    dbias = jnp.sum(dy, axis=(0, 1, 2))
    dscale = (jnp.sum(dy * x, axis=(0, 1, 2)) - mean * dbias) * inverse
    # dx = gain * (dy - mean of dy - normalized x * mean of dy * normalized x), with the factors of x collected
    slope = -gain * inverse * dscale / count
    dx = dy * _by_channel(gain) + x * _by_channel(slope) - _by_channel(gain * dbias / count + slope * mean)
    return dx, dscale, dbias


def _by_channel(values: jax.Array) -> jax.Array:
    return values[None, None, None, :]


normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm with a faster training step; the running statistics keep 0.9 of their value at each."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(features, momentum=0.9, epsilon=BATCH_NORM_EPSILON, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]
        if not train:
            return super().__call__(x, use_running_average=True)
        y, mean, variance = normalize_batch(x, self.scale[...], self.bias[...])  # type: ignore[index]
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * variance
        return y


# The windows of Caffe's layers are made of shifted slices. These, and their gradients, are fused into few loops over
# the channels: on a CPU the whole training step then takes a third less time than with `lax.reduce_window`.


def pooled_size(size: int) -> int:
    """Windows of 3 with stride 2 that cover `size` pixels, rounded up as Caffe does: the last may stick out."""
    if size < 2:
        raise ValueError(f"image_shape must be at least 8 by 8 pixels: there is a map of {size} pixels to pool.")
    return max(-(-(size - 3) // 2), 0) + 1


def _window_members(x: jax.Array, axis: int, outside: float) -> list[jax.Array]:
    """Give the first, second and third members of the windows along an axis, with `outside` where they stick out."""
    windows = pooled_size(x.shape[axis])
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, 2 * windows + 1 - x.shape[axis], 0)
    padded = jax.lax.pad(x, jnp.asarray(outside, x.dtype), padding)
    return [jax.lax.slice_in_dim(padded, i, i + 2 * windows - 1, 2, axis) for i in range(3)]


def max_pool(x: jax.Array) -> jax.Array:
    """Give the maximum over 3x3 windows with stride 2, cut off at the edge: (n, 32, 32, c) -> (n, 16, 16, c)."""
    for axis in (1, 2):
        first, second, third = _window_members(x, axis, -jnp.inf)
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def avg_pool(x: jax.Array) -> jax.Array:
    """Give the mean over 3x3 windows with stride 2, cut off at the edge: (n, 32, 32, c) -> (n, 16, 16, c)."""
    rows, columns = (np.minimum(3, size - 2 * np.arange(pooled_size(size))) for size in x.shape[1:3])
    for axis in (1, 2):
        first, second, third = _window_members(x, axis, 0.0)
        x = first + second + third
    return x * jnp.asarray(1 / np.outer(rows, columns)[None, :, :, None], x.dtype)


def _neighbourhood_sum(x: jax.Array) -> jax.Array:
    """Give the sum over the 3x3 neighbourhood of each pixel, with zeros around the image."""
    for axis in (1, 2):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (1, 1)
        padded = jnp.pad(x, padding)
        x = sum(jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3))  # type: ignore
    return x


def local_response_norm(x: jax.Array, *, alpha: float = 5e-5) -> jax.Array:
    """Divide each value by (1 + alpha * mean of the squares in its 3x3 neighbourhood) ** 0.75, channel by channel.

    Squares outside of the image count as zeros in a mean that is always over nine (Caffe's WITHIN_CHANNEL).
    """
    inverse = jax.lax.rsqrt(1 + (alpha / 9) * _neighbourhood_sum(x * x))
    return x * inverse * jnp.sqrt(inverse)  # a power of 3/4 by two roots
