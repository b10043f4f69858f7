"""Learning-rate schedules, averaged weights and the optimisers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training import precision
from training.checkpointing import like, whole
from training.errors import TrainingError
from training.recipes.base import GeneratorRecipe


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def warmup_stable_decay(
    step: int,
    steps: int,
    warmup: int,
    decay: float = 0.2,
    final: float = 0.1,
    first: float = 0.0,
    after_warmup: bool = False,
) -> float:
    """Factor on the learning rate: linear warm-up, constant, then linear to `final` over the last share `decay`
    of the steps (WSD; paper section 3.1).

    Args:
        first: factor at step 0, from which it rises to 1 at step `warmup`; 0: from 1/warmup, a step sooner.
        after_warmup: the decay starts `warmup` steps later, and ends where it would have ended.
    """
    if step < warmup:
        return first + (1 - first) * step / warmup if first else (step + 1) / warmup
    start = steps * (1 - decay) + (warmup if after_warmup else 0)
    if step < start or start >= steps:
        return 1.0
    return 1.0 - (1.0 - final) * min(1.0, (step - start) / (steps - start))


class AveragedWeights:
    """Exponential moving average of a module's trained parameters, in float32.

    Args:
        warmup: the decay rises with the step, so that the start is forgotten quickly; else it is constant.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        self.average = [parameter.detach().clone().float() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the current weights."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self.average, [p.detach().float() for p in self.parameters], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name, whole even where they are sharded."""
        return {name: whole(value) for name, value in zip(self.names, self.average, strict=True)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        for name, value in zip(self.names, self.average, strict=True):
            value.copy_(like(state[name], value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside."""
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float, step: int = 0) -> None:
    """Sets every group's rate to `factor` times its initial one; before the step at which it starts, to 0."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = factor * group.setdefault("initial_lr", group["lr"])
            group["lr"] = rate if step >= group.get("start", 0) else 0.0


def adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    """AdamW with the paper's betas; groups without parameters are left out."""
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, 0.95))


def muon(matrices: Sequence[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024), its rates comparable with AdamW's. Raises TrainingError before torch 2.9.

    torch's own orthogonalises in bfloat16; where that is slow ours does it in float32.
    """
    if not hasattr(torch.optim, "Muon"):
        raise TrainingError(f"Muon needs torch 2.9 or newer, this is {torch.__version__}; use --optimizer adamw")
    from training.cpu.muon import Float32Muon

    slow = any(precision.is_slow(device) for device in {matrix.device.type for matrix in matrices})
    kind = Float32Muon if slow else torch.optim.Muon
    return kind(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def optimizers(objective: nn.Module, settings: GeneratorRecipe) -> list[torch.optim.Optimizer]:
    """Muon or AdamW for the matrices of the blocks, AdamW for everything else; weight decay on matrices only.

    The code head and the start canvas decay where the settings say so (`decay_all`).
    """
    found: list[list[Tensor]] = [[] for _ in range(6)]
    matrices, classes, tables, vectors, head, head_bias = found
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".code_head." in name:
            (head_bias if parameter.dim() < 2 and settings.decay_all else head).append(parameter)
        elif parameter.dim() < 2 or name.endswith("qk_scale"):  # two vectors
            vectors.append(parameter)
        elif name.endswith("start_canvas"):
            (tables if settings.decay_all else vectors).append(parameter)
        elif ".linear_" in name:
            matrices.append(parameter)
        elif name.endswith("class_embedding.weight") and (settings.class_learning_rate or settings.class_steps):
            classes.append(parameter)
        else:
            tables.append(parameter)
    decay = settings.weight_decay
    head_decay = decay if settings.decay_all else 0.0
    alone = min(settings.class_steps, settings.steps // 5)
    groups: list[dict[str, Any]] = [
        {"params": classes, "weight_decay": decay, "lr": settings.class_learning_rate or settings.learning_rate},
        {"params": tables, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
        {"params": head, "weight_decay": head_decay, "lr": settings.head_learning_rate},
        {"params": head_bias, "weight_decay": 0.0, "lr": settings.head_learning_rate},
    ]
    if settings.optimizer == "adamw":
        groups.insert(0, {"params": matrices, "weight_decay": decay})
        return with_classes_first([adamw(groups, settings.learning_rate)], classes, alone)
    if settings.parallel == "fsdp":
        raise TrainingError("Muon needs whole matrices, which fsdp parts among the processes; use --optimizer adamw")
    both = [muon(matrices, settings.matrix_learning_rate, decay), adamw(groups, settings.learning_rate)]
    return with_classes_first(both, classes, alone)


def with_classes_first(
    optimizers: list[torch.optim.Optimizer], classes: list[Tensor], steps: int
) -> list[torch.optim.Optimizer]:
    """The same optimisers. For the first `steps` only the class embeddings have a rate above 0."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups if steps):
        if group["params"][0] is not classes[0]:
            group["start"] = steps
    return optimizers


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
