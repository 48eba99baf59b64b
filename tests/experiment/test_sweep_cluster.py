import socket
import sys

import pytest

from errors import UserError
from experiment import sweep_cluster
from experiment.sweep_cluster import Share, share
from experiment.sweep_trial import variables

GPU_MACHINE, SMALL = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "seeds", "expected"),
    [
        ([SMALL], None, 0.0, 1, Share(1, 0.0)),
        ([SMALL], None, 0.0, 5, Share(2, 0.0)),
        ([SMALL, GPU_MACHINE], None, 0.0, 5, Share(5, 0.0)),
        ([SMALL, GPU_MACHINE], None, 1.0, 5, Share(1, 1.0)),
        ([SMALL, GPU_MACHINE], 8, 0.25, 5, Share(8, 0.25)),
        ([SMALL], 2, 0.0, 1, Share(2, 0.0)),
    ],
)
def test_a_trial_gets_a_core_per_seed_unless_told_otherwise(machines, cpus, gpus, seeds, expected):
    assert share(machines, cpus, gpus, seeds) == expected


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "words"),
    [
        ([SMALL, SMALL], 3, 0.0, "--cpus-per-trial=3.*cluster has 2: 2 CPUs and 0 GPUs"),
        ([SMALL], None, 1.0, "--gpus-per-trial=1,"),
        ([SMALL, GPU_MACHINE], 2, 5.0, "--gpus-per-trial=5,"),
        ([{"CPU": 16.0}, {"CPU": 1.0, "GPU": 1.0}], 2, 1.0, "1 CPUs and 1 GPUs; 16 CPUs"),
        ([GPU_MACHINE], 1, 1.5, "whole number"),
    ],
)
def test_what_no_machine_has_is_refused_instead_of_waited_for(machines, cpus, gpus, words):
    with pytest.raises(UserError, match=words):
        share(machines, cpus, gpus, 1)


def test_a_trial_is_kept_to_its_share():
    threads = {"NPROC": "2", "PJRT_NPROC": "2", "OMP_NUM_THREADS": "2"}
    assert variables(2, 0.0) == threads | {"JAX_PLATFORMS": "cpu"}
    assert variables(2, 1.0) == threads
    assert variables(2, 0.25) == threads | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.225"}


def test_without_ray_its_installation_is_suggested(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"), sweep_cluster.connection(None):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        sweep_cluster._knock(f"127.0.0.1:{port}")
    for address in ("127.0.0.1", "127.0.0.1:port"):
        with pytest.raises(ValueError, match=r".*"):
            sweep_cluster._knock(address)
