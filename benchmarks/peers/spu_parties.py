"""SPU 0.9.5 over 64 bits: the parties are threads of one process, linked in memory.

    python spu_parties.py PROTOCOL NETWORK BATCH STEPS      → one line of JSON

ABY3 has three parties, SEMI2K two of which the first makes the other's correlated randomness, and
Cheetah two that make it together.

The same networks, data type and optimiser as ours, written in JAX as SPU wants it. CPU time is that
of the whole process, all parties. SPU logs the link counters of one party a step, whose mean is
taken for each of them. Its links are in memory: unlike ours they cost no TLS and no system calls.
"""

import json
import os
import re
import sys
import tempfile
import time

RATE, MOMENTUM = 0.1, 0.9
CLASSES = 10
PARTIES = {"ABY3": 3, "SEMI2K": 2, "CHEETAH": 2}


def main() -> None:
    protocol, network = sys.argv[1:3]
    batch, steps = map(int, sys.argv[3:5])
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it is this process's output from here on
    out = os.dup(1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    result = measure(protocol, network, batch, steps)
    log.seek(0)
    text = log.read().decode(errors="replace")
    sent = [int(n) for n in re.findall(r"total send bytes (\d+)", text)]
    result["bytes_per_step"] = PARTIES[protocol] * sum(sent) / len(sent) if sent else None
    os.write(out, (json.dumps(result) + "\n").encode())


def measure(protocol, network, batch, steps):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import spu
    import spu.utils.simulation as simulation

    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (batch, 28, 28, 1)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)]

    def dense(inputs, outputs):
        bound = np.sqrt(6 / inputs)
        return (
            rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32),
            np.zeros(outputs, np.float32),
        )

    def convolution(inputs, outputs, kernel):
        weights, bias = dense(inputs * kernel * kernel, outputs)
        return weights.reshape(kernel, kernel, inputs, outputs), bias

    def convolved(x, layer):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, layer[0], (1, 1), "VALID", dimension_numbers=dimensions)
        n, h, w, c = y.shape
        pooled = (y + layer[1]).reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
        return jax.nn.relu(pooled)

    if network == "mlp":
        weights = [dense(784, 128), dense(128, 128), dense(128, CLASSES)]
    else:
        weights = [
            convolution(1, 8, 5), convolution(8, 16, 5), dense(256, 128), dense(128, CLASSES)
        ]  # fmt: skip

    def logits(layers, x):
        if network != "mlp":
            x = convolved(convolved(x, layers[0]), layers[1])
            layers = layers[2:]
        x = x.reshape(x.shape[0], -1)
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer[0] + layer[1])
        return x @ layers[-1][0] + layers[-1][1]

    def loss(layers, x, y):
        z = logits(layers, x)
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(z), axis=1))

    def step(layers, velocity, x, y):
        gradients = jax.grad(loss)(layers, x, y)
        velocity = jax.tree_util.tree_map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
        layers = jax.tree_util.tree_map(lambda w, v: w - RATE * v, layers, velocity)
        return layers, velocity

    kind = getattr(spu.ProtocolKind, protocol)
    config = spu.RuntimeConfig(protocol=kind, field=spu.FieldType.FM64)
    config.enable_pphlo_profile = True
    simulator = simulation.Simulator(PARTIES[protocol], config)
    secure = simulation.sim_jax(simulator, step)
    velocity = jax.tree_util.tree_map(np.zeros_like, weights)
    secure(weights, velocity, images, labels)  # compiled here
    spans = []
    for _ in range(steps):
        begun = time.process_time(), time.perf_counter()
        secure(weights, velocity, images, labels)
        ended = time.process_time(), time.perf_counter()
        spans.append((ended[0] - begun[0], ended[1] - begun[1]))
    return {
        "cpu_seconds_per_step": float(np.median([cpu for cpu, _ in spans])),
        "seconds_per_step": float(np.median([wall for _, wall in spans])),
        "rounds_per_step": None,
        "version": spu.__version__,
    }


if __name__ == "__main__":
    main()
