"""The photo that comes with the nodes, and that the template of it follows its subject."""

import pytest
import torch
import torch.nn.functional as F

import nvg_model
from nvg_model import NVGError
from nvg_nodes import host, nodes_photo
from nvg_nodes.types import Model


@pytest.mark.parametrize("photo", nodes_photo.PHOTOS)
def test_every_photo_has_a_subject_on_a_background(run, photo):
    image, subject = run("NVGExamplePhoto", photo=photo)
    assert image.dtype == subject.dtype == torch.float32
    assert image.shape == (*subject.shape, 3) and len(image) == 1
    assert 0.2 < subject.mean() < 0.8 and (subject > 0.99).any() and (subject < 0.01).any()
    assert image[subject < 0.5].std() > 0.05, "what is behind the subject was lost with the transparency"


def test_a_photo_that_is_not_there_is_named(run):
    with pytest.raises(NVGError, match=r"'portrait' cannot be read .* install the nodes again"):
        run("NVGExamplePhoto", photo="portrait")


def test_the_first_split_of_the_photo_is_its_subject(run):
    """With its mask; as it is, the embedded model cannot take it apart."""
    image, subject = run("NVGExamplePhoto", photo="astronaut")
    model = Model("emoji64", host.current().networks(nvg_model.load("emoji64")))
    _, seen = run("NVGTokenize", model=model, image=image, fit="subject", subject=subject)
    drawn = F.avg_pool2d((seen.amin(-1) < 0.95).float(), 8)[0].flatten() > 0.5
    structure, _ = run("NVGExtractStructure", model=model, image=image, fit="subject", stages=2, subject=subject)
    assert same_halves(structure.labels[0, 1], drawn) > 0.85
    plain, _ = run("NVGExtractStructure", model=model, image=image, fit="crop", stages=2)
    behind = F.avg_pool2d(subject, 32)[0].flatten() > 0.5
    assert same_halves(plain.labels[0, 1], behind) < 0.75


def same_halves(labels, drawn) -> float:
    """The share of positions where a split agrees with a silhouette, whichever half is called 1."""
    share = float((labels == drawn.long()).float().mean())
    return max(share, 1 - share)
