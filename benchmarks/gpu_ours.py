"""Our side of `gpu.py`: training steps, networks, frontends and depthwise convolutions."""

import contextlib
import functools
import math
import sys
import time
import types

from gpu_depthwise import roads
from gpu_models import BATCH, CLASSES, CLIP, FRONTENDS, PEERED, ROUNDS, TRAIN
from gpu_worker import calls, clocked, one_line

ABSENT = ("soundfile", "soxr", "msgpack")  # `zoo` imports them for files, and there are no files here


class StandIn(types.ModuleType):
    """A module whose every public name is an empty class, which will do for annotations."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def flops(jaxpr) -> float:
    """Operations of the convolutions and matrix products in a jaxpr; of a choice by platform, the branch with most."""
    import jax

    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
        elif name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "cond":
            total += max(map(flops, parameters["branches"]))
        elif set(parameters) == {"options"}:  # a layer of ours, `audax_eqx.layers.bilinear`
            inputs = [variable.aval for variable in equation.invars]
            total += flops(jax.make_jaxpr(functools.partial(equation.primitive.impl, **parameters))(*inputs))
        else:
            inner = [value for value in parameters.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
            total += parameters.get("length", 1) * sum(map(flops, inner)) if inner else 0
    return total


def ours():
    """What is known of the device, and the work that can be asked for, by name."""
    for name in ABSENT:
        sys.modules.setdefault(name, StandIn(name))

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import zoo
    from audax_eqx import frontends, models, networks
    from train.objectives import DEVICES, Augment, Examples, Supervised
    from train.recipe import Data, Model, Optimizer, Recipe, Run
    from train.step import begin, make_step, mesh

    device, rng = jax.devices()[0], np.random.default_rng(0)
    pool = rng.normal(scale=3000, size=(min(BATCH, 256), round(CLIP * 16000))).astype(np.int16)
    pace = 0.05 if "--small" in sys.argv else 0.5  # seconds of a round

    def on_host():
        """Weights are drawn on the CPU: on a GPU each shape would compile a program of its own."""
        with contextlib.suppress(RuntimeError):
            return jax.default_device(jax.local_devices(backend="cpu")[0])
        return contextlib.nullcontext()

    def options(description):
        return {name: value for name, value in description.items() if name != "type"}

    def noise(*shape, dtype=jnp.float32):
        return jax.device_put(jnp.asarray(rng.normal(size=shape), dtype), device)

    def train(name, batch):
        frontend, network, _ = TRAIN[name]
        recipe = Recipe(
            name="benchmark",
            model=Model(frontend=frontend, network=network),
            data=Data(seconds=CLIP, batch=batch),
            optimizer=Optimizer(learning_rate=1e-3, warmup=1.0),
            objective=Supervised("multilabel", mixup=0.5, augment=Augment(frames=48, bins=16)),
            run=Run(steps=100000, precision="bfloat16"),
        )
        chosen, rate = mesh(1), np.float32(1e-3)
        samples = round(CLIP * frontend["sample_rate"])
        with on_host():
            model, state = zoo.create(recipe.entry(tuple(map(str, range(CLASSES)))), key=jax.random.key(0))
            shape = jax.eval_shape(model.listen, jax.ShapeDtypeStruct((samples,), jnp.float32))
            infer = eqx.nn.inference_mode(model)
            work = flops(jax.make_jaxpr(lambda x: infer.classify(x, state)[0])(shape))
            carry, static = begin(model, state, recipe, chosen)
        examples = Examples(
            np.resize(pool[:, :samples], (1, batch, 1, samples)),
            np.full((1, batch, 1), samples, np.int32),
            (rng.random((1, batch, CLASSES)) < 2.7 / CLASSES).astype(np.float32),
        )
        examples = jax.device_put(examples, NamedSharding(chosen, P(None, DEVICES)))
        start = time.perf_counter()
        program = make_step(recipe, static, chosen)
        step = functools.partial(
            program.func.lower(carry, examples, rate, **program.keywords).compile(), **program.keywords
        )
        compiled = time.perf_counter() - start

        def run(count=1):
            nonlocal carry
            logs = {}
            for _ in range(count):
                carry, logs = step(carry, examples, rate)
            return float(jax.block_until_ready((carry, logs))[1]["loss"])

        count, times, loss = calls(run, pace), [], math.nan
        for _ in range(ROUNDS):
            start = time.perf_counter()
            loss = run(count)
            times.append((time.perf_counter() - start) / count)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} after {int(carry.step)} steps")
        return {
            "batch": batch, "samples_per_second": batch / np.median(times), "step_ms": 1e3 * np.median(times),
            "fastest_ms": 1e3 * min(times), "slowest_ms": 1e3 * max(times), "compile_seconds": compiled, "loss": loss,
            "features": shape.shape, "gflop": 3e-9 * work, "xla_gflop": xla_flops(step.func, batch),
            "bytes": taken(step.func),
        }  # fmt: skip

    def xla_flops(compiled, batch):
        with contextlib.suppress(Exception):
            costs = compiled.cost_analysis()
            costs = costs[0] if isinstance(costs, list | tuple) else costs
            return 1e-9 * costs["flops"] / batch if costs["flops"] > 0 else None
        return None

    def taken(compiled):
        with contextlib.suppress(Exception):
            sizes = compiled.memory_analysis()
            alias = getattr(sizes, "alias_size_in_bytes", 0)
            input_bytes, output_bytes = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
            return int(sizes.temp_size_in_bytes + input_bytes + output_bytes - alias)
        return None

    ready = {}  # what `timed` runs

    def built(description, key):
        """A network, wav2vec2 with its frontend."""
        network = getattr(networks, description["type"])(**options(description), key=key)
        if description["type"] != "wav2vec2_base":
            return network
        return models.Encoder(frontends.Wav2Vec(16000, key=key), network, key=key)

    def prepare(name, batch):
        ready.clear()
        description, shape = PEERED[name]
        with on_host():
            network, state = eqx.nn.make_with_state(built)(description, jax.random.key(0))
            infer = eqx.nn.inference_mode(network)
            work = flops(jax.make_jaxpr(lambda x: infer(x, state)[0])(jax.ShapeDtypeStruct(shape, jnp.float32)))
        work *= 3 if name.startswith("step") else 1
        parts, static = eqx.partition(network if name.startswith("step") else infer, eqx.is_inexact_array)
        parts, state = jax.device_put((parts, state), device)
        wave = len(shape) == 1  # frontends stay in float32
        maps = noise(batch, *shape, dtype=jnp.float32 if wave else jnp.bfloat16)

        def embed(parts, maps):
            narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), parts)
            if wave:
                narrow = eqx.tree_at(lambda model: model.frontend, narrow, parts.frontend)
            network = eqx.combine(narrow, static)
            keys = jax.random.split(jax.random.key(0), len(maps))
            return jax.vmap(
                lambda x, key: network(x, state, key=key)[0], axis_name="batch"
            )(maps, keys)  # fmt: skip

        def loss(parts, maps):
            return jnp.mean(jnp.square(embed(parts, maps).astype(jnp.float32)))

        start = time.perf_counter()
        compiled = jax.jit(jax.grad(loss) if name.startswith("step") else embed).lower(parts, maps).compile()
        spent = time.perf_counter() - start

        def run(count=1):
            for _ in range(count - 1):
                compiled(parts, maps)
            jax.block_until_ready(compiled(parts, maps))

        ready["run"], ready["count"] = run, calls(run, pace)
        return {"compile_seconds": spent, "gflop": 1e-9 * work, "xla_gflop": xla_flops(compiled, batch)}

    def timed():
        return clocked(ready)

    def frontend(name, batch):
        description = FRONTENDS[name]
        rate = description["sample_rate"] if description else 16000
        waves = noise(batch, round(CLIP * rate))
        if description:
            make = getattr(frontends, description["type"])
            with on_host():
                key = {"key": jax.random.key(0)} if description["type"] == "LEAF" else {}
                parts, static = eqx.partition(make(**options(description), **key), eqx.is_array)
        else:
            parts, static = rng.normal(size=(401, 1, 128)).astype(np.float32), None

        def features(parts, waves):
            if description is None:
                layout = ("NWC", "WIO", "NWC")
                return jax.lax.conv_general_dilated(waves[..., None], parts, (1,), "SAME", dimension_numbers=layout)
            return jax.vmap(eqx.combine(parts, static))(waves)

        def loss(parts, waves):
            return jnp.sum(jnp.square(features(parts, waves)))

        roads = {"forward_ms": features} | ({"backward_ms": jax.grad(loss)} if jax.tree.leaves(parts) else {})
        measured, parts = {"batch": batch}, jax.device_put(parts, device)
        for kind, road in roads.items():
            compiled = jax.jit(road).lower(parts, waves).compile()
            count = calls(functools.partial(lambda run: jax.block_until_ready(run(parts, waves)), compiled), pace)
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for _ in range(count):
                    out = compiled(parts, waves)
                jax.block_until_ready(out)
                times.append(1e3 * (time.perf_counter() - start) / count)
            measured[kind] = float(np.median(times))
        return measured

    def depthwise(name, batch):
        """Milliseconds of each road, forward and backward; of one that fails its error."""
        measured = {"batch": batch}
        for direction, by_name in roads(name, batch, interpret=device.platform == "cpu").items():
            for road, run in by_name.items():
                try:
                    count, times = calls(run, pace / 4), []
                    for _ in range(ROUNDS):
                        start = time.perf_counter()
                        for _ in range(count):
                            run()
                        times.append(1e3 * (time.perf_counter() - start) / count)
                    measured[f"{road} {direction}_ms"] = float(np.median(times))
                except Exception as error:
                    measured[f"{road} {direction}"] = one_line(error)
        return measured

    memory = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    known = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__, "limit": memory}
    return known, {"train": train, "prepare": prepare, "timed": timed, "frontend": frontend, "depthwise": depthwise}
