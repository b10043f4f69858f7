"""How float32 is computed on a GPU. Nothing here acts on import, and nothing stays changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def tf32() -> Iterator[None]:
    """Inside, GPUs multiply float32 in TF32 and cuDNN tries its ways for every shape, as usual; then all is as before.

    For a process of one's own: `nvg` and `python -m training` run in it. Neither flag changes anything on a CPU.
    NVIDIA_TF32_OVERRIDE=0 in the environment, which is NVIDIA's own switch, forbids TF32 all the same.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
