"""Our side of `gpu.py`: training steps, networks, frontends and depthwise convolutions."""

import contextlib
import functools
import math
import sys
import time
import types

from gpu_depthwise import ways
from gpu_models import BATCH, CLASSES, CLIP, COMPARISONS, FRONTENDS, ROUNDS, TRAIN
from gpu_worker import calls, one_line, time_calls

FILE_MODULES = ("soundfile", "soxr", "msgpack")  # `zoo` imports them for files, and the benchmark reads none


class StandIn(types.ModuleType):
    """A module in which every public name is an empty class, which suffices for annotations."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def flops(jaxpr) -> float:
    """The operations of the convolutions and matrix products in a jaxpr.

    Of the branches of a choice, like one by platform, the branch with the largest number counts.
    """
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
            (axes, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in axes)
        elif name == "cond":
            total += max(map(flops, parameters["branches"]))
        elif set(parameters) == {"options"}:  # a layer of ours, `audax_eqx.layers.bilinear`
            inputs = [variable.aval for variable in equation.invars]
            total += flops(jax.make_jaxpr(functools.partial(equation.primitive.impl, **parameters))(*inputs))
        else:
            jaxprs = [value for value in parameters.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
            total += parameters.get("length", 1) * sum(map(flops, jaxprs)) if jaxprs else 0
    return total


def ours():
    """Facts about the device, and the functions that a job may name."""
    for name in FILE_MODULES:
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
        """A context that draws weights on the CPU, because on a GPU each shape would compile a program of its own."""
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
        device_mesh, rate = mesh(1), np.float32(1e-3)
        samples = round(CLIP * frontend["sample_rate"])
        with on_host():
            model, state = zoo.create(recipe.entry(tuple(map(str, range(CLASSES)))), key=jax.random.key(0))
            shape = jax.eval_shape(model.listen, jax.ShapeDtypeStruct((samples,), jnp.float32))
            infer = eqx.nn.inference_mode(model)
            work = flops(jax.make_jaxpr(lambda x: infer.classify(x, state)[0])(shape))
            carry, static = begin(model, state, recipe, device_mesh)
        examples = Examples(
            np.resize(pool[:, :samples], (1, batch, 1, samples)),
            np.full((1, batch, 1), samples, np.int32),
            (rng.random((1, batch, CLASSES)) < 2.7 / CLASSES).astype(np.float32),
        )
        examples = jax.device_put(examples, NamedSharding(device_mesh, P(None, DEVICES)))
        start = time.perf_counter()
        jitted_step = make_step(recipe, static, device_mesh)
        program = jitted_step.func.lower(carry, examples, rate, **jitted_step.keywords).compile()
        step = functools.partial(program, **jitted_step.keywords)
        compile_seconds = time.perf_counter() - start

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
            "fastest_ms": 1e3 * min(times), "slowest_ms": 1e3 * max(times), "compile_seconds": compile_seconds,
            "loss": loss, "features": shape.shape, "gflop": 3e-9 * work, "xla_gflop": xla_gflop(program, batch),
            "bytes": memory_of(program),
        }  # fmt: skip

    def xla_gflop(program, batch):
        """XLA's own count of the operations for one sample, None without one."""
        with contextlib.suppress(Exception):
            costs = program.cost_analysis()
            costs = costs[0] if isinstance(costs, list | tuple) else costs
            return 1e-9 * costs["flops"] / batch if costs["flops"] > 0 else None
        return None

    def memory_of(program):
        """The bytes of memory that a compiled program takes, None if XLA does not tell."""
        with contextlib.suppress(Exception):
            sizes = program.memory_analysis()
            alias = getattr(sizes, "alias_size_in_bytes", 0)
            input_bytes, output_bytes = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
            return int(sizes.temp_size_in_bytes + input_bytes + output_bytes - alias)
        return None

    network_program = {}  # which `prepare` fills and `measure` times

    def build(description, key):
        """The network; wav2vec2 has its frontend with it."""
        network = getattr(networks, description["type"])(**options(description), key=key)
        if description["type"] != "wav2vec2_base":
            return network
        return models.Encoder(frontends.Wav2Vec(16000, key=key), network, key=key)

    def prepare(name, batch):
        network_program.clear()
        description, shape = COMPARISONS[name]
        with on_host():
            network, state = eqx.nn.make_with_state(build)(description, jax.random.key(0))
            infer = eqx.nn.inference_mode(network)
            work = flops(jax.make_jaxpr(lambda x: infer(x, state)[0])(jax.ShapeDtypeStruct(shape, jnp.float32)))
        work *= 3 if name.startswith("step") else 1
        parts, static = eqx.partition(network if name.startswith("step") else infer, eqx.is_inexact_array)
        parts, state = jax.device_put((parts, state), device)
        takes_waves = len(shape) == 1  # by a frontend, which stays in float32
        maps = noise(batch, *shape, dtype=jnp.float32 if takes_waves else jnp.bfloat16)

        def embed(parts, maps):
            half_parts = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), parts)
            if takes_waves:
                half_parts = eqx.tree_at(lambda model: model.frontend, half_parts, parts.frontend)
            network = eqx.combine(half_parts, static)
            keys = jax.random.split(jax.random.key(0), len(maps))
            return jax.vmap(
                lambda x, key: network(x, state, key=key)[0], axis_name="batch"
            )(maps, keys)  # fmt: skip

        def loss(parts, maps):
            return jnp.mean(jnp.square(embed(parts, maps).astype(jnp.float32)))

        start = time.perf_counter()
        program = jax.jit(jax.grad(loss) if name.startswith("step") else embed).lower(parts, maps).compile()
        compile_seconds = time.perf_counter() - start

        def run(count=1):
            for _ in range(count - 1):
                program(parts, maps)
            jax.block_until_ready(program(parts, maps))

        network_program["run"], network_program["count"] = run, calls(run, pace)
        return {"compile_seconds": compile_seconds, "gflop": 1e-9 * work, "xla_gflop": xla_gflop(program, batch)}

    def measure():
        return time_calls(network_program)

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

        directions = {"forward_ms": features} | ({"backward_ms": jax.grad(loss)} if jax.tree.leaves(parts) else {})
        row, parts = {"batch": batch}, jax.device_put(parts, device)
        for direction, function in directions.items():
            program = jax.jit(function).lower(parts, waves).compile()
            count = calls(functools.partial(lambda run: jax.block_until_ready(run(parts, waves)), program), pace)
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                for _ in range(count):
                    out = program(parts, waves)
                jax.block_until_ready(out)
                times.append(1e3 * (time.perf_counter() - start) / count)
            row[direction] = float(np.median(times))
        return row

    def depthwise(name, batch):
        """The milliseconds of each way, forward and backward, or the error of a way that fails."""
        row = {"batch": batch}
        for direction, runs in ways(name, batch, interpret=device.platform == "cpu").items():
            for way, run in runs.items():
                try:
                    count, times = calls(run, pace / 4), []
                    for _ in range(ROUNDS):
                        start = time.perf_counter()
                        for _ in range(count):
                            run()
                        times.append(1e3 * (time.perf_counter() - start) / count)
                    row[f"{way} {direction}_ms"] = float(np.median(times))
                except Exception as error:
                    row[f"{way} {direction}"] = one_line(error)
        return row

    memory = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    facts = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__, "limit": memory}
    return facts, {"train": train, "prepare": prepare, "measure": measure, "frontend": frontend, "depthwise": depthwise}
