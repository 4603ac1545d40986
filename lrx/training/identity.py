"""The identity of a run: everything that determines its numbers. It distinguishes a resumed run from a different one.

Functions are compared by what they compute. Each is traced at the shapes of the workload, and its program is hashed
with all the constants in it: a schedule's later values, the threshold of a clip, the patience of a controller, arrays
that a loss closes over. The same function built again, or in another process, has the same hash.
"""

from __future__ import annotations

import functools
import json
import platform
import sys
import weakref
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx._paths import leaves_by_key
from lrx.extra_args import tolerant_update
from lrx.training.batches import Batches
from lrx.training.code import function_digest, may_act
from lrx.training.program_hash import ADDRESS, program_identity
from lrx.training.records import Records
from lrx.training.stream import Stream
from lrx.training.workload import Workload

Identity = dict[str, Any]  # of JSON values

PACKAGES = ("lrx", "jax", "optax")  # whose versions affect the numbers
SHOWN_NUMBERS = 4


def run_identity(workload: Workload, tx: optax.GradientTransformation, **settings: Any) -> Identity:
    """Return everything that determines the numbers of a run, as JSON values.

    Args:
      workload: model, data and loss.
      tx: the transformation.
      **settings: everything else that determines them, such as `seed=0`: JSON values.

    Returns:
      A dict with:
        `workload`, `batch_size`, `shuffle` and the `settings`;
        `data`: path to type, shape and checksum of each array;
        `params`, `model_state`, `opt_state`: path to type and shape of each array;
        `init`, `transform`, `loss_fn`, `tx.init`, `tx.update`: each a dict with a hash of the traced program and its
          constants, and the `numbers` in it, by which a difference is named. The loss is traced with its gradient.
        `evaluate`: the same of the evaluation, whose results are kept. If it cannot be traced, or does more than
          compute, a hash of its code and of the data that it holds, with the version of Python that compiled it; None
          if there is no evaluation;
        `tx`: its `repr` if that can be read, otherwise None;
        `versions` of lrx, jax and optax.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches, Workload
      >>> from lrx.training.identity import differences, run_identity
      >>> workload = Workload.from_functions(
      ...     lambda params, batch, key: jnp.sum((params - batch) ** 2),
      ...     lambda key: jnp.ones(2),
      ...     Batches(jnp.zeros((8, 2)), batch_size=4),
      ...     name="bowl",
      ... )
      >>> one = run_identity(workload, lrx.sgd(0.1), seed=0)
      >>> differences(one, run_identity(workload, lrx.sgd(0.1), seed=0))
      []
      >>> differences(one, run_identity(workload, lrx.sgd(0.1), seed=1))
      ['seed is 0 there and 1 here']
    """
    batches = workload.batches
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, model_state = jax.eval_shape(workload.init, key)
    minibatch = batches.minibatch_shapes()
    batch = jax.eval_shape(batches.transform, minibatch, key)
    gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
    return {
        "workload": workload.name,
        "batch_size": _batch_size_identity(batches),
        "shuffle": batches.shuffle,
        **settings,
        "data": data_identity(batches),
        "params": describe(params),
        "model_state": describe(model_state),
        "opt_state": describe(jax.eval_shape(tx.init, params)),
        "init": program_identity(workload.init, key),
        "transform": program_identity(batches.transform, minibatch, key),
        "loss_fn": program_identity(gradient, params, model_state, batch, key),
        **optimizer_identity(tx, params),
        "evaluate": evaluation_identity(workload),
        "versions": {name: sys.modules[name].__version__ for name in PACKAGES},
    }


def evaluation_identity(workload: Workload) -> Identity | None:
    """Return what a workload's evaluation computes: a hash of its traced program, or of its code.

    Its code is hashed if it cannot be traced, or if a call may do more than compute.
    """
    if workload.evaluate is None:
        return None
    evaluate = workload.evaluate
    if not may_act(evaluate):
        shapes = jax.eval_shape(workload.init, jax.random.key(0))
        # Two functions, for JAX keeps traces. Where they differ, a clock or the like is a constant of each trace.
        one, other = (program_identity(trace, *shapes) for trace in (lambda *x: evaluate(*x), lambda *x: evaluate(*x)))
        if one is not None and one == other:
            return one
    return {"code": function_digest(evaluate), "python": ".".join(platform.python_version_tuple()[:2])}


def optimizer_identity(tx: optax.GradientTransformation, params: Any) -> Identity:
    """Return `tx`, `tx.init` and `tx.update` of `run_identity`, for parameters of these shapes."""
    text = repr(tx)
    return {"tx": None if ADDRESS.search(text) else text, **family_identity(lambda: tx, (), params)}


