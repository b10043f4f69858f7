"""The structure hierarchy against the plain greedy loop, and every way to cut, embed, check and average it."""

import time

import pytest
import torch
from plain import cluster as greedy

import nvg_model
from nvg_model.hierarchy import (
    all_stages,
    check,
    cluster,
    cluster_means,
    embed,
    members,
    num_splits,
    place,
    split,
)


def random_points(kind, batch, positions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "random":
        return torch.randn(batch, positions, 16, generator=generator)
    if kind == "grid":  # few distinct distances: most pairs tie
        return torch.randint(0, 3, (batch, positions, 2), generator=generator).float()
    if kind == "offset":  # a matrix-product distance would lose all digits
        return 1000 + torch.randn(batch, positions, 8, generator=generator) / 8
    assert kind == "constant"
    return torch.full((batch, positions, 4), 0.3)


def random_labels(batch, positions, stage, seed=0):
    """Labels of a stage whose clusters are spread at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(positions, generator=generator) for _ in range(batch)]) >> (
        num_splits(positions) - stage
    )


KINDS = ("random", "grid", "constant", "offset")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("positions", "batch"), [(2, 3), (4, 8), (16, 8), (64, 4), (256, 2), (1024, 1)])
def test_clustering_equals_the_greedy_loop(kind, positions, batch):
    points = random_points(kind, batch, positions)
    structure = cluster(points)
    assert structure.dtype == torch.long and structure.shape == (batch, num_splits(positions) + 1, positions)
    assert torch.equal(structure, greedy(points))


@pytest.mark.parametrize("positions", [16, 64, 256])
def test_clustering_of_a_mixed_batch(positions):
    """Items that need few rounds and many do not disturb each other."""
    points = torch.cat([random_points(kind, 1, positions)[..., :1].expand(-1, -1, 3) for kind in KINDS])
    structure = cluster(points)
    assert torch.equal(structure, greedy(points))
    for item in range(len(KINDS)):
        assert torch.equal(cluster(points[item : item + 1]), structure[item : item + 1])


def test_clustering_of_a_chain():
    """Distances that fall along a line make one mutual pair a round: the longest run of the fast form."""
    points = torch.cumsum(torch.linspace(2, 1, 64), 0)[None, :, None]
    assert torch.equal(cluster(points), greedy(points))


def test_clustering_in_half_precision_is_that_of_float32():
    points = random_points("random", 2, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        structure = cluster(points)
    assert torch.equal(structure, cluster(points.float()))


def test_clustering_by_hand():
    points = torch.tensor([[0.0], [10.0], [1.0], [10.5]])[None]
    # 10 and 10.5 are closest, so they are raw cluster 0; 0 and 1 are raw cluster 1.
    assert cluster(points)[0].tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [2, 0, 3, 1]]


def test_clustering_is_a_hierarchy():
    structure = cluster(random_points("random", 3, 64))
    check(structure, 64)
    assert torch.equal(all_stages(structure[:, -1]), structure)


def test_clustering_is_five_times_faster_than_the_loop():
    """On one thread, taking turns and the best of each, so that what else runs here matters little."""
    points, threads = random_points("random", 8, 256), torch.get_num_threads()
    best = dict.fromkeys((greedy, cluster), float("inf"))
    torch.set_num_threads(1)
    try:
        for function in [greedy, cluster, cluster, cluster] * 4:
            start = time.perf_counter()
            function(points)
            best[function] = min(best[function], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert best[greedy] > 5 * best[cluster]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_clustering_refuses_what_is_not_finite(value, refuses):
    points = random_points("random", 2, 16)
    points[1, 3, 0] = value
    with refuses("NaN or infinity"):
        cluster(points)


@pytest.mark.parametrize("positions", [0, 3, 48])
def test_positions_must_be_a_power_of_two(positions, refuses):
    with refuses(f"{positions} positions"):
        cluster(torch.zeros(1, positions, 4))


# Embedding.


@pytest.mark.parametrize("splits", [1, 2, 4, 6, 8, 10])
def test_embedding_holds_the_bits_of_the_label(splits):
    for stage in range(splits + 1):
        labels = random_labels(2, 2**splits, stage)
        embedding = embed(labels, stage, splits)
        assert embedding.shape == (2, 2**splits, splits)
        assert (embedding[..., stage:] == 1).all()
        assert ((embedding[..., :stage] == 0) | (embedding[..., :stage] == 2)).all()
        weights = 2 ** torch.arange(stage - 1, -1, -1)
        assert torch.equal((embedding[..., :stage] // 2 * weights).sum(-1), labels)


def test_embedding_by_hand():
    # Label 6 of stage 3 is 110: the most significant bit comes first.
    assert embed(torch.tensor([[6]]), 3, 4).tolist() == [[[2, 2, 0, 1]]]
    assert embed(torch.tensor([[0]]), 0, 4).tolist() == [[[1, 1, 1, 1]]]


def test_embedding_of_different_stages():
    stages = torch.tensor([0, 2, 4])
    labels = torch.cat([random_labels(1, 16, int(stage)) for stage in stages])
    together = embed(labels, stages, 4)
    for item, stage in enumerate(stages.tolist()):
        assert torch.equal(together[item : item + 1], embed(labels[item : item + 1], stage, 4))


# Splitting.


def gumbel_noise(shape, seed=0):
    return -torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed)).log()


@pytest.mark.parametrize("gumbel", [False, True])
@pytest.mark.parametrize("scores", ["normal", "saturated", "all low", "all high", "infinite", "equal"])
@pytest.mark.parametrize("stage", [0, 1, 3, 5])
def test_split_halves_every_cluster(stage, scores, gumbel):
    labels = random_labels(3, 64, stage)
    values = {
        "normal": torch.randn(3, 64, generator=torch.Generator().manual_seed(1)),
        "saturated": 3 * torch.randn(3, 64, generator=torch.Generator().manual_seed(1)),
        "all low": torch.linspace(-5, -1, 64).expand(3, -1),
        "all high": torch.linspace(1, 5, 64).expand(3, -1),
        "infinite": torch.tensor([torch.inf, -torch.inf]).repeat(3, 32),
        "equal": torch.zeros(3, 64),
    }[scores]
    finer = split(labels, values, gumbel_noise((3, 64)) if gumbel else None)
    assert torch.equal(finer >> 1, labels)
    for item in finer:
        assert item.bincount().tolist() == [64 // 2 ** (stage + 1)] * 2 ** (stage + 1)


@pytest.mark.parametrize("stage", [0, 2])
def test_split_gives_the_upper_child_the_larger_scores(stage):
    labels = random_labels(2, 32, stage)
    scores = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    finer = split(labels, scores)
    for item in range(2):
        for parent in range(2**stage):
            lower, upper = (scores[item][finer[item] == 2 * parent + child] for child in (0, 1))
            assert upper.min() > lower.max()


def test_split_ranks_saturated_scores_by_their_unclamped_value():
    scores = torch.tensor([[1.5, 3.0, 2.0, 1.2], [-1.5, -3.0, -2.0, -1.2]])
    assert split(torch.zeros(2, 4, dtype=torch.long), scores).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_split_ranks_equal_scores_by_position():
    labels = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1]])
    assert split(labels, torch.zeros(1, 8)).tolist() == [[1, 3, 1, 3, 0, 2, 0, 2]]


def test_split_of_an_item_does_not_depend_on_the_batch():
    labels, scores = random_labels(4, 64, 2), torch.randn(4, 64, generator=torch.Generator().manual_seed(3)).round()
    together = split(labels, scores)
    for item in range(4):
        assert torch.equal(split(labels[item : item + 1], scores[item : item + 1]), together[item : item + 1])


def test_gumbel_top_k_draws_in_proportion():
    """Of two positions with p = 0.5 and 1.5, the first becomes the upper child in a quarter of the draws."""
    draws = 20_000
    labels, scores = torch.zeros(draws, 2, dtype=torch.long), torch.tensor([-0.5, 0.5]).expand(draws, -1)
    upper_first = split(labels, scores, gumbel_noise((draws, 2)))[:, 0].float().mean().item()
    assert abs(upper_first - 0.25) < 0.015  # five standard deviations


def test_gumbel_chooses_impossible_positions_last():
    labels = torch.zeros(500, 4, dtype=torch.long)
    scores = torch.tensor([-1.0, 0.1, -2.0, 0.2]).expand(500, -1)
    assert split(labels, scores, gumbel_noise((500, 4))).unique(dim=0).tolist() == [[0, 1, 0, 1]]


def test_gumbel_ranks_impossible_positions_by_value_then_position():
    scores = torch.tensor([[-3.0, -1.0, -2.0, -2.0]])
    for seed in range(5):
        finer = split(torch.zeros(1, 4, dtype=torch.long), scores, gumbel_noise((1, 4), seed))
        assert finer.tolist() == [[0, 1, 1, 0]]


def test_gumbel_with_much_noise_is_diverse():
    labels, scores = torch.zeros(50, 16, dtype=torch.long), torch.zeros(50, 16)
    assert len(split(labels, scores, gumbel_noise((50, 16))).unique(dim=0)) > 45


def test_split_refuses_nan(refuses):
    scores = torch.zeros(2, 4)
    scores[1, 2] = torch.nan
    with refuses("NaN"):
        split(torch.zeros(2, 4, dtype=torch.long), scores)


# Checking what is given.


@pytest.fixture
def hierarchy():
    return all_stages(random_labels(2, 16, 4))


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.long])
def test_check_takes_any_prefix(hierarchy, stages, dtype):
    check(hierarchy[:, :stages].to(dtype), 16)


@pytest.mark.parametrize("shape", [(2, 16), (2, 6, 16), (2, 0, 16), (2, 5, 32), (2, 5, 16, 1)])
def test_check_names_the_wrong_shape(shape, refuses):
    with refuses(r"\[batch, stages, 16\] with 1 to 5 stages"):
        check(torch.zeros(shape, dtype=torch.long), 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_check_names_the_wrong_type(hierarchy, dtype, refuses):
    with refuses("labels are integers"):
        check(hierarchy.to(dtype), 16)


def test_check_wants_one_cluster_at_stage_0(hierarchy, refuses):
    with refuses("stage 0"):
        check(hierarchy[:, 1:3], 16)


def test_check_names_the_parent_that_is_not_split_in_half(hierarchy, refuses):
    stage, parent = 3, 2
    position = int((hierarchy[1, stage] == 2 * parent).nonzero()[0])
    hierarchy[1, stage, position] += 1  # one child has 3 positions now, its sibling 1
    with refuses(r"does not split parent 2 of stage 2 in half \(item 1\): child 4 has 1 positions instead of 2"):
        check(hierarchy[:, : stage + 1], 16)


@pytest.mark.parametrize("label", [-1, 0, 31])
def test_check_names_the_position_whose_parent_is_another(hierarchy, label, refuses):
    position = int((hierarchy[0, 2] == 2).nonzero()[0])
    hierarchy[0, 2, position] = label
    message = (
        rf"stage 2 position {position} of item 0 has label {label}, but its parent is 1, whose children are 2 and 3"
    )
    with refuses(message):
        check(hierarchy, 16)


# Averaging and placing.


@pytest.mark.parametrize("stage", range(5))
def test_cluster_means_and_place(stage):
    labels = random_labels(3, 16, stage)
    x = torch.randn(3, 16, 5, generator=torch.Generator().manual_seed(4))
    means = cluster_means(x, labels, 2**stage)
    assert means.shape == (3, 2**stage, 5)
    for item in range(3):
        for label in range(2**stage):
            assert torch.allclose(means[item, label], x[item][labels[item] == label].mean(0), atol=1e-6)
    placed = place(means, labels)
    assert torch.equal(placed, torch.stack([m[i] for m, i in zip(means, labels, strict=True)]))
    assert torch.equal(place(means[..., 0], labels), placed[..., 0])
    assert torch.allclose(cluster_means(placed, labels, 2**stage), means, atol=1e-6)


def test_members_are_in_order():
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]])
    assert members(labels, 2).tolist() == [[[1, 3], [0, 2]], [[0, 1], [2, 3]]]


def test_sequence_gives_the_tokens_of_clusters(tiny_model):
    generator = torch.Generator().manual_seed(5)
    sequence = tiny_model.tokenize(torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1)
    assert sequence.is_whole and not sequence.first_stages(4).is_whole and len(sequence.items([1])) == 1
    for stage in range(sequence.num_stages):
        codes = sequence.cluster_tokens(stage)
        assert codes.shape == (2, 2**stage)
        assert torch.equal(place(codes, sequence.structure[:, stage]), sequence.tokens[:, stage])
    with pytest.raises(AttributeError):
        sequence.tokens = None
    assert nvg_model.cluster is cluster
