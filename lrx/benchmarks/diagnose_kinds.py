"""The kinds of workloads on which `lrx bench diagnose` plants faults, and on which half the thresholds were found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.binary import binary_network
from lrx.workloads.dense import affine, he_normal, he_normal_layers
from lrx.workloads.digits import load_digits
from lrx.workloads.experts import draw_pieces, expert_network
from lrx.workloads.fields import make_field_workload
from lrx.workloads.sets import draw_shapes, set_network

Arrays = tuple[np.ndarray, np.ndarray]  # inputs, targets
STEPS = 400  # of a run: with fewer, 0.3 of a run does not suffice for all probes
BATCH = 32

# All kinds of earlier measurements are among those on which thresholds are found.
FOUND_ON = (
    *("least-squares", "next-token", "convolution", "softmax", "teacher", "logistic", "autoencoder", "relu-two"),
    *("tanh-deep", "sparse", "counts", "recurrent", "attention", "factors"),
)
# Written down before any run on them.
MEASURED_ON = ("field", "sets", "experts", "spins", "layout", "binary")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of workload.

    Attributes:
      data: `() -> arrays` for training.
      init: `key -> params`.
      loss: `(params, (inputs, targets)) -> (n,)`, the losses of the examples.
      is_deep: whether it has hidden layers, as lists of `{"kernel", "bias"}`.
      has_labels: whether the targets are not the inputs.
      silenced: place of a layer before a ReLU, whose units a bias below zero silences; None if there is none.
    """

    data: Callable[[], Arrays]
    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    is_deep: bool
    has_labels: bool = True
    silenced: int | None = None


def _mislabel(labels: np.ndarray, classes: int, share: float = 0.1) -> np.ndarray:
    """Return labels a part of which is random, so that no loss goes to 0 and a difference of 5 % has a meaning."""
    rng = np.random.default_rng(7)
    drawn = rng.integers(classes, size=len(labels))
    return np.where(rng.random(len(labels)) < share, drawn, labels).astype(np.int32)


@functools.cache
def digits() -> Arrays:
    """Return the training digits, scaled to unit variance, and their labels, a tenth of them random."""
    data = load_digits()
    images = data.train_images.reshape(len(data.train_images), -1).astype(np.float32) / 255
    return (images - images.mean()) / images.std(), _mislabel(data.train_labels, 10)


@functools.cache
def table() -> Arrays:
    """Return scikit-learn's breast cancer table, with columns of unit variance, and its labels, a tenth random."""
    from sklearn.datasets import load_breast_cancer

    bundle = load_breast_cancer()
    inputs = (bundle.data - bundle.data.mean(axis=0)) / bundle.data.std(axis=0)
    return inputs.astype(np.float32), _mislabel(bundle.target, 2)


@functools.cache
def least_squares(seed: int = 3) -> Arrays:
    """Return 2,000 examples of 30 features whose covariance has eigenvalues 1 / i, and noisy linear targets."""
    rng = np.random.default_rng(seed)
    scales = np.arange(1, 31.0) ** -0.5
    inputs = rng.normal(size=(2000, 30)) * scales
    targets = inputs @ rng.normal(size=30) + 0.3 * rng.normal(size=2000)
    return inputs.astype(np.float32), targets.astype(np.float32)


@functools.cache
def teacher(seed: int = 4) -> Arrays:
    """Return 2,000 examples of a random network of one hidden layer, with noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2000, 10))
    hidden = np.maximum(inputs @ rng.normal(size=(10, 8)) / 10**0.5, 0)
    targets = hidden @ rng.normal(size=8) + 0.2 * rng.normal(size=2000)
    return inputs.astype(np.float32), targets.astype(np.float32)


@functools.cache
def sparse(seed: int = 5) -> Arrays:
    """Return 3,000 examples of 12 of 200 features, whose frequencies follow Zipf's law, and their classes."""
    rng = np.random.default_rng(seed)
    weights = 1 / (np.arange(200) + 5.0)
    places = rng.choice(200, (3000, 12), p=weights / weights.sum()).astype(np.int32)
    labels = rng.normal(size=200)[places].sum(axis=1) > 0
    return places, (labels ^ (rng.random(3000) < 0.05)).astype(np.int32)


