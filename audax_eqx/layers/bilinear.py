"""Bilinear maps of an array and a weight that see the batch, so that a gradient is a function of all examples.

A network is written for one example, and `jax.vmap` makes the batch. The gradient of a weight that all examples share
is then a sum over the examples. JAX computes this sum itself for its convolution and its matrix product. A layer may
compute the sum in a faster way: it gives a function to `bilinear`, which makes a primitive of it. All transformations
of JAX work with the primitive.
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
    """A function of one example `x`, a weight, and static hashable options.

    - `forward(x, weight, options)` computes the result of a batch: `x` and the result have a batch axis in front.
    - `input_gradient(gradient, weight, shape, options)` computes the gradient of `x`, which has this shape.
    - `weight_gradient(x, gradient, shape, options)` computes the gradient of the weight, summed over the batch.

    Without a function for a gradient JAX computes it. If each example has its own weight, the examples are computed
    separately, and the function is differentiable in reverse mode only.
    """
    primitive = Primitive(name)
    forward = jax.jit(forward, static_argnums=2)
    differentiate_input = jax.jit(input_gradient or functools.partial(transpose_input, forward), static_argnums=(2, 3))
    differentiate_weight = jax.jit(
        weight_gradient or functools.partial(transpose_weight, forward), static_argnums=(2, 3)
    )

    def run(x: Array, weight: Array, *, options: Hashable) -> Array:
        return forward(x, weight, options)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def run_with_weights(x: Array, weight: Array, options: Hashable) -> Array:
        return forward(x, weight, options)

    def backward(options: Hashable, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        x, weight = inputs
        return (
            differentiate_input(gradient, weight, x.shape, options),
            differentiate_weight(x, gradient, weight.shape, options),
        )

    run_with_weights.defvjp(lambda x, weight, options: (forward(x, weight, options), (x, weight)), backward)

    def infer_shape(x: Any, weight: Any, *, options: Hashable) -> Any:
        return jax.make_jaxpr(functools.partial(run, options=options))(x, weight).out_avals[0]

    def map_batch(arrays: tuple[Array, Array], axes: tuple[Any, Any], *, options: Hashable):
        (x, weight), (x_axis, weight_axis) = arrays, axes
        if weight_axis is not None:
            return jax.vmap(lambda x, weight: run_with_weights(x, weight, options), axes)(x, weight), 0
        x = jnp.moveaxis(x, x_axis, 0)
        outer, inner = x.shape[:2]
        if inner == 1:  # the usual case, in which a mesh with Explicit axes would refuse the reshape below
            return primitive.bind(x[:, 0], weight, options=options)[:, None], 0
        y = primitive.bind(x.reshape(outer * inner, *x.shape[2:]), weight, options=options)
        return y.reshape(outer, inner, *y.shape[1:]), 0

    def pull_back_input(gradient: Array, x: Any, weight: Array, *, options: Hashable) -> Array:
        return differentiate_input(gradient, weight, x.aval.shape, options)

    def pull_back_weight(gradient: Array, x: Array, weight: Any, *, options: Hashable) -> Array:
        shape = weight.aval.shape
        return sum_by_share(lambda x, gradient: differentiate_weight(x, gradient, shape, options), x, gradient)

    primitive.def_impl(run)
    primitive.def_abstract_eval(infer_shape)
    batching.primitive_batchers[primitive] = map_batch
    ad.defbilinear(primitive, pull_back_input, pull_back_weight)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))

    def run_example(x: Array, weight: Array, options: Hashable) -> Array:
        if portable.value:
            return forward(x[None], weight, options)[0]
        # In `shard_map` devices have different examples, but the same weight.
        if axes := tuple(_varying_axes(x) - _varying_axes(weight)):
            weight = jax.lax.pcast(weight, axes, to="varying")
        return primitive.bind(x[None], weight, options=options)[0]

    return run_example


def transpose_input(
    forward: Forward, gradient: Array, weight: Array, shape: tuple[int, ...], options: Hashable
) -> Array:
    """The gradient of the input, computed by JAX."""
    x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda x: forward(x, weight, options), x)(gradient)[0]


def transpose_weight(forward: Forward, x: Array, gradient: Array, shape: tuple[int, ...], options: Hashable) -> Array:
    """The gradient of the weight, computed by JAX."""
    weight = jax.ShapeDtypeStruct(shape, gradient.dtype)
    return jax.linear_transpose(lambda weight: forward(x, weight, options), weight)(gradient)[0]


def _varying_axes(x: Array) -> frozenset:
    """The axes of the mesh along which devices have different values."""
    kind = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma  # the attribute's name depends on JAX's version
