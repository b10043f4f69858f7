"""Two checkpoints for one picture: a partner draws the late stages (collaborative decoding, Chen et al. 2024,
arXiv:2411.17787), where a smaller network loses little.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError
from nvg_model.generation import Request, Run
from nvg_model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nvg_model.sampling import SamplingSettings

_NEAR = 0.01
"""Largest difference between equal codes in other precisions, as a share of their spread."""


class Partner(Protocol):
    """What is needed of another `NVG`."""

    config: NVGConfig
    tokenizer: Tokenizer
    provenance: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def run(self, request: Request) -> Run:
        """The stage loop of a request."""


def late_run(model: Partner, request: Request, classes: list[Any], settings: SamplingSettings) -> Run:
    """The run of a request's partner, which makes its stages from `partner_stage` on.

    Args:
        classes: their names, or None for the null class, by which the partner finds its own.
    Raises:
        NVGError: the partner has other tokens, lies elsewhere, or lacks a class or a generator.
    """
    partner: Partner = request.partner
    _check_tokens(model, partner)
    if partner.device != model.device:
        raise NVGError(f"the partner is on {partner.device} and this model on {model.device}; load both on one device")
    try:
        return partner.run(dataclasses.replace(request, classes=classes, settings=settings, partner=None))
    except NVGError as error:
        raise NVGError(f"the partner {name_of(partner)}: {error}") from error


def partner_stage(request: Request, splits: int) -> int:
    """The first stage that the partner makes. Raises NVGError."""
    first = request.partner_from
    if not isinstance(first, int) or not 0 <= first <= splits:
        raise NVGError(
            f"partner_from is {first!r}; give a stage from 1 to {splits}, or 0 for the second half of the stages"
        )
    return first or splits // 2 + 1


def name_of(model: Partner) -> str:
    """The name of the file that a model is from, without its folder."""
    return Path(model.provenance.get("file", "without a file")).name


def _check_tokens(model: Partner, partner: Partner) -> None:
    """Raises NVGError unless a token means the same in both."""
    own, other = (one.tokenizer.quantizer.state_dict() for one in (model, partner))
    same = model.config.grid == partner.config.grid and own.keys() == other.keys()
    for name, value in own.items() if same else ():
        there = other[name].to(value.device)
        same = same and there.shape == value.shape
        if same and value.is_floating_point():
            value = value.float()
            difference = (there.float() - value).abs().max()
            same = bool(difference <= _NEAR * (value.abs().max() + 1e-12))
    if not same:
        raise NVGError(
            f"the partner {name_of(partner)} has another tokenizer than {name_of(model)}; take two checkpoints with "
            "the same, such as one trained with --start-from the other"
        )
