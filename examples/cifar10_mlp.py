"""How do I see the learning rate in a training loop of my own?

A perceptron on CIFAR-10 in plain JAX, Flax and optax. Three lines are lrx's: the rate, the end of the chain, and the
reading of the rate. Ends in a figure of the loss and the rate that was applied.

    python examples/cifar10_mlp.py --data-dir path/to/cifar   # without --data-dir, CIFAR-10 is downloaded once
    python examples/cifar10_mlp.py --data digits              # no download at all
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrx
from lrx.workloads.datasets import load


def train(data="cifar10", data_dir=None, epochs=5, batch_size=128, max_steps=None, out="cifar10_mlp.png", seed=0):
    dataset = load(data, data_dir)
    features = int(np.prod(dataset.train_images.shape[1:]))
    graph, params = nnx.split(MLP(features, dataset.num_classes, rngs=nnx.Rngs(seed)))
    steps_per_epoch = len(dataset.train_images) // batch_size
    steps = min(epochs * steps_per_epoch, max_steps or 2**31)

    # The rate: warm up, anneal, and reduce on a plateau of the loss, an epoch's losses to an average.
    schedule = lrx.warmup_cosine_decay(1e-3, warmup_steps=0.05, total_steps=steps)
    rate = schedule * lrx.reduce_on_plateau(factor=0.5, patience=2, accumulation_size=steps_per_epoch)
    # Any optax chain, closed by the rate.
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), rate)
    state = tx.init(params)

    def loss_fn(params, images, labels):
        logits = nnx.merge(graph, params)(images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def train_step(params, state, images, labels):
        loss, grads = jax.value_and_grad(loss_fn)(params, normalise(images), labels)
        updates, state = tx.update(grads, state, params, value=loss)
        # What the update used, for the log.
        return optax.apply_updates(params, updates), state, loss, lrx.learning_rate(state)

    @jax.jit
    def accuracy(params, images, labels):
        return jnp.mean(jnp.argmax(nnx.merge(graph, params)(normalise(images)), -1) == labels)

    def normalise(images):
        x = (images.astype(jnp.float32) / 255 - jnp.asarray(dataset.mean)) / jnp.asarray(dataset.std)
        return x.reshape(len(x), -1)

    rng = np.random.default_rng(seed)
    log = []
    for step in range(steps):
        if step % steps_per_epoch == 0:
            order = rng.permutation(len(dataset.train_images))
        at = step % steps_per_epoch * batch_size
        batch = order[at : at + batch_size]
        params, state, loss, lr = train_step(params, state, dataset.train_images[batch], dataset.train_labels[batch])
        log.append((loss, lr))
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss:.4f}  learning rate {lr:.2e}")

    test_accuracy = float(accuracy(params, dataset.test_images, dataset.test_labels))
    print(f"test accuracy {100 * test_accuracy:.1f} %")
    if out:
        losses, rates = np.asarray(log).T
        plot(losses, rates, out)
    return np.asarray(log), test_accuracy


class MLP(nnx.Module):
    def __init__(self, features, num_classes, *, rngs):
        self.hidden = nnx.Linear(features, 256, rngs=rngs)
        self.output = nnx.Linear(256, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.hidden(x)))


def plot(losses, rates, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(losses, lw=0.8)
    above.set_ylabel("training loss")
    below.plot(rates)
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-steps", type=int, help="stop early, to try it out")
    parser.add_argument("--out", default="cifar10_mlp.png")
    train(**vars(parser.parse_args()))
