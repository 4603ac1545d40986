"""What is trained: a model, its data and its loss."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx.states import brief

Params = Any  # pytree of arrays
ModelState = (
    Any  # pytree of arrays that training changes without a gradient, such as batch-norm statistics; () for none
)


def as_stored(minibatch: Any, key: jax.Array) -> Any:
    """Give the minibatch as it is stored, the transform of `Batches` that changes nothing."""
    del key
    return minibatch


def _require_callable(name: str, value: Any, signature: str) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function {signature}, got {name}={value!r}.")


_ORDER = 'Workload.from_functions(loss_fn, init_fn, batches, name="workload")'


def _takes(function: Any, number: int) -> bool | None:
    """Return whether `number` positional arguments can be passed to a function; None if that is not known."""
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:
        return False
    except ValueError:  # a function of another language
        return None
    return True


def _require_order(loss_fn: Any, init_fn: Any, arguments: int) -> None:
    """Check that the first function is the loss, which takes that many arguments, and the second takes a key."""
    if isinstance(loss_fn, str):
        raise TypeError(f"loss_fn must be a function, got loss_fn={loss_fn!r}: the order is {_ORDER}.")
    if not (callable(loss_fn) and callable(init_fn)):
        return  # each is refused by its own check
    swapped = _takes(loss_fn, 1) and _takes(init_fn, arguments)
    if swapped and _takes(loss_fn, arguments) is False and _takes(init_fn, 1) is False:
        raise TypeError(
            f"loss_fn must take the parameters, a batch and a key, got {_name(loss_fn)}, which takes a key alone, and "
            f"init_fn={_name(init_fn)}: the order is {_ORDER}."
        )


def _name(function: Any) -> str:
    """Return the name of a function, without the address."""
    function = getattr(function, "function", function)
    return getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]


def _kept(path: Any, x: Any) -> jax.Array | np.ndarray:
    """Return an array that later changes of `x` do not reach, of the type that it will have on the device."""
    if isinstance(x, jax.Array):
        return x
    array = np.array(x)
    try:
        dtype = jax.typeof(array).dtype
    except TypeError as error:
        name = f"arrays{jax.tree_util.keystr(path)}"
        raise TypeError(f"{name} must hold numbers, got an array of {array.dtype}: encode them first.") from error
    return array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Batches:
    """Training examples held on the device, and how a minibatch is made of them inside the compiled step.

    Each epoch goes once through a fresh permutation of the examples. The incomplete last batch is dropped; since each
    epoch is permuted anew, no example is left out for good.

    Args:
      arrays: pytree of arrays with the same leading axis of length n, as `(images uint8 (n, h, w, c), labels int32
        (n,))`. NumPy arrays are copied here, and put on the device once, when they are first used: so no backend
        starts before `jax.distributed.initialize`.
      batch_size: examples in a minibatch, 1 to n.
      transform: `(minibatch of arrays, key) -> batch`, a pure function: normalisation and augmentation. It runs inside
        the compiled step, so the data can stay in their small type; the key is another one at each step.
      shuffle: whether to permute; without, the minibatches come in the order of the arrays.

    Raises:
      ValueError: if there is no array, if leading axes differ, or `batch_size` is not a whole number from 1 to n.
      TypeError: if an array does not hold numbers, `transform` is not a function or `shuffle` is not True or False.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrx.training import Batches
      >>> batches = Batches((jnp.zeros((100, 8, 8)), jnp.zeros(100, jnp.int32)), batch_size=32)
      >>> batches
      Batches((float32[100,8,8], int32[100]), batch_size=32)
      >>> batches.num_examples, batches.steps_per_epoch
      (100, 3)
    """

    arrays: Any
    batch_size: int
    transform: Callable[[Any, jax.Array], Any] = as_stored
    shuffle: bool = True

    def __post_init__(self) -> None:
        lengths = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.arrays):
            name = f"arrays{jax.tree_util.keystr(path)}"
            if np.ndim(leaf) == 0:
                raise ValueError(f"{name} must be an array with a leading axis of examples, got {name}={leaf!r}.")
            lengths[name] = np.shape(leaf)[0]
        if not lengths:
            raise ValueError(f"arrays must hold at least one array, got arrays={self.arrays!r}.")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise ValueError(
                f"arrays must have the same leading axis, the examples, but {listed}: leave out what does not belong "
                "to every example."
            )
        _checks.steps("batch_size", self.batch_size)
        number = next(iter(lengths.values()))
        if self.batch_size > number:
            raise ValueError(
                f"batch_size must be at most the number of examples, {number}, got batch_size={self.batch_size}: "
                "make it smaller."
            )
        _require_callable("transform", self.transform, "(minibatch, key) -> batch")
        _checks.flag("shuffle", self.shuffle)
        object.__setattr__(self, "batch_size", int(self.batch_size))
        object.__setattr__(self, "_on_host", jax.tree_util.tree_map_with_path(_kept, self.arrays))
        object.__delattr__(self, "arrays")  # so that `__getattr__` is asked for it

    def __getattr__(self, name: str) -> Any:
        # Only for what is not there yet. To put an array on a device starts the backend, after which
        # `jax.distributed.initialize` is refused: so it is put there when it is first used.
        if name != "arrays" or "_on_host" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with jax.ensure_compile_time_eval():  # the first use may be in a trace
            arrays = jax.tree.map(jnp.asarray, self.__dict__["_on_host"])
        object.__setattr__(self, "arrays", arrays)
        object.__setattr__(self, "_on_host", arrays)
        return arrays

    def __repr__(self) -> str:
        shuffled = "" if self.shuffle else ", shuffle=False"
        transform = "" if self.transform is as_stored else f", transform={_name(self.transform)}"
        return f"Batches({brief(self._on_host)}, batch_size={self.batch_size}{transform}{shuffled})"

    @property
    def num_examples(self) -> int:
        """n, the length of the leading axis."""
        return int(jax.tree.leaves(self._on_host)[0].shape[0])

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, the incomplete last one not counted."""
        return self.num_examples // self.batch_size


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Workload:
    """A model, its data and its loss: everything that training needs but the optimizer.

    All functions are pure. Where there is no model state, `Workload.from_functions` takes the plainer ones.

    Args:
      name: shown in progress bars and kept in checkpoints.
      init: `key -> (params, model_state)`.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`: the mean loss of the batch, a scalar of any
        float type, and the new model state. The key is another one at each step (dropout).
      batches: the training examples.
      evaluate: `(params, model_state) -> {name: scalar}`, as loss and accuracy on held-out data; None for no
        evaluation. It is called outside of the compiled steps: compile it, with the data as an argument of the
        compiled function (what it closes over becomes a constant, which compiles slowly).

    Raises:
      TypeError: if a function is not callable, `batches` is not a `Batches` or `name` is not a string.
    """

    name: str
    init: Callable[[jax.Array], tuple[Params, ModelState]]
    loss_fn: Callable[[Params, ModelState, Any, jax.Array], tuple[jax.Array, ModelState]]
    batches: Batches
    evaluate: Callable[[Params, ModelState], dict[str, jax.Array]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got name={self.name!r}.")
        _require_callable("init", self.init, "key -> (params, model_state)")
        _require_callable("loss_fn", self.loss_fn, "(params, model_state, batch, key) -> (loss, model_state)")
        if not isinstance(self.batches, Batches):
            raise TypeError(
                f"batches must be an lrx.training.Batches, got a {type(self.batches).__name__}: wrap the arrays, "
                "Batches(arrays, batch_size=128)."
            )
        if self.evaluate is not None:
            _require_callable("evaluate", self.evaluate, "(params, model_state) -> {name: scalar}")

    def __repr__(self) -> str:
        evaluate = "" if self.evaluate is None else f", evaluate={_name(self.evaluate)}"
        return f"Workload({self.name!r}, loss_fn={_name(self.loss_fn)}, {self.batches!r}{evaluate})"

    @classmethod
    def from_functions(
        cls,
        loss_fn: Callable[..., Any],
        init_fn: Callable[[jax.Array], Any],
        batches: Batches,
        name: str = "workload",  # by position too, so that a call in the old order arrives here and is refused
        *,
        evaluate: Callable[..., dict[str, jax.Array]] | None = None,
        has_state: bool = False,
    ) -> Workload:
        """Build a workload from the functions that most training code has.

        Args:
          loss_fn: `(params, batch, key) -> loss`, a scalar; with `has_state` `(params, model_state, batch, key) ->
            (loss, model_state)`.
          init_fn: `key -> params`; with `has_state` `key -> (params, model_state)`.
          batches: the training examples.
          name: shown in progress bars and kept in checkpoints.
          evaluate: `params -> {name: scalar}`, with `has_state` `(params, model_state) -> {name: scalar}`; or None.
          has_state: whether the functions are those of `Workload` itself, with a model state.

        Raises:
          TypeError: if a function is not callable, the two functions are given in the other order, `batches` is not a
            `Batches` or `name` is not a string.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> from lrx.training import Batches, Workload
          >>> x = jnp.linspace(-1.0, 1.0, 64)
          >>> workload = Workload.from_functions(
          ...     lambda params, batch, key: jnp.mean((params["slope"] * batch[0] - batch[1]) ** 2),
          ...     lambda key: {"slope": jax.random.normal(key)},
          ...     Batches((x, 3.0 * x), batch_size=16),
          ...     name="line",
          ... )
          >>> workload.batches.steps_per_epoch
          4
        """
        _checks.flag("has_state", has_state)
        _require_order(loss_fn, init_fn, 4 if has_state else 3)
        if has_state:
            return cls(name, init_fn, loss_fn, batches, evaluate)
        _require_callable("init_fn", init_fn, "key -> params")
        _require_callable("loss_fn", loss_fn, "(params, batch, key) -> loss")
        if evaluate is not None:
            _require_callable("evaluate", evaluate, "params -> {name: scalar}")
            evaluate = _StatelessEvaluation(evaluate)
        return cls(name, _StatelessInit(init_fn), _StatelessLoss(loss_fn), batches, evaluate)


# Objects and not closures, so that two workloads of the same functions are equal in what is compiled of them.
@dataclasses.dataclass(frozen=True)
class _StatelessInit:
    function: Callable[[jax.Array], Params]

    def __call__(self, key: jax.Array) -> tuple[Params, ModelState]:
        return self.function(key), ()


@dataclasses.dataclass(frozen=True)
class _StatelessLoss:
    function: Callable[[Params, Any, jax.Array], jax.Array]

    def __call__(
        self, params: Params, model_state: ModelState, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        return self.function(params, batch, key), model_state


@dataclasses.dataclass(frozen=True)
class _StatelessEvaluation:
    function: Callable[[Params], dict[str, jax.Array]]

    def __call__(self, params: Params, model_state: ModelState) -> dict[str, jax.Array]:
        del model_state
        return self.function(params)
