"""Rates and their algebra: an update is a direction times a rate.

A rate is a gradient transformation whose core is two pure functions. One returns the factor before any feedback and
the initial memory. The other maps the memory and the feedback of a step to the factor of this step and the next memory.
Rates multiply: a product runs the cores of its factors side by side.

    Schedule     a rate from the step alone; also callable, `schedule(count)`
    Controller   a factor >= 0 from feedback, which starts at 1 and never applies a sign
    Rate         anything that can end a chain: a schedule, or a product with one

The state of each shows the rate that the latest update used, so that it can be read, logged and checkpointed.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks, figures
from lrx._leaf_factors import note_start
from lrx._leaves import descend, require_known_types, scale_tree
from lrx._numbers import ArrayLike, as_count, is_number, vectorize
from lrx._paths import named_leaves
from lrx.states import FactorState, Memory, RateState
from lrx.transformations import Built, factory, write

TransformT = TypeVar("TransformT")


class Feedback(NamedTuple):
    """The inputs of a rate in one update."""

    count: jax.Array  # type: ignore[assignment]  # () int32: the step, 0 in the first update
    updates: Any = None  # the incoming gradients or direction
    params: Any = None  # the parameters before this update, None if the caller passes none
    extra_args: Mapping[str, Any] = {}
    interval: jax.Array | int = 1  # () int32: updates between the latest loss and this one, if losses are observed


class Core(NamedTuple):
    """The two pure functions that a factor of a rate consists of."""

    init: Callable[[Any], tuple[jax.Array, Memory]]  # params -> (factor before any feedback, memory)
    update: Callable[[Memory, Feedback], tuple[jax.Array, Memory]]  # -> (factor of this step, next memory)


def _multiply(left: Any, right: Any) -> Any:
    return left * right


def _divide(left: Any, right: Any) -> Any:
    return left / right


def _multiplier(schedule: Schedule) -> Controller:
    return schedule.multiplier()


def _refuse_arithmetic(self: Any, other: Any) -> Any:
    raise TypeError(
        f"a {type(self).__name__} is combined by `*` only, and divided by numbers, got {self!r} and {other!r}: a rate "
        "is a product of factors. For one schedule after another use join or warmup."
    )


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optax import GradientTransformationExtraArgs as _Base
else:
    _Base = object


class _Factor(Built, _Base):
    """The base of rates and controllers: cores that run side by side, in an object that optax and JAX accept.

    Optax's transformations are NamedTuples. A factor behaves like one without being one, and each trick below answers
    something that optax, JAX or NumPy does. The tests are in tests/test_*.py.

    | trick | what breaks without it | test |
    |---|---|---|
    | not a tuple | `jax.jit(schedule)`: JAX keeps weak references to functions, and a tuple allows none | a_schedule_is_a_function_for_jax |
    | `__class__` is optax's | `isinstance(rate, optax.GradientTransformation)`, which optax's wrappers ask | a_rate_is_two_pure_functions |
    | `__iter__`, `__len__`, `__getitem__` | `init, update = rate`, which `optax.chain` does | a_factor_unpacks |
    | `_replace` | a wrapper that replaces one of the two functions | a_factor_unpacks |
    | `register_static` | a rate as an argument of a compiled function, or as a leaf of a tree | a_factor_passes_through_jax |
    | `__eq__`, `__hash__` of the call (`Built`) | equal rates compile the same program again | equality_is_that_of_the_arguments |
    | `__array_ufunc__ = None` | `np.float32(0.5) * rate` makes an array of objects | numbers_multiply_from_both_sides |
    | operators that raise | `rate + rate` fails far from where it was written | the_arithmetic_of_the_tuple_underneath |
    | `-1 * rate` raises | `optax.sgd(controller)` takes it for a number and negates it | a_rate_with_feedback_in_an_optax_optimizer |
    | `Schedule.init()`, `.update(state)`, `(state)` | `inject_hyperparams` asks a stateful schedule in this way | schedule_serves_optax_s_stateful_schedule |
    """  # noqa: E501

    init: Callable[..., Any]
    update: Callable[..., Any]
    cores: tuple[Core, ...]
    peak: ArrayLike | None  # the largest value that it can reach without feedback; None if that is not known

    @classmethod
    def _of(
        cls,
        init: Callable[..., Any],
        update: Callable[..., Any],
        cores: tuple[Core, ...],
        peak: ArrayLike | None,
    ) -> Any:
        self = object.__new__(cls)
        self.init, self.update, self.cores, self.peak = init, update, cores, peak
        return self

    if not TYPE_CHECKING:  # type checkers know it from the base class

        @property
        def __class__(self) -> type:
            return optax.GradientTransformationExtraArgs

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init, self.update))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (self.init, self.update)[index]

    def _replace(self, **functions: Any) -> optax.GradientTransformationExtraArgs:
        return optax.GradientTransformationExtraArgs(*self)._replace(**functions)

    def duplicate(self) -> Any:
        """Return a copy, which will remember another call."""
        return type(self)._of(self.init, self.update, self.cores, self.peak)

    # A NumPy scalar on the left would otherwise take the two functions for an array of objects.
    __array_ufunc__ = None

    __add__ = __radd__ = __sub__ = __rsub__ = __rtruediv__ = _refuse_arithmetic
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = (
        _refuse_arithmetic
    )
    __lt__ = __le__ = __gt__ = __ge__ = _refuse_arithmetic

    def __neg__(self) -> Any:
        raise TypeError(f"a rate is never negative, got -({self!r}): the sign is applied once, where a chain ends.")

    def __mul__(self, other: Any) -> Any:
        return _product(self, _as_factor(other))

    def __rmul__(self, other: Any) -> Any:
        # Optax multiplies a number by -1 to descend.
        if not isinstance(self, Schedule) and is_number(other) and _checks.is_concrete(other) and np.all(other == -1):
            raise TypeError(
                f"learning_rate must be a number or a function of the step in an optax optimizer, got {self!r}, which "
                "follows feedback: use an lrx optimizer, lrx.adam(rate), or end the chain with it, "
                "optax.chain(optax.scale_by_adam(), rate)."
            )
        return _product(_as_factor(other), self)

    def __truediv__(self, other: Any) -> Any:
        return _quotient(self, other) if is_number(other) else _refuse_arithmetic(self, other)

    def _start(self, params: Any) -> tuple[jax.Array, tuple[Memory, ...]]:
        require_known_types(params)
        first = [core.init(params) for core in self.cores]
        # Copied, so that no leaf shares its buffer with a memory or a hyperparameter: the whole state can be donated.
        return jnp.array(_product_of([factor for factor, _ in first])), tuple(memory for _, memory in first)

    def _advance(self, memories: tuple[Memory, ...], feedback: Feedback) -> tuple[jax.Array, tuple[Memory, ...]]:
        pairs = [core.update(memory, feedback) for core, memory in zip(self.cores, memories, strict=True)]
        return jnp.array(_product_of([factor for factor, _ in pairs])), tuple(memory for _, memory in pairs)


def _product_of(factors: list[jax.Array]) -> jax.Array:
    rate = jnp.asarray(factors[0], jnp.float32)
    for factor in factors[1:]:
        rate = rate * jnp.asarray(factor, jnp.float32)
    return rate


@jax.tree_util.register_static
class Rate(_Factor):
    """A learning rate as a gradient transformation.

    As the last link of a chain it multiplies the incoming direction by `-rate`. As the `learning_rate` of an lrx
    optimizer it acts where the paper puts it, for example inside a velocity. Schedules are rates, and so are products
    of a schedule and a controller. An optimizer asks for the rate of a step with `init_rate` and `next_rate`.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> rate = lrx.cosine_decay(0.1, 100) * lrx.reduce_on_plateau(patience=5)
      >>> tx = lrx.heavy_ball(rate)
      >>> state = tx.init(jnp.zeros(3))
      >>> updates, state = tx.update(jnp.ones(3), state, jnp.zeros(3), value=1.0)
      >>> print(lrx.learning_rate(state))
      0.1
    """

    def init_rate(self, params: Any = None) -> RateState:
        """Return the initial state; factors whose memory has the parameters' shape need `params`."""
        rate, memories = self._start(params)
        count, step = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        note_start(count, lambda: {path: "" for path, _ in named_leaves(params)})
        return RateState(count, step, rate, jnp.array(rate), jnp.ones([], jnp.float32), memories)

    def next_rate(
        self, state: RateState, *, updates: Any = None, params: Any = None, **extra_args: Any
    ) -> tuple[jax.Array, RateState]:
        """Return the rate of this step, () float32, and the next state, given the feedback of the step."""
        feedback = Feedback(state.step, updates, params, extra_args)
        unscaled, memories = self._advance(state.memories, feedback)
        rate = unscaled * state.scale
        count, step = optax.safe_increment(state.count), optax.safe_increment(state.step)
        return rate, RateState(count, step, rate, unscaled, state.scale, memories)

    @classmethod
    def from_cores(cls, cores: tuple[Core, ...], *, peak: ArrayLike | None = None) -> Rate:
        """Build a rate as the product of cores; `@factory` records the call that made it."""

        def init(params: Any) -> RateState:
            return self.init_rate(params)

        def update(updates: Any, state: RateState, params: Any = None, **extra_args: Any) -> tuple[Any, RateState]:
            rate, state = self.next_rate(state, updates=updates, params=params, **extra_args)
            return descend(updates, rate, extra_args), state

        self: Rate = cls._of(init, update, cores, peak)
        return self


