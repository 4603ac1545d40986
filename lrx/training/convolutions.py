"""Convolutions that stay fast inside of a compiled loop on the CPU.

XLA's CPU compiler has a fast convolution for one layout, channels last, and converts others to it only outside of
loops. The gradient with respect to a kernel comes in another layout: inside of a loop it then runs 50 to 100 times
slower (jax issue 12868). So the layout is changed here, where the step becomes a jaxpr, at no cost: these are the
transpositions that the compiler would make outside of a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core


def trace_once(function: Callable[..., Any], *arguments: Any, channels_last: bool) -> tuple[Callable[..., Any], Any]:
    """Trace a function once.

    Args:
      function: takes and returns pytrees of arrays.
      *arguments: arrays, tracers or their shapes.
      channels_last: convert the convolutions to the CPU's layout.

    Returns:
      The function, which can be called any number of times without being traced again, and the shapes of its output.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    if channels_last:
        closed = _rewrite(closed)
    flat = core.jaxpr_as_fun(closed)
    structure = jax.tree.structure(shapes)
    return lambda *values: jax.tree.unflatten(structure, flat(*jax.tree.leaves(values))), shapes


def work_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Return about how many arithmetic operations a function makes; infinite if it convolves.

    Args:
      function: takes and returns pytrees of arrays.
      *arguments: arrays, tracers or their shapes.
    """
    return _work(jax.make_jaxpr(function)(*arguments).jaxpr)


def _work(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive is core.primitives.conv_general_dilated_p:
            return math.inf
        inner = [x for value in equation.params.values() for x in (value if isinstance(value, tuple) else (value,))]
        bodies = [getattr(x, "jaxpr", x) for x in inner if isinstance(x, core.ClosedJaxpr | core.Jaxpr)]
        if bodies:
            total += sum(map(_work, bodies)) * equation.params.get("length", 1)
            continue
        shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
        each = max(map(math.prod, shapes), default=1)
        if equation.primitive is core.primitives.dot_general_p:
            contracted = equation.params["dimension_numbers"][0][0]
            each = math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in contracted)
        total += each
    return total


def _channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    spatial = range(1, ndim - 1)
    images = (0, ndim - 1, *spatial)
    return lax.ConvDimensionNumbers(images, (ndim - 1, ndim - 2, *range(ndim - 2)), images)


def _move(x: jax.Array, source: Sequence[int], target: Sequence[int]) -> jax.Array:
    """Transpose so that axis source[i] becomes axis target[i]."""
    axes = dict(zip(target, source, strict=True))
    return x.transpose([axes[axis] for axis in range(x.ndim)])


def _rewrite(jaxpr: Any) -> Any:
    """Return a jaxpr, or any other parameter of an equation, with every convolution in it channels last."""
    if isinstance(jaxpr, core.ClosedJaxpr) and jaxpr.jaxpr is not jaxpr:  # from jax 0.12 on, both are one class
        return jaxpr.replace(jaxpr=_rewrite(jaxpr.jaxpr))
    if isinstance(jaxpr, tuple):
        return (
            tuple(map(_rewrite, jaxpr)) if any(isinstance(x, core.ClosedJaxpr | core.Jaxpr) for x in jaxpr) else jaxpr
        )
    if not isinstance(jaxpr, core.Jaxpr):
        return jaxpr
    equations = []
    for equation in jaxpr.eqns:
        if equation.primitive is core.primitives.conv_general_dilated_p:
            equations.append(_channels_last_equation(equation))
        else:
            params = {name: _rewrite(value) for name, value in equation.params.items()}
            equations.append(equation.replace(params=params))
    return jaxpr.replace(eqns=equations)


def _channels_last_equation(equation: Any) -> Any:
    params = dict(equation.params)
    given = params.pop("dimension_numbers")
    wanted = _channels_last(equation.outvars[0].aval.ndim)
    if given == wanted:
        return equation

    @jax.jit  # makes it a single equation, which the compiler inlines
    def convolution(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        lhs = _move(lhs, given.lhs_spec, wanted.lhs_spec)
        rhs = _move(rhs, given.rhs_spec, wanted.rhs_spec)
        out = core.primitives.conv_general_dilated_p.bind(lhs, rhs, dimension_numbers=wanted, **params)
        return _move(out, wanted.out_spec, given.out_spec)

    shapes = [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in equation.invars]
    (called,) = jax.make_jaxpr(convolution)(*shapes).jaxpr.eqns
    return called.replace(invars=equation.invars, outvars=equation.outvars)
