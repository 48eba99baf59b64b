import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiment import runtime

PROGRAM = """
import jax
from experiment import runtime
runtime.configure({num_seeds})
jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
print(jax.local_device_count(), jax.config.jax_compilation_cache_dir)
"""


def run(num_seeds, program=PROGRAM, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", program.format(num_seeds=num_seeds)],
        cwd=Path(__file__).parents[2],
        env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_one_cpu_device_per_seed_and_programs_kept_in_the_cache(tmp_path, num_seeds):
    result = run(num_seeds, XDG_CACHE_HOME=str(tmp_path))
    folder = tmp_path / "omd" / "compiled"
    assert result.stdout.split() == [str(num_seeds), str(folder)]
    assert any(folder.iterdir())
    before = set(folder.glob("*-cache"))
    again = run(num_seeds, XDG_CACHE_HOME=str(tmp_path))
    assert set(folder.glob("*-cache")) == before
    assert not again.stderr


def test_variables_of_jax_win(tmp_path):
    result = run(4, JAX_COMPILATION_CACHE_DIR=str(tmp_path), JAX_NUM_CPU_DEVICES="2")
    assert result.stdout.split() == ["2", str(tmp_path)]


def test_the_cache_is_in_the_home_folder_without_xdg(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert runtime.compilation_cache() == Path("/home/someone/.cache/omd/compiled")


@pytest.mark.parametrize(
    ("num_seeds", "cores", "devices"),
    [(10, 2, 2), (10, 4, 5), (3, 2, 3), (1, 2, 1), (4, 16, 4), (9, 2, 3)],
)
def test_long_programs_get_the_fewest_devices_that_use_all_cores(num_seeds, cores, devices):
    assert runtime.fewest_devices(num_seeds, cores) == devices


LONG = """
import jax
from experiment import runtime
runtime.configure(16)
{before}
runtime.expect_long_programs(16)
print(jax.local_device_count())
"""


@pytest.mark.parametrize(
    ("before", "devices"),
    [("", runtime.fewest_devices(16, len(os.sched_getaffinity(0)))), ("jax.numpy.ones(1)", 16)],
    ids=["in time", "too late"],
)
def test_a_module_that_computes_while_it_is_imported_costs_speed_only(tmp_path, before, devices):
    result = run(16, program=LONG.format(before=before), XDG_CACHE_HOME=str(tmp_path))
    assert result.stdout.split() == [str(devices)]
    assert not result.stderr


def test_resolving_a_configuration_leaves_the_number_of_devices_open(tmp_path):
    program = """
from configs import default, omd_cartpole
from experiment import configuration
from jax._src import xla_bridge
for config in (omd_cartpole.get_config(), default.get_config()):
    configuration.validate(configuration.resolve(config))
assert not xla_bridge.backends_are_initialized()
"""
    run(1, program=program, XDG_CACHE_HOME=str(tmp_path))