def family_identity(
    make: Callable[..., optax.GradientTransformation], arguments: tuple[Any, ...], params: Any
) -> Identity:
    """Return `tx.init` and `tx.update` of what a function builds, for all values of its arguments at once.

    Args:
      make: maps the arguments, which are traced, to a transformation.
      arguments: pytrees of arrays or of their shapes.
      params: the same of the parameters.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)

    def init(arguments: tuple[Any, ...], params: Any) -> Any:
        return make(*arguments).init(params)

    def update(arguments: tuple[Any, ...], updates: Any, state: Any, params: Any, value: Any) -> Any:
        made = tolerant_update(make(*arguments))
        gradient = jax.grad(_any_loss)
        return made(
            *(updates, state, params),
            value=value,
            grad=updates,
            value_fn=_any_loss,
            grad_fn=lambda params, _: gradient(params),
        )

    state = jax.eval_shape(init, arguments, shapes)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    return {
        "tx.init": program_identity(init, arguments, shapes),
        "tx.update": program_identity(update, arguments, shapes, state, shapes, loss),
    }


def _any_loss(params: Any) -> jax.Array:
    """Return a loss for line searches; the real loss is hashed by itself."""
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return functools.reduce(jnp.add, [jnp.sum(jnp.real(x), dtype=jnp.float32) for x in leaves], jnp.float32(0.0))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return the differences between two identities in words; none for the same run.

    Args:
      there: the identity of the run that is found.
      here: that of the requested run.
    """
    told = _told_by_repr(there, here)
    found = []
    for name in [*here, *(name for name in there if name not in here)]:
        old, new = there.get(name, "absent"), here.get(name, "absent")
        if old == new or (name == "tx" and not told) or (told and name in _FOLLOWS_FROM_TX):
            continue
        if _is_program(old) and _is_program(new):
            found.append(_unlike_program(name, old["numbers"], new["numbers"]))
        elif name == "evaluate" and "absent" not in (old, new) and None not in (old, new):
            found.append(f"evaluate {_unlike_evaluation(old, new)}")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            for leaf in [*new, *(leaf for leaf in old if leaf not in new)]:
                was, would_be = old.get(leaf, "absent"), new.get(leaf, "absent")
                if was != would_be:
                    label = f"{name}{leaf}" if leaf[:1] in ("", "[", ".") else f"{name}[{leaf!r}]"
                    found.append(f"{label} is {was} there and {would_be} here")
        elif name == "tx" and told:
            found.append(f"tx is {old} there and {new} here")
        else:
            found.append(f"{name} is {_shown(old)} there and {_shown(new)} here")
    return found


_FOLLOWS_FROM_TX = ("opt_state", "tx.init", "tx.update")


def _told_by_repr(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether two transformations differ and their reprs show how; the programs decide whether they differ."""
    names = ("tx.init", "tx.update")
    if all(there.get(name) == here.get(name) is not None for name in names):
        return False
    texts = there.get("tx"), here.get("tx")
    return None not in texts and texts[0] != texts[1]


def _unlike_evaluation(old: Identity, new: Identity) -> str:
    there, here = old.get("python"), new.get("python")
    if there is not None and here is not None and there != here:
        return f"is known by its code, which Python {there} compiled there and Python {here} here"
    return "computes something else, or holds other data"


def _shown(value: Any) -> str:
    return value if value == "absent" else repr(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"digest", "numbers"}


def _unlike_program(name: str, old: list[str], new: list[str]) -> str:
    gone, come = ([x for x in one if x not in other] for one, other in ((old, new), (new, old)))
    there, here = (", ".join(numbers[:SHOWN_NUMBERS]) for numbers in (gone, come))
    several = max(len(gone), len(come)) > 1
    if there and here:
        return f"{name} has {'other numbers' if several else 'another number'}: {there} there, {here} here"
    if there or here:
        only = "there" if there else "here"
        return f"{name} computes something else: only {only} it has the number{'s' * several} {there or here}"
    return f"{name} computes something else"


# --- leaves and data


def describe(state: Any) -> dict[str, str]:
    """Return path to type and shape of every leaf: `{"params['w']": "float32[3]"}`."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves_by_key(state).items()}


def checksums(state: Any) -> dict[str, str]:
    """Return path to a checksum of the contents of every leaf, which distinguishes data of the same shapes."""
    return {
        name: f"{zlib.crc32(np.ravel(leaf).view(np.uint8).data):08x}" for name, leaf in leaves_by_key(state).items()
    }


def as_json(run: Identity) -> Identity:
    """Return an identity as JSON stores it: scalars of NumPy and JAX as numbers, tuples as lists."""
    values: Identity = json.loads(json.dumps(run, default=lambda value: np.asarray(value).item()))
    return values


def _batch_size_identity(batches: Batches) -> Any:
    if not isinstance(batches, Records):
        return batches.batch_size
    schedule = batches.sizes.schedule
    if schedule is None:
        return batches.sizes.given
    return program_identity(schedule, jax.ShapeDtypeStruct((), jnp.int32))


_known_data: weakref.WeakKeyDictionary[Batches, dict[str, str]] = weakref.WeakKeyDictionary()


def data_identity(batches: Batches) -> dict[str, str]:
    """Return path to type, shape and checksum of every array: `{"[0]": "float32[64, 8], checksum 3ac5ec2c"}`.

    The data of a stream are not read: they are identified by the shapes of a minibatch and the name of the workload,
    and records by their number and the first of them.
    """
    if isinstance(batches, Records):
        first = batches.first_example
        types, sums = describe(first), checksums(first)
        found = {name: f"{types[name]}, checksum {sums[name]}, the first of {batches.num_examples}" for name in types}
        return {**found, "drop_remainder": str(batches.drop_remainder)}
    if isinstance(batches, Stream):
        return {name: f"{text}, a stream" for name, text in describe(batches.minibatch_shapes()).items()}
    if batches not in _known_data:
        types, sums = describe(batches.arrays), checksums(batches.arrays)
        _known_data[batches] = {name: f"{types[name]}, checksum {sums[name]}" for name in types}
    return _known_data[batches]
