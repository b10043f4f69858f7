"""The quantiser against a plain loop, its loss and its gradients."""

import pytest
import torch
import torch.nn.functional as F
from shared_sequences import generator_of, random_structure

from nvg_model.quantizer import Quantizer, quantizer_loss, straight_through

# Quantiser.


@pytest.fixture(scope="module")
def quantizer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        quantizer = Quantizer(32, 8, 5, (4, 4))
        torch.nn.init.normal_(quantizer.codebook)
    return quantizer


def test_quantizer_equals_the_plain_loop(quantizer):
    latent = torch.randn(3, 16, 8, generator=generator_of())
    structure = random_structure(3)
    tokens, canvases = (x.detach() for x in quantizer(latent, structure))
    for item in range(3):
        canvas = torch.zeros(16, 8)
        for stage in range(5):
            h = torch.zeros(16, 8)
            for label in range(2**stage):
                inside = structure[item, stage] == label
                mean = (latent[item] - canvas)[inside].mean(0)
                code = int((quantizer.codebook - mean).square().sum(-1).argmin())
                assert (tokens[item, stage][inside] == code).all()
                h[inside] = quantizer.codebook[code].detach()
            refined = quantizer.refiners[stage](h.T.view(1, 8, 4, 4)).view(8, 16).T.detach()
            canvas = canvas + h + 0.5 * refined
            assert torch.allclose(canvases[item, stage], canvas, atol=1e-5)


def test_quantizer_loss_formula():
    latent = torch.randn(2, 16, 8, generator=generator_of(), requires_grad=True)
    canvases = torch.randn(2, 5, 16, 8, generator=generator_of(1), requires_grad=True)
    loss = quantizer_loss(latent, canvases)
    mse = torch.stack([(canvases[:, i] - latent).square().mean() for i in range(5)]).mean()
    assert torch.allclose(loss, 1.25 * mse)
    loss.backward()
    difference = (canvases - latent[:, None]).detach()
    assert torch.allclose(canvases.grad, 2 * difference / difference.numel(), atol=1e-8)
    assert torch.allclose(latent.grad, -0.25 * 2 * difference.sum(1) / difference.numel(), atol=1e-8)


def test_straight_through():
    latent = torch.randn(2, 16, 8, generator=generator_of(), requires_grad=True)
    canvas = torch.randn(2, 16, 8, generator=generator_of(1), requires_grad=True)
    weight = torch.randn(2, 16, 8, generator=generator_of(2))
    value = straight_through(latent, canvas)
    assert torch.allclose(value, canvas, atol=1e-6)
    (value * weight).sum().backward()
    assert torch.equal(latent.grad, weight) and canvas.grad is None


def test_quantizer_takes_the_latent_as_a_constant(quantizer):
    latent = torch.randn(1, 16, 8, generator=generator_of(), requires_grad=True)
    quantizer(latent, random_structure(1)).canvases.sum().backward()
    assert latent.grad is None and quantizer.codebook.grad is not None
    quantizer.zero_grad()


def test_soft_assignment_changes_the_gradient_and_not_the_value(quantizer):
    latent, structure = torch.randn(1, 16, 8, generator=generator_of()), random_structure(1)
    gradients = []
    results = [quantizer(latent, structure, soft_assignment=soft) for soft in (False, True)]
    assert torch.equal(results[0].tokens, results[1].tokens)
    assert torch.allclose(results[0].canvases, results[1].canvases, atol=1e-5)
    for result in results:
        quantizer.zero_grad()
        quantizer_loss(latent, result.canvases).backward()
        gradients.append(quantizer.codebook.grad.clone())
    used = results[0].tokens.unique()
    unused = [code for code in range(32) if code not in used]
    assert unused and not gradients[0][unused].any()  # the plain lookup never reaches them
    assert gradients[1].any(1).all()
    quantizer.zero_grad()


def test_soft_assignment_is_the_softmax_of_distances():
    """One stage of one cluster, no refinement: the gradient is that of softmax(max distance - distance) @ codebook."""
    quantizer = Quantizer(6, 3, 1, (2, 2))
    torch.nn.init.zeros_(quantizer.refiners[0].weight)
    torch.nn.init.zeros_(quantizer.refiners[0].bias)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.randn(6, 3, generator=generator_of()))
    latent = torch.randn(1, 4, 3, generator=generator_of(1))
    weight = torch.randn(3, generator=generator_of(2))
    canvas = quantizer(latent, torch.zeros(1, 1, 4, dtype=torch.long), soft_assignment=True).canvases
    (canvas[0, 0] @ weight).mean().backward()

    codebook = quantizer.codebook.detach().clone().requires_grad_()
    distances = (codebook - latent[0].mean(0)).square().sum(-1)
    soft = (distances.max() - distances).softmax(-1)
    hard = F.one_hot(distances.argmin(), 6).float()
    (((hard - soft).detach() + soft) @ codebook @ weight).backward()
    assert torch.allclose(quantizer.codebook.grad, codebook.grad, atol=1e-5)


def test_quantizer_chooses_in_float32_whatever_its_weights(quantizer):
    half = Quantizer(32, 8, 5, (4, 4)).bfloat16()
    half.load_state_dict(quantizer.state_dict())
    rounded = Quantizer(32, 8, 5, (4, 4))
    rounded.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    latent, structure = torch.randn(4, 16, 8, generator=generator_of()), random_structure(4)
    a, b = half(latent, structure), rounded(latent, structure)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.canvases, b.canvases)
    assert a.canvases.dtype == torch.float32
