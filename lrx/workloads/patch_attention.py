"""A transformer of one block on the patches of an image: the mean of its tokens is classified."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal


def patches(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut images into patches: (n, rows, columns, channels) -> (n, patches, numbers in a patch).

    Args:
      images: the images.
      height: of a patch; divides that of the images.
      width: of a patch; divides that of the images.
    """
    number, rows, columns, channels = images.shape
    grid = images.reshape(number, rows // height, height, columns // width, width, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(number, -1, height * width * channels)


def attention_network(
    num_tokens: int, size: int, num_classes: int = 10, *, width: int = 16, num_heads: int = 2, norm: bool = True
) -> Network:
    """Build an embedding of patches and positions, a block of attention and perceptron, and a linear layer.

    Args:
      num_tokens: patches of an image.
      size: numbers in a patch.
      num_classes: width of the output.
      width: width of the representation of a patch.
      num_heads: heads of the attention; divides `width`.
      norm: whether tokens are normalized before each part and before the mean.
    """
    shapes = [(size, width), (width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)]
    normalize = _normalize if norm else lambda x: x

    def init(key: jax.Array) -> dict[str, Any]:
        *layers, position, output = he_normal(key, [*shapes, (num_tokens, width), (width, num_classes)])
        return {"layers": layers, "position": position["kernel"], "output": output}

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        embed, attend, mix, expand, contract = params["layers"]
        x = _affine(embed, tokens) + params["position"][None]
        heads = (*x.shape[:2], num_heads, width // num_heads)
        query, key, value = (part.reshape(heads) for part in jnp.split(_affine(attend, normalize(x)), 3, axis=-1))
        x = x + _affine(mix, jax.nn.dot_product_attention(query, key, value).reshape(x.shape))
        x = x + _affine(contract, jax.nn.relu(_affine(expand, normalize(x))))
        return affine(params["output"], normalize(x).mean(axis=1))

    return Network(init, apply)


def _affine(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"][None, None]


def _normalize(x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
