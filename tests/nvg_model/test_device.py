"""The stage loop never waits for a device: proved with tensors that have a device and shapes but no values.

Fake tensors refuse to be read (`.item()`, `bool(...)`, `nonzero`) and to meet tensors of another device. CPU builds of
torch cannot even pretend to have CUDA; `lazy` is a device type that they can.
"""

import contextlib
import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import nvg_model
from nvg_model import SamplingSettings, hierarchy, tokenizer
from nvg_model.editing import EditedRun, Kept
from nvg_model.errors import all_finite
from nvg_model.generation import Run
from nvg_model.regions import RegionalClasses
from nvg_model.sampling import Noise
from nvg_model.tokenizer import VisualGranularitySequence

DEVICE = torch.device("lazy")
PRESETS = sorted(nvg_model.PRESETS)
READS = {"tokenizer.all_finite", "hierarchy.all_finite"}
"""What may wait for the device, by name: the check of the pictures, and of the latents before they are clustered."""


@pytest.fixture
def fake():
    """Inside of it all new tensors are fake."""
    with FakeTensorMode() as mode, torch.no_grad():
        yield mode


@pytest.fixture
def reads(monkeypatch):
    """The functions that read a device, each noted when it is called instead of reading it."""
    called = set()
    for module in (tokenizer, hierarchy):
        name = f"{module.__name__.rpartition('.')[2]}.all_finite"
        monkeypatch.setattr(module, "all_finite", lambda x, name=name: called.add(name) or True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which `lazy` has not
    # The noise is the CPU's; fake tensors know no generator for it.
    monkeypatch.setattr(Noise, "_item", lambda noise, shape, *keys: torch.empty(shape))
    monkeypatch.setattr(Run, "check", lambda run: called.add(f"Run.check of {len(run.findings)}"))
    return called


def model_of(preset, **changes):
    """Its networks on the pretended device, one block deep."""
    config = nvg_model.preset(preset)
    small = {"content_depth": 1, "structure_depth": 1, **changes}
    config = dataclasses.replace(config, generator=dataclasses.replace(config.generator, **small))
    with DEVICE:
        return nvg_model.NVG(config).eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_generating_reads_nothing_before_the_end(preset, fake, reads):
    model = model_of(preset)
    settings = SamplingSettings(structure_steps=1, gumbel=True, content_guidance=(2, 3))
    sequence = model.generate([0, 1], settings=settings)
    assert sequence.canvases.device == DEVICE and model.decode(sequence).device == DEVICE
    stages = model.config.num_stages
    assert reads == {f"Run.check of {2 * stages - 1}"}  # the content of every stage and the splits between them


@pytest.mark.parametrize("solver", nvg_model.solvers.SOLVERS)
def test_every_solver(solver, fake, reads):
    model_of("tiny").generate([0], settings=SamplingSettings(structure_steps=2, solver=solver, reuse=True))
    assert len(reads) == 1


def test_guidance_inside(fake, reads):
    model = model_of("tiny", largest_content_guidance=4.0, flow="average", largest_guidance=4.0)
    model.generate([0, 1], settings=SamplingSettings(structure_steps=2, content_guidance=(2, 3)))
    assert len(reads) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_tokenizing_reads_the_checks_only(preset, fake, reads):
    model = model_of(preset)
    images = torch.zeros(2, 3, *model.config.image_size).to(DEVICE)
    sequence = model.tokenize(images)
    assert sequence.tokens.device == DEVICE
    assert reads == READS


def test_regions_and_kept_positions_read_nothing_in_the_loop(fake, reads, monkeypatch):
    """What users give is checked before the loop, with real values; here only the loop is fake."""
    model = model_of("tiny")
    settings = SamplingSettings(structure_steps=1)
    reference = model.generate([0, 1], settings=settings)
    run = model.run(nvg_model.generation.Request([0, 1], settings=settings))
    positions = model.config.positions
    shares = torch.full((2, 2, positions), 0.5)
    rows = torch.arange(2).repeat_interleave(2), torch.arange(2).repeat(2)
    regions = RegionalClasses(torch.zeros(2, 2, dtype=torch.long), shares, rows, (None, (2.0, 2.0))).to(DEVICE)
    kept = Kept(reference, torch.zeros(2, positions, dtype=torch.bool).to(DEVICE))
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    edited = EditedRun(**fields | {"regions": regions, "kept": kept, "findings": []})
    *_, last = edited.stages()
    assert isinstance(last, VisualGranularitySequence) and last.canvases.device == DEVICE
    assert len(reads) == 1


def test_the_test_would_notice(fake):
    """A read of a value, and a tensor left on the CPU."""
    on_device = torch.zeros(3).to(DEVICE)
    with pytest.raises(DataDependentOutputException):
        all_finite(on_device)
    with pytest.raises(Exception, match="same device"):
        on_device + torch.zeros(3)


def test_pairs_one_by_one_are_those_of_the_rounds():
    """Clustering on a GPU, whose loop has a fixed length, gives the same pairs in the same order; ties as well."""
    generator = torch.Generator().manual_seed(0)
    for size, levels in ((2, 3), (16, 4), (64, 1000)):
        points = torch.randint(levels, (4, size, 2), generator=generator).float()
        distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        assert torch.equal(hierarchy._pairs_one_by_one(distances), hierarchy._greedy_pairs(distances))


def test_what_is_wrong_is_read_at_the_end_and_named(tiny_model, refuses):
    run = tiny_model.run(nvg_model.generation.Request([0]))
    with contextlib.suppress(StopIteration):
        run.expect_finite("the first thing", torch.zeros(2))
        run.expect_finite("the second thing", torch.tensor([1, torch.inf]))
        run.expect_finite("the third thing", torch.tensor(torch.nan))
    with refuses("^the second thing; check the weights"):
        run.check()