@functools.cache
def tokens(seed: int = 6) -> Arrays:
    """Return 3,000 contexts of two of 24 tokens of a random Markov chain, and the token that follows."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(24, 0.15), size=(24, 24))
    sequence = [0, 1]
    for _ in range(3000):
        sequence.append(int(rng.choice(24, p=chances[sequence[-2], sequence[-1]])))
    whole = np.array(sequence, np.int32)
    return np.stack([whole[:-2], whole[1:-1]], axis=1), whole[2:]


@functools.cache
def counts(seed: int = 8) -> Arrays:
    """Return 2,000 examples of 12 features, and counts whose logarithmic means are linear in them."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2000, 12))
    means = np.exp(inputs @ rng.normal(size=12) * 0.25 + 0.5)
    return inputs.astype(np.float32), rng.poisson(means).astype(np.float32)


@functools.cache
def waves(seed: int = 9) -> Arrays:
    """Return 2,000 noisy sequences of 10 steps of two features, and which of four frequencies they have."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=2000)
    phases = 2 * np.pi * rng.random((2000, 1)) + (0.4 + 0.5 * labels[:, None]) * np.arange(10)
    sequences = np.stack([np.sin(phases), np.cos(phases)], axis=-1) + 0.3 * rng.normal(size=(2000, 10, 2))
    return sequences.astype(np.float32), _mislabel(labels, 4)


@functools.cache
def memories(seed: int = 10) -> Arrays:
    """Return 2,000 sets of five tokens, a query and four keys with a class each, and the class of the nearest key."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(2000, 4, 4))
    asked, classes = rng.integers(4, size=2000), rng.integers(4, size=(2000, 4))
    stored = np.concatenate([keys, 2 * np.eye(4)[classes]], axis=-1)
    query = keys[np.arange(2000), asked] + 0.1 * rng.normal(size=(2000, 4))
    query = np.concatenate([query, np.zeros((2000, 4))], axis=-1)[:, None]
    labels = classes[np.arange(2000), asked]
    return np.concatenate([query, stored], axis=1).astype(np.float32), _mislabel(labels, 4)


