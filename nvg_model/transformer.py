"""The transformer that both generators share: block, structure-aware RoPE, final layer (paper section 2.2).

Shapes: B batch, T tokens, D width, H heads of 64 channels, K splits, A = K + 3 rotation axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nvg_model import hierarchy
from nvg_model.config import HEAD_DIM

KIND_DIM, BIT_DIM = 8, 2  # channels of a head that rotate by the kind of token, and by each structure channel
CONTENT, CANVAS = 0, 2  # kinds of token; the class token has 1 on every axis


def rope_axes(splits: int) -> list[int]:
    """Channels of each rotation axis: the kind of token, K structure channels, row, column; 64 in all."""
    rest = HEAD_DIM - KIND_DIM - BIT_DIM * splits
    row = rest // 4 * 2
    return [KIND_DIM] + [BIT_DIM] * splits + [row, rest - row]


def position_ids(
    labels: Tensor, stage: int | Tensor, splits: int, grid: tuple[int, int], kind: int, structured: bool = True
) -> Tensor:
    """Rotation coordinates [B,L,A] of the positions: kind, structure embedding at the stage, row, column.

    Args:
        labels: long [B,L], labels of stage `stage` (an int, or long [B]).
        structured: False leaves the structure out, for the ablation without structure-aware RoPE.
    """
    rows, columns = torch.meshgrid(*(torch.arange(side, device=labels.device) for side in grid), indexing="ij")
    place = repeat(torch.stack([rows, columns]), "coordinate h w -> b (h w) coordinate", b=len(labels))
    kinds = torch.full_like(place[..., :1], kind)
    embedded = hierarchy.embed(labels, stage, splits)
    return torch.cat([kinds, embedded if structured else torch.zeros_like(embedded), place], dim=-1)


def class_token_ids(like: Tensor) -> Tensor:
    """Coordinates [B,1,A] of the class token: 1 on every axis."""
    return torch.ones_like(like[:, :1])


def rope_table(ids: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotation of every token: cosine and signed sine of every channel, float32 [2,B,T,1,1,64].

    An axis of d channels has the frequencies theta^(-2m/d), m = 0..d/2-1, one for each pair of channels.
    """
    angles = []
    for axis, width in enumerate(rope_axes(ids.shape[-1] - 3)):
        exponent = torch.arange(0, width, 2, device=ids.device, dtype=torch.float32) / width
        angles.append(ids[..., axis, None] * theta**-exponent)
    angle = torch.cat(angles, dim=-1)
    turn = torch.polar(torch.ones_like(angle), angle)  # its cosine and sine are those of the scalar functions
    cosine, sine = turn.real, turn.imag
    pairs = torch.stack([torch.stack([cosine, cosine], dim=-1), torch.stack([-sine, sine], dim=-1)])
    return rearrange(pairs, "part b t pair two -> part b t 1 1 (pair two)")


def rotate(values: Tensor, rope: Tensor) -> Tensor:
    """Pairs of channels (x, y) of float32 [B,T,...,64] become (x cos - y sin, y cos + x sin); `rope`: `rope_table`."""
    cosine, sine = rope
    exchanged = torch.stack([values[..., 1::2], values[..., 0::2]], dim=-1).flatten(-2)
    return values * cosine + exchanged * sine


