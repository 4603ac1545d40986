"""The image classifiers by name, each called as `model(images, train=...)` on (n, height, width, channels) float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from flax import nnx

from lrx.workloads.caffe import CaffeNet
from lrx.workloads.mlp import MLP
from lrx.workloads.resnet import ResNet


class Architecture(NamedTuple):
    """An entry of `MODELS`: how a network is built, and the pixels that it expects."""

    build: Callable[..., nnx.Module]  # (image_shape, num_classes, *, rngs, **options) -> module
    pixels: Literal["standardized", "centred"]  # zero mean, unit variance by channel; or 0..255 minus the mean image
    description: str  # one line, for `lrx names`


MODELS: dict[str, Architecture] = {
    "mlp": Architecture(
        MLP, "standardized", "Multilayer perceptron on the flattened image: linear layers with ReLU between them."
    ),
    **{
        f"resnet{depth}": Architecture(
            partial(ResNet, depth=depth), "standardized", f"CIFAR residual network with {depth} weighted layers."
        )
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "caffe": Architecture(
        CaffeNet, "centred", "The network of Caffe's `cifar10_full` example, which Smith (2017) trains."
    ),
}
