"""Features of DINO, and the files that its weights are read from."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shared_images import pictures, small_vit
from torch import Tensor, nn

from training.errors import TrainingError
from training.losses.dino import DinoFeatures
from training.losses.dino_weights import DINO_SMALL, DINOV2_BASE, load_vit
from training.losses.discriminators import DinoDiscriminator


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