def normalize_and_rotate(pair: Tensor, scale: Tensor, rope: Tensor) -> Tensor:
    """RMSNorm of query and key over a head, times a learned scale [2,1,64], and rotation: float32 [B,T,2,H,64].

    Without gradients a CPU takes a quarter of the time by complex numbers, equal to rounding: fewer passes over memory.
    """
    if pair.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return rotate(F.rms_norm(pair, (HEAD_DIM,), eps=1e-6) * scale, rope)
    norm = torch.linalg.vector_norm(pair, dim=-1, keepdim=True)
    pair = pair * (norm.square().div_(HEAD_DIM).add_(1e-6).rsqrt_() * scale)
    turn = torch.complex(rope[0][..., 0::2], rope[1][..., 1::2])
    return torch.view_as_real(torch.view_as_complex(pair.unflatten(-1, (-1, 2))) * turn).flatten(-2)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of queries [B,H,Q,64] over keys and values [B,H,T,64]: [B,H,Q,64]."""
    return F.scaled_dot_product_attention(query, key, value)


Memory = list[list[Tensor]]
"""Keys and values [B,H,T,64] of every block, for the tokens that stay the same in all steps of a stage."""


class Block(nn.Module):
    """Parallel attention and MLP, as in ViT-22B and the single stream of FLUX.

    The modulation comes in ready-made (`modulate`), so that a sampler can compute those of all its steps at once.
    """

    def __init__(self, width: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.width, self.drop_path = width, drop_path
        self.attention = attention  # training may put in another one, of the same result
        self.modulation = nn.Linear(width, 3 * width)
        self.linear_in = nn.Linear(width, 7 * width)  # q, k, v and the MLP's input of 4 widths
        self.linear_out = nn.Linear(5 * width, width)  # of attention and MLP
        self.qk_scale = nn.Parameter(torch.ones(2, HEAD_DIM))  # of query and key

    def modulate(self, condition: Tensor) -> Tensor:
        """Shift, scale and gate [...,3D] of silu(condition vector) [...,D]."""
        return self.modulation(condition)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rope: Tensor,
        last: int | None = None,
        memory: list[Tensor] | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: [B,T,D].
            modulation: [B,3D], from `modulate`.
            rope: from `rope_table`.
            last: compute only this many last tokens of the result; the others still serve as keys and values.
            memory: keys and values [B,H,T',64] of earlier tokens; where it is empty, those of these are noted in it.
        Returns:
            [B,T,D], or [B,last,D].
        """
        shift, scale, gate = modulation[:, None].chunk(3, dim=-1)
        y = torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=1e-6), 1 + scale)
        if last is None:
            qkv, mlp = self.linear_in(y).split([3 * self.width, 4 * self.width], dim=-1)
        else:
            qkv, mlp = self._project_last(y, last)
            x = x[:, -last:]
        attended = self._attend(qkv, rope, x.shape[1], memory)
        out = self._project_out(attended, F.gelu(mlp, approximate="tanh"))
        if self.training and self.drop_path > 0:
            keep = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
            gate = gate * keep / (1 - self.drop_path)
        return torch.addcmul(x, gate, out)

    def _project_last(self, y: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """q, k, v of all tokens, and the MLP's input of the last tokens only, where the rest is not needed."""
        weight, bias, attention = self.linear_in.weight, self.linear_in.bias, 3 * self.width
        return F.linear(y, weight[:attention], bias[:attention]), F.linear(
            y[:, -last:], weight[attention:], bias[attention:]
        )

    def _attend(self, qkv: Tensor, rope: Tensor, queries: int, memory: list[Tensor] | None) -> Tensor:
        """Attention of the last `queries` tokens over all, and over those in memory: [B,T,3D] to [B,queries,D]."""
        qkv = rearrange(qkv, "b t (part head channel) -> b t part head channel", part=3, channel=HEAD_DIM)
        pair = normalize_and_rotate(qkv[:, :, :2].float(), self.qk_scale[:, None].float(), rope)
        query, key = rearrange(pair.to(qkv.dtype), "b t part head channel -> part b head t channel")
        value = rearrange(qkv[:, :, 2], "b t head channel -> b head t channel")
        if memory:
            key, value = (torch.cat(both, dim=2) for both in zip(memory, (key, value), strict=True))
        elif memory is not None:
            memory += [key, value]
        attended = self.attention(query[:, :, -queries:], key, value)
        return rearrange(attended, "b head t channel -> b t (head channel)")

    def _project_out(self, attended: Tensor, mlp: Tensor) -> Tensor:
        """linear_out of the two side by side, without the copy that joining them would take."""
        weight = self.linear_out.weight
        out = F.linear(mlp, weight[:, self.width :], self.linear_out.bias)
        return out + F.linear(attended, weight[:, : self.width])


class FinalLayer(nn.Module):
    """LayerNorm with shift and scale from the condition, then a linear layer."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.width = width
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, channels)

    def modulate(self, condition: Tensor) -> Tensor:
        """Shift and scale [...,2D] of silu(condition vector) [...,D]."""
        return self.modulation(condition)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """[B,T,D] to [B,T,channels], with the modulation [B,2D]."""
        shift, scale = modulation[:, None].chunk(2, dim=-1)
        return self.linear(torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=1e-6), 1 + scale))


class Transformer(nn.Module):
    """Blocks and final layer."""

    def __init__(self, depth: int, width: int, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.final = FinalLayer(width, channels)
        self.compiled: Callable[..., Tensor] | None = None
        """What `forward` calls, where nothing is trained, instead of `layers` (`nvg_model.compiling`)."""
        self.checkpoint_blocks = False
        """Whether training computes the blocks' activations again in the backward pass, to save memory."""

    def modulate(self, condition: Tensor) -> list[Tensor]:
        """Modulations of every layer for condition vectors [...,D], so that many time steps cost one product each."""
        activated = F.silu(condition)
        return [layer.modulate(activated) for layer in (*self.blocks, self.final)]

    def forward(
        self, x: Tensor, modulations: list[Tensor], rope: Tensor, last: int, memory: Memory | None = None
    ) -> Tensor:
        """The final layer's values of the last `last` tokens: [B,T,D] to [B,last,channels].

        Args:
            memory: keys and values of all tokens but the last ones, for every block, which then are not in x; where it
                is empty, they are noted in it.
        """
        run = self.layers if self.compiled is None or torch.is_grad_enabled() else partial(self.compiled, self)
        return run(x, modulations, rope, last, memory)

    def layers(
        self, x: Tensor, modulations: list[Tensor], rope: Tensor, last: int, memory: Memory | None = None
    ) -> Tensor:
        """`forward`, never compiled."""
        of_block: Sequence[list[Tensor] | None] = memory or [None] * len(self.blocks)
        for block, modulation, kept in zip(self.blocks[:-1], modulations[:-2], of_block[:-1], strict=True):
            if self.checkpoint_blocks and self.training:
                x = checkpoint(block, x, modulation, rope, use_reentrant=False)
            else:
                x = block(x, modulation, rope, None, kept)
        x = self.blocks[-1](x, modulations[-2], rope, last, of_block[-1])
        return self.final(x, modulations[-1])

    def memory(self) -> Memory:
        """An empty one, for all steps of a stage."""
        return [[] for _ in self.blocks]


def embedding(count: int, width: int) -> nn.Embedding:
    """A table of zeros; making it normal first would, on the meta device, import half of torch's compiler."""
    return nn.Embedding.from_pretrained(torch.zeros(count, width), freeze=False)


def initialize(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights and zero biases. The gates start near zero, so every block starts near the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=std)
