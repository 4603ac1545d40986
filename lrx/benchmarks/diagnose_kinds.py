"""The kinds of workloads on which `lrx bench diagnose` plants faults, and on which half the thresholds were found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.benchmarks import diagnose_data as data
from lrx.benchmarks.diagnose_data import Arrays
from lrx.workloads._network import Network
from lrx.workloads.binary import binary_network
from lrx.workloads.dense import affine, he_normal, he_normal_layers
from lrx.workloads.differential import integrate
from lrx.workloads.experts import expert_network
from lrx.workloads.sets import set_network
from lrx.workloads.small_attention import causal_network

STEPS = 400  # of a run: with fewer, 0.3 of a run does not suffice for all probes
BATCH = 32

# All kinds of earlier measurements are among those on which thresholds are found.
FOUND_ON = (
    *("least-squares", "next-token", "convolution", "softmax", "teacher", "logistic", "autoencoder", "relu-two"),
    *("tanh-deep", "sparse", "counts", "recurrent", "attention", "factors"),
    *("field", "sets", "experts", "spins", "layout", "binary"),
    *("quantiles", "grades", "characters", "motion", "graph", "triplets"),
    *("hinge", "denoising", "radial", "ranking", "residual", "survival"),
)
# Written down before any run on them.
MEASURED_ON = ("filters", "matching", "phase", "topics", "gated", "huber")


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


def _pinball(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the loss that is least at the quantiles 0.1, 0.5 and 0.9, whose slope jumps there."""
    levels, errors = np.array([[0.1, 0.5, 0.9]], np.float32), targets[:, None] - outputs
    return jnp.mean(jnp.maximum(levels * errors, (levels - 1) * errors), axis=-1)


def _init_grades(key: jax.Array) -> Any:
    return {"score": he_normal_layers(key, [10, 16, 1]), "thresholds": jnp.array([-1.0, -0.3, 0.3, 1.0])}


def _grade_loss(params: Any, batch: Any) -> jax.Array:
    """Return the negative log-likelihood of cumulative logits: the grade is above k with chance sigmoid(f - t_k)."""
    logits = _forward(params["score"], batch[0], _tanh) - params["thresholds"][None]
    above = jnp.pad(jax.nn.sigmoid(logits), ((0, 0), (1, 0)), constant_values=1.0)
    chances = above - jnp.pad(above[:, 1:], ((0, 0), (0, 1)))
    return -jnp.log(jnp.maximum(jnp.take_along_axis(chances, batch[1][:, None], axis=1)[:, 0], 1e-6))


def _character_loss(params: Any, batch: Any) -> jax.Array:
    scores = _CHARACTERS.apply(params, batch[0])
    return _classified(scores.reshape(-1, 64), batch[1].reshape(-1)).reshape(batch[1].shape).mean(axis=1)


def _motion_loss(params: Any, batch: Any) -> jax.Array:
    """Return the error of the states after each step of an equation of motion that is a network."""
    found = integrate(lambda state: _forward(params, state, _tanh), batch[0], batch[1].shape[1])
    return jnp.mean((found - batch[1]) ** 2, axis=(1, 2))


def _graph_loss(params: Any, batch: Any) -> jax.Array:
    spread, seen, _ = data.graph()
    scores = jnp.asarray(spread)[batch[0]] @ affine(params[1], _relu(affine(params[0], jnp.asarray(seen))))
    return _classified(scores, batch[1])


def _triplet_loss(params: Any, batch: Any) -> jax.Array:
    embedded = _forward(params, batch[0].reshape(-1, 64), _relu).reshape(-1, 3, 3)
    anchor, near, far = jnp.moveaxis(embedded / (jnp.linalg.norm(embedded, axis=-1, keepdims=True) + 1e-3), 1, 0)
    return _relu(jnp.sum((anchor - near) ** 2 - (anchor - far) ** 2, axis=-1) + 0.3)