@functools.cache
def ratings(seed: int = 11) -> Arrays:
    """Return 3,000 pairs of one of 60 users and one of 80 items, and noisy products of their three hidden factors."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(60, size=3000), rng.integers(80, size=3000)], axis=1)
    users, items = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    values = np.sum(users[pairs[:, 0]] * items[pairs[:, 1]], axis=1) + 0.5 * rng.normal(size=3000)
    return pairs.astype(np.int32), values.astype(np.float32)


@functools.cache
def field(seed: int = 12) -> Arrays:
    """Return 2,000 places of a picture, as sines and cosines of 16 waves, and its noisy values there."""
    inputs, values = map(np.asarray, make_field_workload().batches.arrays)
    return inputs, (values + 0.2 * np.random.default_rng(seed).normal(size=len(values))).astype(np.float32)


@functools.cache
def shapes(seed: int = 13) -> Arrays:
    """Return 2,000 clouds of 12 points, and which of three shapes they are, a tenth of them random."""
    clouds, labels = draw_shapes(2000, np.random.default_rng(seed))
    return clouds, _mislabel(labels, 3)


@functools.cache
def pieces(seed: int = 14) -> Arrays:
    """Return 2,000 points, and noisy values that are linear in each of four quadrants."""
    return draw_pieces(2000, np.random.default_rng(seed))


def spins() -> Arrays:
    """Return the digits as spins of -1 and 1, as inputs and as targets."""
    inputs, _ = digits()
    rows = np.where(inputs > inputs.min(), 1.0, -1.0).astype(np.float32)
    return rows, rows


@functools.cache
def distances(seed: int = 15) -> Arrays:
    """Return 4,000 pairs of 150 digits, and their distances, whose mean is 1."""
    points = digits()[0][:150]
    pairs = np.stack(np.triu_indices(len(points), 1), axis=1)
    pairs = np.random.default_rng(seed).permutation(pairs)[:4000].astype(np.int32)
    lengths = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    return pairs, (lengths / lengths.mean()).astype(np.float32)


def autoencoded() -> Arrays:
    """Return the digits as inputs and as targets."""
    inputs, _ = digits()
    return inputs, inputs


def _relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0.0)


def _tanh(x: jax.Array) -> jax.Array:
    return jnp.tanh(x)


def _layers(sizes: Sequence[int], gain: float = 1.0) -> Callable[[jax.Array], Any]:
    def init(key: jax.Array) -> Any:
        return [layer | {"kernel": gain * layer["kernel"]} for layer in he_normal_layers(key, sizes)]

    return init


def _forward(layers: Any, x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    for layer in layers[:-1]:
        x = activation(affine(layer, x))
    return affine(layers[-1], x)


def _classified(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(scores, axis=-1) - jnp.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]


def _network(sizes: Sequence[int], activation: Callable[[jax.Array], jax.Array], loss: Any) -> dict[str, Any]:
    gain = 1.0 if activation is _relu else 0.7
    return {
        "init": _layers(sizes, gain),
        "loss": lambda params, batch: loss(_forward(params, batch[0], activation), batch[1]),
        "is_deep": len(sizes) > 2,
        "silenced": 0 if len(sizes) > 2 and activation is _relu else None,
    }


def _binary(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.logaddexp(0.0, scores) - scores * labels.astype(jnp.float32)


def _squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2, axis=-1)


def _init_convolution(key: jax.Array) -> Any:
    first, rest = jax.random.split(key)
    kernel = jax.random.normal(first, (3, 3, 1, 8)) * (2 / 9) ** 0.5
    return [{"kernel": kernel, "bias": jnp.zeros(8)}, *he_normal_layers(rest, [72, 10])]


def _convolution_loss(params: Any, batch: Any) -> jax.Array:
    images = batch[0].reshape(-1, 8, 8, 1)
    maps = jax.lax.conv_general_dilated(
        images, params[0]["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    hidden = _relu(maps + params[0]["bias"]).reshape(len(images), -1)
    return _classified(affine(params[1], hidden), batch[1])


def _init_tokens(key: jax.Array) -> Any:
    first, rest = jax.random.split(key)
    return [{"kernel": jax.random.normal(first, (24, 8))}, *he_normal_layers(rest, [16, 32, 24])]


def _token_loss(params: Any, batch: Any) -> jax.Array:
    embedded = params[0]["kernel"][batch[0]].reshape(len(batch[0]), -1)
    return _classified(_forward(params[1:], embedded, _relu), batch[1])


def _init_weights(number: int) -> Callable[[jax.Array], Any]:
    return lambda key: {"weights": jnp.zeros(number), "bias": jnp.zeros(())}  # noqa: ARG005


def _deviance(logarithms: jax.Array, targets: jax.Array) -> jax.Array:
    """Return half the deviance of Poisson's distribution: the negative log-likelihood, 0 for a perfect mean."""
    return jax.scipy.special.xlogy(targets, targets) - targets * logarithms - targets + jnp.exp(logarithms)


