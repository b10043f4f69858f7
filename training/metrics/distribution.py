"""Distances between sets of feature vectors: Frechet distance, Inception score, precision and recall.

Shapes: N (M) pictures, D features, C classes. Everything is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROWS = 1024  # of a distance matrix that exist at the same time


class Gaussian(NamedTuple):
    """Mean and covariance of a set of feature vectors."""

    mean: Tensor
    """float64 [D]."""
    covariance: Tensor
    """float64 [D,D]."""


def gaussian(features: Tensor, weights: Tensor | None = None) -> Gaussian:
    """Mean and unbiased covariance of features [N,D], N >= 2.

    Args:
        weights: [N], summing to 1, where some pictures count more than others; None: all alike.
    """
    features, weights = features.double(), _weights_of(features, weights)
    mean = weights @ features
    centred = features - mean
    return Gaussian(mean, centred.T @ (centred * weights[:, None]) / (1 - weights.square().sum()))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017).

    |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)). The last trace is the sum of the singular values of
    A^(1/2) B^(1/2), which needs no root of a matrix that is only nearly symmetric, and is exact for singular ones.
    """
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    squared = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(squared))  # rounding can leave a zero slightly below it


def frechet_of_sets(a: Tensor, b: Tensor, b_weights: Tensor | None = None, a_weights: Tensor | None = None) -> float:
    """The same of the Gaussians of two sets of features [N,D] and [M,D].

    The singular values of A^(1/2) B^(1/2) are those of X Y^T, where A = X^T X and B = Y^T Y: no roots of large
    matrices, and little to do where there are fewer pictures than features.

    Args:
        a_weights, b_weights: [N] and [M], summing to 1, where some count more than others; None: all alike.
    """
    (mean_a, x), (mean_b, y) = _centred(a, a_weights), _centred(b, b_weights)
    cross = torch.linalg.svdvals(x @ y.T).sum()
    squared = (mean_a - mean_b).square().sum() + x.square().sum() + y.square().sum() - 2 * cross
    return max(0.0, float(squared))


def _centred(features: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean [D], and X [N,D] with X^T X the covariance, as `gaussian` has them."""
    features, weights = features.double(), _weights_of(features, weights)
    mean = weights @ features
    return mean, (features - mean) * (weights / (1 - weights.square().sum())).sqrt()[:, None]


def _weights_of(features: Tensor, weights: Tensor | None) -> Tensor:
    """float64 [N]: those that are given, or all alike."""
    if weights is not None:
        return weights.double()
    return torch.full((len(features),), 1 / len(features), dtype=torch.float64, device=features.device)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root [D,D]; eigenvalues that rounding made negative are zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(a: Tensor, b: Tensor, b_weights: Tensor | None = None, a_weights: Tensor | None = None) -> float:
    """Squared maximum mean discrepancy of features [N,D] and [M,D] under the kernel (x y / D + 1)^3, without bias
    (kernel inception distance; Binkowski et al. 2018). Unlike the Frechet distance it does not grow when there are few
    pictures.

    Args:
        a_weights, b_weights: [N] and [M], summing to 1, where some count more than others; None: all alike.
    """
    a, b, weights_a, weights_b = a.double(), b.double(), _weights_of(a, a_weights), _weights_of(b, b_weights)
    within = _kernel_mean(a, a, weights_a, weights_a) + _kernel_mean(b, b, weights_b, weights_b)
    return within - 2 * _kernel_mean(a, b, weights_a, weights_b)


def _kernel_mean(a: Tensor, b: Tensor, weights_a: Tensor, weights_b: Tensor) -> float:
    """Weighted mean of the kernel over all pairs; over pairs of different members where both are the same set."""
    kernel = (a @ b.T / a.shape[1] + 1).pow(3)
    total = weights_a @ kernel @ weights_b
    if a is not b:
        return float(total)
    own = weights_a.square()
    return float((total - own @ kernel.diagonal()) / (1 - own.sum()))


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception score of classifier logits [N,C] (Salimans et al. 2016): mean and deviation over `splits` parts.

    exp of the mean divergence between each picture's class distribution and their mean; 1 to C. The order in which the
    parts are taken is shuffled, as in torch-fidelity, since generated pictures come sorted by class.
    """
    logits = logits.double()[torch.from_numpy(np.random.RandomState(2020).permutation(len(logits)))]
    scores = []
    for part in logits.tensor_split(min(splits, len(logits))):
        probability = part.softmax(1)
        divergence = probability * (part.log_softmax(1) - probability.mean(0).log())
        scores.append(divergence.sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(unbiased=False))


def precision_recall(
    generated: Tensor, real: Tensor, neighbours: int = 3, real_weights: Tensor | None = None
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    A set's manifold is the union of balls around its members, each as large as the distance to its k-th neighbour in
    the set. Precision is the share of generated pictures inside the manifold of the real ones, recall the reverse.

    Args:
        generated: features [N,D]; real: features [M,D]; each with more than `neighbours` members.
        real_weights: [M], summing to 1: how much each real picture counts for recall; None: all alike.
    """
    generated, real = generated.double(), real.double()
    precision = _inside(generated, real, neighbours).double().mean()
    covered = _inside(real, generated, neighbours).double()
    recall = covered.mean() if real_weights is None else covered @ real_weights.double()
    return float(precision), float(recall)


def _inside(points: Tensor, members: Tensor, neighbours: int) -> Tensor:
    """bool [N]: whether each of `points` [N,D] lies in the manifold of `members` [M,D]."""
    # The nearest of a member's distances is the one to itself.
    radii = [torch.cdist(rows, members).kthvalue(neighbours + 1).values for rows in members.split(ROWS)]
    radius = torch.cat(radii)
    return torch.cat([(torch.cdist(rows, members) <= radius).any(1) for rows in points.split(ROWS)])
