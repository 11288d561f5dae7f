"""The paths of attention on CPU and elsewhere give the same, and cuDNN's is taken on GPUs that have it."""

import functools
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from audax_eqx.layers import Attention
from audax_eqx.layers import attention as attention_module

HEADS, SIZE = 3, 8


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def error(x, reference):
    x, reference = (np.asarray(y, np.float64) for y in (x, reference))
    return np.max(np.abs(x - reference)) / np.max(np.abs(reference))


@pytest.mark.parametrize(("biased", "gated"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("length", [None, 9, 2])
def test_paths_agree_forward_and_backward(monkeypatch, length, biased, gated):
    heads = [noise(13, HEADS, SIZE, seed=seed) for seed in range(3)]
    bias = noise(HEADS, 13, 13, seed=3) if biased else None
    gates = noise(HEADS, 13, seed=4) if gated else None
    probe = noise(13, HEADS, SIZE, seed=5)

    @functools.partial(jax.jit, static_argnums=0)
    def outcome(path, *arguments):
        y, pullback = jax.vjp(lambda *arguments: path(*arguments, length=length), *arguments)
        return y, pullback(probe)

    by_xla = functools.partial(jax.nn.dot_product_attention)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *xs, implementation="xla", **options: by_xla(*xs, **options)
    )
    paths = [attention_module._at_once] if biased else [attention_module._at_once, attention_module._by_cudnn]
    reference = jax.tree.leaves(outcome(attention_module._by_heads, *heads, bias, gates))
    assert len(reference) == 4 + biased + gated
    for path in paths:
        for x, y in zip(jax.tree.leaves(outcome(path, *heads, bias, gates)), reference, strict=True):
            assert error(x, y) < 1e-5


@pytest.fixture
def gpus(monkeypatch):
    """A list of GPUs that JAX finds, at first one, with cuDNN: enough to lower a program for CUDA."""
    from jax._src.cudnn import fused_attention_stablehlo

    found = [types.SimpleNamespace(compute_capability="9.0")]
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(jax, "local_devices", lambda backend: found)
    attention_module._cudnn_takes.cache_clear()
    yield found
    attention_module._cudnn_takes.cache_clear()


def program(function, *arguments):
    """What XLA is given for CUDA."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in arguments]
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def attend(x, length=None):
    return attention_module._attend_by_head(x, x, x, None, None, length)


@pytest.mark.parametrize("tokens", [20, 21])
@pytest.mark.parametrize("lengths", [None, 0, 1])
def test_on_a_gpu_batches_go_through_cudnn_alone(gpus, lengths, tokens):
    clips = ((4, tokens, HEADS, SIZE), jnp.bfloat16)
    arguments = (clips,) if lengths is None else (clips, ((4,) * lengths, jnp.int32))
    axes = (0,) if lengths is None else (0, 0 if lengths else None)  # a length each, or one for all
    forward = jax.vmap(attend, axes)

    def loss(x, *lengths):
        return jnp.sum(forward(x, *lengths).astype(jnp.float32))

    texts = program(forward, *arguments), program(jax.grad(loss), *arguments)
    assert all("cudnn$fmha" in text and "dot_general" not in text for text in texts)
    assert "Backward" in texts[1]


def test_on_several_gpus_a_share_goes_through_cudnn(gpus):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(jax.vmap(attend), mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    assert "cudnn$fmha" in program(spread, ((4, 21, HEADS, SIZE), jnp.bfloat16))


@pytest.mark.parametrize(
    ("dtype", "size", "capability"), [("float32", 8, "9.0"), ("bfloat16", 12, "9.0"), ("bfloat16", 8, "7.5")]
)
def test_what_cudnn_does_not_take_goes_through_xla(gpus, dtype, size, capability):
    gpus[0].compute_capability = capability
    text = program(jax.vmap(attend), ((4, 21, HEADS, size), jnp.dtype(dtype)))
    assert "cudnn" not in text and "dot_general" in text


def test_attention_with_a_bias_keeps_its_scores(gpus):
    attention = eqx.filter_eval_shape(Attention, 24, HEADS, gate="input", key=jax.random.key(0))
    attention = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), attention)
    bias = jnp.zeros((HEADS, 21, 21), jnp.bfloat16)
    text = program(lambda x: attention(x, bias=bias), ((21, 24), jnp.bfloat16))
    assert "cudnn" not in text
