"""What makes the numbers of a run: by it a run that is resumed is told from another one.

Functions are compared by what they compute. Each is traced at the shapes of the workload, and its program is hashed
with all the constants in it: a schedule's later values, the threshold of a clip, the patience of a controller, arrays
that a loss closes over. The same function made anew, or in another process, has the same hash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import sys
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training.workload import Batches, Workload

Identity = dict[str, Any]  # of JSON values

PACKAGES = ("lrx", "jax", "optax")  # whose versions make numbers
MOST_NUMBERS = 64  # of a program, that are kept to name a difference
SHOWN_NUMBERS = 4
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+|\b0x[0-9a-f]{6,}")
# What a program is called, where it is placed and how it is printed does not make its numbers.
_UNIMPORTANT = {"name", "debug_info", "ctx_mesh", "in_layouts", "out_layouts", "inline", "keep_unused"}


def run_identity(workload: Workload, tx: optax.GradientTransformation, **settings: Any) -> Identity:
    """Return what makes the numbers of a run, as JSON values.

    Args:
      workload: model, data and loss.
      tx: the transformation.
      **settings: what else makes them, as `seed=0`: JSON values.

    Returns:
      A dict with:
        `workload`, `batch_size`, `shuffle` and the `settings`;
        `data`: path to type, shape and checksum of each array;
        `params`, `model_state`, `opt_state`: path to type and shape of each array;
        `init`, `transform`, `loss_fn`, `tx.init`, `tx.update`: each a dict with a hash of the traced program and its
          constants, and the `numbers` that stand in it, to name a difference by. The loss is traced with its gradient.
        `evaluate`: a hash of the arrays that the function closes over, and with a `feedback_metric` among the
          settings of the constants in its code (it need not be traceable); None where there is no evaluation;
        `tx`: its `repr` where that can be read, otherwise None;
        `versions` of lrx, jax and optax.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches, Workload
      >>> from lrx.training.identity import differences, run_identity
      >>> workload = Workload.from_functions(
      ...     "bowl",
      ...     lambda key: jnp.ones(2),
      ...     lambda params, batch, key: jnp.sum((params - batch) ** 2),
      ...     Batches(jnp.zeros((8, 2)), batch_size=4),
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
    minibatch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batches.batch_size, *x.shape[1:]), x.dtype), batches.arrays
    )
    batch = jax.eval_shape(batches.transform, minibatch, key)
    gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
    return {
        "workload": workload.name,
        "batch_size": batches.batch_size,
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
        "evaluate": _evaluation(workload, code="feedback_metric" in settings),
        "versions": {name: sys.modules[name].__version__ for name in PACKAGES},
    }


def optimizer_identity(tx: optax.GradientTransformation, params: Any) -> Identity:
    """Return `tx`, `tx.init` and `tx.update` of `run_identity`, for parameters of these shapes."""
    text = repr(tx)
    return {"tx": None if _ADDRESS.search(text) else text, **family_identity(lambda: tx, (), params)}


def family_identity(
    make: Callable[..., optax.GradientTransformation], arguments: tuple[Any, ...], params: Any
) -> Identity:
    """Return `tx.init` and `tx.update` of what a function makes of its arguments, for all values of these at once.

    Args:
      make: takes the arguments, which are traced, to a transformation.
      arguments: pytrees of arrays or of their shapes.
      params: the same of the parameters.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)

    def init(arguments: tuple[Any, ...], params: Any) -> Any:
        return make(*arguments).init(params)

    def update(arguments: tuple[Any, ...], updates: Any, state: Any, params: Any, value: Any) -> Any:
        made = optax.with_extra_args_support(make(*arguments))
        return made.update(updates, state, params, value=value, grad=updates, value_fn=_any_loss)

    state = jax.eval_shape(init, arguments, shapes)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    return {
        "tx.init": program_identity(init, arguments, shapes),
        "tx.update": program_identity(update, arguments, shapes, state, shapes, loss),
    }


def _any_loss(params: Any) -> jax.Array:
    """A loss for what searches along a line; the real one is hashed for itself."""
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return functools.reduce(jnp.add, [jnp.sum(jnp.real(x), dtype=jnp.float32) for x in leaves], jnp.float32(0.0))


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in words what two identities do not share; none for the same run.

    Args:
      there: the identity of the run that is found.
      here: that of the run that is wanted.
    """
    told = _told_by_repr(there, here)
    found = []
    for name in [*here, *(name for name in there if name not in here)]:
        old, new = there.get(name, "absent"), here.get(name, "absent")
        if old == new or (name == "tx" and not told) or (told and name in _FOLLOWS_FROM_TX):
            continue
        if _is_program(old) and _is_program(new):
            found.append(f"{name} computes something else{_numbers(old['numbers'], new['numbers'])}")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            for leaf in [*new, *(leaf for leaf in old if leaf not in new)]:
                was, would_be = old.get(leaf, "absent"), new.get(leaf, "absent")
                if was != would_be:
                    label = f"{name}{leaf}" if leaf[:1] in ("", "[", ".") else f"{name}[{leaf!r}]"
                    found.append(f"{label} is {was} there and {would_be} here")
        elif name == "evaluate" and "absent" not in (old, new):
            found.append("evaluate has other data or constants")
        elif name == "tx" and told:
            found.append(f"tx is {old} there and {new} here")
        else:
            found.append(f"{name} is {_shown(old)} there and {_shown(new)} here")
    return found


