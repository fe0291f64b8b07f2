"""Each method's defining equations against a direct transcription of its paper's formula, in loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.fewshot.baseline_pp import CosineClassifier, _batches
from nsl.fewshot.heads import cosine, cross_entropy, fit_linear, one_hot, prototypes, squared_distances
from nsl.fewshot.kshot import fit_prior, log_posterior, maximum
from nsl.fewshot.leo import LEO, Latent, divergence, sample
from nsl.fewshot.matching import FullContext, MatchingNet
from nsl.fewshot.meta_nsn import MetaDynamicNSN, MetaStaticNSN
from nsl.fewshot.proto import ProtoNet
from nsl.fewshot.relation import RelationNet
from nsl.fewshot.tadam import TADAM, TaskEmbeddingNetwork
from nsl.models.backbones import ResNet12
from tests.nsl.fewshot.toy import method, tasks, toy

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Prototypical networks, equations 1 and 2.
def test_protonet_is_a_softmax_over_negative_squared_distances_to_class_means() -> None:
    support, query = randn(6, 4), randn(5, 4, seed=1)
    centres = [sum(support[3 * w + i] for i in range(3)) / 3 for w in range(2)]
    expected = torch.tensor(
        [[-sum(float(query[q, d] - centres[w][d]) ** 2 for d in range(4)) for w in range(2)] for q in range(5)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(-squared_distances(query, prototypes(support, 2)), expected, **EXACT)
    found = method("proto", way=2)
    assert isinstance(found, ProtoNet)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    adapted = found.adapted(support, labels, 0)
    torch.testing.assert_close(adapted.predict(query), expected, **EXACT)


# Matching networks, equation 1, and appendix A for the full-context embeddings.
def test_matchingnet_is_an_attention_over_the_support() -> None:
    support, query = randn(6, 4), randn(5, 4, seed=1)
    found = method("matching", way=2, full_context=False, scale=1.0)
    assert isinstance(found, MatchingNet)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    adapted = found.adapted(support, labels, 0)
    expected = torch.zeros(5, 2, dtype=torch.float64)
    for q in range(5):
        closeness = [float(query[q] @ s / query[q].norm() / s.norm()) for s in support]
        total = sum(math.exp(c) for c in closeness)
        for c, label in zip(closeness, labels.tolist()):
            expected[q, label] += math.exp(c) / total
    torch.testing.assert_close(adapted.predict(query).exp(), expected, **EXACT)


def test_full_context_embeddings_follow_their_recurrences() -> None:
    torch.manual_seed(0)
    context = FullContext(4, processing_steps=3).double()
    support, query = randn(1, 5, 4), randn(1, 2, 4, seed=1)
    known, found = context(support, query)
    with torch.no_grad():
        both = context.over_support(support)[0][0]
        g = [both[i, :4] + both[i, 4:] + support[0, i] for i in range(5)]
        torch.testing.assert_close(known[0], torch.stack(g), **EXACT)
        for j in range(2):
            f = query[0, j]
            h, c = f, torch.zeros_like(f)
            for _ in range(3):
                attention = torch.softmax(torch.stack([h @ gi for gi in g]), 0)
                r = sum(a * gi for a, gi in zip(attention, g))
                assert isinstance(r, Tensor)
                new, new_c = context.over_query(torch.cat([f, r])[None], (h[None], c[None]))
                h, c = new[0] + f, new_c[0]
            torch.testing.assert_close(found[0, j], h, **EXACT)


# Relation networks, equations 1 and 2.
def test_relationnet_scores_every_pair_of_class_and_query() -> None:
    found = method("relation", way=2, width=2)
    assert isinstance(found, RelationNet)
    found.network.double().eval()
    support, query = randn(4, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    labels = torch.tensor([0, 1, 1, 0])
    adapted = found.adapted(support, labels, 0)
    scores = adapted.predict(query)
    for q in range(3):
        for w in range(2):
            of_class = torch.stack([s for s, label in zip(support, labels) if label == w]).mean(0)
            pair = torch.cat([of_class, query[q]])[None]
            torch.testing.assert_close(scores[q, w], found.network.relation(pair)[0].detach(), **EXACT)
    batch = tasks(2, 2, 1, 1, (3, 16, 16))
    maps = [
        found.network.backbone.features(part.flatten(0, 1)).unflatten(0, (2, 2))
        for part in (batch.support, batch.query)
    ]
    r = found.scores(*maps).sigmoid().detach()
    squares = [float((r[t, q, w] - int(q == w)) ** 2) for t in range(2) for q in range(2) for w in range(2)]
    assert float(found.loss(batch)) == pytest.approx(sum(squares) / len(squares), rel=1e-9)


# TADAM, equation 1 and section 2.2.
def test_tadam_scales_the_metric_and_conditions_every_convolution() -> None:
    found = method("tadam", way=2, width=2)
    assert isinstance(found, TADAM)
    network = found.network.double().eval()
    with torch.no_grad():
        network.log_metric_scale.fill_(math.log(1.7))
        for i, p in enumerate([*network.task.gamma_scale, *network.task.beta_scale]):
            p.copy_(0.3 * randn(1, seed=i)[0])
    support, query = randn(4, 3, 8, 8), randn(3, 3, 8, 8, seed=1)
    labels = torch.tensor([0, 0, 1, 1])
    adapted = found.adapted(support, labels, 0)
    logits = adapted.predict(query)
    with torch.no_grad():
        plain = network.backbone(support)
        task = (plain[:2].mean(0) + plain[2:].mean(0)) / 2
        film = []
        for layer in range(12):
            gamma = network.task.gamma_scale[layer] * network.task.gammas[layer](task) + 1
            beta = network.task.beta_scale[layer] * network.task.betas[layer](task)
            film.append((gamma, beta))

        def embed(images: Tensor) -> Tensor:
            return conditioned(network.backbone, images, film)

        centres = [embed(support[:2]).mean(0), embed(support[2:]).mean(0)]
        for q, features in enumerate(embed(query)):
            for w in range(2):
                expected = -1.7 * float((features - centres[w]).square().sum())
                assert float(logits[q, w]) == pytest.approx(expected, rel=1e-9)


def conditioned(backbone: ResNet12, images: Tensor, film: list[tuple[Tensor, Tensor]]) -> Tensor:
    """ResNet-12 written out: gamma * BN(conv(x)) + beta at each of the twelve convolutions."""
    maps, layer = images, 0
    for block in backbone.blocks:
        shortcut = block.shortcut_norm(block.shortcut(maps))
        for i in range(3):
            gamma, beta = film[layer]
            maps = block.norms[i](block.convolutions[i](maps))
            maps = gamma[None, :, None, None] * maps + beta[None, :, None, None]
            if i == 2:
                maps = maps + shortcut
            maps, layer = maps * torch.sigmoid(maps), layer + 1
        if maps.shape[-1] > 1:
            maps = F.max_pool2d(maps, 2)
    return maps.mean((2, 3))


def test_tadam_starts_unconditioned_and_penalises_the_multipliers() -> None:
    torch.manual_seed(0)
    network = TaskEmbeddingNetwork(4, [2, 3])
    for gamma, beta in network(torch.randn(4)):
        assert torch.equal(gamma, torch.ones_like(gamma))
        assert torch.equal(beta, torch.zeros_like(beta))
    with torch.no_grad():
        network.gamma_scale[1].fill_(2.0)
        network.beta_scale[0].fill_(-1.0)
    assert float(network.penalty()) == 0.5 * (4 + 1)


def test_tadams_auxiliary_task_comes_beside_the_episodes() -> None:
    found = method("tadam", way=2, width=2, iterations=20)
    assert isinstance(found, TADAM)
    found.network.eval()
    found.auxiliary_loss = lambda draw: torch.tensor(100.0)  # type: ignore[method-assign]
    batch = tasks(1, 2, 1, 1, (3, 8, 8))
    batch = replace(batch, support=batch.support.float(), query=batch.query.float(), iteration=0)
    losses = [float(found.loss(replace(batch, generator=torch.Generator().manual_seed(s))).detach()) for s in range(40)]
    alone = min(losses)
    assert {round(loss - alone, 3) for loss in losses} == {0.0, 100.0}
    assert 30 <= sum(loss > 50 for loss in losses) < 40  # nine of ten at the start
    found = method("tadam", iterations=1)
    found.fit(toy().base)
    assert isinstance(found, TADAM)
    assert found.network.auxiliary is None  # it helps the training only


def test_tadam_counts_its_passes() -> None:
    options = {"conditioning": True, "auxiliary": True, "auxiliary_batch": 64}
    mean = sum(0.9 ** (1 + t) for t in range(20)) / 20
    assert TADAM.task_passes(25, 75, options) == pytest.approx(3 * (25 + 75 + 25 + 64 * mean))
    assert TADAM.task_passes(25, 75, {**options, "conditioning": False, "auxiliary": False}) == 300
    assert TADAM.episode_passes(25, 75, 0) == 125


def test_meta_learned_dynamic_nsn_is_counted_as_the_first_order_that_it_is() -> None:
    options = {"train_steps": 5}
    assert MetaDynamicNSN.task_passes(25, 75, options) == 3 * (5 * 25 + 75)
    assert MetaStaticNSN.task_passes(25, 75, options) == 3 * (2 * 5 * 25 + 75)


# Baseline++: the authors' code.
def test_baseline_pps_logits_are_scaled_cosines_with_learned_norms() -> None:
    head = CosineClassifier(4, 3, 2.0).double()
    torch.testing.assert_close(head.norm, head.direction.norm(dim=1))  # at the start
    features = randn(5, 4)
    with torch.no_grad():
        head.norm.mul_(torch.tensor([0.5, 1.0, 2.0]))
    classes = list(zip(head.direction.detach(), head.norm.detach()))
    expected = [[2.0 * float(n * (x @ d) / x.norm() / d.norm()) for d, n in classes] for x in features]
    torch.testing.assert_close(head(features), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_baseline_pp_passes_over_the_support_set_in_batches_of_four() -> None:
    torch.manual_seed(0)
    found = _batches(10, 4, 7)
    assert [len(part) for part in found] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(torch.cat(found[:3]).tolist()) == sorted(torch.cat(found[3:6]).tolist()) == list(range(10))
    assert _batches(10, 4, 0) == []


# LEO, equations 1 to 6 and the regularisers of section 2.3.
TWO_WAYS = one_hot(torch.tensor([0, 0, 1, 1]), 2, torch.float64)


def test_leo_encodes_by_pairs() -> None:
    torch.manual_seed(0)
    latent = Latent(5, 3).double().eval()
    support = randn(2, 4, 5)  # two tasks, two ways, two shots
    mean, spread = latent.encode(support, TWO_WAYS)
    for t in range(2):
        codes = [latent.encoder(x) for x in support[t]]
        for n in range(2):
            total = torch.zeros(6, dtype=torch.float64)
            for k in range(2):
                for m in range(2):
                    for j in range(2):
                        total = total + latent.relation(torch.cat([codes[2 * n + k], codes[2 * m + j]]))
            total = total / (2 * 2**2)
            torch.testing.assert_close(mean[t, n], total[:3], **EXACT)
            torch.testing.assert_close(spread[t, n], (total[3:].exp() - 1).clamp(min=1e-10), **EXACT)


def test_leo_adapts_the_code_and_then_the_weights() -> None:
    found = method("leo", way=2, steps=2, weight_steps=2, latent=3)
    assert isinstance(found, LEO)
    latent = found.latent.double().eval()
    size = found._features
    with torch.no_grad():
        latent.log_latent_rate.copy_(randn(3, seed=5))
        latent.log_weight_rate.copy_(randn(size, seed=6) - 3)
    support = randn(1, 4, size)
    weight, kl, moved = found.adapted_weights(support, TWO_WAYS, None)

    def decoded(code: Tensor) -> Tensor:
        return (code @ latent.decoder.weight.T)[:, :size]  # the means

    def loss(w: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(4):
            scores = [w[c] @ support[0, n] for c in range(2)]
            total = total - scores[n // 2] + torch.logsumexp(torch.stack(scores), 0)
        return total / 4

    mean, spread = latent.encode(support, TWO_WAYS)
    start = code = mean[0].detach()
    for _ in range(2):
        code = code.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(decoded(code)), code)
        code = code - latent.log_latent_rate.exp().detach() * gradient
    expected = decoded(code.detach())
    for _ in range(2):
        expected = expected.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(expected), expected)
        expected = expected - latent.log_weight_rate.exp().detach() * gradient
    torch.testing.assert_close(weight[0], expected, **EXACT)
    assert float(moved) == pytest.approx(float((code - start).square().mean()), rel=1e-9)
    entries = [
        0.5 * (s * s + m * m - 1) - math.log(s)
        for m, s in zip(mean.flatten().tolist(), spread.flatten().tolist())
    ]
    assert float(kl) == pytest.approx(sum(entries) / len(entries), rel=1e-9)


def test_leo_adapts_every_task_as_if_it_were_alone() -> None:
    found = method("leo", way=2, latent=3)
    assert isinstance(found, LEO)
    found.latent.double().eval()
    support = randn(3, 4, found._features)
    together = found.adapted_weights(support, TWO_WAYS, None)[0]
    for t in range(3):
        alone = found.adapted_weights(support[t : t + 1], TWO_WAYS, None)[0]
        torch.testing.assert_close(together[t], alone[0], **EXACT)


def test_leos_decoder_and_regularisers() -> None:
    torch.manual_seed(0)
    latent = Latent(5, 3).double()
    codes = randn(1, 2, 3)
    mean, spread = latent.decode(codes)
    out = codes[0] @ latent.decoder.weight.T
    torch.testing.assert_close(mean[0], out[:, :5], **EXACT)
    torch.testing.assert_close(spread[0], (out[:, 5:].exp() - 1 + math.sqrt(2 / (2 + 5))).clamp(min=1e-10), **EXACT)
    rows = latent.decoder.weight.T  # one a latent dimension
    total = 0.0
    for i in range(3):
        for j in range(3):
            c = float(rows[i] @ rows[j] / rows[i].norm() / rows[j].norm())
            total += (c - (i == j)) ** 2
    assert float(latent.orthogonality()) == pytest.approx(total / 9, rel=1e-9)
    parts = [*latent.encoder.parameters(), *latent.relation.parameters(), *latent.decoder.parameters()]
    assert float(latent.squares()) == pytest.approx(0.5 * sum(float(p.square().sum()) for p in parts), rel=1e-9)
    draws = sample(torch.zeros(20000), torch.full((20000,), 2.0), torch.Generator().manual_seed(0))
    assert float(draws.std()) == pytest.approx(2.0, rel=0.05)
    assert torch.equal(sample(mean, spread, None), mean)
    assert float(divergence(torch.zeros(3), torch.ones(3))) == 0.0


# Discriminative k-shot, sections 3.2 and 3.3.
@pytest.mark.parametrize("prior", ["isotropic", "diagonal"])
def test_the_posterior_over_softmax_weights(prior: str) -> None:
    base = randn(7, 3)
    mean, variance = fit_prior(base, prior)
    for d in range(3):
        column = [float(w[d]) for w in base]
        assert float(mean[d]) == pytest.approx(sum(column) / 7)
        own = sum((v - sum(column) / 7) ** 2 for v in column) / 7
        if prior == "diagonal":
            assert float(variance[d]) == pytest.approx(own)
    if prior == "isotropic":
        assert variance.unique().numel() == 1
        assert float(variance[0]) == pytest.approx(float((base - base.mean(0)).square().mean()))
    weight, features, labels = randn(2, 3, seed=1), randn(4, 3, seed=2), [0, 1, 1, 0]
    expected = 0.0
    for n, label in enumerate(labels):
        scores = [float(weight[c] @ features[n]) for c in range(2)]
        expected += scores[label] - math.log(sum(math.exp(s) for s in scores))
    for c in range(2):
        expected -= 0.5 * sum(float((weight[c, d] - mean[d]) ** 2 / variance[d]) for d in range(3))
    targets = one_hot(torch.tensor(labels), 2, torch.float64)
    assert float(log_posterior(weight, features, targets, mean, variance)) == pytest.approx(expected, rel=1e-10)
    best = maximum(features, targets, mean, variance, steps=200).requires_grad_()
    (gradient,) = torch.autograd.grad(log_posterior(best, features, targets, mean, variance), best)
    assert float(gradient.abs().max()) < 1e-5


def test_without_data_the_posteriors_maximum_is_the_priors_mean() -> None:
    mean, variance = fit_prior(randn(7, 3))
    best = maximum(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[1.0, 0.0]]).double(), mean, variance)
    torch.testing.assert_close(best, mean.expand(2, -1), **EXACT)


# Baseline++ and the linear classifiers.
def test_cosines_are_cosines() -> None:
    a, b = randn(3, 4), randn(2, 4, seed=1)
    expected = [[float(x @ y / x.norm() / y.norm()) for y in b] for x in a]
    torch.testing.assert_close(cosine(a, b), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_softmax_regression_follows_its_own_gradient() -> None:
    features, targets = randn(6, 4), one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3, torch.float64)
    weight, bias = torch.zeros(3, 4).double(), torch.zeros(3).double()
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(4):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = cross_entropy(features @ w.T + b, targets) + 0.5 * 0.01 * w.square().sum()
        speeds = [0.9 * s + g for s, g in zip(speeds, torch.autograd.grad(loss, [w, b]))]
        weight, bias = weight - 0.5 * speeds[0], bias - 0.5 * speeds[1]
    found = fit_linear(features, targets, steps=4, rate=0.5, decay=0.01)
    torch.testing.assert_close(found, (weight, bias), **EXACT)
