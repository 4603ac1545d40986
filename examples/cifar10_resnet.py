"""How do I put an lrx rate into my Flax NNX training loop?

A ResNet on CIFAR-10 with `nnx.Optimizer`, momentum and weight decay, under a warm-up and a cosine, with the rate read
from the optimizer for the progress line. The loop is yours: nothing here needs lrx's own.

    python examples/cifar10_resnet.py --depth 20 --epochs 30 --data-dir path/to/cifar
    python examples/cifar10_resnet.py --depth 8 --epochs 5    # without --data-dir, CIFAR-10 is downloaded once
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrx
from lrx.workloads import shift_and_mirror
from lrx.workloads.datasets import load
from lrx.workloads.resnet import ResNet


def train(data="cifar10", data_dir=None, depth=20, epochs=30, batch_size=128, max_steps=None, seed=0):
    dataset = load(data, data_dir)
    model = ResNet(dataset.train_images.shape[1:], dataset.num_classes, depth=depth, rngs=nnx.Rngs(seed))
    steps_per_epoch = len(dataset.train_images) // batch_size
    steps = min(epochs * steps_per_epoch, max_steps or 2**31)

    rate = lrx.warmup_cosine_decay(0.1, warmup_steps=0.05, total_steps=steps)
    tx = optax.chain(optax.add_decayed_weights(1e-4), lrx.sgd(rate, momentum=0.9))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def prepare(images):
        return (images.astype(jnp.float32) / 255 - jnp.asarray(dataset.mean)) / jnp.asarray(dataset.std)

    @nnx.jit
    def train_step(model, optimizer, images, labels, key):
        def loss_fn(model):
            x = shift_and_mirror(prepare(images), key, max_shift=4, mirror=data == "cifar10")
            logits = model(x, train=True)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)
        return loss, lrx.learning_rate(optimizer)

    @nnx.jit
    def correct(model, images, labels):
        return jnp.sum(jnp.argmax(model(prepare(images), train=False), -1) == labels)

    def test_accuracy():
        parts = np.split(np.arange(len(dataset.test_images)), range(500, len(dataset.test_images), 500))
        return sum(int(correct(model, dataset.test_images[i], dataset.test_labels[i])) for i in parts) / sum(
            len(i) for i in parts
        )

    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    losses, accuracies = [], []
    for epoch in range(-(-steps // steps_per_epoch)):
        start = time.perf_counter()
        order = rng.permutation(len(dataset.train_images))
        for done in range(min(steps_per_epoch, steps - epoch * steps_per_epoch)):
            step = epoch * steps_per_epoch + done
            batch = order[done * batch_size : (done + 1) * batch_size]
            images, labels = dataset.train_images[batch], dataset.train_labels[batch]
            loss, lr = train_step(model, optimizer, images, labels, jax.random.fold_in(key, step))
            losses.append(float(loss))
            speed = (done + 1) * batch_size / (time.perf_counter() - start)
            print(
                f"\repoch {epoch + 1}  step {step + 1}/{steps}  loss {losses[-1]:.3f}  lr {lr:.2e}  {speed:.0f} img/s",
                end="",
            )
        accuracies.append(test_accuracy())
        print(f"  test accuracy {100 * accuracies[-1]:.2f} %", flush=True)
    return losses, accuracies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-steps", type=int, help="stop early, to try it out")
    train(**vars(parser.parse_args()))
