"""What a recipe says."""

from __future__ import annotations

from dataclasses import dataclass, field

from nvg_model.config import NVGConfig
from nvg_model.sampling import SamplingSettings
from training.data.views import ViewSettings


@dataclass(frozen=True)
class TokenizerRecipe:
    """Settings of the tokenizer's training (paper section 3.1; sizes for small machines)."""

    steps: int
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 100
    soft_assignment_steps: int = 1000
    """Steps at the start with IBQ's soft assignment, by which every code receives gradient."""
    gradient_weight: float = 1.0
    """Weight of the multi-scale gradient loss beside L1."""
    quantizer_weight: float = 1.0
    ema: float = 0.999
    bfloat16: bool = False
    """Convolutions in bfloat16 (faster where the processor multiplies it natively); the quantiser stays in float32."""


@dataclass(frozen=True)
class GeneratorRecipe:
    """Settings of the generators' training (paper section 3.1; sizes for small machines)."""

    steps: int
    batch: int = 64
    views: int = 24_000
    """Random views whose tokens are cached, every class equally often."""
    content_stages: int = 3
    """Stages of the content generator trained per image and step."""
    structure_stages: int = 2
    """Stages of the structure generator trained per image and step."""
    content_stage_odds: tuple[float, ...] = ()
    """How likely each stage is drawn, relative to the others; empty: all alike."""
    structure_stage_odds: tuple[float, ...] = ()
    """The same for the structure generator's splits."""
    learning_rate: float = 1e-3
    """Of AdamW, for embeddings, biases and scales."""
    matrix_learning_rate: float = 2e-3
    """Of Muon, for the matrices of the blocks."""
    head_learning_rate: float = 5e-3
    """Of AdamW, for the code head: codes of late stages are small vectors, so its weights have far to grow."""
    weight_decay: float = 0.05
    warmup: int = 200
    decay: float = 0.2
    """Share of the steps, at the end, over which the rate falls to a tenth."""
    label_dropout: float = 0.1
    ema: float = 0.9995
    bfloat16: bool = False
    """Matrix products in bfloat16 (faster where the processor multiplies it natively); weights stay in float32."""


@dataclass(frozen=True)
class Recipe:
    """A whole training: data, tokenizer, generator."""

    name: str
    config: NVGConfig
    tokenizer: TokenizerRecipe
    generator: GeneratorRecipe
    views: ViewSettings = field(default_factory=ViewSettings)
    classes: tuple[str, ...] = ()
    """Class names in order; empty: the sub-folders of the data, sorted."""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    """Sampling defaults, written into the exported checkpoint."""
    seed: int = 0
    licence: str = ""
    """Licence of the weights, written into the exported checkpoint."""
    attribution: str = ""
