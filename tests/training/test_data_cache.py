"""The token cache: what is in it, going on after a stop, sharing the work, a full disk."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nvg_model
from nvg_model.tokenizer import Tokenizer
from training.data import cache
from training.data.augmentation import AugmentationSettings, draw_balanced, draw_views, stream
from training.data.cache import TokenCache, load_or_make
from training.data.dataset import ImageDataset, open_dataset
from training.errors import TrainingError

VIEWS, SEED = 300, 5
NAMES = ("finest", "tokens", "classes", "pictures")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(0)
    for name in ("cat", "dog", "eel"):
        (folder / name).mkdir()
        for index in range(4):
            image = Image.fromarray(random.randint(0, 255, (4, 4, 3), np.uint8))
            image.resize((16, 16)).save(folder / name / f"{index}.png")
    return open_dataset(folder, (16, 16), split="all")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = Tokenizer(nvg_model.preset("tiny"))
        tokenizer.quantizer.spread()
    return tokenizer.eval().requires_grad_(False)


@pytest.fixture
def make(tokenizer: Tokenizer, pictures: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TokenCache]:
    """Makes a cache of three shards."""
    monkeypatch.setattr(cache, "SHARD", 2 * cache.CHUNK)

    def make(path: Path, **options: object) -> TokenCache:
        return load_or_make(path, tokenizer, pictures, AugmentationSettings(), VIEWS, SEED, **options)  # type: ignore[arg-type]

    return make


def same(a: TokenCache, b: TokenCache) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def test_what_is_in_it(
    make: Callable[..., TokenCache], tokenizer: Tokenizer, pictures: ImageDataset, tmp_path: Path
) -> None:
    """Against a plain loop over the chunks, which is how the first caches were made."""
    made = make(tmp_path / "cache.safetensors")
    assert len(made) == VIEWS and list(tmp_path.iterdir()) == [tmp_path / "cache.safetensors"]
    for start in range(0, VIEWS, 64):
        generator = stream(SEED, 1, start)
        index = draw_balanced(pictures.labels, 3, min(64, VIEWS - start), generator)
        sequence = tokenizer.tokenize(draw_views(pictures, index, AugmentationSettings(), generator).images)
        rows = torch.arange(start, start + len(index))
        assert torch.equal(made.finest[rows].long(), sequence.structure[:, -1])
        assert torch.equal(made.classes[rows].long(), pictures.labels[index])
        assert torch.equal(made.pictures[rows].long(), index)
        for stage in range(sequence.num_stages):
            assert torch.equal(made.codes(rows, stage), sequence.cluster_tokens(stage))
    for view in range(0, VIEWS, 37):
        assert made.name(view).startswith(f"{pictures.classes[int(made.classes[view])]}/")
    assert len({made.name(view) for view in range(VIEWS)}) == 12


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows its maps")
def test_it_is_mapped_not_read(make: Callable[..., TokenCache], tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    made = make(path)
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    for name in NAMES:
        assert any(low <= getattr(made, name).data_ptr() < high for low, high in ranges)


def count_tokenized(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**6) -> list[int]:
    """The sizes of the batches tokenized from now on; a KeyboardInterrupt after some."""
    sizes: list[int] = []
    original = type(tokenizer).tokenize

    def tokenize(self: Tokenizer, images: torch.Tensor) -> object:
        if len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(type(tokenizer), "tokenize", tokenize)
    return sizes


def test_a_stopped_call_goes_on(
    make: Callable[..., TokenCache], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = make(tmp_path / "whole.safetensors")
    path = tmp_path / "stopped.safetensors"
    with monkeypatch.context() as patch:
        count_tokenized(tokenizer, patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            make(path)
    assert not path.exists()
    sizes = count_tokenized(tokenizer, monkeypatch)
    assert same(make(path), whole) and sizes == [64, 64, VIEWS - 256]  # the first shard was kept
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    sizes.clear()
    assert same(make(path), whole) and not sizes  # and now all is there


def test_another_key_makes_it_again(
    make: Callable[..., TokenCache], tokenizer: Tokenizer, pictures: ImageDataset, tmp_path: Path
) -> None:
    path = tmp_path / "cache.safetensors"
    first = make(path)
    other = load_or_make(path, tokenizer, pictures, AugmentationSettings(flip=0.0), VIEWS, SEED)
    assert not torch.equal(first.tokens, other.tokens)
    again = make(path)
    assert same(first, again)
    path.write_bytes(b"no cache")
    assert same(make(path), first)


def test_processes_share_the_work(
    make: Callable[..., TokenCache], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two ranks at once; threads stand for the processes, a real barrier between them."""
    sizes = count_tokenized(tokenizer, monkeypatch)
    barrier, results = threading.Barrier(2, timeout=60), {}

    def work(rank: int) -> None:
        results[rank] = make(tmp_path / "shared.safetensors", rank=rank, world=2, wait=barrier.wait)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sizes) == VIEWS  # together, not each
    alone = make(tmp_path / "alone.safetensors", workers=0)
    assert same(results[0], alone) and same(results[1], alone)
    assert (tmp_path / "shared.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_workers_change_nothing(make: Callable[..., TokenCache], tmp_path: Path) -> None:
    assert same(make(tmp_path / "a.safetensors", workers=2), make(tmp_path / "b.safetensors"))


@contextmanager
def room(size: int) -> Iterator[None]:
    """The system refuses files larger than `size`, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(make: Callable[..., TokenCache], tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    with (
        room(1000),
        pytest.raises(TrainingError, match=r"the token cache .* could not be written \(.*make room") as caught,
    ):
        make(path)
    assert "\n" not in str(caught.value)
    assert not path.exists() and not list((tmp_path / "cache.safetensors.shards").iterdir())
    shard = 9000  # bytes, enough for a shard and too few for all
    with room(shard), pytest.raises(TrainingError, match=r"cache\.safetensors could not be written"):
        make(path)
    assert {file.name for file in tmp_path.iterdir()} == {"cache.safetensors.shards"}
    assert len(list((tmp_path / "cache.safetensors.shards").iterdir())) == 3
    assert len(make(path)) == VIEWS


def test_a_cache_of_an_earlier_version_is_made_again(make: Callable[..., TokenCache], tmp_path: Path) -> None:
    """Those had one key for all data of a size, and no `pictures`."""
    from safetensors.torch import save_file

    path = tmp_path / "cache.safetensors"
    old = {"finest": torch.zeros(VIEWS, 16, dtype=torch.uint8), "tokens": torch.zeros(VIEWS, 31, dtype=torch.uint8)}
    save_file(
        {**old, "classes": torch.zeros(VIEWS, dtype=torch.uint8)},
        path,
        {"key": "0123456789abcdef ViewSettings()"},
    )
    assert int(make(path).finest.max()) > 0
