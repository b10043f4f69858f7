"""Structure against meaning: whether the regions of a hierarchy are the shapes that a picture is drawn of.

True regions come from flat vector drawings, every shape one. The structure of their pictures is compared with them
stage by stage, beside other ways of dividing the same picture into as many regions (paper, section 5: open questions).
Shapes: N pictures, H W pixels, S stages, L positions; maps of regions are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nvg_model import NVG, hierarchy, render
from nvg_model.tokenizer import Tokenizer
from training.data.augmentation import stream
from training.data.shapes import picture_and_map, read_drawings
from training.errors import TrainingError
from training.extras import missing
from training.files import replacing
from training.metrics.report import Report

if TYPE_CHECKING:
    from training.metrics.evaluation import Evaluation

Regions = NDArray[np.int64]
SMALLEST = 0.01
"""Share of the picture below which a shape does not count."""
NEAR = 0.0625
"""Distance, in heights of the picture, at which outlines are the same: half a position of an 8 x 8 grid."""
SHOWN, TILE = 6, 128
"""Drawings on the sheet, and their pixels there."""
POSITION = 0.5
"""Weight of a position's place beside its vector, where regions are found without a network: those of k-means on
colours alone would be scattered."""


def best_match(found: Regions, true: Regions) -> float:
    """Mean over the true regions, small ones left out, of the largest overlap (IoU) with a region found."""
    found_index, true_index = (np.unique(one, return_inverse=True)[1].ravel() for one in (found, true))
    counts = np.zeros((true_index.max() + 1, found_index.max() + 1), dtype=np.int64)
    np.add.at(counts, (true_index, found_index), 1)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - counts
    large = counts.sum(1) >= SMALLEST * true.size
    return float((counts / union).max(1)[large].mean())


def boundary_score(found: Regions, true: Regions) -> float:
    """F-score of the outlines (harmonic mean of precision and recall), those within NEAR being the same; [H,W] each.

    0 where one of them has no outline.
    """
    from scipy.ndimage import distance_transform_edt

    edges = [_outline(one) for one in (found, true)]
    if not all(edge.any() for edge in edges):
        return 0.0
    distances = [distance_transform_edt(~edge) for edge in edges]
    limit = NEAR * found.shape[0]
    precision = float((distances[1][edges[0]] <= limit).mean())
    recall = float((distances[0][edges[1]] <= limit).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(regions: Regions) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another region."""
    edge = np.zeros(regions.shape, dtype=bool)
    edge[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    edge[:-1] |= regions[:-1] != regions[1:]
    return edge


Divide = Callable[[Tensor, int], Tensor]
"""Images [N,3,H,W] in [-1,1] and a number of regions -> the regions at every pixel, long [N,H,W]."""


def ways(nvg: NVG, seed: int) -> dict[str, Divide]:
    """The ways of dividing that are compared; only the first is the model's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = Tokenizer(nvg.config).eval().requires_grad_(False)

    def encoded(images: Tensor) -> Tensor:
        return nvg.tokenizer.encode(images.to(nvg.device)).cpu()

    return {
        "NVG": _equal(nvg, encoded),
        "NVG's vectors, any areas (k-means)": _free(nvg, encoded, seed),
        "untrained, equal halves": _equal(nvg, untrained.encode),
        "colours, equal halves": _equal(nvg, lambda images: _colours(nvg, images)),
        "colours, any areas (k-means)": _free(nvg, lambda images: _colours(nvg, images), seed),
        "SLIC (pixels)": _slic,
    }


def _equal(nvg: NVG, vectors: Callable[[Tensor], Tensor]) -> Divide:
    """By the hierarchy of the positions' vectors [N,L,C]."""

    def divide(images: Tensor, regions: int) -> Tensor:
        return _enlarged(hierarchy.cluster(vectors(images))[:, regions.bit_length() - 1], nvg, images)

    return divide


def _free(nvg: NVG, vectors: Callable[[Tensor], Tensor], seed: int) -> Divide:
    """By k-means of the positions' vectors, which may be of any area."""

    def divide(images: Tensor, regions: int) -> Tensor:
        from scipy.cluster.vq import kmeans2

        every = vectors(images).double().numpy()
        labels = [kmeans2(one, regions, minit="++", rng=seed, missing="warn")[1] for one in every]
        return _enlarged(torch.from_numpy(np.stack(labels)).long(), nvg, images)

    return divide


def _colours(nvg: NVG, images: Tensor) -> Tensor:
    """Mean colour of every position, and its place: [N,L,5]."""
    height, width = nvg.config.grid
    colours = F.adaptive_avg_pool2d(images, (height, width)).flatten(2).mT
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    place = POSITION * torch.stack([y, x], -1).flatten(0, 1)
    return torch.cat([colours, place.expand(len(images), -1, -1)], dim=2)


def _slic(images: Tensor, regions: int) -> Tensor:
    """By SLIC superpixels of scikit-image; not on the grid but on pixels, in about as many regions."""
    from skimage.segmentation import slic

    pixels = ((images + 1) / 2).permute(0, 2, 3, 1).double().numpy()
    return torch.from_numpy(np.stack([slic(one, regions, compactness=10, start_label=0) for one in pixels])).long()


def _enlarged(labels: Tensor, nvg: NVG, images: Tensor) -> Tensor:
    """Labels of the positions [N,L] at every pixel."""
    whole = labels.unflatten(1, nvg.config.grid)[:, None].float()
    return F.interpolate(whole, images.shape[2:], mode="nearest").long()[:, 0]


def drawings(path: Path, size: int, count: int, seed: int) -> Iterator[tuple[Image.Image, Regions]]:
    """Pictures and true regions [H,W] of this many drawings, chosen at random among the usable ones.

    Those with fewer than three regions that count tell nothing of a hierarchy.
    """
    texts = read_drawings(path)
    names = sorted(texts)
    for index in torch.randperm(len(names), generator=stream(seed, 31)).tolist():
        if count == 0:
            return
        made = picture_and_map(texts[names[index]], size)
        if made is not None and (np.unique(made[1], return_counts=True)[1] >= SMALLEST * size**2).sum() >= 3:
            count -= 1
            yield made


def sheet(images: Tensor, true: list[Regions], compared: dict[str, Divide]) -> Image.Image:
    """Drawings beside their true regions, the model's own of the first stages, and every other way's, 8 of each."""
    columns = {"drawing": render.to_pil(images), "its shapes": [_painted(one) for one in true]}
    own, *others = compared.items()
    for regions in (2, 4, 8, 16):
        columns[f"{own[0]}: {regions}"] = [_painted(one) for one in own[1](images, regions).numpy()]
    for name, divide in others:
        columns[f"{name.split(' (')[0]}: 8"] = [_painted(one) for one in divide(images, 8).numpy()]
    tiles = [picture.resize((TILE, TILE), Image.Resampling.NEAREST) for row in zip(*columns.values(), strict=True)
             for picture in row]  # fmt: skip
    return render.grid(tiles, len(columns), list(columns))


def _painted(regions: Regions) -> Image.Image:
    """A map of regions [H,W] in colours."""
    index = np.unique(regions, return_inverse=True)[1].reshape(regions.shape)
    return Image.fromarray(render.palette(max(2, 1 << int(index.max()).bit_length()))[index])


def semantics_part(work: Evaluation, report: Report) -> None:
    """Best-match IoU and boundary F-score of the structure with true regions, at every stage, beside other ways."""
    try:
        import skimage.segmentation  # noqa: F401
    except ImportError as error:
        raise missing("the part semantics needs", "scikit-image", "semantics") from error
    nvg, settings = work.nvg, work.settings
    if settings.drawings is None:
        raise TrainingError("the part semantics needs flat drawings whose shapes are known; give --drawings PATH")
    pairs = list(drawings(settings.drawings, nvg.config.image_size[0], settings.maps, settings.seed))
    images = torch.cat([render.from_pil(picture, nvg.config.image_size) for picture, _ in pairs])
    true = [regions for _, regions in pairs]
    rows: dict[str, list[dict[str, object]]] = {"IoU": [], "outlines": []}
    compared = ways(nvg, settings.seed)
    with torch.inference_mode():
        with replacing(settings.out / "semantics.png") as partial:
            sheet(images[:SHOWN], true[:SHOWN], compared).save(partial, format="PNG")
        for name, divide in compared.items():
            overlap: dict[str, object] = {"regions of": name}
            outline: dict[str, object] = {"regions of": name}
            for stage in range(1, nvg.config.num_stages):
                found = divide(images, 2**stage).numpy()
                overlap[f"{2**stage}"] = f"{np.mean(list(map(best_match, found, true))):.3f}"
                outline[f"{2**stage}"] = f"{np.mean(list(map(boundary_score, found, true))):.3f}"
            rows["IoU"].append(overlap)
            rows["outlines"].append(outline)
    report.tables[f"Structure: best match (mIoU) with the true regions of {len(true)} drawings"] = rows["IoU"]
    report.tables["Structure: F-score of the outlines"] = rows["outlines"]
