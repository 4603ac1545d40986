"""The variational autoencoder of Kingma and Welling (2014) on images with pixels of 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._dataset import Dataset
from lrx.workloads.dense import affine, he_normal_layers
from lrx.workloads.perceptron import flat_pixels


def make_autoencoder_workload(
    dataset: Dataset, hidden: int, latent: int, *, batch_size: int = 128, evaluate: bool = False
) -> Workload:
    """Build a variational autoencoder, whose loss is the negative evidence lower bound in nats per image.

    Encoder and decoder have one hidden layer of softplus units each. The code is Gaussian with a diagonal covariance
    and a standard normal prior; pixels are the probabilities of Bernoulli variables.

    Args:
      dataset: the images; the labels are not used.
      hidden: units of the hidden layers.
      latent: dimensions of the code.
      batch_size: examples in a minibatch.
      evaluate: whether to measure "loss" on the test images, with the same code noise each time.

    Returns:
      A `Workload`, whose parameters are `{"encoder": [...], "decoder": [...]}`, lists of layers.

    Source: D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114, appendices B and C.
    """
    inputs = int(np.prod(dataset.train_images.shape[1:]))

    def init(key: jax.Array) -> Any:
        encoder, decoder = jax.random.split(key)
        return {
            "encoder": he_normal_layers(encoder, (inputs, hidden, 2 * latent)),
            "decoder": he_normal_layers(decoder, (latent, hidden, inputs)),
        }

    def apply(layers: Any, x: jax.Array) -> jax.Array:
        return affine(layers[1], jax.nn.softplus(affine(layers[0], x)))

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        x, _ = batch
        mean, log_variance = jnp.split(apply(params["encoder"], x), 2, axis=1)
        code = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        logits = apply(params["decoder"], code)
        missed = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=1)  # the cross-entropy, with one logarithm
        divergence = jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1) / 2
        return jnp.mean(missed + divergence)

    batches = Batches((dataset.train_images, dataset.train_labels), batch_size, transform=flat_pixels)
    evaluation = Evaluation(_measure(loss_fn), (dataset.test_images, dataset.test_labels)) if evaluate else None
    name = f"{dataset.name}-autoencoder"
    return Workload.from_functions(loss_fn, init, batches, name=name, evaluate=evaluation)


def _measure(loss_fn: Callable[[Any, Any, jax.Array], jax.Array]) -> Callable[[Any, Any], dict[str, jax.Array]]:
    def measure(params: Any, raw: Any) -> dict[str, jax.Array]:
        key = jax.random.key(0)
        return {"loss": loss_fn(params, flat_pixels(raw, key), key)}

    return measure