def _recurrent_loss(params: Any, batch: Any) -> jax.Array:
    def step(hidden: jax.Array, inputs: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(affine(params[0], jnp.concatenate([inputs, hidden], axis=-1))), None

    sequences = jnp.swapaxes(batch[0], 0, 1)
    last, _ = jax.lax.scan(step, jnp.zeros((len(batch[0]), 12)), sequences)
    return _classified(affine(params[1], last), batch[1])


def _init_attention(key: jax.Array) -> Any:
    return he_normal(key, ((8, 16), (16, 48), (16, 32), (32, 4)))


def _attention_loss(params: Any, batch: Any) -> jax.Array:
    embedded = affine(params[0], batch[0])
    queries, keys, values = jnp.split(affine(params[1], embedded), 3, axis=-1)
    scores = jnp.einsum("nd,ntd->nt", queries[:, 0], keys) / 4
    found = embedded[:, 0] + jnp.einsum("nt,ntd->nd", jax.nn.softmax(scores), values)
    return _classified(affine(params[3], _relu(affine(params[2], found))), batch[1])


def _init_factors(key: jax.Array) -> Any:
    first, second = jax.random.split(key)
    return {
        "users": 0.5 * jax.random.normal(first, (60, 3)),
        "items": 0.5 * jax.random.normal(second, (80, 3)),
        "bias": jnp.zeros(()),
    }


def _factor_loss(params: Any, batch: Any) -> jax.Array:
    users, items = params["users"][batch[0][:, 0]], params["items"][batch[0][:, 1]]
    return (jnp.sum(users * items, axis=-1) + params["bias"] - batch[1]) ** 2


def _classified_by(network: Network) -> Callable[[Any, Any], jax.Array]:
    return lambda params, batch: _classified(network.apply(params, batch[0]), batch[1])


def _init_spins(key: jax.Array) -> Any:
    return {"couplings": 0.01 * jax.random.normal(key, (64, 64)), "biases": jnp.zeros(64)}


def _spin_loss(params: Any, batch: Any) -> jax.Array:
    """Return the negative logarithm of the pseudo-likelihood: each spin is predicted from all others."""
    couplings = (params["couplings"] + params["couplings"].T) * (1 - np.eye(64, dtype=np.float32))
    fields = batch[0] @ couplings + params["biases"][None]
    return jnp.mean(jax.nn.softplus(-2 * batch[1] * fields), axis=-1)


def _layout_loss(positions: Any, batch: Any) -> jax.Array:
    gaps = positions[batch[0][:, 0]] - positions[batch[0][:, 1]]
    return (jnp.sqrt(jnp.sum(gaps**2, axis=1) + 1e-8) - batch[1]) ** 2


_SETS, _EXPERTS, _BINARY = set_network(2, 16, 3), expert_network(4, 6), binary_network(64, 32, 10)

KINDS: dict[str, Kind] = {
    "softmax": Kind(digits, **_network([64, 10], _relu, _classified)),
    "relu-two": Kind(digits, **_network([64, 32, 32, 10], _relu, _classified)),
    "tanh-deep": Kind(digits, **_network([64, 24, 24, 24, 24, 10], _tanh, _classified)),
    "convolution": Kind(digits, _init_convolution, _convolution_loss, True, silenced=0),
    "autoencoder": Kind(autoencoded, **_network([64, 32, 12, 32, 64], _relu, _squared), has_labels=False),
    "logistic": Kind(
        table, _init_weights(30), lambda p, b: _binary(b[0] @ p["weights"] + p["bias"], b[1]), is_deep=False
    ),
    "least-squares": Kind(
        least_squares,
        _init_weights(30),
        lambda p, b: 0.5 * (b[0] @ p["weights"] + p["bias"] - b[1]) ** 2,
        is_deep=False,
    ),
    "teacher": Kind(
        teacher, **_network([10, 32, 32, 1], _relu, lambda outputs, targets: (outputs[:, 0] - targets) ** 2)
    ),
    "sparse": Kind(
        sparse, _init_weights(200), lambda p, b: _binary(p["weights"][b[0]].sum(-1) + p["bias"], b[1]), is_deep=False
    ),
    "counts": Kind(
        counts, _init_weights(12), lambda p, b: _deviance(b[0] @ p["weights"] + p["bias"], b[1]), is_deep=False
    ),
    "recurrent": Kind(waves, _layers([14, 12, 4], 0.7), _recurrent_loss, is_deep=True),
    "attention": Kind(memories, _init_attention, _attention_loss, is_deep=True, silenced=2),
    "factors": Kind(ratings, _init_factors, _factor_loss, is_deep=False),
    "field": Kind(field, **_network([32, 32, 1], _relu, lambda outputs, targets: (outputs[:, 0] - targets) ** 2)),
    "sets": Kind(shapes, _SETS.init, _classified_by(_SETS), is_deep=True, silenced=0),
    "experts": Kind(pieces, _EXPERTS.init, lambda p, b: (_EXPERTS.apply(p, b[0]) - b[1]) ** 2, is_deep=False),
    "spins": Kind(spins, _init_spins, _spin_loss, is_deep=False, has_labels=False),
    "layout": Kind(distances, lambda key: 0.1 * jax.random.normal(key, (150, 2)), _layout_loss, is_deep=False),
    "binary": Kind(digits, _BINARY.init, _classified_by(_BINARY), is_deep=True),
    "next-token": Kind(tokens, _init_tokens, _token_loss, True, silenced=1),
}


@dataclasses.dataclass(frozen=True)
class MeanLoss:
    """The mean of the examples' losses, or their sum if that is the fault."""

    loss: Callable[[Any, Any], jax.Array]
    summed: bool = False

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        losses = self.loss(params, batch)
        return jnp.sum(losses) if self.summed else jnp.mean(losses), model_state
