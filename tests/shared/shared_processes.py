"""Code in a process of its own, for tests of memory, full disks and caches."""

import os
import subprocess
import sys
from pathlib import Path

import nvg_model

ROOT = Path(nvg_model.__file__).parents[1]


def run_python(code, *arguments, **environment):
    """Runs `code` in a process of its own, which imports this nvg_model; returns what it printed."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout
