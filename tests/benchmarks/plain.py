"""The plain eager loop that nvg_model is measured against: the formulas of nvg-method.md one after the other.

Same weights, nothing cached: every evaluation works out its own rotations, embeddings and modulation, guidance always
takes the class and the null class, every stage is decoded. Short enough to be checked against the formulas by eye, so
it is a second opinion for the tests as well.

Shapes: B batch, T tokens, D width, L positions, K splits, N clusters, C latent channels.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import NVG, SamplingSettings
from nvg_model.transformer import Block, FinalLayer


def cluster(points: Tensor) -> Tensor:
    """The greedy loop of nvg-method section 1, one closest pair after the other: [B,L,C] to labels [B,S,L]."""
    return torch.stack([_cluster_item(item) for item in points])


def _cluster_item(points: Tensor) -> Tensor:
    means, pairings = points.float(), []
    while (size := len(means)) > 1:
        distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
        distances.fill_diagonal_(torch.inf)
        pairs = []
        for _ in range(size // 2):
            row, column = divmod(int(distances.argmin()), size)  # the first of equals, row by row
            pairs.append((row, column))
            distances[[row, column], :] = torch.inf
            distances[:, [row, column]] = torch.inf
        pairings.append(pairs)
        first, second = torch.tensor(pairs).T
        means = (means[first] + means[second]) / 2
    labels = [0]
    for pairs in reversed(pairings):
        children = [0] * (2 * len(pairs))
        for label, pair in zip(labels, pairs, strict=True):
            children[min(pair)], children[max(pair)] = 2 * label, 2 * label + 1
        labels = children
    return torch.stack([torch.tensor(labels) >> shift for shift in range(len(pairings), -1, -1)])


def rotation(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B,1,T,32] for coordinates [B,T,A]: 8 channels by kind, 2 by each bit, the rest halved."""
    rest = 56 - 2 * (ids.shape[-1] - 3)
    widths = [8] + [2] * (ids.shape[-1] - 3) + [rest // 4 * 2, rest - rest // 4 * 2]
    angle = torch.cat(
        [ids[..., a, None] * 10_000.0 ** (-torch.arange(0, d, 2) / d) for a, d in enumerate(widths)], dim=-1
    )[:, None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of x [B,H,T,64]: adjacent channels turn together."""
    (cos, sin), even, odd = turn, x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def block(layer: Block, x: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """x + gate * Linear(concat(attention, gelu(mlp))) of (1 + scale) * LN(x) + shift."""
    shift, scale, gate = layer.modulation(F.silu(vec))[:, None].chunk(3, dim=-1)
    y = (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift
    q, k, v, mlp = layer.linear_in(y).split([x.shape[-1]] * 3 + [4 * x.shape[-1]], dim=-1)
    q, k, v = (part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in (q, k, v))
    q, k = (
        rotate(part * torch.rsqrt(part.square().mean(-1, keepdim=True) + 1e-6) * scale, turn)
        for part, scale in ((q, layer.qk_scale[0]), (k, layer.qk_scale[1]))
    )
    attention = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x + gate * layer.linear_out(torch.cat([attention, F.gelu(mlp, approximate="tanh")], dim=-1))


def final(layer: FinalLayer, x: Tensor, vec: Tensor) -> Tensor:
    """Linear of (1 + scale) * LN(x) + shift."""
    shift, scale = layer.modulation(F.silu(vec))[:, None].chunk(2, dim=-1)
    return layer.linear((1 + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift)


def coordinates(model: NVG, labels: Tensor, stage: int, kind: int) -> Tensor:
    """[B,L,3+K] of the positions: kind, 2 * bit for known splits and 1 for the others, row, column."""
    bits = [
        2 * ((labels >> (stage - 1 - j)) & 1) if j < stage else torch.ones_like(labels)
        for j in range(model.config.splits)
    ]
    place = torch.arange(labels.shape[1]).expand_as(labels)
    columns = model.config.grid[1]
    return torch.stack([torch.full_like(labels, kind), *bits, place // columns, place % columns], dim=-1)


def content(model: NVG, canvas: Tensor, labels: Tensor, classes: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    """Predicted final canvas [B,L,C] and logits [B,N,V]."""
    net = model.content
    x = net.canvas_in(canvas * net.canvas_scales[stage] if stage else net.start_canvas.expand(len(labels), -1, -1))
    token = net.class_embedding(classes)
    vec = token + net.stage_embedding.weight[stage]
    ids = coordinates(model, labels, stage, 0)
    ids = torch.cat([torch.ones_like(ids[:, :1]), ids], dim=1)
    turn = rotation(ids)
    x = torch.cat([token[:, None], x], dim=1)
    for layer in net.transformer.blocks:
        x = block(layer, x, vec, turn)
    predicted = final(net.transformer.final, x[:, 1:], vec) / net.canvas_scales[-1]
    member = F.one_hot(labels, 2**stage).to(x.dtype).mT
    return predicted, net.code_head(member @ (predicted - canvas) / member.sum(-1, keepdim=True))


def velocity(model: NVG, z: Tensor, t: float, canvas: Tensor, labels: Tensor, classes: Tensor, stage: int) -> Tensor:
    """Velocity [B,L,K] of the structure flow."""
    net = model.structure
    token = net.class_embedding(classes)
    angle = net.time_factor * t * torch.exp(-math.log(10_000) * torch.arange(32) / 32)
    vec = token + net.time_mlp(torch.cat([angle.cos(), angle.sin()]))[None] + net.stage_embedding.weight[stage]
    ids, canvas_ids = coordinates(model, labels, stage, 0), coordinates(model, labels, stage, 2)
    ids = torch.cat([torch.ones_like(ids[:, :1]), canvas_ids, ids], dim=1)
    x = torch.cat([token[:, None], net.canvas_in(canvas), net.structure_in(z)], dim=1)
    turn = rotation(ids)
    for layer in net.transformer.blocks:
        x = block(layer, x, vec, turn)
    return final(net.transformer.final, x, vec)[:, -labels.shape[1] :]


def halve(labels: Tensor, scores: Tensor, clusters: int) -> Tensor:
    """The upper half of every cluster by score becomes 2j+1, the rest 2j; ties go to the earlier position."""
    result = 2 * labels
    for item in range(len(labels)):
        for cluster in range(clusters):
            members = (labels[item] == cluster).nonzero().squeeze(1)
            order = scores[item, members].sort(descending=True, stable=True).indices
            result[item, members[order[: len(members) // 2]]] += 1
    return result


@torch.no_grad()
def generate(model: NVG, classes: Tensor, noise: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy generation (top_k = 1, Euler): labels [B,S,L], tokens [B,S,L] and the image of the last stage."""
    splits, positions = model.config.splits, model.config.positions
    both = torch.cat([classes, torch.full_like(classes, model.content.num_classes)])
    labels = torch.zeros(len(classes), positions, dtype=torch.long)
    canvas = torch.zeros(len(classes), positions, model.config.autoencoder.latent_channels)
    structure, tokens, image = [], [], torch.empty(0)
    steps = torch.linspace(1, 0, settings.structure_steps + 1).double()
    mu = 0.5 + 0.65 * (positions - 256) / 3840
    times = (math.exp(mu) / (math.exp(mu) + 1 / steps - 1)).float().tolist()
    for stage in range(splits + 1):
        low, high = settings.content_guidance
        _, logits = content(model, torch.cat([canvas] * 2), torch.cat([labels] * 2), both, stage)
        given, null = logits.chunk(2)
        codes = (null + (low + (high - low) * stage / splits) * (given - null)).argmax(-1)
        placed = model.tokenizer.quantizer.codebook[codes].gather(1, labels[..., None].expand_as(canvas))
        conv = model.tokenizer.quantizer.refiners[stage]
        canvas = canvas + placed + 0.5 * conv(placed.mT.unflatten(2, model.config.grid)).flatten(2).mT
        image = model.tokenizer.decode(canvas)
        structure.append(labels)
        tokens.append(codes.gather(1, labels))
        if stage == splits:
            break
        z = noise
        if stage < splits - 1:
            low, high = settings.structure_guidance
            bits = [2 * ((labels >> (stage - 1 - j)) & 1) - 1.0 for j in range(stage)]
            known = torch.stack(bits, dim=-1) if bits else noise[..., :0]
            z = torch.cat([known, noise[..., stage:]], dim=-1)
            for now, then in itertools.pairwise(times):
                v = velocity(
                    model, torch.cat([z] * 2), now, torch.cat([canvas] * 2), torch.cat([labels] * 2), both, stage
                )
                given, null = v.chunk(2)
                z = z + (then - now) * (null + (low + (high - low) * stage / splits) * (given - null))
                z = torch.cat([known, z[..., stage:]], dim=-1)
        labels = halve(labels, z[..., stage], 2**stage)
    return torch.stack(structure, 1), torch.stack(tokens, 1), image
