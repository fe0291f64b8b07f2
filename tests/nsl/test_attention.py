"""Global neural similarity: its two exact reductions, its start, the orthogonality penalty, and the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import nsl


def positions(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] to [B, N, C]."""
    return x.flatten(2).transpose(1, 2)


def test_one_setting_is_exactly_softmax_self_attention() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.nn.Conv2d(6, 6, 1, dtype=torch.float64) for _ in range(3))
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    layer = nsl.GlobalSimilarity(query, key, value, residual=False, gamma=None)
    expected = F.scaled_dot_product_attention(*(positions(part(x)) for part in (query, key, value)))
    torch.testing.assert_close(positions(layer(x)), expected, rtol=1e-12, atol=1e-12)
    # With identity maps too, and by the similarity matrix itself.
    plain = nsl.GlobalSimilarity(residual=False, gamma=None)
    rows = positions(x)
    torch.testing.assert_close(positions(plain(x)), F.scaled_dot_product_attention(rows, rows, rows))
    torch.testing.assert_close(plain.predict_similarity(x) @ rows, positions(plain(x)))


def test_the_other_setting_is_exactly_static_nsl_with_a_kernel_as_large_as_the_map() -> None:
    torch.manual_seed(0)
    mix = nsl.StaticGlobalSimilarity((3, 4), dtype=torch.float64)
    layer = nsl.NSConv2d(5, 7, (3, 4), similarity="unconstrained", dtype=torch.float64)
    with torch.no_grad():
        mix.similarity.copy_(torch.randn(12, 12))
        layer.similarity.copy_(mix.similarity.flatten())
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(mix(x), layer.weight, layer.bias), layer(x), rtol=1e-12, atol=1e-12)


def test_both_start_as_the_identity() -> None:
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(nsl.StaticGlobalSimilarity(4)(x), x)
    layer = nsl.GlobalSimilarity(**nsl.sphere_maps(16))
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.item() != 0


def test_m_is_gamma_times_attention_plus_the_identity() -> None:
    torch.manual_seed(0)
    layer = nsl.GlobalSimilarity(scale=0.3, gamma=0.5)
    x = torch.randn(2, 3, 2, 4)
    matrix = 0.5 * layer.predict_similarity(x) + torch.eye(8)
    torch.testing.assert_close(positions(layer(x)), matrix @ positions(x))


def test_gradcheck_of_the_dynamic_block() -> None:
    torch.manual_seed(0)
    layer = nsl.GlobalSimilarity(**nsl.sphere_maps(3), gamma=0.7).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_orthogonality_penalty_is_the_releases_formula() -> None:
    layer = nsl.SphereConv2d(3, 2, 3)
    kernels = layer.weight.detach().flatten(1).t()
    expected = 2e-4 * 0.5 * (kernels.t() @ kernels - torch.eye(2)).square().sum()
    penalty = nsl.orthogonality_penalty(torch.nn.Sequential(layer, torch.nn.Conv2d(2, 2, 1)))
    torch.testing.assert_close(penalty, expected)
    assert nsl.orthogonality_penalty(torch.nn.Linear(1, 1)) == 0


@pytest.mark.parametrize("attention", [True, False])
def test_the_model_has_attention_after_the_first_two_poolings(attention: bool) -> None:
    model = nsl.create_model("spherenet", 7, width=8, image_size=16, attention=attention)
    kinds = [type(layer).__name__ for layer in model.layers]
    after = [kinds[i + 1] for i, kind in enumerate(kinds[:-1]) if kind == "MaxPool2d"]
    assert after == (["GlobalSimilarity"] * 2 if attention else ["SphereBlock"] * 2)
    images = torch.randn(2, 3, 16, 16)
    assert model(images).shape == (2, 7)
    # The release's fc6: the cosine of its 256 kernels (here 16) with the whole last map, and a classifier of these.
    flat = model.features(images).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(flat[:, None], model.embedding.weight.flatten(1), dim=2)
    torch.testing.assert_close(model(images), cosines @ model.classifier.weight.flatten(1).t(), rtol=1e-2, atol=1e-3)


def test_the_releases_softmax_has_no_scale() -> None:
    layer, x = nsl.GlobalSimilarity(**nsl.sphere_maps(64)), torch.randn(1, 64, 2, 3)
    query, key = layer.query(x).flatten(2), layer.key(x).flatten(2)
    torch.testing.assert_close(layer.predict_similarity(x), torch.softmax(query.transpose(1, 2) @ key, -1))


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input must be a map of \(4, 4\), got \(4, 5\)"):
        nsl.StaticGlobalSimilarity(4)(torch.zeros(1, 1, 4, 5))


def test_the_similarity_of_one_image_is_that_of_a_batch_of_it() -> None:
    layer, x = nsl.GlobalSimilarity(gamma=None), torch.randn(3, 4, 5)
    assert torch.equal(layer.predict_similarity(x), layer.predict_similarity(x[None])[0])


def test_the_products_of_a_global_similarity_are_counted() -> None:
    channels, positions = 8, 16
    static = torch.nn.Sequential(nsl.StaticGlobalSimilarity(4))
    assert nsl.count_multiply_adds(static, 4, channels) == positions**2 * channels
    maps = nsl.sphere_maps(channels)
    dynamic = torch.nn.Sequential(nsl.GlobalSimilarity(**maps))
    convolutions = [maps[name] for name in ("query", "key", "value")]
    parts = sum(nsl.count_multiply_adds(torch.nn.Sequential(part), 4, channels) for part in convolutions)
    assert nsl.count_multiply_adds(dynamic, 4, channels) == parts + positions**2 * (1 + channels)