@jax.tree_util.register_static
class Schedule(Rate):
    """A rate from the step alone: a gradient transformation and a function of the step at once.

    As the last link of a chain it applies the minus sign. `multiplier()` is the link without a sign. The same object
    goes into `lrx.adam(schedule)`, `optax.chain(..., schedule)`, `optax.adamw(schedule)` and
    `optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)`. The factories of `lrx.schedules` make schedules,
    and `Schedule(function)` makes one from any function of the step. Its `repr` rebuilds it, and it pickles. Its `peak`
    is the largest rate that it can reach, or None if that is not known: for a function of your own, and for a product
    of two schedules that both vary.

    JAX accepts it as a function, in `jax.jit(schedule)`, `jax.vmap(schedule)` and
    `jax.lax.switch(i, schedules, step)`, and as an argument of compiled functions.

    Args:
      function: maps a step, () int32, to the rate of that step, with JAX operations only.

    Raises:
      TypeError: if `function` does not map a traced step to one real number.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> schedule = lrx.linear_decay(0.1, decay_steps=4)
      >>> print(schedule(jnp.arange(6)))
      [0.1   0.075 0.05  0.025 0.    0.   ]
      >>> schedule * 0.5
      linear_decay(0.1, 4) * 0.5
    """

    function: Callable[[jax.Array], jax.Array]

    def __new__(cls, function: Callable[[jax.Array], Any]) -> Schedule:
        self = cls.of_counts(vectorize(function))
        self.remember(cls, {"function": function})
        return self

    @classmethod
    def of_counts(cls, function: Callable[[jax.Array], Any], *, peak: ArrayLike | None = None) -> Schedule:
        """Build a schedule from a function of counts of any shape; `@factory` records the call that made it."""

        def rate_at(count: jax.Array) -> jax.Array:
            # The result of a function that ignores the step, such as a constant's, is broadcast to all steps.
            rate = jnp.asarray(function(count), jnp.float32)
            return jnp.broadcast_to(rate, jnp.broadcast_shapes(jnp.shape(count), rate.shape))

        core = Core(
            init=lambda _params: (rate_at(jnp.zeros([], jnp.int32)), ()),
            update=lambda memory, feedback: (rate_at(feedback.count), memory),
        )

        # Optax calls `init()`, `update(state)` and `__call__(state)` of a stateful schedule: the names are the same, so
        # the arguments decide which is meant.
        def init(params: Any = None) -> RateState:
            return self.init_rate(params)

        def update(updates: Any, state: Any = None, params: Any = None, **extra_args: Any) -> Any:
            if isinstance(updates, RateState) and state is None:
                return self.next_rate(updates)[1]
            rate, state = self.next_rate(state, updates=updates, params=params, **extra_args)
            return descend(updates, rate, extra_args), state

        self: Schedule = cls._of(init, update, (core,), peak)
        self.function = rate_at
        return self

    def __call__(self, count: ArrayLike | Sequence[Any] | RateState, **extra_args: Any) -> jax.Array:
        """Return the rate at a step, or at each of several, as float32.

        For a single step a compiled function is called: a few microseconds after the first call.

        Args:
          count: the step, an integer, or steps: an array of integers, a list or a range. Steps below 0 have the rate of
            step 0. Optax may also pass a state of the schedule.

        Returns:
          The rate, () float32, or rates in the shape of the steps. It is always a JAX array;
          `float(schedule(step))` is the number for a logger.

        Raises:
          TypeError: for a step that is not an integer.
        """
        del extra_args
        if isinstance(count, RateState):
            return self.function(count.step) * count.scale
        if type(count) is int or isinstance(count, np.integer):
            return self._at(np.int32(min(max(int(count), 0), _checks.INT32_MAX)))
        counts = as_count(count)
        # A long curve is worth compiling; a short one is not.
        return (self._at if counts.ndim == 0 or counts.size >= 2**16 else self.function)(counts)

    @functools.cached_property
    def _at(self) -> Callable[[Any], jax.Array]:
        """Return the function of int32 counts, compiled unless it is traced; equal schedules share the program."""
        if self.is_traced:
            return self.function
        return _compile(self) if self.by_value else jax.jit(self.function)

    def duplicate(self) -> Schedule:
        """Return a copy, which will remember another call."""
        copy: Schedule = super().duplicate()
        copy.function = self.function
        return copy

    def plot(self, num_steps: int, *, axes: Axes | None = None) -> Figure:
        """Draw the rate over the first steps.

        Args:
          num_steps: number of steps, from step 0 on, >= 1.
          axes: where to draw, to compare several schedules; by default in a new figure.

        Returns:
          The figure, which a notebook shows and `figure.savefig("rate.png")` writes.

        Raises:
          ValueError: if `num_steps` is not a whole number >= 1.
          ImportError: if matplotlib is not installed.

        Example:
          >>> import lrx
          >>> figure = lrx.warmup(lrx.cosine_decay(0.1, 900), 100).plot(1000)
          >>> _ = lrx.step_decay(0.1, 250).plot(1000, axes=figure.axes[0])
          >>> [curve.get_label() for curve in figure.axes[0].lines]
          ['warmup(cosine_decay(0.1, 900), 100)', 'step_decay(0.1, 250)']
        """
        _checks.steps("num_steps", num_steps)
        if axes is None:
            _, (axes,) = figures.panels(size=(8.0, 4.0))
        # More points than pixels show nothing more; few steps are all drawn.
        counts = np.unique(np.linspace(0, int(num_steps) - 1, min(int(num_steps), 20_000)).astype(np.int64))
        axes.plot(counts, np.asarray(self(counts)), label=textwrap.shorten(repr(self), 110), lw=1.6)
        axes.set(xlabel="step", ylabel="learning rate")
        axes.autoscale(axis="y")  # again, where there were curves before
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
        figure: Figure = axes.figure  # type: ignore[assignment]
        return figure

    def multiplier(self) -> Controller:
        """Return the unsigned link, which multiplies by the schedule's value and applies no sign.

        Example:
          >>> import lrx, optax
          >>> tx = optax.chain(lrx.warmup(1.0, 10).multiplier(), optax.adam(1e-3))
        """
        text = f"({self!r})" if self.factory in (_multiply, _divide) else repr(self)
        link = Controller.from_cores(self.cores, peak=self.peak)
        link.remember(_multiplier, {"schedule": self}, f"{text}.multiplier()")
        return link


