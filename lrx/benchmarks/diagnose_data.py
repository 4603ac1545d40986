"""The data of the kinds of workloads on which `lrx bench diagnose` plants faults.

All have noise, wrong labels or more to tell than a network here can, so that no loss goes to 0 and a difference of 5 %
has a meaning.
"""

from __future__ import annotations

import functools

import numpy as np

from lrx.workloads.differential import pendulum_trajectories
from lrx.workloads.digits import load_digits
from lrx.workloads.experts import draw_pieces
from lrx.workloads.fields import make_field_workload
from lrx.workloads.graphs import block_graph
from lrx.workloads.metric_learning import draw_triplets
from lrx.workloads.sets import draw_shapes
from lrx.workloads.tables import make_friedman_table, standardize
from lrx.workloads.text import load_topics

Arrays = tuple[np.ndarray, np.ndarray]  # inputs, targets


def _mislabel(labels: np.ndarray, classes: int, share: float = 0.1) -> np.ndarray:
    """Return labels a part of which is random."""
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


@functools.cache
def noisy_table(seed: int = 16) -> Arrays:
    """Return Friedman's table of 2,000 rows with noise, and its targets, both standardized."""
    return standardize(make_friedman_table(seed=seed), targets=True).train


def grades() -> Arrays:
    """Return the rows of `noisy_table`, and in which fifth of all targets theirs is."""
    inputs, targets = noisy_table()
    return inputs, np.searchsorted(np.quantile(targets, np.arange(1, 5) / 5), targets).astype(np.int32)


@functools.cache
def characters(seed: int = 17) -> Arrays:
    """Return 3,000 windows of 16 characters of English text as codes, and the characters that follow each."""
    text = load_topics().train
    starts = np.random.default_rng(seed).integers(len(text) - 17, size=3000)
    windows = text[starts[:, None] + np.arange(17)].astype(np.int32)
    return windows[:, :-1], windows[:, 1:]


@functools.cache
def motions(seed: int = 18) -> Arrays:
    """Return 2,000 states of a damped pendulum, and the 8 states after each, with noise."""
    rng = np.random.default_rng(seed)
    clean = pendulum_trajectories(2000, 8, rng)
    return clean[:, 0].astype(np.float32), (clean[:, 1:] + 0.1 * rng.normal(size=clean[:, 1:].shape)).astype(np.float32)


@functools.cache
def graph(seed: int = 19) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a graph of 600 nodes: the weights of neighbours, the weighted sums of their features, and the groups."""
    spread, seen, groups = block_graph(600, 4, np.random.default_rng(seed), within=0.04, between=0.01)
    return np.asarray(spread), np.asarray(seen), groups


def nodes() -> Arrays:
    """Return the numbers of the nodes of `graph`, and their groups, a tenth of them random."""
    groups = graph()[2]
    return np.arange(len(groups), dtype=np.int32), _mislabel(groups, 4)


@functools.cache
def triplets(seed: int = 20) -> Arrays:
    """Return 3,000 times a digit, another of its class and one of another class, which are swapped in a tenth."""
    rng = np.random.default_rng(seed)
    inputs, _ = digits()
    drawn = draw_triplets(rng, inputs, load_digits().train_labels, 3000)
    swapped = rng.random(len(drawn)) < 0.1
    drawn[swapped] = drawn[swapped][:, [0, 2, 1]]
    return drawn, np.zeros(len(drawn), np.float32)


@functools.cache
def noisy_digits(seed: int = 21) -> Arrays:
    """Return the digits with noise of half their deviation, and without."""
    inputs, _ = digits()
    return inputs + 0.5 * np.random.default_rng(seed).normal(size=inputs.shape).astype(np.float32), inputs


@functools.cache
def rings(seed: int = 22) -> Arrays:
    """Return 2,000 points of the plane, and in which of three rings each is, a tenth of them random."""
    rng = np.random.default_rng(seed)
    labels, angles = rng.integers(3, size=2000), 2 * np.pi * rng.random(2000)
    radii = 0.6 * (labels + 0.5) + 0.1 * rng.normal(size=2000)
    points = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.astype(np.float32), _mislabel(labels, 3)


@functools.cache
def comparisons(seed: int = 23) -> Arrays:
    """Return 3,000 pairs of rows of `noisy_table`, and whether the first has the larger target, a tenth random."""
    rng = np.random.default_rng(seed)
    inputs, targets = noisy_table()
    pairs = rng.integers(len(inputs), size=(3000, 2))
    return inputs[pairs], _mislabel((targets[pairs[:, 0]] > targets[pairs[:, 1]]).astype(np.int32), 2)


@functools.cache
def lifetimes(seed: int = 24) -> Arrays:
    """Return 2,000 examples of 12 features, and a time, with 1 if it is a lifetime and 0 if nothing is known after it.

    Lifetimes are exponential, at rates whose logarithms are linear in the features.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2000, 12))
    lives = rng.exponential(np.exp(-0.4 * inputs @ rng.normal(size=12)))
    ends = rng.exponential(2.0, size=2000)
    seen = np.stack([np.minimum(lives, ends), lives < ends], axis=1)
    return inputs.astype(np.float32), seen.astype(np.float32)


@functools.cache
def bursts(seed: int = 25) -> Arrays:
    """Return 2,000 noisy series of 32 values, and which of four short shapes each contains somewhere."""
    rng = np.random.default_rng(seed)
    labels, starts = rng.integers(4, size=2000), rng.integers(26, size=2000)
    series = 0.5 * rng.normal(size=(2000, 32))
    places = starts[:, None] + np.arange(6)
    np.add.at(series, (np.arange(2000)[:, None], places), 1.5 * rng.normal(size=(4, 6))[labels])
    return series.astype(np.float32)[..., None], _mislabel(labels, 4)


@functools.cache
def couples(seed: int = 26) -> Arrays:
    """Return 3,000 pairs of digits, and whether they are of one class, a tenth of them random."""
    rng = np.random.default_rng(seed)
    inputs, classes = digits()[0], load_digits().train_labels
    first = rng.integers(len(inputs), size=3000)
    alike = [rng.choice(np.flatnonzero(classes == classes[place])) for place in first]
    second = np.where(rng.random(3000) < 0.5, alike, rng.integers(len(inputs), size=3000))
    return inputs[np.stack([first, second], axis=1)], _mislabel((classes[first] == classes[second]).astype(np.int32), 2)


@functools.cache
def intensities(seed: int = 27) -> Arrays:
    """Return 2,000 directions, and noisy sums of the squares of their products with three hidden vectors."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2000, 16))
    values = np.sum((inputs @ rng.normal(size=(16, 3)) / 4) ** 2, axis=1) + 0.5 * rng.normal(size=2000)
    return inputs.astype(np.float32), values.astype(np.float32)


@functools.cache
def documents(seed: int = 28) -> Arrays:
    """Return 2,000 documents, each 20 words of 60 of one of five topics, as shares of the words, twice."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(60, 0.2), size=5)
    counts = np.stack([rng.multinomial(20, topics[topic]) for topic in rng.integers(5, size=2000)])
    shares = (counts / 20).astype(np.float32)
    return shares, shares


@functools.cache
def outliers(seed: int = 29) -> Arrays:
    """Return `least_squares`, with large errors in a tenth of the targets."""
    rng = np.random.default_rng(seed)
    inputs, targets = least_squares()
    wrong = np.where(rng.random(len(targets)) < 0.1, 20 * rng.normal(size=len(targets)), 0)
    return inputs, (targets + wrong).astype(np.float32)
