"""Two checkpoints for one picture: one draws the early stages, the other the late ones."""

import copy
import dataclasses

import pytest
import torch
from shared_sequences import FAST, assert_same, differs

import nvg_model
from nvg_model import Region


@pytest.fixture(scope="module")
def other(tiny_model) -> nvg_model.NVG:
    """Half as deep, with other weights and its classes in another order; the same tokenizer."""
    generator = dataclasses.replace(tiny_model.config.generator, content_depth=1, structure_depth=1)
    model = nvg_model.NVG(dataclasses.replace(tiny_model.config, generator=generator), ("boat", "heart", "bird"))
    model.tokenizer.load_state_dict(tiny_model.tokenizer.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for network in (model.content, model.structure):
            network.initialize()
            for part in network.modules():
                if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
                    part.weight.data *= 8
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("first", [1, 3, 4])
def test_the_late_stages_are_the_partners(tiny_model, other, first):
    """As by hand: the early stages of one kept in a run of the other."""
    found = tiny_model.generate(["heart", "boat"], 7, FAST, partner=other, partner_from=first)
    early = tiny_model.generate(["heart", "boat"], 7, FAST)
    assert torch.equal(found.tokens[:, :first], early.tokens[:, :first])
    assert not torch.equal(found.tokens, early.tokens)
    kept = {"sequence": early, "keep_structure": first, "keep_content": first}
    assert_same(found, other.generate(["heart", "boat"], 7, FAST, **kept))


def test_by_default_it_is_the_second_half(tiny_model, other):
    assert_same(
        tiny_model.generate("bird", settings=FAST, partner=other),
        tiny_model.generate("bird", settings=FAST, partner=other, partner_from=3),
    )


def test_with_all_that_edits(tiny_model, other):
    half = torch.zeros(16, 16)
    half[:, :8] = 1
    picture = tiny_model.decode(tiny_model.generate("heart", settings=FAST))
    for edit in (
        {"regions": [Region(half, "bird")]},
        {"area": half, "area_rule": "free"},
        {"seamless": True},
        {"sequence": tiny_model.tokenize(picture), "keep": half},
    ):
        drawn = tiny_model.generate("boat", settings=FAST, partner=other, partner_from=2, **edit)
        assert differs(drawn, tiny_model.generate("boat", settings=FAST, **edit)), edit
    new = tiny_model.inpaint(picture, half, "boat", settings=FAST, partner=other)
    assert torch.equal(new[..., 8:], picture[..., 8:]) and not torch.equal(new, picture)


def test_evaluations_are_those_of_one_run(tiny_model, other):
    seen = []
    tiny_model.generate("heart", settings=FAST, partner=other, on_evaluation=lambda: seen.append(1))
    assert len(seen) == nvg_model.generation.count_evaluations(FAST, tiny_model.config.splits)


def test_wrong_partners_are_one_sentence(tiny_model, other, refuses):
    changed = copy.deepcopy(other)
    next(changed.tokenizer.quantizer.parameters()).data += 1
    changed.provenance = {"file": "/x/changed.safetensors"}
    with refuses("partner changed.safetensors has another tokenizer than without a file"):
        tiny_model.generate("heart", partner=changed)
    with refuses("partner_from is 5; give a stage from 1 to 4"):
        tiny_model.generate("heart", partner=other, partner_from=5)
    fewer = copy.deepcopy(other)
    fewer.classes = ("boat", "dog", "bird")
    with refuses("the partner without a file: there is no class 'heart'"):
        tiny_model.generate("heart", partner=fewer)
    assert tiny_model.generate("boat", settings=FAST, partner=copy.deepcopy(other).to(torch.bfloat16)).is_whole


def test_a_nan_of_the_partner_is_found(tiny_model, other, refuses):
    broken = copy.deepcopy(other)
    broken.content.code_head.bias.data[0] = torch.nan
    with refuses("content generator returned NaN or infinity at stage 3"):
        tiny_model.generate("heart", settings=FAST, partner=broken)


def test_on_the_command_line(nvg, tiny, other, tmp_path):
    path = nvg_model.save(other, tmp_path / "half.safetensors")
    line = "generate --class heart --seed 3 TINY --quiet --out"
    assert nvg(f"{line} together.png --partner {path} --partner-from 2")[0] == 0
    assert nvg(f"{line} alone.png")[0] == 0
    assert (tmp_path / "together.png").read_bytes() != (tmp_path / "alone.png").read_bytes()
    status, _, error = nvg(f"{line} x.png --partner-from 2")
    assert status == 2 and "name the partner as well" in error
    status, _, error = nvg(f"{line} x.png --partner emoji64")
    assert status == 2 and "the partner emoji64.safetensors has another tokenizer than tiny.safetensors" in error
