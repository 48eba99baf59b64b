"""What a user sees after a mistake on the command line: one message, status 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# train.py with a training loop that only reports what it was given, or is interrupted.
STUB = """
import runpy, sys, types
import experiment
loop = types.ModuleType("experiment.loop")
def train_and_evaluate(config, workdir, command):
    import jax
    if config.seed == 13:
        raise KeyboardInterrupt
    print(config.algo, config.total_steps, jax.local_device_count(), workdir, command, sep="|")
loop.train_and_evaluate = train_and_evaluate
sys.modules["experiment.loop"] = experiment.loop = loop
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def run(*arguments, program=("train.py",), cwd=REPOSITORY):
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def stubbed(*arguments):
    return run(*arguments, program=("-c", STUB))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.totl_steps=5"], ["--config.totl_steps", "--config.total_steps"]),
        (["--config.sac.leraning_rate=1"], ["Did you mean --config.sac.learning_rate?"]),
        (["--config.batch_size=1"], ["--config.sac.batch_size", "--config.model.batch_size"]),
        (["--config.zzzzz=1"], ["no such field", "total_steps"]),
        (["--config.sac.learning_rate.x=1"], ["--config.sac.learning_rate"]),
        (["--config.a=1", "--config.sac.b=2"], ["--config.a:", "--config.sac.b:"]),
        (["--config.total_steps=abc"], ["--config.total_steps=abc", "a whole number"]),
        (["--config.total_steps=1.5"], ["--config.total_steps=1.5", "a whole number"]),
        (["--config.discount=high"], ["--config.discount=high", "a number"]),
        (["--config.sac.layer_norm=maybe"], ["--config.sac.layer_norm=maybe", "true or false"]),
        (["--config.sac=5"], ["--config.sac=5"]),
        (["--config.rollout.schedule=(1,"], ["--config.rollout.schedule=(1,"]),
        (["--config.total_steps"], ["--config.total_steps"]),
        (["--config=configs/mpbo.py"], ["no such file", "Did you mean configs/mbpo.py?"]),
        (["--config=nowhere.py", "--config.algo=sac"], ["nowhere.py", "no such file"]),
        (["--wrkdir=here"], ["wrkdir", "workdir"]),
        (["total_steps=5"], ["total_steps=5", "every setting is a flag"]),
        (["--config.algo=mpbo"], ["--config.algo=mpbo", "Did you mean mbpo?"]),
        (
            ["--config=configs/cf_mbpo.py", "--config.use_algo=foo"],
            ["--config.use_algo=foo", "Allowed: mbpo, discriminator, reward, both."],
        ),
        (["--config=configs/mbpo.py:Hopper-v2"], ["Hopper-v2", "Hopper-v5"]),
        (["--config.total_steps=-1", "--config.discount=2"], ["2 problems", "discount=2.0"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_gives_one_message(arguments, expected):
    result = run(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    assert not result.stdout
    for part in expected:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "defines no get_config()"),
        ("def get_config():\n    return {}['missing']\n", "line 2: KeyError: 'missing'"),
        (
            "from configs import default\ndef get_config():\n    config = default.get_config()\n"
            "    config.totl_steps = 3\n    return config\n",
            'Did you mean "total_steps"',
        ),
    ],
)
def test_a_broken_configuration_file_names_the_place(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_text(text)
    result = run(f"--config={path}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert str(path) in result.stderr
    assert expected in result.stderr


def test_a_valid_command_reaches_the_loop_with_one_device_per_seed(tmp_path):
    arguments = ["--config=configs/mbpo.py", "--config.total_steps=1e4", f"--workdir={tmp_path}"]
    result = stubbed(*arguments)
    assert result.returncode == 0, result.stderr
    command = " ".join(["python train.py", *arguments])
    assert result.stdout.strip().split("|") == ["mbpo", "10000", "2", str(tmp_path), command]


def test_the_default_run_folder_names_algorithm_environment_and_time():
    result = stubbed("--config=configs/sac.py:Hopper-v5")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("|")[3].startswith("runs/sac-Hopper-v5-20")


def test_ctrl_c_says_how_to_resume():
    result = stubbed("--config.seed=13")
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert "python train.py --config.seed=13 --workdir=runs/mbpo-HalfCheetah-v5-" in result.stderr


def test_ctrl_c_without_checkpoints_promises_nothing():
    result = stubbed("--config.seed=13", "--config.checkpoint.every_epochs=0")
    assert result.returncode == 130
    assert "--workdir" not in result.stderr


def test_the_default_configuration_is_found_from_any_folder(tmp_path):
    result = run("--config.num_seeds=0", program=(str(REPOSITORY / "train.py"),), cwd=tmp_path)
    assert result.returncode == 2
    assert "--config.num_seeds=0" in result.stderr