@functools.lru_cache(maxsize=128)
def _compile(schedule: Schedule) -> Callable[[Any], jax.Array]:
    return jax.jit(schedule.function)


@jax.tree_util.register_static
class Controller(_Factor):
    """A factor >= 0 that starts at 1 and comes from feedback; it never applies a sign.

    Alone in a chain it multiplies the incoming updates. `schedule * controller` is a `Rate`, and
    `controller * controller` is a `Controller`. The factories of `lrx.controllers` make controllers,
    `lrx.feedback.controller` makes one of your own, and `schedule.multiplier()` is one.

    Example:
      >>> import lrx, optax
      >>> tx = optax.chain(optax.adam(1e-3), lrx.reduce_on_plateau(patience=5))
    """

    @classmethod
    def from_cores(cls, cores: tuple[Core, ...], *, peak: ArrayLike | None = 1.0) -> Controller:
        """Build a controller as the product of cores; `@factory` records the call that made it."""

        def init(params: Any) -> FactorState:
            factor, memories = self._start(params)
            count = jnp.zeros([], jnp.int32)
            note_start(count, lambda: {path: "" for path, _ in named_leaves(params)})
            return FactorState(count, jnp.zeros([], jnp.int32), factor, memories)

        def update(updates: Any, state: FactorState, params: Any = None, **extra_args: Any) -> tuple[Any, FactorState]:
            feedback = Feedback(state.step, updates, params, extra_args)
            factor, memories = self._advance(state.memories, feedback)
            count, step = optax.safe_increment(state.count), optax.safe_increment(state.step)
            return scale_tree(updates, factor), FactorState(count, step, factor, memories)

        self: Controller = cls._of(init, update, cores, peak)
        return self


