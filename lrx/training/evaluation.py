"""An evaluation that is compiled, with its data as an argument of the compiled function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.brief import brief
from lrx.training.batches import name_of, require_callable
from lrx.training.equality import Same, UndecidedError, key_of
from lrx.training.program_cache import Cache, signature_of
from lrx.training.program_hash import Hashing


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Compile an evaluation of a `Workload`, with its data as an argument.

    Pass it as `evaluate=`. A compiled function that closes over its data holds them as constants, which takes long to
    compile; here they are arguments, and are put on the device once.

    Args:
      function: `(params, arrays) -> {name: scalar}`, a pure function; for a workload with a model state
        `(params, model_state, arrays) -> {name: scalar}`.
      arrays: pytree of arrays, the held-out examples. NumPy arrays are copied here, and put on the device when the
        evaluation is first called, so that no backend starts before `jax.distributed.initialize`.

    Raises:
      TypeError: if `function` is not callable.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lrx.training import Batches, Evaluation, Workload
      >>> def loss_fn(w, batch):
      ...     return jnp.mean((w * batch[0] - batch[1]) ** 2)
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> workload = Workload.from_functions(
      ...     lambda w, batch, key: loss_fn(w, batch),
      ...     lambda key: jnp.float32(2.0),
      ...     Batches((x[::2], 3.0 * x[::2]), batch_size=16),
      ...     evaluate=Evaluation(lambda w, held_out: {"loss": loss_fn(w, held_out)}, (x[1::2], 3.0 * x[1::2])),
      ... )
      >>> sorted(workload.evaluate(*workload.init(jax.random.key(0))))
      ['loss']
    """

    function: Callable[..., dict[str, jax.Array]]
    arrays: Any

    def __post_init__(self) -> None:
        require_callable("function", self.function, "(params, arrays) -> {name: scalar}")
        copies = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.array(x), self.arrays)
        object.__setattr__(self, "arrays", copies)
        object.__setattr__(self, "_traced", {})

    def __repr__(self) -> str:
        return f"Evaluation({name_of(self.function)}, {brief(self.arrays)})"

    def __call__(self, *state: Any) -> dict[str, jax.Array]:
        """Return the result of `function` for `(params,)` or `(params, model_state)` and the arrays."""
        if any(isinstance(x, np.ndarray) for x in jax.tree.leaves(self.arrays)):
            with jax.ensure_compile_time_eval():  # the first call may be in a trace
                object.__setattr__(self, "arrays", jax.tree.map(jnp.asarray, self.arrays))
        found: dict[str, jax.Array] = self._compile(*state, self.arrays)(*state, self.arrays)
        return found

    def _compile(self, *arguments: Any) -> Callable[..., dict[str, jax.Array]]:
        """Return the compiled function, that of an equal function if there was one."""
        function = self.function
        try:
            key = key_of(function)
        except UndecidedError:
            return self._compile_traced(arguments)
        # A new function, since JAX keeps the traces of a function, and a global that it names may have changed.
        return _COMPILED.find_program(
            key, function, lambda latest: jax.jit(lambda *arguments: latest.parts(*arguments))
        )

    def _compile_traced(self, arguments: tuple[Any, ...]) -> Callable[..., dict[str, jax.Array]]:
        """Return the compiled function where only a trace, the first one, shows what the function computes."""
        known: dict[Any, Callable[..., dict[str, jax.Array]]] = self._traced  # type: ignore[attr-defined]
        signature = signature_of(arguments)
        if signature not in known:
            function = self.function
            new = jax.jit(lambda *arguments: function(*arguments))
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
                return new
            traced, hashing = new.trace(*arguments), Hashing()
            key = (hashing.program(traced.jaxpr), jax.tree.structure(traced.out_info), signature)
            known[signature] = _COMPILED.find(("traced", Same(object()) if hashing.calls_back else key), lambda: new)
        return known[signature]


_COMPILED = Cache(maxsize=16)
