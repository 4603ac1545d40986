"""A small character transformer on English text that ships with Python: the help topics of the language."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lrx.training import Batches, Evaluation, Workload

VOCABULARY = 64  # codes: the 63 most frequent characters, and one for all others
HELD_OUT = 0.1  # fraction of the text, at its end
EVALUATED = 200  # windows of the held-out text that are evaluated
STRIDE = 32  # characters between the starts of two training windows


class Text(NamedTuple):
    """A text as codes of characters, for training and for testing."""

    train: np.ndarray  # (n,) uint8
    test: np.ndarray  # (m,) uint8
    characters: str  # of the codes 0, 1, ...; any other character has the code len(characters)


def load_topics() -> Text:
    """Load the help topics of the running Python, in the order of their names; the last tenth is held out.

    The topics differ a little between versions of Python.

    Example:
      >>> from lrx.workloads.text import load_topics
      >>> text = load_topics()
      >>> len(text.characters), bool(text.train.max() < 64), len(text.train) > 5 * len(text.test) > 10_000
      (63, True, True)
    """
    from pydoc_data.topics import topics

    whole = np.array([topics[name] for name in sorted(topics)])
    letters = np.array(list("".join(whole.tolist())))
    found, counts = np.unique(letters, return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")[: VOCABULARY - 1]])
    places = np.minimum(np.searchsorted(kept, letters), len(kept) - 1)
    codes = np.where(kept[places] == letters, places, len(kept)).astype(np.uint8)
    first = int((1 - HELD_OUT) * len(codes))
    return Text(codes[:first], codes[first:], "".join(kept.tolist()))


class CharacterTransformer(nnx.Module):
    """Causal transformer with layer norm before each part, called as `model(codes)` on (n, length) codes.

    Args:
      length: largest number of characters in the context.
      vocabulary: number of codes.
      width: width of the representation of a character.
      num_layers: blocks of attention and perceptron.
      num_heads: heads of the attention; divides `width`.
      rngs: `nnx.Rngs` for the initial weights.
    """

    def __init__(
        self, length: int, vocabulary: int, *, width: int = 64, num_layers: int = 2, num_heads: int = 4, rngs: nnx.Rngs
    ) -> None:
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.position = nnx.Embed(length, width, rngs=rngs)
        self.num_layers = num_layers
        for index in range(num_layers):
            setattr(self, f"block{index + 1}", _Block(width, num_heads, rngs=rngs))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """Return (n, length, vocabulary) logits of the character that follows each."""
        length = codes.shape[1]
        x = self.embedding(codes) + self.position(jnp.arange(length))[None]
        causal = nnx.make_causal_mask(codes)
        for index in range(self.num_layers):
            x = getattr(self, f"block{index + 1}")(x, causal)
        return self.output(self.norm(x))


class _Block(nnx.Module):
    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs) -> None:
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads, width, decode=False, rngs=rngs)
        self.before_perceptron = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.before_attention(x), mask=mask)
        return x + self.contract(nnx.gelu(self.expand(self.before_perceptron(x))))


def make_text_workload(*, length: int = 64, batch_size: int = 16, **model_options: Any) -> Workload:
    """Build the workload of predicting the next character of the help topics.

    Args:
      length: characters of a window.
      batch_size: windows in a minibatch.
      **model_options: options of `CharacterTransformer`: `width`, `num_layers`, `num_heads`.

    Returns:
      A `Workload`, whose losses are in nats per character; `evaluate` returns the loss and the accuracy on the
      held-out text.

    Raises:
      ValueError: if `batch_size` exceeds the number of windows.
    """
    text = load_topics()

    def windows(codes: np.ndarray, stride: int) -> jax.Array:
        return jnp.asarray(np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride])

    def build(key: jax.Array) -> nnx.Module:
        return CharacterTransformer(length, len(text.characters) + 1, rngs=nnx.Rngs(key), **model_options)

    graph_definition = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def logits_and_targets(params: Any, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes = windows.astype(jnp.int32)
        return nnx.merge(graph_definition, params)(codes[:, :-1]), codes[:, 1:]

    def loss_fn(params: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        del key  # the model has no dropout
        return optax.softmax_cross_entropy_with_integer_labels(*logits_and_targets(params, batch)).mean()

    def measure(params: Any, held_out: jax.Array) -> dict[str, jax.Array]:
        logits, targets = logits_and_targets(params, held_out)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"loss": losses.mean(), "accuracy": (logits.argmax(axis=-1) == targets).mean()}

    return Workload.from_functions(
        loss_fn,
        lambda key: nnx.to_pure_dict(nnx.state(build(key), nnx.Param)),
        Batches(windows(text.train, STRIDE), batch_size),
        name="topics-transformer",
        evaluate=Evaluation(measure, windows(text.test, length)[:EVALUATED]),
    )