def _as_factor(value: Any) -> _Factor:
    """Return a factor of a product as a rate or a controller; a number becomes a constant."""
    if isinstance(value, _Factor):
        return value
    if not is_number(value):
        raise TypeError(
            f"factor must be a number, a Schedule, a Rate or a Controller, got factor={value!r}: make a "
            "schedule of a function with lrx.Schedule(function), put other transformations beside it with optax.chain."
        )
    _checks.non_negative("factor", value, "a rate is never negative")
    return constant(value)


def _product(left: _Factor, right: _Factor) -> Any:
    """Multiply two factors; the kind of the product follows from the kinds of the two."""

    def written(factor: _Factor) -> str:
        return write(factor.arguments["value"]) if factor.factory is constant else repr(factor)

    # A constant is written as a number, unless both factors are constants: the text would then multiply two numbers.
    # Parentheses keep the order of multiplication, and with it the last bit.
    first = repr(left) if left.factory is right.factory is constant else written(left)
    second = f"({right!r})" if right.factory in (_multiply, _divide) else written(right)
    text = f"{first} * {second}"
    arguments = {"left": left, "right": right}
    # Two schedules that vary may peak at different times; the product of one with constants peaks where it does.
    known = left.peak is not None and right.peak is not None and (_is_steady(left) or _is_steady(right))
    peak = left.peak * right.peak if known else None  # type: ignore[operator]
    product: _Factor
    if isinstance(left, Schedule) and isinstance(right, Schedule):
        f, g = left.function, right.function
        product = Schedule.of_counts(lambda count: f(count) * g(count), peak=peak)
    else:
        kind = Rate if isinstance(left, Rate) or isinstance(right, Rate) else Controller
        product = kind.from_cores(left.cores + right.cores, peak=peak)
    product.remember(_multiply, arguments, text)
    return product


