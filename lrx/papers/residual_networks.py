"""Residual networks and plain ones of several depths, and the parameters at which their runs end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lrx.papers.reproduction import Job
from lrx.papers.runs import strategy_of_networks
from lrx.training import Workload
from lrx.training.many import RunFamily
from lrx.training.plan import choose_plan
from lrx.training.runs import advance, tail_loss
from lrx.tuning.space import FromHyperparameters
from lrx.tuning.study import Study
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import load
from lrx.workloads.pixels import shrink
from lrx.workloads.small_residual import make_small_residual_workload


class Network(NamedTuple):
    """Which images, and how wide the networks are.

    Attributes:
      number: of images of the training set, the first ones.
      test: number of those of the test set.
      measured: number of those of the training set that evaluations take.
      batch_size: images in a minibatch.
      width: channels of `lrx.workloads.small_residual`; 0 for the network of He et al. on whole images, shifted and
        mirrored at random.
      shrink: pixels along each axis that are averaged, for the small network.
    """

    number: int
    test: int
    measured: int
    batch_size: int
    width: int
    shrink: int = 1


def residual_workload(network: Network, depth: int, job: Job, *, shortcuts: bool = True) -> Workload:
    """Build the workload of a network of a depth; it evaluates `error`, `training_error` and `training_loss`."""
    dataset = load(job.data, job.data_dir).first(network.number, network.test)
    kind = "residual" if shortcuts else "plain"
    if network.width:
        return make_small_residual_workload(
            f"{job.data}, {kind}, {depth} layers",
            *shrink(dataset, network.shrink),
            depth=depth,
            shortcuts=shortcuts,
            width=network.width,
            batch_size=network.batch_size,
            measured=network.measured,
        )
    options: dict[str, Any] = {"batch_size": network.batch_size, "shortcuts": shortcuts}
    workload = dataset_workload(dataset, f"resnet{depth}", augment=dataset.augment, evaluate_on=(), **options)
    seen = dataset_workload(
        dataset.first(network.measured), f"resnet{depth}", evaluate_on=("test", "train"), **options
    ).evaluate
    assert seen is not None

    def evaluate(params: Any, model_state: Any) -> dict[str, jax.Array]:
        found = seen(params, model_state)
        errors = {"error": 100 * (1 - found["accuracy"]), "training_error": 100 * (1 - found["train_accuracy"])}
        return errors | {"training_loss": found["train_loss"]}

    return dataclasses.replace(workload, name=f"{job.data}, {kind}, {depth} layers", evaluate=evaluate)


def train_to_ends(
    workload: Workload,
    tx: Callable[..., optax.GradientTransformation],
    members: Mapping[str, Sequence[float]],
    num_steps: int,
    job: Job,
    name: str,
) -> list[list[tuple[Any, Any]]]:
    """Train with every member of some hyperparameters and every seed, and return where the runs end.

    Args:
      workload: what is trained.
      tx: takes the hyperparameters by name.
      members: name to the value of each member.
      num_steps: length of a run.
      job: the seeds, the folder of checkpoints and whether to show progress.
      name: name of the runs, which differs from that of others of the paper.

    Returns:
      For each member and seed the parameters and the model state.

    Raises:
      ValueError: if a run diverges.
    """
    hyper = {name: np.asarray(values, np.float32) for name, values in members.items()}
    seeds, number = np.asarray(job.seeds), len(next(iter(hyper.values())))
    family = RunFamily(workload, FromHyperparameters(tx), num_steps, num_steps)
    told = {"kind": "ends", "seeds": seeds.tolist(), "members": {name: list(each) for name, each in members.items()}}
    title = job.progress_title(f"{workload.name}, {name}")
    like = jax.eval_shape(workload.init, jax.random.key(0))
    places, structure = range(len(jax.tree.leaves(like))), jax.tree.structure(like)
    with Study(name, job.folder(name), title, lambda: family.identity(hyper, **told), "member") as study:
        kept, made = study.restore(), study.made or 0
        each = len(seeds) * num_steps
        status = study.show(made * each, number * each)
        while made < number:
            now = {name: values[made : made + 1] for name, values in hyper.items()}
            plan = choose_plan(family, now, seeds, strategy=strategy_of_networks())
            status.start()
            runs = advance(plan, plan.start(now, seeds), now, seeds, 0, num_steps, status, made * each)
            if not np.isfinite(tail_loss(runs)).all():
                raise ValueError(f"{workload.name} must train, but a run diverged: give a lower rate.")
            leaves = jax.tree.leaves((runs.state.params, runs.state.model_state))  # (seeds, 1, ...)
            for place, leaf in enumerate(leaves):
                new = np.swapaxes(np.asarray(leaf), 0, 1)
                kept[str(place)] = np.concatenate([kept[str(place)], new]) if made else new
            made += 1
            study.save(made, kept)
    return [
        [
            jax.tree.unflatten(structure, [kept[str(place)][member, seed] for place in places])
            for seed in range(len(seeds))
        ]
        for member in range(number)
    ]
