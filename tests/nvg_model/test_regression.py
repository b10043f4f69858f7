"""Our own numbers, for everybody: what the tiny model gives for weights and inputs from numpy's frozen generator.

The golden tensors say that the numbers are right; these say that they have not changed. After a change on purpose:
`python tests/nvg_model/test_regression.py` writes the file anew.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nvg_model

FILE = Path(__file__).with_name("regression.safetensors")
CLASSES = (1, 2)


def normal(name, shape):
    """Standard normal numbers that depend on the name alone; numpy has frozen RandomState for good."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(values).float()


def model_of_numbers(disturbance=0.0):
    """The tiny model; every weight may be off by a relative `disturbance`."""
    model = nvg_model.NVG(nvg_model.preset("tiny"))
    for name, value in model.state_dict().items():
        numbers = normal(name, value.shape)
        if name.endswith("canvas_scales"):
            numbers = 1.5 + 0.1 * numbers
        elif "norm" in name or "head.0" in name or name.endswith("qk_scale"):
            numbers = 0.2 * numbers + (not name.endswith("bias"))
        elif name.endswith("bias"):
            numbers = 0.1 * numbers
        elif name.endswith(("embedding.weight", "start_canvas")):
            numbers = 0.5 * numbers
        elif not name.endswith("codebook"):
            numbers = numbers / numbers[0].numel() ** 0.5
        value.copy_(numbers * (1 + disturbance * normal(f"{name} disturbed", value.shape)))
    model.requires_grad_(False)
    codes, head = model.tokenizer.quantizer.codebook, model.content.code_head
    head.weight.copy_(2 * codes)  # scores by distance, so that the tokens follow the prediction and vary
    head.bias.copy_(-codes.square().sum(1))
    return model.eval()


def compute(model):
    """Everything that is compared, by name."""
    config = model.config
    image = normal("image", (2, 3, *config.image_size)).clamp(-2, 2) / 2
    noise = normal("noise", (2, config.positions, config.splits)).to(model.device)
    classes = torch.tensor(CLASSES, device=model.device)
    sequence = model.tokenize(image)
    found = {
        "latent": model.tokenizer.encode(image.to(model.device)),
        "structure": sequence.structure,
        "tokens": sequence.tokens,
        "canvases": sequence.canvases,
        "reconstruction": model.decode(sequence),
        "velocity": model.structure.velocity(noise, 0.7, sequence.canvases[:, 1], sequence.structure, classes, 1),
        "velocity.null": model.structure.velocity(noise, 0.2, sequence.canvases[:, 2], sequence.structure, None, 2),
    }
    for stage in (0, 3):
        before = sequence.canvases[:, stage - 1] if stage else None
        final, logits = model.content.predict(before, sequence.structure, classes, stage)
        found |= {f"final.{stage}": final, f"logits.{stage}": logits}
    greedy = nvg_model.SamplingSettings(top_k=1, structure_steps=5)
    drawn = nvg_model.SamplingSettings(structure_steps=5, gumbel=True)  # pins what a seed means
    for name, how in (
        ("noise", {"settings": greedy, "structure_noise": noise}),
        ("seed", {"settings": greedy, "seed": 7}),
        ("drawn", {"settings": drawn, "seed": 7}),
    ):
        result = model.generate(list(CLASSES), **how)
        found |= {f"{name}.structure": result.structure, f"{name}.tokens": result.tokens}
        found |= {f"{name}.canvas": result.canvases[:, -1], f"{name}.image": model.decode(result)}
    return found


def compact(value):
    """Labels and tokens in a byte each: the tiny model has 16 positions and 32 codes."""
    return value.contiguous() if value.is_floating_point() else value.to(torch.uint8)


@pytest.fixture(scope="module")
def computed():
    return compute(model_of_numbers())


@pytest.mark.parametrize("name", load_file(FILE) if FILE.exists() else ["regression.safetensors"])
def test_numbers_have_not_changed(computed, name):
    expected, actual = load_file(FILE)[name], computed[name]
    if actual.is_floating_point():
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max().item() <= 1e-4
    else:
        assert torch.equal(compact(actual), expected)


def test_nothing_is_left_out(computed):
    assert computed.keys() == load_file(FILE).keys()
    assert FILE.stat().st_size <= 300_000


def write():
    """Writes the file, unless rounding could decide about a label or a token."""
    found = compute(model_of_numbers())
    for disturbance in (1e-5, -1e-5):
        disturbed = compute(model_of_numbers(disturbance))
        for name, value in found.items():
            if not value.is_floating_point() and not torch.equal(value, disturbed[name]):
                raise SystemExit(f"{name} hangs on the fifth digit: choose other numbers")
            print(f"{name:20} {list(value.shape)!s:20} changes by {(value - disturbed[name]).abs().max():.1e}")
    save_file({name: compact(value) for name, value in found.items()}, FILE)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    write()
