"""Transformers of one block: on the patches of an image, and on the characters of a text."""

from __future__ import annotations

from collections.abc import Callable
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
    shapes = [(size, width), *_block_shapes(width), (num_tokens, width), (width, num_classes)]
    normalize = _normalize if norm else lambda x: x

    def init(key: jax.Array) -> dict[str, Any]:
        embed, *block, position, output = he_normal(key, shapes)
        return {"embed": embed, "position": position["kernel"], "block": block, "output": output}

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x = _affine(params["embed"], tokens) + params["position"][None]
        x = _block(params["block"], x, num_heads, normalize)
        return affine(params["output"], normalize(x).mean(axis=1))

    return Network(init, apply)


def causal_network(vocabulary: int, length: int, *, width: int = 16, num_heads: int = 2) -> Network:
    """Build a network that returns logits, (n, length, vocabulary), of the code that follows each of (n, length).

    Args:
      vocabulary: number of codes.
      length: of a sequence.
      width: width of the representation of a code.
      num_heads: heads of the attention; divides `width`.
    """
    shapes = [(vocabulary, width), (length, width), *_block_shapes(width), (width, vocabulary)]

    def init(key: jax.Array) -> dict[str, Any]:
        table, position, *block, output = he_normal(key, shapes)
        # He's rule is for sums over inputs; a row of the table is picked.
        rows = {"embedding": table["kernel"] * np.sqrt(vocabulary / 2), "position": position["kernel"]}
        return {**rows, "block": block, "output": output}

    def apply(params: Any, codes: jax.Array) -> jax.Array:
        x = params["embedding"][codes] + params["position"][None]
        x = _block(params["block"], x, num_heads, _normalize, is_causal=True)
        return _affine(params["output"], _normalize(x))

    return Network(init, apply)


def _block_shapes(width: int) -> list[tuple[int, int]]:
    return [(width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)]


def _block(
    layers: Any,
    x: jax.Array,
    num_heads: int,
    normalize: Callable[[jax.Array], jax.Array],
    *,
    is_causal: bool = False,
) -> jax.Array:
    """Apply attention and a perceptron, each beside a shortcut: (n, tokens, width) -> the same."""
    attend, mix, expand, contract = layers
    heads = (*x.shape[:2], num_heads, x.shape[2] // num_heads)
    query, key, value = (part.reshape(heads) for part in jnp.split(_affine(attend, normalize(x)), 3, axis=-1))
    seen = jax.nn.dot_product_attention(query, key, value, is_causal=is_causal)
    x = x + _affine(mix, seen.reshape(x.shape))
    return x + _affine(contract, jax.nn.relu(_affine(expand, normalize(x))))


def _affine(layer: Any, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"][None, None]


def _normalize(x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
