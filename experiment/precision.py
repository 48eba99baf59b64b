"""Which precision of matrix products is the faster one on this machine: `config.precision=auto`."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from experiment import run_folder
from models.mlp import PRODUCTS, Affine

AUTO = "auto"
BEFORE = "float32"  # of runs that are older than the field
ROWS, WIDTH, LAYERS = 256, 256, 8  # of the products that are timed: those of a small learner
REPEATS = 20


def settle(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, str]:
    """Replaces `auto` by a precision: that of the run in `workdir` if there is one, or the faster.

    Args:
      config: resolved and valid.
      workdir: run folder, which need not exist.

    Returns:
      The configuration, and a sentence for the log and for `config.json`; "" where the precision
      was given.
    """
    if config.precision != AUTO:
        return config, ""
    if (Path(workdir) / run_folder.CONFIG_FILE).exists():
        chosen = run_folder.read_config(workdir)["config"].get("precision", BEFORE)
        note = f"auto: {chosen}, with which this run was begun"
    else:
        seconds = {name: measure(product) for name, product in PRODUCTS.items()}
        chosen = min(seconds, key=seconds.__getitem__)
        times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
        note = f"auto: {chosen} ({LAYERS} layers of {WIDTH} units and their gradients take {times})"
    settled = ConfigDict(config.to_dict())
    settled.precision = chosen
    return FrozenConfigDict(settled), note


def measure(product: Affine) -> float:
    """Returns the shortest time in seconds that some layers and their gradients take."""
    keys = jax.random.split(jax.random.key(0), LAYERS)
    kernels = jax.vmap(lambda key: jax.random.normal(key, (WIDTH, WIDTH)) / WIDTH**0.5)(keys)
    x, bias = jax.random.normal(keys[0], (ROWS, WIDTH)), jnp.zeros(WIDTH)

    def loss(kernels: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.square(
            jax.lax.scan(lambda x, kernel: (product(x, kernel, bias), None), x, kernels)[0]
        ).mean()

    program: Callable = jax.jit(jax.grad(loss, argnums=(0, 1)))
    jax.block_until_ready(program(kernels, x))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(kernels, x))
        times.append(time.perf_counter() - start)
    return min(times)