def _hinge(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Return by how much the score of the class falls short of the largest other one plus 1."""
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    others = jnp.where(jnp.arange(scores.shape[1])[None] == labels[:, None], -jnp.inf, scores)
    return _relu(1 + jnp.max(others, axis=1) - own[:, 0])


def _init_radial(key: jax.Array) -> Any:
    first, second = jax.random.split(key)
    centres, output = jax.random.uniform(first, (24, 2), minval=-1.8, maxval=1.8), jax.random.normal(second, (24, 3))
    return {"centres": centres, "log_widths": jnp.zeros(24), "output": 0.2 * output, "bias": jnp.zeros(3)}


def _radial_loss(params: Any, batch: Any) -> jax.Array:
    squares = jnp.sum((batch[0][:, None] - params["centres"][None]) ** 2, axis=2)
    units = jnp.exp(-squares / jnp.exp(params["log_widths"])[None])
    return _classified(units @ params["output"] + params["bias"][None], batch[1])


def _ranking_loss(params: Any, batch: Any) -> jax.Array:
    """Return the negative log-likelihood of comparisons: the first wins with chance sigmoid of the difference."""
    scores = _forward(params, batch[0].reshape(-1, 10), _relu).reshape(-1, 2)
    return _binary(scores[:, 0] - scores[:, 1], batch[1])


def _residual_loss(params: Any, batch: Any) -> jax.Array:
    def normalize(x: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=1, keepdims=True) + 1e-5)

    x = affine(params[0], batch[0])
    for expand, contract in (params[1:3], params[3:5]):
        x = x + affine(contract, _relu(affine(expand, normalize(x))))
    return _classified(affine(params[5], normalize(x)), batch[1])


def _survival_loss(params: Any, batch: Any) -> jax.Array:
    """Return the negative log-likelihood of exponential lifetimes, less that of the best rate of each that is known."""
    logarithms, (times, known) = _forward(params, batch[0], _tanh)[:, 0], batch[1].T
    return times * jnp.exp(logarithms) - known * (logarithms + jnp.log(times + 1e-6) + 1)


def _init_filters(key: jax.Array) -> Any:
    first, rest = jax.random.split(key)
    kernel = jax.random.normal(first, (6, 1, 12)) * (2 / 6) ** 0.5
    return [{"kernel": kernel, "bias": jnp.zeros(12)}, *he_normal_layers(rest, [12, 4])]


def _filter_loss(params: Any, batch: Any) -> jax.Array:
    maps = jax.lax.conv_general_dilated(
        batch[0], params[0]["kernel"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    found = jnp.max(_relu(maps + params[0]["bias"][None, None]), axis=1)
    return _classified(affine(params[1], found), batch[1])


def _init_matching(key: jax.Array) -> Any:
    return {"embedding": jax.random.normal(key, (64, 8)) / 8, "scale": jnp.ones(()), "bias": jnp.zeros(())}


def _matching_loss(params: Any, batch: Any) -> jax.Array:
    embedded = batch[0] @ params["embedding"]
    alike = jnp.sum(embedded[:, 0] * embedded[:, 1], axis=1)
    return _binary(params["scale"] * alike / 8 + params["bias"], batch[1])


def _phase_loss(weights: Any, batch: Any) -> jax.Array:
    return (jnp.sum((batch[0] @ weights) ** 2, axis=1) - batch[1]) ** 2


def _init_topics(key: jax.Array) -> Any:
    return {"words": 0.3 * jax.random.normal(key, (5, 60)), "topics": jnp.zeros(5)}


def _topic_loss(params: Any, batch: Any) -> jax.Array:
    """Return the negative log-likelihood of a document's words, a mixture over its topic, for each word."""
    of_topics = 20 * batch[0] @ jax.nn.log_softmax(params["words"], axis=1).T
    return -jax.nn.logsumexp(of_topics + jax.nn.log_softmax(params["topics"])[None], axis=1) / 20


def _gated_loss(params: Any, batch: Any) -> jax.Array:
    hidden = affine(params[0], batch[0]) * jax.nn.sigmoid(affine(params[1], batch[0]))
    return (affine(params[2], hidden)[:, 0] - batch[1]) ** 2


def _huber_loss(params: Any, batch: Any) -> jax.Array:
    errors = jnp.abs(batch[0] @ params["weights"] + params["bias"] - batch[1])
    return jnp.where(errors < 1, 0.5 * errors**2, errors - 0.5)


_SETS, _EXPERTS, _BINARY = set_network(2, 16, 3), expert_network(4, 6), binary_network(64, 32, 10)
_CHARACTERS = causal_network(64, 16)

KINDS: dict[str, Kind] = {
    "softmax": Kind(data.digits, **_network([64, 10], _relu, _classified)),
    "relu-two": Kind(data.digits, **_network([64, 32, 32, 10], _relu, _classified)),
    "tanh-deep": Kind(data.digits, **_network([64, 24, 24, 24, 24, 10], _tanh, _classified)),
    "convolution": Kind(data.digits, _init_convolution, _convolution_loss, True, silenced=0),
    "autoencoder": Kind(data.autoencoded, **_network([64, 32, 12, 32, 64], _relu, _squared), has_labels=False),
    "logistic": Kind(
        data.table, _init_weights(30), lambda p, b: _binary(b[0] @ p["weights"] + p["bias"], b[1]), is_deep=False
    ),
    "least-squares": Kind(
        data.least_squares,
        _init_weights(30),
        lambda p, b: 0.5 * (b[0] @ p["weights"] + p["bias"] - b[1]) ** 2,
        is_deep=False,
    ),
    "teacher": Kind(
        data.teacher, **_network([10, 32, 32, 1], _relu, lambda outputs, targets: (outputs[:, 0] - targets) ** 2)
    ),
    "sparse": Kind(
        data.sparse,
        _init_weights(200),
        lambda p, b: _binary(p["weights"][b[0]].sum(-1) + p["bias"], b[1]),
        is_deep=False,
    ),
    "counts": Kind(
        data.counts, _init_weights(12), lambda p, b: _deviance(b[0] @ p["weights"] + p["bias"], b[1]), is_deep=False
    ),
    "recurrent": Kind(data.waves, _layers([14, 12, 4], 0.7), _recurrent_loss, is_deep=True),
    "attention": Kind(data.memories, _init_attention, _attention_loss, is_deep=True, silenced=2),
    "factors": Kind(data.ratings, _init_factors, _factor_loss, is_deep=False),
    "field": Kind(data.field, **_network([32, 32, 1], _relu, lambda outputs, targets: (outputs[:, 0] - targets) ** 2)),
    "sets": Kind(data.shapes, _SETS.init, _classified_by(_SETS), is_deep=True, silenced=0),
    "experts": Kind(data.pieces, _EXPERTS.init, lambda p, b: (_EXPERTS.apply(p, b[0]) - b[1]) ** 2, is_deep=False),
    "spins": Kind(data.spins, _init_spins, _spin_loss, is_deep=False, has_labels=False),
    "layout": Kind(data.distances, lambda key: 0.1 * jax.random.normal(key, (150, 2)), _layout_loss, is_deep=False),
    "binary": Kind(data.digits, _BINARY.init, _classified_by(_BINARY), is_deep=True),
    "quantiles": Kind(data.noisy_table, **_network([10, 24, 3], _relu, _pinball)),
    "grades": Kind(data.grades, _init_grades, _grade_loss, is_deep=False),
    "characters": Kind(data.characters, _CHARACTERS.init, _character_loss, is_deep=False),
    "motion": Kind(data.motions, _layers([2, 16, 2], 0.7), _motion_loss, is_deep=True),
    "graph": Kind(data.nodes, _layers([16, 16, 4]), _graph_loss, is_deep=True, silenced=0),
    "triplets": Kind(data.triplets, _layers([64, 32, 3]), _triplet_loss, is_deep=True, has_labels=False, silenced=0),
    "hinge": Kind(data.digits, **_network([64, 10], _relu, _hinge)),
    "denoising": Kind(data.noisy_digits, **_network([64, 32, 64], _relu, _squared)),
    "radial": Kind(data.rings, _init_radial, _radial_loss, is_deep=False),
    "ranking": Kind(data.comparisons, _layers([10, 16, 1]), _ranking_loss, is_deep=True, silenced=0),
    "residual": Kind(
        data.digits,
        lambda key: he_normal(key, ((64, 16), (16, 32), (32, 16), (16, 32), (32, 16), (16, 10))),
        _residual_loss,
        is_deep=True,
        silenced=1,
    ),
    "survival": Kind(data.lifetimes, _layers([12, 16, 1], 0.7), _survival_loss, is_deep=True),
    "filters": Kind(data.bursts, _init_filters, _filter_loss, is_deep=True, silenced=0),
    "matching": Kind(data.couples, _init_matching, _matching_loss, is_deep=False),
    "phase": Kind(data.intensities, lambda key: 0.2 * jax.random.normal(key, (16, 3)), _phase_loss, is_deep=False),
    "topics": Kind(data.documents, _init_topics, _topic_loss, is_deep=False, has_labels=False),
    "gated": Kind(data.teacher, lambda key: he_normal(key, ((10, 24), (10, 24), (24, 1))), _gated_loss, is_deep=True),
    "huber": Kind(data.outliers, _init_weights(30), _huber_loss, is_deep=False),
    "next-token": Kind(data.tokens, _init_tokens, _token_loss, True, silenced=1),
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
