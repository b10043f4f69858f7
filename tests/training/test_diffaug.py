"""Differentiable augmentation: by hand, its gradient, and what it refuses."""

import pytest
import torch
from shared_images import pictures
from torch import Tensor

from training.losses.diffaug import DiffAugSettings, augment, draw

# Differentiable augmentation

UNCHANGED = [0.5, 0.5, 0.5, 0.5, 0.5]  # up to the shift; cutout has its own switch


def numbers(*changed: tuple[int, float]) -> Tensor:
    """The numbers [1,7] that change nothing, but for some."""
    row = torch.tensor([[*UNCHANGED, 0.5, 0.5]])
    for index, value in changed:
        row[0, index] = value
    return row


def test_augmentation_in_the_middle_changes_nothing() -> None:
    images = pictures(1, 3, 16, 16)
    torch.testing.assert_close(augment(images, numbers(), DiffAugSettings(cutout=0)), images)


def test_colour_by_hand() -> None:
    colour = DiffAugSettings(translation=0, cutout=0)
    images = pictures(1, 3, 8, 8)
    torch.testing.assert_close(augment(images, numbers((0, 0.75)), colour), images + 0.25)
    grey = images.mean(1, keepdim=True).expand_as(images)
    torch.testing.assert_close(augment(images, numbers((1, 0.0)), colour), grey)
    torch.testing.assert_close(augment(images, numbers((1, 0.75)), colour), grey + 1.5 * (images - grey))
    mean = images.mean()
    torch.testing.assert_close(augment(images, numbers((2, 0.0)), colour), mean + 0.5 * (images - mean))


@pytest.mark.parametrize(("number", "shift"), [(0.0, -2), (0.3, -1), (0.5, 0), (0.7, 1), (0.99, 2)])
def test_translation_by_hand(number: float, shift: int) -> None:
    images = pictures(1, 3, 8, 16)
    moved = augment(images, numbers((3, number)), DiffAugSettings(colour=False, translation=0.25, cutout=0))
    expected = torch.zeros_like(images)
    for row in range(8):
        if 0 <= row - shift < 8:
            expected[:, :, row] = images[:, :, row - shift]
    assert torch.equal(moved, expected)
    across = augment(images.mT, numbers((4, number)), DiffAugSettings(colour=False, translation=0.25, cutout=0))
    assert torch.equal(across, expected.mT)


def test_cutout_by_hand() -> None:
    images = torch.ones(1, 3, 10, 10)
    settings = DiffAugSettings(colour=False, translation=0, cutout=0.4)
    hole = augment(images, numbers(), settings) == 0
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[3:7, 3:7] = True  # 4 of 10 pixels; the middle is drawn from 0 to 10: int(0.5 * 11) = 5, so from 5 - 2
    assert torch.equal(hole[0, 0], expected)
    corner = augment(images, numbers((5, 0.0), (6, 0.99)), settings) == 0
    assert corner[0].sum() == 3 * 2 * 2 and corner[0, :, :2, 8:].all()


def test_augmentation_comes_from_its_generator_alone() -> None:
    images, state = pictures(4, 3, 16, 16), torch.random.get_rng_state()
    rows = draw(4, torch.Generator().manual_seed(3))
    first = augment(images, rows)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, augment(images, draw(4, torch.Generator().manual_seed(3))))
    assert not torch.equal(first, augment(images, draw(4, torch.Generator().manual_seed(4))))
    torch.testing.assert_close(augment(images[2:], rows[2:]), first[2:])  # a process's share
    same = augment(images[:1].expand(4, -1, -1, -1), rows)
    assert not torch.equal(same[0], same[1])  # every image has its own


def test_augmentation_gradient() -> None:
    rows = draw(2, torch.Generator().manual_seed(0)).double()
    images = pictures(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, rows, DiffAugSettings(translation=0.3, cutout=0.4)), images)


def test_augmentation_refusals() -> None:
    with pytest.raises(ValueError, match=r"not \[2, 3, 4, 4\] and \[1, 7\]"):
        augment(torch.zeros(2, 3, 4, 4), numbers())
    assert augment(torch.zeros(1, 3, 1, 1), numbers()).shape == (1, 3, 1, 1)
