"""The values that travel between nodes. All are immutable: the host caches and shares them.

Shapes: B batch, S' stages present, L = h*w positions, N = 2^i clusters of stage i.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nvg_model import NVGError, Region, SamplingSettings, VisualGranularitySequence, hierarchy, memory

if TYPE_CHECKING:
    from nvg_model import NVG, NVGConfig
    from nvg_nodes.host import Networks


@dataclass(frozen=True, eq=False)
class Model:
    """NVG_MODEL: a checkpoint in the host's care."""

    name: str
    networks: Networks

    @property
    def nvg(self) -> NVG:
        """The networks wherever they are: for names and sizes, not for running."""
        return self.networks.nvg

    @property
    def config(self) -> NVGConfig:
        """Sizes of the networks."""
        return self.nvg.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.nvg.classes

    def ready(self, images: int, regions: int = 0) -> NVG:
        """The networks, loaded by the host for a run over this many images at once, each with this many regions."""
        height, width = self.config.image_size
        # The widest point of the decoder is its last level: some eight maps of base_channels in float32. The
        # transformers see each image once for every class and once for none (guidance).
        each = 4 * height * width * self.config.autoencoder.base_channels * 8
        if self.config.generator is not None:
            each += memory.row_bytes(self.config, 4) * (2 + regions) + memory.image_bytes(self.config)
        return self.networks.ready(images * each)


@dataclass(frozen=True, eq=False)
class Structure:
    """NVG_STRUCTURE: the structure of the first stages of a batch of images; always a valid hierarchy."""

    labels: Tensor
    """long [B,S',L] on the CPU: label of every position at every stage, stage 0 (one cluster) included."""
    grid: tuple[int, int]
    """(h, w): rows and columns of the L positions."""
    size: tuple[int, int]
    """(H, W): pixels of the images that it is for."""

    def __post_init__(self) -> None:
        hierarchy.check(self.labels, self.grid[0] * self.grid[1])

    @property
    def stages(self) -> int:
        """S', stage 0 included."""
        return self.labels.shape[1]

    @property
    def finest(self) -> Tensor:
        """Labels of the last stage present, long [B,L]. They nest, so their order holds those of all stages before."""
        return self.labels[:, -1]

    def replace(self, labels: Tensor) -> Structure:
        """Other labels on the same grid."""
        return dataclasses.replace(self, labels=labels)

    def fitting(self, model: Model) -> Tensor:
        """The labels, if they are of the model's grid. Raises NVGError otherwise."""
        if self.grid != model.config.grid:
            raise NVGError(
                f"the structure is of a grid of {self.grid[0]} x {self.grid[1]} positions, but {model.name} has "
                f"{model.config.grid[0]} x {model.config.grid[1]}: make it with the same model"
            )
        return self.labels


def structure_of(model: Model, labels: Tensor) -> Structure:
    """A structure on a model's grid from labels [B,S',L]."""
    return Structure(labels.cpu(), model.config.grid, model.config.image_size)


def check_sequence(model: Model, sequence: VisualGranularitySequence) -> None:
    """Raises NVGError unless a sequence is of the model's sizes."""
    channels = model.config.autoencoder.latent_channels
    if sequence.grid != model.config.grid or sequence.canvases.shape[-1] != channels:
        rows, columns = sequence.grid
        raise NVGError(
            f"the sequence is of a grid of {rows} x {columns} positions with {sequence.canvases.shape[-1]} channels, "
            f"but {model.name} has {model.config.grid[0]} x {model.config.grid[1]} with {channels}: tokenize or "
            "generate with the same model"
        )


def joined(parts: Sequence[VisualGranularitySequence]) -> VisualGranularitySequence:
    """Sequences of one model as one batch."""
    return VisualGranularitySequence(
        torch.cat([part.structure for part in parts]),
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.canvases for part in parts]),
        parts[0].grid,
    )


@dataclass(frozen=True)
class Settings:
    """NVG_SETTINGS: sampling settings that replace those of the checkpoint; what is missing stays the checkpoint's."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """Single values by their name in SamplingSettings; those of a pair end in _first and _last."""

    def over(self, defaults: SamplingSettings) -> SamplingSettings:
        """The settings in force. Raises NVGError for a value that makes no sense."""
        values = dataclasses.asdict(defaults)
        for name, change in self.changes.items():
            pair, _, end = name.rpartition("_")
            if end in ("first", "last"):
                first, last = values[pair]
                values[pair] = (change, last) if end == "first" else (first, change)
            else:
                values[name] = change
        return SamplingSettings(**values)


@dataclass(frozen=True, eq=False)
class Regions:
    """NVG_REGIONS: parts of the canvas with classes of their own, in the order in which they were added."""

    items: tuple[Region, ...] = ()
    """Their masks are float [B,H,W] on the CPU, of the proportions of the model's images; the classes are names."""

    @property
    def images(self) -> int:
        """For how many images the masks are; 1 where each serves them all."""
        return max((len(region.mask) for region in self.items), default=1)


@dataclass(frozen=True, eq=False)
class State:
    """NVG_STATE: all that a stage-by-stage chain carries. Immutable: each node of the chain returns a new state."""

    classes: Tensor
    """long [B]."""
    seed: int
    first_item: int
    settings: Settings
    plan: Structure | None = None
    """Structure to follow at the stages that it has."""
    sequence: VisualGranularitySequence | None = None
    """The stages that are finished, structure and content."""
    labels: Tensor | None = None
    """long [B,L]: structure of the next stage, where it is made already."""
    regions: Regions = field(default_factory=Regions)
    """Of all stages to which no others are given."""

    @property
    def stage(self) -> int:
        """Number of the next stage, which is also how many are finished."""
        return self.sequence.num_stages if self.sequence else 0
