"""A judge that was not in the training: sets of pictures in the features of an ImageNet network.

Classes are told by a linear classifier on these features, fitted to the training pictures, and by the nearest
training picture. A classifier of our own, trained on a few hundred pictures, takes generated ones for their class more
often than real ones.
Shapes: N (M) pictures, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.metrics.distribution import frechet_of_sets, kernel_distance, precision_recall
from training.metrics.lite import Probe, nearest_classes
from training.metrics.pictures import Labelled, class_weights
from training.metrics.report import Measured

NEIGHBOURS = 3  # of precision and recall
UNITS = {
    "Frechet distance": "",
    "kernel distance": "",
    "precision": "%",
    "recall": "%",
    "probe": "%",
    "nearest neighbour": "%",
}


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a set of pictures."""

    numbers: dict[str, float]
    """By the names of `UNITS`; shares are between 0 and 1, the kernel distance is a thousandfold."""
    taken_for: Tensor
    """long [N]: the classes that the probe takes the pictures for."""


class Judge:
    """Compares sets of pictures with the training pictures.

    Args:
        features: of the training pictures, [M,D].
        train: these pictures.
    """

    def __init__(self, features: Tensor, train: Labelled) -> None:
        self.features, self.train = features, train
        self.probe = Probe(features, train.labels, len(train.classes), train.weights)

    def verdict(self, features: Tensor, labels: Tensor) -> Verdict:
        """Of pictures with these features [N,D] and classes long [N]; every class that has some counts alike, here and
        among the training pictures."""
        real, weights = self.features, self.train.weights
        ours = class_weights(labels, len(self.train.classes))
        _, recall = precision_recall(features, real, NEIGHBOURS, weights)
        _, precision = precision_recall(real, features, NEIGHBOURS, ours)  # the same with the sets exchanged
        taken, nearest = self.probe(features), nearest_classes(features, real, self.train.labels)
        numbers = {
            "Frechet distance": frechet_of_sets(features, real, weights, ours),
            "kernel distance": 1000 * kernel_distance(features, real, weights, ours),
            "precision": precision,
            "recall": recall,
            "probe": float(ours @ (taken == labels).double()),
            "nearest neighbour": float(ours @ (nearest == labels).double()),
        }
        return Verdict(numbers, taken)


def with_noise(verdicts: list[Verdict], pictures: int) -> dict[str, Measured]:
    """Every number's mean over sets that differ in nothing but their seed, and in the note how much it differs."""
    result = {}
    for name, unit in UNITS.items():
        values = torch.tensor([one.numbers[name] for one in verdicts], dtype=torch.float64)
        note = f"{pictures} pictures"
        if len(values) > 1:
            deviation = float(values.std())
            shown = f"{100 * deviation:.1f} points" if unit == "%" else f"{deviation:.3g}"
            note = f"mean of {len(values)} seeds, deviation {shown}; {pictures} pictures each"
        result[name] = Measured(float(values.mean()), unit, note)
    return result
