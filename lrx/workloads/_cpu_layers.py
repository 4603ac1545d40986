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

    On CPUs the kernel's gradient is written by hand, elsewhere it is the automatic one. `lrx.train` and the sweeps
    bring every convolution into the layout that XLA's CPU compiler is fast in, but not the batch into the order that
    the kernel's gradient wants: without this, a training step of ResNet-8 takes 1.3 times as long.

    Args:
      x: (n, height, width, channels).
      kernel: (size, size, channels, features); of size 3 if the stride is 2.
      stride: 1 or 2.

    Returns:
      (n, ceil(height / stride), ceil(width / stride), features).
    """
    return _convolution(x, kernel, stride)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    margin = kernel.shape[0] // 2
    padding = ((margin, margin), (margin, margin))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


def _kernel_gradient(stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    return jax.vjp(lambda kernel: _convolution(x, kernel, stride), kernel)[1](dy)[0]


def _kernel_gradient_on_cpu(stride: int, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
    # A convolution too: of the images, with their channels as the batch and the batch as the channels, by dy as a
    # kernel. The transpositions are quicker chunk by chunk, and the loop keeps the compiler from recomputing x
    # inside of them, pixel by pixel in a bad order.
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
    return total.transpose(1, 2, 0, 3)


def _convolution_backward(stride: int, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_hand, automatic = partial(_kernel_gradient_on_cpu, stride), partial(_kernel_gradient, stride)
    (dx,) = jax.vjp(lambda x: _convolution(x, kernel, stride), x)[1](dy)
    return dx, jax.lax.platform_dependent(x, kernel, dy, cpu=by_hand, default=automatic)


convolution.defvjp(lambda x, kernel, stride: (_convolution(x, kernel, stride), (x, kernel)), _convolution_backward)


def _as_flax_calls_it(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any) -> jax.Array:
    return convolution(x, kernel, strides[0])


def conv(size: int, in_features: int, out_features: int, stride: int = 1, **options: Any) -> nnx.Conv:
    """Build Flax's layer of `convolution`."""
    window = in_features, out_features, (size, size), stride
    return nnx.Conv(*window, conv_general_dilated=_as_flax_calls_it, **options)


BATCH_NORM_EPSILON = 1e-5


@jax.custom_vjp
def normalize_batch(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `scale * (x - mean) / sqrt(variance + 1e-5) + bias`, the mean and the variance, by channel.

    The gradient is written by hand, in two passes over the data: derived automatically, it takes more. The mean and
    the variance that are returned carry no gradient.

    Args:
      x: (n, height, width, channels).
      scale: (channels,).
      bias: (channels,).

    Source: S. Ioffe, C. Szegedy, 2015, arXiv 1502.03167, algorithm 1 and section 3.
    """
    return _normalize_batch_forward(x, scale, bias)[0]


def _normalize_batch_forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[Any, Any]:
    mean = jnp.mean(x, axis=(0, 1, 2))
    # In one pass over the data; rounding may make it negative if the variance is 0.
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


# The windows of Caffe's layers are made of shifted slices. XLA fuses these and their gradients into few loops over the
# channels: on a CPU a training step of the whole network takes a third less time than with `lax.reduce_window`.


def pooled_size(size: int) -> int:
    """Count the windows of 3 with stride 2 over `size` pixels, rounded up as in Caffe: the last may stick out."""
    if size < 2:
        raise ValueError(f"image_shape must be at least 8 by 8 pixels: there is a map of {size} pixels to pool.")
    return max(-(-(size - 3) // 2), 0) + 1


def _window_members(x: jax.Array, axis: int, outside: float) -> list[jax.Array]:
    """Return the first, second and third members of the windows along an axis, with `outside` where they stick out."""
    windows = pooled_size(x.shape[axis])
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, 2 * windows + 1 - x.shape[axis], 0)
    padded = jax.lax.pad(x, jnp.asarray(outside, x.dtype), padding)
    return [jax.lax.slice_in_dim(padded, i, i + 2 * windows - 1, 2, axis) for i in range(3)]


def max_pool(x: jax.Array) -> jax.Array:
    """Return the maximum over 3x3 windows with stride 2, cut off at the edge: (n, 32, 32, c) -> (n, 16, 16, c)."""
    for axis in (1, 2):
        first, second, third = _window_members(x, axis, -jnp.inf)
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


def avg_pool(x: jax.Array) -> jax.Array:
    """Return the mean over 3x3 windows with stride 2, cut off at the edge: (n, 32, 32, c) -> (n, 16, 16, c)."""
    rows, columns = (np.minimum(3, size - 2 * np.arange(pooled_size(size))) for size in x.shape[1:3])
    for axis in (1, 2):
        first, second, third = _window_members(x, axis, 0.0)
        x = first + second + third
    return x * jnp.asarray(1 / np.outer(rows, columns)[None, :, :, None], x.dtype)


def _neighbourhood_sum(x: jax.Array) -> jax.Array:
    """Return the sum over the 3x3 neighbourhood of each pixel, with zeros around the image."""
    for axis in (1, 2):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (1, 1)
        padded = jnp.pad(x, padding)
        x = sum(jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3))  # type: ignore
    return x


def local_response_norm(x: jax.Array, *, alpha: float = 5e-5) -> jax.Array:
    """Divide each value by (1 + alpha * mean of the squares in its 3x3 neighbourhood) ** 0.75, channel by channel.

    Squares outside the image count as zeros in a mean that is always over nine (Caffe's WITHIN_CHANNEL).
    """
    inverse = jax.lax.rsqrt(1 + (alpha / 9) * _neighbourhood_sum(x * x))
    return x * inverse * jnp.sqrt(inverse)  # a power of 3/4 by two roots
