"""Muon for machines where bfloat16 is slow: there the products of torch's own cost more than forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """Muon with Nesterov momentum and `match_rms_adamw`, orthogonalised in float32; its state is that of torch's Muon,
    so a run may go on with either."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients that the parameters have."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                change = orthogonalised(matrix.grad.lerp(buffer, momentum), group["ns_coefficients"], group["ns_steps"])
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(change, alpha=-0.2 * rate * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: Tensor, coefficients: Sequence[float], steps: int) -> Tensor:
    """A matrix [m,n] with its singular values near 1, by the quintic Newton-Schulz iteration
    x <- a x + b (x x^T) x + c (x x^T)^2 x, in the precision that it has."""
    a, b, c = coefficients
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT  # the smaller products
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrix.shape[0] <= matrix.shape[1] else x.mT
