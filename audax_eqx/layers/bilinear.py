"""Bilinear maps of an array and a weight that know their batch, so that a gradient is a function of all examples.

A network is written for one example, and `jax.vmap` makes the batch. The gradient of a weight that all examples share
is then a sum over them. JAX knows this of its own convolution and matrix product; here a layer says how to compute the
sum where another way is faster, and all transformations of JAX hold as for a primitive of its own.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from .._portable import portable
from .._sharding import sum_by_share

Forward = Callable[[Array, Array, Any], Array]
Gradient = Callable[[Array, Array, tuple[int, ...], Any], Array]


def bilinear(
    name: str, forward: Forward, *, input_gradient: Gradient | None = None, weight_gradient: Gradient | None = None
) -> Forward:
    """The map of one example `x`, a weight and options that are static and hashable.

    - `forward(x, weight, options)` takes `x` with one axis in front for the batch and gives the result with one.
    - `input_gradient(gradient, weight, shape, options)` gives the gradient of `x`, of that shape.
    - `weight_gradient(x, gradient, shape, options)` gives the gradient of the weight, summed over the batch.

    A gradient is JAX's own unless given. Where each example has a weight of its own, the examples go one by one, and
    the map is differentiable in reverse mode alone.
    """
    primitive = Primitive(name)
    forward = jax.jit(forward, static_argnums=2)
    of_input = jax.jit(input_gradient or functools.partial(transposed_input, forward), static_argnums=(2, 3))
    of_weight = jax.jit(weight_gradient or functools.partial(transposed_weight, forward), static_argnums=(2, 3))

    def lowered(x: Array, weight: Array, *, options: Hashable) -> Array:
        return forward(x, weight, options)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def own_weight(x: Array, weight: Array, options: Hashable) -> Array:
        return forward(x, weight, options)

    def backward(options: Hashable, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        x, weight = inputs
        return of_input(gradient, weight, x.shape, options), of_weight(x, gradient, weight.shape, options)

    own_weight.defvjp(lambda x, weight, options: (forward(x, weight, options), (x, weight)), backward)

    def shape(x: Any, weight: Any, *, options: Hashable) -> Any:
        return jax.make_jaxpr(functools.partial(lowered, options=options))(x, weight).out_avals[0]

    def mapped(arrays: tuple[Array, Array], axes: tuple[Any, Any], *, options: Hashable):
        (x, weight), (x_axis, weight_axis) = arrays, axes
        if weight_axis is not None:
            return jax.vmap(lambda x, weight: own_weight(x, weight, options), axes)(x, weight), 0
        x = jnp.moveaxis(x, x_axis, 0)
        outer, inner = x.shape[:2]
        if inner == 1:  # the usual case; a mesh with Explicit axes would refuse to make one axis of two
            return primitive.bind(x[:, 0], weight, options=options)[:, None], 0
        y = primitive.bind(x.reshape(outer * inner, *x.shape[2:]), weight, options=options)
        return y.reshape(outer, inner, *y.shape[1:]), 0

    def to_input(gradient: Array, x: Any, weight: Array, *, options: Hashable) -> Array:
        return of_input(gradient, weight, x.aval.shape, options)

    def to_weight(gradient: Array, x: Array, weight: Any, *, options: Hashable) -> Array:
        shape = weight.aval.shape
        return sum_by_share(lambda x, gradient: of_weight(x, gradient, shape, options), x, gradient)

    primitive.def_impl(lowered)
    primitive.def_abstract_eval(shape)
    batching.primitive_batchers[primitive] = mapped
    ad.defbilinear(primitive, to_input, to_weight)
    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=False))

    def of_example(x: Array, weight: Array, options: Hashable) -> Array:
        if portable.value:
            return forward(x[None], weight, options)[0]
        if shared := tuple(_varying(x) - _varying(weight)):  # in `shard_map`, where devices differ in their examples
            weight = jax.lax.pcast(weight, shared, to="varying")
        return primitive.bind(x[None], weight, options=options)[0]

    return of_example


def transposed_input(
    forward: Forward, gradient: Array, weight: Array, shape: tuple[int, ...], options: Hashable
) -> Array:
    """JAX's own gradient of the input."""
    x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda x: forward(x, weight, options), x)(gradient)[0]


def transposed_weight(forward: Forward, x: Array, gradient: Array, shape: tuple[int, ...], options: Hashable) -> Array:
    """JAX's own gradient of the weight."""
    weight = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda weight: forward(x, weight, options), weight)(gradient)[0]


def _varying(x: Array) -> frozenset:
    """The axes of the mesh along which devices have different values."""
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma  # the attribute's name depends on JAX's version