def _quotient(factor: _Factor, divisor: Any) -> Any:
    """Multiply by the reciprocal of a number."""
    _checks.at_least("divisor", divisor, 1e-38, "a rate is finite and never negative")
    reciprocal = 1 / float(divisor) if _checks.is_concrete(divisor) else 1 / jnp.asarray(divisor, jnp.float32)
    quotient = _product(factor, constant(reciprocal))
    quotient.remember(_divide, {"left": factor, "right": divisor}, f"{factor!r} / {write(divisor)}")
    return quotient


def _is_steady(factor: _Factor) -> bool:
    """Return whether a factor is constant, apart from feedback."""
    if factor.factory is _multiply:
        return all(_is_steady(part) for part in factor.arguments.values())
    if factor.factory is _divide:
        return _is_steady(factor.arguments["left"])
    if factor.factory is _multiplier:
        return _is_steady(factor.arguments["schedule"])
    return factor.factory is constant or isinstance(factor, Controller)


def largest(*values: ArrayLike | None) -> ArrayLike | None:
    """Return the largest of several peaks; None if one of them is not known."""
    if any(value is None for value in values):
        return None
    if all(_checks.is_concrete(value) for value in values):
        return max(float(value) for value in values)  # type: ignore[arg-type]
    return functools.reduce(jnp.maximum, [jnp.asarray(value, jnp.float32) for value in values])


@factory
def constant(value: ArrayLike) -> Schedule:
    """Keep the rate at one value.

    The update is `alpha_t = alpha`. A float given as the `learning_rate` of an optimizer becomes this, so that a
    constant rate can be read, scaled and checkpointed like every other.

    Args:
      value: the rate alpha, >= 0, () float; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `value` is negative, not finite, or not a scalar.
      TypeError: if `value` is not a number.

    Source:
      A. Cauchy, "Méthode générale pour la résolution des systèmes d'équations simultanées", 1847: the fixed step.

    Example:
      >>> import lrx
      >>> lrx.constant(0.1)
      constant(0.1)
      >>> print(lrx.constant(0.1)(1_000_000))
      0.1
    """
    _checks.non_negative("value", value, "a rate is never negative")
    return Schedule.of_counts(
        lambda count: jnp.broadcast_to(jnp.asarray(value, jnp.float32), jnp.shape(count)), peak=value
    )
