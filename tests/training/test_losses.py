"""The losses of tokenizer training: values by hand, gradients, invariances, and what they refuse."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import TrainingError
from training.losses import lpips
from training.losses.adversarial import (
    LeCam,
    frozen,
    hinge_discriminator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from training.losses.diffaug import DiffAugSettings, augment, draw
from training.losses.dino import DinoFeatures
from training.losses.dino_weights import DINO_SMALL, DINOV2_BASE, load_vit
from training.losses.discriminators import DinoDiscriminator, PatchDiscriminator
from training.losses.lpips import LPIPS, WeightsFile, load_lpips
from training.losses.reconstruction import multiscale_gradient, psnr, ssim


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform noise in [-1,1]."""
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1


def pair(*shape: int, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Images and noisy copies of them."""
    images = pictures(*shape)
    return (images + noise * pictures(*shape, seed=1)).clamp(-1, 1), images


# SSIM and the other measures that need no weights


def similarity_by_loops(x: Tensor, y: Tensor, window: int, sigma: float) -> tuple[float, float]:
    """Mean SSIM, and mean contrast term, of two images [H,W] in [0,1], by the definition: one window at a time."""
    weights = torch.tensor(
        [
            [math.exp(-((i - window // 2) ** 2 + (j - window // 2) ** 2) / (2 * sigma**2)) for j in range(window)]
            for i in range(window)
        ],
        dtype=torch.float64,
    )
    weights /= weights.sum()
    c1, c2 = 0.0001, 0.0009
    similarities, contrasts = [], []
    for top in range(x.shape[0] - window + 1):
        for left in range(x.shape[1] - window + 1):
            a, b = (image[top : top + window, left : left + window] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
            contrasts.append(contrast)
            similarities.append(contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1))
    return float(torch.stack(similarities).mean()), float(torch.stack(contrasts).mean())


def test_ssim_is_its_definition() -> None:
    output, target = pair(2, 3, 13, 12)
    expected = [
        [similarity_by_loops((x.double() + 1) / 2, (y.double() + 1) / 2, 11, 1.5)[0] for x, y in zip(a, b, strict=True)]
        for a, b in zip(output, target, strict=True)
    ]
    torch.testing.assert_close(ssim(output, target), torch.tensor(expected).mean(1), rtol=0, atol=1e-5)


def test_similarity_is_symmetric_and_highest_for_equals() -> None:
    measure = ssim
    output, target = pair(2, 3, 24, 24)
    worse, _ = pair(2, 3, 24, 24, noise=0.6)
    torch.testing.assert_close(measure(target, target), torch.ones(2))
    torch.testing.assert_close(measure(output, target), measure(target, output))
    assert (measure(worse, target) < measure(output, target)).all()
    torch.testing.assert_close(measure(output.flip(3), target.flip(3)), measure(output, target))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: multiscale_gradient(x, y, scales=2),
        lambda x, y: ssim(x, y, window=5),
    ],
)
def test_reconstruction_gradients(loss) -> None:
    output, target = pair(1, 3, 8, 8)
    assert torch.autograd.gradcheck(lambda x: loss(x, target.double()), output.double().requires_grad_())


def test_opposite_images_have_a_finite_gradient() -> None:
    target = pictures(1, 3, 24, 24)
    output = (-target).requires_grad_()
    ssim(output, target).sum().backward()
    assert output.grad is not None and output.grad.isfinite().all()


def test_half_precision_is_measured_in_full() -> None:
    output, target = (images.bfloat16() for images in pair(1, 3, 24, 24))
    with torch.autocast("cpu", torch.bfloat16):
        for measure in (ssim, multiscale_gradient, psnr):
            found = measure(output, target)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, measure(output.float(), target.float()))


@pytest.mark.parametrize(
    ("measure", "needed"),
    [(ssim, "11x11"), (multiscale_gradient, "8x8"), (LPIPS(), "16x16")],
)
def test_small_and_unequal_images_are_refused(measure, needed: str) -> None:
    one = torch.zeros(1, 3, 1, 1)
    with pytest.raises(TrainingError, match=f"at least {needed} pixels; these have 1x1$"):
        measure(one, one)
    with pytest.raises(ValueError, match=r"one shape, not \[1, 3, 64, 64\] with \[1, 3, 64, 32\]$"):
        measure(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 32))


# LPIPS, with random weights in the places of the published ones


@pytest.fixture(scope="module")
def perceptual() -> LPIPS:
    torch.manual_seed(0)
    return LPIPS()


def test_lpips_is_a_distance(perceptual: LPIPS) -> None:
    output, target = pair(2, 3, 32, 24)
    worse, _ = pair(2, 3, 32, 24, noise=0.8)
    distance = perceptual(output, target)
    torch.testing.assert_close(perceptual(target, target), torch.zeros(2))
    torch.testing.assert_close(distance, perceptual(target, output))
    assert (distance > 0).all() and (perceptual(worse, target) > distance).all()
    torch.testing.assert_close(perceptual(output[1:], target[1:]), distance[1:])


def test_lpips_compares_directions_of_features(perceptual: LPIPS) -> None:
    """With a calibration of ones, the squared distance of two directions is 2 - 2 cosine."""
    output, target = pair(1, 3, 16, 16)
    ones = LPIPS()
    ones.load_state_dict(perceptual.state_dict())
    for weight in ones.calibration:
        weight.fill_(1)
    x, y = ((image - ones.mean) / ones.deviation for image in (output, target))
    expected, start = torch.zeros(1), 0
    for end in (4, 9, 16, 23, 30):  # after the last ReLU before each pooling
        x, y = ones.features[start:end](x), ones.features[start:end](y)
        assert (x.norm(dim=1) > 0).all() and (y.norm(dim=1) > 0).all()
        expected += (2 - 2 * torch.cosine_similarity(x, y, dim=1)).mean()
        start = end
    torch.testing.assert_close(ones(output, target), expected)


def test_lpips_gradient_reaches_the_output_only(perceptual: LPIPS) -> None:
    output, target = (images.requires_grad_() for images in pair(1, 3, 16, 16))
    perceptual(output, target).sum().backward()
    assert output.grad is not None and output.grad.abs().sum() > 0
    assert target.grad is None and all(parameter.grad is None for parameter in perceptual.parameters())
    black = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)
    LPIPS()(black, target.detach()).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all()


def test_lpips_reads_the_published_files(perceptual: LPIPS, tmp_path: Path) -> None:
    """VGG16 as torchvision names it, with its classifier, and the calibration as PerceptualSimilarity does."""
    state = perceptual.state_dict()
    backbone = {name: value for name, value in state.items() if name.startswith("features.")}
    torch.save({**backbone, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": state[f"calibration.{i}"].view(1, -1, 1, 1) for i in range(5)}
    torch.save(heads, tmp_path / "heads.pth")
    model = load_lpips(tmp_path / "vgg16.pth", tmp_path / "heads.pth")
    output, target = pair(1, 3, 16, 16)
    assert torch.equal(model(output, target), perceptual(output, target))
    with pytest.raises(
        TrainingError, match=r"no file .*none\.pth; download .*/vgg16-397923af\.pth .* --lpips-backbone$"
    ):
        load_lpips(tmp_path / "none.pth")
    with pytest.raises(TrainingError, match=r"no file .*none\.pth; download .*/v0\.1/vgg\.pth .* --lpips-calibration$"):
        load_lpips(tmp_path / "vgg16.pth", tmp_path / "none.pth")
    with pytest.raises(TrainingError, match="are not VGG16 and its LPIPS calibration"):
        load_lpips(tmp_path / "heads.pth", tmp_path / "heads.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=r"broken\.pth cannot be read"):
        load_lpips(tmp_path / "broken.pth", tmp_path / "heads.pth")


def test_lpips_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    nobody = WeightsFile("http://127.0.0.1:9/vgg16.pth", "vgg16.pth", "00", "--lpips-backbone")
    monkeypatch.setattr(lpips, "BACKBONE", nobody)
    with pytest.raises(
        TrainingError,
        match=r"127\.0\.0\.1:9/vgg16\.pth, which could not .* give it with --lpips-backbone, or train without",
    ):
        load_lpips()
    (tmp_path / "other").write_bytes(b"another file")
    other = WeightsFile((tmp_path / "other").as_uri(), "vgg16.pth", "00", "--lpips-backbone")
    monkeypatch.setattr(lpips, "BACKBONE", other)
    with pytest.raises(TrainingError, match="invalid hash value"):
        load_lpips()
    assert not other.path.exists()


# DINO, randomly initialised


def small_vit(kind: str, heads: int = 0) -> nn.Module:
    """A small transformer of the class that the pretrained weights use; `heads` of 64 channels, or two of 16."""
    transformers = pytest.importorskip("transformers")
    width = 64 * heads or 32
    sizes = {"hidden_size": width, "num_attention_heads": heads or 2, "num_hidden_layers": 3}
    sizes |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "dino":
        config = transformers.ViTConfig(**sizes, intermediate_size=2 * width, layer_norm_eps=1e-6)
        return transformers.ViTModel(config, add_pooling_layer=False).eval()
    if kind == "registers":
        config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2)
        return transformers.Dinov2WithRegistersModel(config).eval()
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)).eval()


@pytest.fixture(params=["dino", "dinov2"])
def vit(request: pytest.FixtureRequest) -> nn.Module:
    """Both classes."""
    return small_vit(request.param)


def test_dino_features(vit: nn.Module) -> None:
    images = pictures(2, 3, 32, 32)
    features = DinoFeatures(vit, (0, 2, 3), grid=(4, 4))(images)
    assert [list(one.shape) for one in features] == [[2, 16, 32]] * 3
    assert not torch.allclose(features[1], features[2])
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    expected = vit((images / 2 + 0.5 - mean) / deviation).last_hidden_state[:, 1:]  # without the class token
    torch.testing.assert_close(DinoFeatures(vit, (3,), grid=(4, 4), final_norm=True)(images)[0], expected)


def test_dino_resizes_any_image_to_its_grid(vit: nn.Module) -> None:
    features = DinoFeatures(vit, (3,), grid=(6, 5))
    assert features(pictures(1, 3, 40, 24))[0].shape == (1, 30, 32)
    plain = torch.full((1, 3, 48, 40), 0.3)
    torch.testing.assert_close(features(plain), features(torch.full((1, 3, 17, 90), 0.3)))


def test_dino_is_frozen(vit: nn.Module) -> None:
    features = DinoFeatures(vit, (1,), grid=(4, 4)).train()
    assert not any(part.training for part in features.modules())
    images = pictures(1, 3, 32, 32).requires_grad_()
    features(images)[0].square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in features.parameters())


def test_dino_refusals(vit: nn.Module) -> None:
    for depths in ((), (4,), (2, 1), (-1,)):
        with pytest.raises(ValueError, match="depths must rise within 0 to 3"):
            DinoFeatures(vit, depths)
    with pytest.raises(ValueError, match=r"takes images \[B,3,H,W\], not \[1, 1, 8, 8\]"):
        DinoFeatures(vit, (1,))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(TrainingError, match="need as many patches"):
        DinoDiscriminator(DinoFeatures(vit, (1,), grid=(2, 2)))


def test_dino_is_read_from_a_folder(vit: nn.Module, tmp_path: Path) -> None:
    vit.save_pretrained(tmp_path / "vit")
    images = pictures(1, 3, 32, 32)
    loaded, made = (DinoFeatures(one, (3,), grid=(4, 4)) for one in (load_vit(str(tmp_path / "vit"), DINOV2_BASE), vit))
    torch.testing.assert_close(loaded(images), made(images))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        TrainingError, match=r"empty could not be loaded .*dinov2_vitb14_pretrain\.pth .* --repa-encoder"
    ):
        load_vit(str(tmp_path / "empty"), DINOV2_BASE)


@pytest.mark.parametrize("name", ["weights/dinov2.pth", "~/nowhere", "./dino.safetensors"])
def test_a_file_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(
        TrainingError, match=r"^there are no weights .*; download https://.*\.pth and .* --repa-encoder$"
    ):
        load_vit(name, DINOV2_BASE)


def test_dino_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        TrainingError, match=r"need the package transformers, .*`pip install -e '\.\[train\]'.*--discriminator patch"
    ):
        load_vit(DINO_SMALL.name, DINO_SMALL)


def as_torch_hub_names_it(vit: nn.Module) -> dict[str, Tensor]:
    """The weights of a small transformer as in the files of torch.hub, which have one matrix for query, key and value.

    By the module's own structure, whatever transformers calls its tensors.
    """
    state, prefix = {}, "embeddings.patch_embeddings.projection."
    for name, value in vit.state_dict().items():
        if name.startswith("embeddings."):
            key = name.removeprefix("embeddings.").replace("position_embeddings", "pos_embed")
            state[f"patch_embed.proj.{name.removeprefix(prefix)}" if name.startswith(prefix) else key] = value
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = vit.state_dict()[f"layernorm.{part}"]
    blocks = next(list(one) for name, one in vit.named_modules() if isinstance(one, nn.ModuleList))
    for number, block in enumerate(blocks):
        linears = [one for one in block.modules() if isinstance(one, nn.Linear)]
        norms = [one for one in block.modules() if isinstance(one, nn.LayerNorm)]
        scales = [value for name, value in block.named_parameters() if "lambda1" in name]
        query, key, value, projection, first, second = linears
        for part in ("weight", "bias"):
            joined = torch.cat([getattr(one, part) for one in (query, key, value)])
            state[f"blocks.{number}.attn.qkv.{part}"] = joined
            for name, one in (("attn.proj", projection), ("mlp.fc1", first), ("mlp.fc2", second)):
                state[f"blocks.{number}.{name}.{part}"] = getattr(one, part)
            for name, one in zip(("norm1", "norm2"), norms, strict=True):
                state[f"blocks.{number}.{name}.{part}"] = getattr(one, part)
        for index, scale in enumerate(scales, 1):
            state[f"blocks.{number}.ls{index}.gamma"] = scale
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize("kind", ["dino", "dinov2", "registers"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_dino_is_read_from_torch_hubs_file(kind: str, suffix: str, tmp_path: Path) -> None:
    vit = small_vit(kind, heads=1)  # 32 wide heads would be taken for 64 wide ones
    with torch.no_grad():
        for value in vit.parameters():
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    path, state = tmp_path / f"weights{suffix}", as_torch_hub_names_it(vit)
    if suffix == ".pth":
        torch.save(
            state if kind != "dino" else {"teacher": {f"module.backbone.{k}": v for k, v in state.items()}}, path
        )
    else:
        save_file(state, path)
    images = pictures(1, 3, 32, 32)
    loaded = DinoFeatures(load_vit(str(path), DINOV2_BASE), (0, 1, 3), grid=(4, 4), final_norm=True)(images)
    made = DinoFeatures(vit, (0, 1, 3), grid=(4, 4), final_norm=True)(images)
    for one, other in zip(loaded, made, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no weights", r"the weights .*x\.pth cannot be read \(.*\); download the file again"),
        ({"features.0.weight": torch.zeros(1)}, r"x\.pth holds another kind of network .* \(it has no 'patch_embed"),
        ("half", r"x\.pth holds another kind of network .* \(they differ in .*\); give a file of torch.hub"),
    ],
)
def test_other_files_are_no_dino(content: object, sentence: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "x.pth").write_bytes(content)
    else:
        state = as_torch_hub_names_it(small_vit("dino", heads=1)) if content == "half" else content
        assert isinstance(state, dict)
        state.pop("blocks.1.norm1.weight", None)
        torch.save(state, tmp_path / "x.pth")
    with pytest.raises(TrainingError, match=sentence) as caught:
        load_vit(str(tmp_path / "x.pth"), DINOV2_BASE)
    assert "\n" not in str(caught.value)


# The adversarial game


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (0.5 / 2 + 1 / 2))
    minus_log_sigmoid = [math.log1p(math.exp(-value)) for value in (2.0, 0.5, -2.0, 0.0)]
    assert non_saturating_generator(fake).item() == pytest.approx(sum(minus_log_sigmoid[2:]) / 2)
    expected = 0.5 * (sum(minus_log_sigmoid[:2]) / 2 + (math.log1p(math.exp(-2)) + math.log(2)) / 2)
    assert non_saturating_discriminator(real, fake).item() == pytest.approx(expected)


@pytest.mark.parametrize("discriminator", [hinge_discriminator, non_saturating_discriminator])
def test_the_two_sides_pull_apart(discriminator) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    pull = torch.autograd.grad(non_saturating_generator(fake), fake)[0]
    up, down = torch.autograd.grad(discriminator(real, fake), (real, fake))
    assert (pull < 0).all() and (up < 0).all() and (down > 0).all()
    torch.testing.assert_close(up, -down)


def test_half_precision_logits_are_averaged_in_full() -> None:
    logits = torch.full((1000,), 0.3, dtype=torch.bfloat16)
    for loss in (non_saturating_generator(logits), hinge_discriminator(logits, logits), LeCam()(logits, logits)):
        assert loss.dtype == torch.float32


def test_lecam_after_two_updates() -> None:
    lecam = LeCam(decay=0.9)
    lecam.update(torch.tensor([0.5, 1.5]), torch.tensor([-1.0, -1.0]))
    lecam.update(torch.tensor([3.0]), torch.tensor([0.0]))
    assert lecam.real_mean.item() == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 3)
    assert lecam.fake_mean.item() == pytest.approx(0.9 * 0.1 * -1)
    real, fake = torch.tensor([1.0, -5.0], requires_grad=True), torch.tensor([0.0, 7.0], requires_grad=True)
    loss = lecam(real, fake)
    assert loss.item() == pytest.approx((1 + 0.09) ** 2 / 2 + 0.39**2 / 2)
    gradients = torch.autograd.grad(loss, (real, fake))
    torch.testing.assert_close(gradients[0], torch.tensor([1.09, 0.0]))
    torch.testing.assert_close(gradients[1], torch.tensor([-0.39, 0.0]))
    resumed = LeCam(decay=0.9)
    resumed.load_state_dict(lecam.state_dict())
    assert torch.equal(resumed(real, fake), loss)


LECAM_PROCESS = """
import sys, torch, torch.distributed as dist
from training.distributed import World
from training.losses.adversarial import LeCam
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
lecam = LeCam(decay=0.5, world=World(rank, 2))
lecam.update(torch.tensor([1.0, 4.0])[rank:rank + 1], torch.tensor([-2.0, 1.0])[rank:rank + 1])
assert abs(lecam.real_mean.item() - 1.25) < 1e-6 and abs(lecam.fake_mean.item() + 0.25) < 1e-6, lecam.state_dict()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_lecam_averages_over_processes(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    processes = [
        subprocess.Popen([sys.executable, "-c", LECAM_PROCESS, str(rank), store], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors


# Discriminators


def patch_discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(width=8, layers=2)


@pytest.fixture(params=["patch", "dino", "dinov2"])
def discriminator(request: pytest.FixtureRequest) -> nn.Module:
    """Every kind, small."""
    if request.param == "patch":
        return patch_discriminator()
    return DinoDiscriminator(DinoFeatures(small_vit(request.param), (0, 1, 3), grid=(4, 4)))


def test_generator_gradient_does_not_reach_the_discriminator(discriminator: nn.Module) -> None:
    """The rule: after the autoencoder's backward the image has a gradient, and nothing of the discriminator moved."""
    discriminator.train()
    trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    output = pictures(2, 3, 32, 32).requires_grad_()
    with frozen(discriminator):
        loss = non_saturating_generator(discriminator(output))
    loss.backward()
    assert output.grad is not None and output.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())
    assert trained and all(parameter.requires_grad for parameter in trained)
    assert [parameter for parameter in discriminator.parameters() if parameter.requires_grad] == trained

    hinge_discriminator(*discriminator(torch.cat([output.detach(), -output.detach()])).chunk(2)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


def test_frozen_gives_the_true_gradient(discriminator: nn.Module) -> None:
    discriminator.eval()
    images = pictures(2, 3, 32, 32).requires_grad_()
    with frozen(discriminator):
        inside = torch.autograd.grad(discriminator(images).sum(), images)[0]
    torch.testing.assert_close(inside, torch.autograd.grad(discriminator(images).sum(), images)[0])


def test_frozen_restores_after_an_error() -> None:
    discriminator = patch_discriminator().train()
    discriminator.blocks[0].eval().weight.requires_grad_(False)
    with pytest.raises(TrainingError, match="at least 12x12"), frozen(discriminator):
        discriminator(torch.zeros(1, 3, 8, 8))
    assert [part.training for part in discriminator.blocks[:2]] == [False, True]
    assert not discriminator.blocks[0].weight.requires_grad and discriminator.blocks[0].bias.requires_grad


def test_logits_do_not_depend_on_the_batch(discriminator: nn.Module) -> None:
    discriminator.eval()
    images = pictures(3, 3, 32, 32)
    together = discriminator(images)
    assert together.ndim == 2 and len(together) == 3
    torch.testing.assert_close(discriminator(images[1:2]), together[1:2], rtol=1e-4, atol=1e-5)


def test_discriminators_under_autocast(discriminator: nn.Module) -> None:
    images = pictures(2, 3, 32, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = hinge_discriminator(*discriminator(images).chunk(2))
    loss.backward()
    assert loss.dtype == torch.float32 and images.grad is not None and images.grad.isfinite().all()


def test_discriminators_learn_to_tell_apart(discriminator: nn.Module) -> None:
    """Stripes from checks, of the same mean and contrast."""
    columns = torch.arange(32) // 4 % 2 * 2.0 - 1
    stripes, checks = columns.expand(4, 3, 32, 32), (columns * columns[:, None]).expand(4, 3, 32, 32)
    noise = 0.1 * pictures(8, 3, 32, 32)
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = hinge_discriminator(*discriminator(torch.cat([stripes, checks]) + noise).chunk(2))
        loss.backward()
        optimizer.step()
    real, fake = discriminator(torch.cat([stripes, checks]) - noise).chunk(2)
    assert real.mean() > 0.3 > -0.3 > fake.mean()


def test_dino_heads_are_spectrally_normalised(vit: nn.Module) -> None:
    discriminator = DinoDiscriminator(DinoFeatures(vit, (1, 3), grid=(4, 4)))
    for part in discriminator.heads.modules():
        if isinstance(part, nn.Conv1d):
            assert torch.linalg.matrix_norm(part.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("layers", "side", "grid"), [(3, 64, 6), (3, 24, 1), (2, 64, 14), (2, 12, 1)])
def test_patch_discriminator_sizes(layers: int, side: int, grid: int) -> None:
    discriminator = PatchDiscriminator(width=8, layers=layers)
    assert discriminator(torch.zeros(2, 3, side, side)).shape == (2, grid * grid)


def test_patch_discriminator_judges_patches_of_the_stated_size() -> None:
    """Without normalisation (which sees the whole image) the middle logit depends on exactly 70 pixels."""
    discriminator = PatchDiscriminator(width=8, layers=3)
    layers = [nn.Identity() if isinstance(part, nn.GroupNorm) else part for part in discriminator.blocks]
    image = pictures(1, 3, 160, 160).requires_grad_()
    logits = nn.Sequential(*layers)(image)[0, 0]
    logits[9, 9].backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(0) > 0
    assert touched.any(0).sum() == touched.any(1).sum() == 70


def test_patch_discriminator_refusals() -> None:
    discriminator = PatchDiscriminator(width=8, layers=3)
    with pytest.raises(TrainingError, match="at least 24x24 pixels; these have 1x1: give it fewer layers"):
        discriminator(torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match=r"not \[1, 1, 64, 64\]"):
        discriminator(torch.zeros(1, 1, 64, 64))


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
