"""TF32 and cuDNN's search are on inside our own processes, and nowhere else."""

import subprocess
import sys

import pytest
import torch

from nvg_model.precision import tf32


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


def test_the_flags_are_as_before_afterwards():
    before = flags()
    with pytest.raises(KeyError), tf32():
        assert flags() == (True, True, True)
        raise KeyError
    assert flags() == before


def test_importing_changes_no_flag():
    code = (
        "import torch; b = torch.backends\n"
        "def flags(): return b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32, b.cudnn.benchmark, torch.is_grad_enabled()\n"
        "before = flags()\n"
        "import nvg_model.model, nvg_model.cli, nvg_nodes.extension\n"
        "assert flags() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
