"""What is trained: a model, its data and its loss."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx.training.batches import Batches, name_of, require_callable
from lrx.training.sampling import keys_of

Params = Any  # pytree of arrays
ModelState = (
    Any  # pytree of arrays that training changes without a gradient, such as batch-norm statistics; () for none
)


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
            f"loss_fn must take the parameters, a batch and a key, got {name_of(loss_fn)}, which takes a key alone, "
            f"and init_fn={name_of(init_fn)}: the order is {_ORDER}."
        )


def require_workload(workload: Any) -> None:
    """Check that the first argument of a tool is a `Workload`.

    Raises:
      TypeError: if it is something else; for a function, the message says how to wrap it.
    """
    if isinstance(workload, Workload):
        return
    if callable(workload):
        name = getattr(workload, "__name__", type(workload).__name__)
        raise TypeError(
            f"workload must be an lrx.Workload, got the function {name!r}: wrap it, "
            "lrx.Workload.from_functions(loss_fn, init_fn, batches)."
        )
    raise TypeError(
        f"workload must be an lrx.Workload, got workload={workload!r}: give "
        "lrx.Workload.from_functions(loss_fn, init_fn, batches)."
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Workload:
    """A model, its data and its loss: everything that training needs but the optimizer.

    All functions are pure. For models without a state, `Workload.from_functions` takes plainer ones.

    Args:
      name: shown in progress bars and kept in checkpoints.
      init: `key -> (params, model_state)`.
      loss_fn: `(params, model_state, batch, key) -> (loss, model_state)`: the mean loss of the batch, a scalar of any
        float type, and the new model state. The key differs at each step (dropout).
      batches: the training examples.
      evaluate: `(params, model_state) -> {name: scalar}`, for example loss and accuracy on held-out data; None for no
        evaluation. It is called outside of the compiled steps: `lrx.training.Evaluation(function, arrays)` compiles
        it, with the data as an argument.

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
        require_callable("init", self.init, "key -> (params, model_state)")
        require_callable("loss_fn", self.loss_fn, "(params, model_state, batch, key) -> (loss, model_state)")
        if not isinstance(self.batches, Batches):
            raise TypeError(
                f"batches must be an lrx.training.Batches, got a {type(self.batches).__name__}: wrap the arrays, "
                "Batches(arrays, batch_size=128), or minibatches that exist already, Batches.stack(minibatches)."
            )
        if self.evaluate is not None:
            require_callable("evaluate", self.evaluate, "(params, model_state) -> {name: scalar}")

    def __repr__(self) -> str:
        evaluate = "" if self.evaluate is None else f", evaluate={name_of(self.evaluate)}"
        return f"Workload({self.name!r}, loss_fn={name_of(self.loss_fn)}, {self.batches!r}{evaluate})"

    def loss_at(self, seed_or_batch: Any = 0, *, model_state: ModelState = None) -> LossOfBatch:
        """Return the loss of one minibatch as a function of the parameters alone, for `lrx.sharpness` and others.

        Args:
          seed_or_batch: a whole number, for the minibatch of the first step of the run with that seed; or a batch as
            `loss_fn` takes it, such as all examples of a full-batch workload, `workload.batches.arrays`.
          model_state: the model state, such as batch-norm statistics; by default the initial one, of the seed, or of
            seed 0 for a batch.

        Returns:
          `params -> loss`, () in the loss's own type, always with the key of the first step: the same dropout at each
          call. It is a tree of the batch's arrays, so it may be an argument of a compiled function.

        Raises:
          ValueError: if the number is not a seed.

        Example:
          >>> import jax.numpy as jnp, lrx
          >>> workload = lrx.Workload.from_functions(
          ...     lambda w, x, key: jnp.mean((w - x) ** 2), lambda key: jnp.ones(()), lrx.Batches(jnp.arange(4.0), 2)
          ... )
          >>> workload.loss_at(jnp.array([1.0, 3.0]))(jnp.float32(2.0))
          Array(1., dtype=float32)
        """
        is_seed = isinstance(seed_or_batch, int | np.integer)
        seed = int(seed_or_batch) if is_seed else 0
        _checks.seed(seed_or_batch if is_seed else 0)
        keys = keys_of(seed)
        if is_seed:
            batch, key = self.batches.first(keys)
        else:
            batch, key = seed_or_batch, self.batches.sampling.keys_of_step(keys.step, jnp.int32(0))[1]
        if model_state is None:
            model_state = jax.jit(lambda key: self.init(key)[1])(keys.init)
        return LossOfBatch(self.loss_fn, model_state, batch, key)

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
        require_callable("init_fn", init_fn, "key -> params")
        require_callable("loss_fn", loss_fn, "(params, batch, key) -> loss")
        if evaluate is not None:
            require_callable("evaluate", evaluate, "params -> {name: scalar}")
            evaluate = _StatelessEvaluation(evaluate)
        return cls(name, _StatelessInit(init_fn), _StatelessLoss(loss_fn), batches, evaluate)


# A tree, so that a compiled function can take it as an argument: as a closure its data would be constants.
@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("model_state", "batch", "key"), meta_fields=("loss_fn",)
)
@dataclasses.dataclass(frozen=True, eq=False)
class LossOfBatch:
    """The loss of one batch as a function of the parameters alone, which `Workload.loss_at` returns."""

    loss_fn: Callable[[Params, ModelState, Any, jax.Array], tuple[jax.Array, ModelState]]
    model_state: ModelState
    batch: Any
    key: jax.Array

    def __call__(self, params: Params) -> jax.Array:
        return self.loss_fn(params, self.model_state, self.batch, self.key)[0]

    def with_model_state(self, model_state: ModelState) -> LossOfBatch:
        """Return the loss of the same batch with another model state."""
        return dataclasses.replace(self, model_state=model_state)


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