_FOLLOWS_FROM_TX = ("opt_state", "tx.init", "tx.update")


def _told_by_repr(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether two transformations differ, and their reprs say how: the programs have the last word."""
    names = ("tx.init", "tx.update")
    if all(there.get(name) == here.get(name) is not None for name in names):
        return False
    texts = there.get("tx"), here.get("tx")
    return None not in texts and texts[0] != texts[1]


def _shown(value: Any) -> str:
    return value if value == "absent" else repr(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"digest", "numbers"}


def _numbers(old: list[str], new: list[str]) -> str:
    gone, come = ([x for x in one if x not in other] for one, other in ((old, new), (new, old)))
    if not gone and not come:
        return ""
    there, here = (", ".join(numbers[:SHOWN_NUMBERS]) or "none of these" for numbers in (gone, come))
    return f", with the numbers {there} there and {here} here"


# --- leaves and data


def describe(state: Any) -> dict[str, str]:
    """Return path to type and shape of every leaf: `{"params['w']": "float32[3]"}`."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named_leaves(state)}


def checksums(state: Any) -> dict[str, str]:
    """Return path to a checksum of the contents of every leaf, which tells other data of the same shapes apart."""
    return {name: f"{zlib.crc32(np.ravel(leaf).view(np.uint8).data):08x}" for name, leaf in named_leaves(state)}


def named_leaves(state: Any) -> list[tuple[str, Any]]:
    """Return path and leaf of every leaf."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def as_json(run: Identity) -> Identity:
    """Return what JSON makes of an identity: scalars of NumPy and JAX as numbers, tuples as lists."""
    values: Identity = json.loads(json.dumps(run, default=lambda value: np.asarray(value).item()))
    return values


_known_data: weakref.WeakKeyDictionary[Batches, dict[str, str]] = weakref.WeakKeyDictionary()


def data_identity(batches: Batches) -> dict[str, str]:
    """Return path to type, shape and checksum of every array: `{"[0]": "float32[64, 8], checksum 3ac5ec2c"}`."""
    if batches not in _known_data:
        types, sums = describe(batches.arrays), checksums(batches.arrays)
        _known_data[batches] = {name: f"{types[name]}, checksum {sums[name]}" for name in types}
    return _known_data[batches]


# --- programs


def program_identity(function: Callable[..., Any], *arguments: Any) -> dict[str, Any] | None:
    """Return a hash of what a function computes at these shapes, and the numbers in it; None if it cannot be traced."""
    try:
        program = jax.make_jaxpr(function)(*arguments)
    except Exception:  # training says it, with the message that belongs there
        return None
    hashing = _Hashing()
    digest = hashing.program(program)
    numbers = sorted(hashing.numbers, key=lambda text: (text == "nan", float(text)))
    return {"digest": digest, "numbers": numbers[:MOST_NUMBERS]}


class _Hashing:
    """Hashes programs and whatever stands in them; collects the numbers."""

    def __init__(self) -> None:
        self.numbers: set[str] = set()
        self._known: dict[int, str] = {}  # by identity: an inner program is often called many times
        self._kept: list[Any] = []  # so that identities stay unique

    def program(self, program: Any) -> str:
        """Hash a jaxpr, closed or open, with variables numbered in the order in which they appear."""
        if id(program) in self._known:
            return self._known[id(program)]
        inner, constants = (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())
        hasher = hashlib.blake2b(digest_size=12)
        number: dict[Any, int] = {}

        def feed(*texts: str) -> None:
            hasher.update("\0".join(texts).encode() + b"\1")

        def atom(x: Any) -> str:
            if hasattr(x, "val"):
                return f"literal {self.value(x.val)} {x.aval}"
            return f"{number.setdefault(x, len(number))}:{x.aval}"

        feed("constants", *map(self.value, constants))
        feed("inputs", *map(atom, [*inner.constvars, *inner.invars]))
        for equation in inner.eqns:
            parameters = sorted((k, v) for k, v in equation.params.items() if k not in _UNIMPORTANT)
            feed(equation.primitive.name, *(f"{k}={self.value(v)}" for k, v in parameters))
            feed("in", *map(atom, equation.invars))
            feed("out", *map(atom, equation.outvars))
        feed("outputs", *map(atom, inner.outvars))
        self._known[id(program)] = hasher.hexdigest()
        self._kept.append(program)
        return self._known[id(program)]

    def value(self, value: Any) -> str:
        """Return a text that is the same for the same constant or parameter of an equation, in every process."""
        if isinstance(value, bool | str | bytes | type(None) | type):
            return repr(value)
        if isinstance(value, int | float | complex | np.generic) or (
            isinstance(value, np.ndarray | jax.Array) or hasattr(value, "__array__")
        ):
            return self._array(value)
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            return self.program(value)
        if isinstance(value, Mapping):
            return "{" + ",".join(sorted(f"{self.value(k)}:{self.value(v)}" for k, v in value.items())) + "}"
        if isinstance(value, set | frozenset):
            return "{" + ",".join(sorted(map(self.value, value))) + "}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}({','.join(map(self.value, value))})"
        if callable(value):
            return f"function {getattr(value, '__qualname__', type(value).__qualname__)}"
        return _ADDRESS.sub("", repr(value))

    def _array(self, value: Any) -> str:
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.ndim == 0 and array.dtype.kind in "iuf":
            self.numbers.add(f"{float(array):.6g}")
        if array.dtype.hasobject:
            return _ADDRESS.sub("", repr(value))
        # A Python number and its array are the same constant.
        kind = type(value).__name__ if isinstance(value, int | float | complex) else str(array.dtype)
        return f"{kind}{list(array.shape)} {_digest(np.ravel(array).view(np.uint8).data if array.size else b'')}"


def _digest(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


# --- functions that need not be traceable


def _evaluation(workload: Workload, *, code: bool) -> str | None:
    return None if workload.evaluate is None else function_digest(workload.evaluate, code=code)


def function_digest(function: Any, *, code: bool) -> str:
    """Return a hash of the arrays that a function closes over, and with `code` of constants and names in its code.

    Mutable Python objects, which may change from call to call, are left out.
    """
    parts: list[str] = []
    _collect(function, parts, set(), code)
    return _digest("\1".join(parts).encode())


def _collect(value: Any, parts: list[str], seen: set[int], code: bool) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray | jax.Array):
        parts.append(_Hashing().value(value))
        return
    if code and hasattr(value, "__code__"):
        parts.append(repr(_constants(value.__code__, value.__doc__)))
    for children in _parts_of(value):
        for child in children:
            _collect(child, parts, seen, code)


def _parts_of(value: Any) -> Iterable[Iterable[Any]]:
    if isinstance(value, functools.partial):
        yield (value.func, *value.args, *value.keywords.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield (getattr(value, field.name) for field in dataclasses.fields(value))
    elif isinstance(value, tuple | list):
        yield value
    elif isinstance(value, dict):
        yield value.values()
    elif hasattr(value, "__wrapped__"):  # jax.jit
        yield (value.__wrapped__,)
    elif hasattr(value, "__func__"):  # a method
        yield (value.__func__, value.__self__)
    if hasattr(value, "__code__"):
        with contextlib.suppress(ValueError):  # a cell that is empty still
            yield [cell.cell_contents for cell in value.__closure__ or ()]
        yield value.__defaults__ or ()
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        # What the module of the function has made itself; the rest is in packages.
        yield [x for x in named if isinstance(x, np.ndarray | jax.Array) or _module(x) == value.__module__]


def _module(value: Any) -> str | None:
    return getattr(value, "__module__", None) if hasattr(value, "__code__") else None


def _constants(code: Any, doc: str | None = None) -> list[Any]:
    """Return names and constants of a code object, those of inner functions too, without the docstring."""
    inner = [_constants(constant) for constant in code.co_consts if hasattr(constant, "co_consts")]
    plain = (
        constant for constant in code.co_consts if isinstance(constant, bool | int | float | complex | str | bytes)
    )
    return [code.co_names, [constant for constant in plain if constant != doc], inner]
