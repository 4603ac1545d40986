"""The data of a run: arrays, stacked minibatches or a stream of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._paths import leaves_by_key
from lrx.brief import brief
from lrx.training.sampling import Keys, Sampling


def as_stored(minibatch: Any, key: jax.Array) -> Any:
    """Return the minibatch as it is stored: the transform of `Batches` that changes nothing."""
    del key
    return minibatch


def first_of(minibatch: Any, key: jax.Array) -> Any:
    """Return the only element of the leading axis: the transform of examples each of which is a whole minibatch."""
    del key
    return jax.tree.map(lambda x: x[0], minibatch)


def require_callable(name: str, value: Any, signature: str) -> None:
    """Check that an argument is a function; its signature is only named in the message."""
    if not callable(value):
        raise TypeError(f"{name} must be a function {signature}, got {name}={value!r}.")


def name_of(function: Any) -> str:
    """Return the name of a function, without the address."""
    function = getattr(function, "function", function)
    return getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]


def _own_copy(path: Any, x: Any) -> jax.Array | np.ndarray:
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

    Each epoch goes once through a fresh permutation of the examples. The incomplete last batch is dropped; each epoch
    has a new permutation, so no example is left out permanently.

    Args:
      arrays: pytree of arrays with the same leading axis of length n, for example `(images uint8 (n, h, w, c), labels
        int32 (n,))`. NumPy arrays are copied here, and put on the device when they are first used, so that no backend
        starts before `jax.distributed.initialize`.
      batch_size: examples in a minibatch, 1 to n.
      transform: `(minibatch of arrays, key) -> batch`, a pure function: normalisation and augmentation. It runs inside
        the compiled step, so the data can stay in their small type; the key differs at each step.
      shuffle: whether to permute; otherwise minibatches come in the order of the arrays.

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

    @classmethod
    def stack(cls, minibatches: Any, num_batches: int | None = None) -> Batches:
        """Build `Batches` from minibatches that exist already: each is one step, in order, over and over.

        The minibatches are stacked once, so all of them must fit into memory. Use it for a `DataLoader`, a generator or
        whatever else yields minibatches; for single examples `Batches(arrays, batch_size)` shuffles and draws.

        Args:
          minibatches: an iterable of pytrees of arrays that have the same structure, shapes and types; or one array, or
            a tuple or dict of arrays, whose leading axis counts minibatches.
          num_batches: number of minibatches to take from the iterable, at least 1; all of them by default; required for
            an endless iterable. Of arrays all are taken.

        Returns:
          A `Batches` that is not shuffled, with an epoch of as many steps as there are minibatches.

        Raises:
          ValueError: if the iterable ends before `num_batches` or is empty, its minibatches differ in shape, or arrays
            hold no minibatch.
          TypeError: if an argument is of the wrong type.

        Example:
          >>> import numpy as np
          >>> from lrx.training import Batches
          >>> loader = ({"x": np.ones((8, 3)), "y": np.zeros(8)} for _ in range(5))
          >>> batches = Batches.stack(loader)
          >>> batches.steps_per_epoch
          5
        """
        if num_batches is not None:
            _checks.steps("num_batches", num_batches, unit="minibatches")
        return cls(_stack_minibatches(minibatches, num_batches), 1, transform=first_of, shuffle=False)

    @classmethod
    def stream(cls, make_iterator: Callable[[], Iterator[Any]] | Iterable[Any], *, steps_per_epoch: int) -> Batches:
        """Build `Batches` that are read while a run trains, for data that do not fit into memory.

        Each minibatch is one step, in the order of the iterator; shuffle and augment there. A run has the same numbers
        as with the same minibatches in `Batches.stack`. A thread of its own reads minibatches into chunks of up to 8
        MiB and puts them on the device while the chunk before trains; training that has to wait is given a smaller
        chunk. `train`, `range_test` and `diagnose` take a stream. Other tools go over the same minibatches many times;
        they take `batches.take(100)`, the first minibatches as arrays.

        If the iterator has `get_state` and `set_state`, as the iterators of Grain have, a checkpoint holds its
        position, and a resumed run goes on from there. Otherwise the run creates a new iterator and skips the
        minibatches of the completed steps. A checkpoint identifies the data of a stream by the workload's name and the
        minibatches' shapes only.

        Args:
          make_iterator: `() -> iterator` of pytrees of arrays that have the same structure, shapes and types; or a
            loader from which `iter` makes a new iterator, such as `grain.DataLoader` or `grain.IterDataset`. It is
            called at the start of a run and whenever the iterator ends, and should return the same minibatches each
            time for a run that can be resumed. `get_state()` returns bytes or JSON values.
          steps_per_epoch: minibatches that count as an epoch.

        Raises:
          ValueError: if `steps_per_epoch` is not a whole number above 0.
          TypeError: if `make_iterator` is neither a function nor such a loader.

        Example:
          >>> import numpy as np
          >>> from lrx.training import Batches
          >>> def make_iterator():
          ...     rng = np.random.default_rng(0)
          ...     return (rng.normal(size=(8, 3)).astype(np.float32) for _ in range(100))
          >>> batches = Batches.stream(make_iterator, steps_per_epoch=100)
          >>> batches
          Batches.stream(make_iterator, steps_per_epoch=100)
          >>> batches.take(10)
          Batches(float32[10,8,3], batch_size=1, transform=first_of, shuffle=False)
        """
        from lrx.training.stream import Stream

        return Stream(make_iterator, steps_per_epoch=steps_per_epoch)

    @classmethod
    def records(
        cls,
        dataset: Any,
        batch_size: int | Callable[[jax.Array], Any],
        *,
        drop_remainder: bool = True,
        process_index: int | None = None,
        process_count: int | None = None,
        read_options: Any = None,
    ) -> Batches:
        """Build `Batches` of examples that are read one by one from files while a run trains; needs Grain.

        The data set says what an example is and in which order they come: `grain.MapDataset.source(source)
        .shuffle(seed=0).map(decode)`. Each epoch goes once through it, with a new order if it shuffles. Step t takes
        the b examples after those of the steps before; process i of k reads the i-th part of them, b/k examples. So the
        minibatches do not depend on the number of processes. A checkpoint holds the number of examples taken. A resumed
        run goes on from there bit for bit, in the middle of an epoch, on any number of processes; with
        `on_mismatch="continue"` also with another batch size.

        Everything else is as for `Batches.stream`. To use a position of Grain's own, worker processes or other
        transformations of an iterator, stream a `grain.IterDataset`.

        Args:
          dataset: a `grain.MapDataset` of one epoch, without `repeat` and `batch`; or a source with `__len__` and
            `__getitem__`, such as `grain.sources.ArrayRecordDataSource`. Examples are pytrees of arrays and numbers
            that have the same structure, shapes and types.
          batch_size: b, examples in a minibatch over all processes, a multiple of their number, 1 to n; or a schedule,
            a function of the number of completed steps, such as `lrx.piecewise_constant(64, {1000: 2})`, which doubles
            it after step 1000. The steps compile once for each size. An epoch of `steps_per_epoch` is then the first.
          drop_remainder: whether an epoch leaves out the examples at its end that are too few for a minibatch.
            Otherwise this minibatch also takes the first examples of the next epoch, and an epoch of `train` has n/b
            steps, rounded down.
          process_index: i, from 0 on; by default that of JAX.
          process_count: k; by default that of JAX. `train` takes the shares of the processes that run it only. With
            several processes, each row of its `mesh` along the first axis must belong to one of them. Where a process's
            rows are not next to each other, the examples of a minibatch come in another order.
          read_options: `grain.ReadOptions`: threads, and minibatches that are read ahead; by default 8 of each, or
            fewer if these minibatches would have more than 64 MiB.

        Raises:
          ValueError: if the data set is empty, endless or drops examples, or a number is not whole or out of range.
          TypeError: if the data set has no examples by their number, or the schedule is something else.
          ImportError: if Grain is not installed.

        Example:
          >>> import grain, lrx
          >>> import numpy as np
          >>> images, labels = np.zeros((100, 8, 8), np.uint8), np.arange(100) % 10
          >>> dataset = grain.MapDataset.range(100).shuffle(seed=0).map(lambda i: (images[i], labels[i]))
          >>> batches = lrx.Batches.records(dataset, batch_size=32)
          >>> batches
          Batches.records(<100 records>, batch_size=32)
          >>> batches.steps_per_epoch
          3
          >>> share = lrx.Batches.records(dataset, 32, process_index=1, process_count=2)
          >>> [x.shape for x in next(share.read())]
          [(16, 8, 8), (16,)]
        """
        from lrx.training.records import Records

        return Records(
            dataset,
            batch_size,
            drop_remainder=drop_remainder,
            process_index=process_index,
            process_count=process_count,
            read_options=read_options,
        )

    def __post_init__(self) -> None:
        lengths = {}
        for key, leaf in leaves_by_key(self.arrays).items():
            name = f"arrays{key}"
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
        require_callable("transform", self.transform, "(minibatch, key) -> batch")
        _checks.flag("shuffle", self.shuffle)
        object.__setattr__(self, "batch_size", int(self.batch_size))
        object.__setattr__(self, "_on_host", jax.tree_util.tree_map_with_path(_own_copy, self.arrays))
        object.__delattr__(self, "arrays")  # so that `__getattr__` is called for it

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
        transform = "" if self.transform is as_stored else f", transform={name_of(self.transform)}"
        return f"Batches({brief(self._on_host)}, batch_size={self.batch_size}{transform}{shuffled})"

    @property
    def sampling(self) -> Sampling:
        """How minibatches are drawn, without the arrays."""
        return Sampling(self.batch_size, self.transform, self.shuffle)

    def first(self, keys: Keys) -> tuple[Any, jax.Array]:
        """Return the batch of the first step of a run with these keys, and the key of its loss."""
        sampling = self.sampling
        permutation = sampling.permutation(self.arrays, keys.shuffle, jnp.int32(0))
        return sampling.draw(self.arrays, permutation, keys.step, jnp.int32(0))

    def minibatch_shapes(self) -> Any:
        """Return the shapes and types of a minibatch before `transform`."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.batch_size, *x.shape[1:]), x.dtype), self.arrays)

    @property
    def examples_per_step(self) -> int:
        """Examples in a step: the batch size, or the length of minibatches that were whole already."""
        first = jax.tree.leaves(self.minibatch_shapes())[0].shape
        return first[1] if self.transform is first_of and len(first) > 1 else self.batch_size

    @property
    def holds_images(self) -> bool:
        """True if examples have two dimensions or more; it only decides how they are named."""
        own = 2 if self.transform is first_of else 1
        return any(len(leaf.shape) - own >= 2 for leaf in jax.tree.leaves(self.minibatch_shapes()))

    @property
    def num_examples(self) -> int:
        """n, the length of the leading axis."""
        return int(jax.tree.leaves(self._on_host)[0].shape[0])

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, the incomplete last one not counted."""
        return self.num_examples // self.batch_size


def _stack_minibatches(minibatches: Any, number: int | None) -> Any:
    """Return arrays whose leading axis counts minibatches."""
    if minibatches is None:
        raise TypeError(
            "batches must be given: lrx.training.Batches((x, y), batch_size=32), or an iterable of batches."
        )
    if isinstance(minibatches, Batches):
        raise TypeError("minibatches must be an iterable or arrays, got a Batches, which needs no stacking.")
    if _is_array(minibatches) or (isinstance(minibatches, tuple | dict) and _all_arrays(minibatches)):
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(minibatches)}
        if len(lengths) != 1 or lengths <= {(), (0,)}:
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves(minibatches)]
            raise ValueError(
                f"batches must have one leading axis that counts batches, got arrays of shapes {shapes}: give "
                "lrx.training.Batches(arrays, batch_size=32) to draw batches from examples."
            )
        return minibatches
    if not isinstance(minibatches, Iterable) or isinstance(minibatches, str):
        raise TypeError(f"batches must be a Batches, arrays or an iterable of batches, got batches={minibatches!r}.")
    # Copies, since a loader may use its arrays again.
    taken = [jax.tree.map(_copy, minibatch) for minibatch in itertools.islice(minibatches, number)]
    if len(taken) < (number or 1):
        raise ValueError(
            f"batches must last for {number or 1} steps, but the iterable ended after {len(taken)}: give more of them, "
            "itertools.cycle(batches), or lrx.training.Batches(arrays, batch_size=32)."
        )
    structures = {
        (jax.tree.structure(batch), tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(batch)))
        for batch in taken
    }
    if len(structures) > 1:
        raise ValueError(
            f"batches must all have the same shapes, got {len(structures)} different ones: drop the incomplete last "
            "batch."
        )
    return jax.tree.map(_stack, *taken)


def _copy(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def _stack(*leaves: Any) -> Any:
    # On the host if all are there, so that no backend starts.
    return (jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np).stack(leaves)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def _all_arrays(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(map(_is_array, leaves))
