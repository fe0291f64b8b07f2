"""LEO: the classifier's weights are decoded from a latent code, which gradient steps adapt.

Source: Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero, Hadsell, "Meta-learning with latent embedding optimization",
ICLR 2019. On frozen features x of a backbone trained on the base classes (there WRN-28-10):

    mu_n^e, s_n^e = 1 / (N K^2) sum_{k, m, j} g_r(g_e(x_n^k), g_e(x_m^j)),   z_n ~ N(mu_n^e, diag(sigma_n^e)^2)
    mu_n^d, s_n^d = g_d(z_n),                                               w_n ~ N(mu_n^d, diag(sigma_n^d)^2)
    z' = z - alpha grad_z L_support(w(z)), repeated;  then  w' = w - eta grad_w L_support(w), repeated
    loss = L_query(w') + beta KL(N(mu^e, sigma^e) || N(0, I)) + gamma ||stop(z') - z||^2
           + lambda_1 (||g_e||^2 + ||g_r||^2 + ||g_d||^2) + lambda_2 ||C_d - I||^2

C_d is the correlation matrix of the rows of g_d, and ||.||^2 of it a mean over its entries. As in the authors' code
sigma = exp(s) - 1 + offset and at least 1e-10, so that a network that says nothing starts at the spread `offset`: 0 of
the encoder, sqrt(2 / (N + D)) of the decoder; alpha has a number for every latent dimension, eta one for every feature;
and in training features are dropped wherever they are used. In testing the means are taken instead of samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.data.fewshot import ImageSet
from nsl.fewshot.finetune import Pretrained
from nsl.fewshot.heads import cross_entropy, feature_scale, one_hot
from nsl.fewshot.meta import Tasks, meta_train
from nsl.fewshot.method import Adapted
from nsl.fewshot.settings import History, Place, Settings
from nsl.training.execution import upload


class Latent(nn.Module):
    """Encoder g_e, relation network g_r, decoder g_d and the learned rates alpha and eta.

    Args:
        features: D.
        size: of the latent code, L.
        dropout: of features, wherever they are used in training.

    Letters: T tasks, N ways, K shots.
    """

    def __init__(self, features: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.encoder = nn.Linear(features, size, bias=False)
        self.relation = nn.Sequential(
            nn.Linear(2 * size, 2 * size, bias=False),
            nn.ReLU(),
            nn.Linear(2 * size, 2 * size, bias=False),
            nn.ReLU(),
            nn.Linear(2 * size, 2 * size, bias=False),
        )
        self.decoder = nn.Linear(size, 2 * features, bias=False)
        self.log_latent_rate = nn.Parameter(torch.zeros(size))
        self.log_weight_rate = nn.Parameter(torch.full((features,), -3.0))

    def drop(self, features: Tensor, draw: torch.Generator | None) -> Tensor:
        """Features [..., D] with some of their entries dropped; all of them without a generator, which testing has."""
        if draw is None or self.dropout == 0:
            return features
        # Not F.dropout: its draws come from the global generator, which a resumed training has elsewhere.
        kept = upload(torch.rand(features.shape, generator=draw, device="cpu"), features.device) >= self.dropout
        return features * kept / (1 - self.dropout)

    def encode(self, support: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Support [T, S, D] with one-hot targets [S, N] to the mean and spread of the codes, [T, N, L] each."""
        codes = self.encoder(support)
        items = codes.shape[1]
        left = codes.unsqueeze(2).expand(-1, -1, items, -1)
        right = codes.unsqueeze(1).expand(-1, items, -1, -1)
        related = self.relation(torch.cat([left, right], -1)).mean(2)
        mean, spread = (targets.T @ related / targets.sum(0).unsqueeze(1)).chunk(2, -1)
        return mean, _spread(spread, 0.0)

    def decode(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [T, N, L] to the mean and spread of the classifier's weights, [T, N, D] each."""
        mean, spread = self.decoder(codes).chunk(2, -1)
        return mean, _spread(spread, math.sqrt(2.0 / (codes.shape[1] + mean.shape[-1])))

    def orthogonality(self) -> Tensor:
        """Mean entry of (C_d - I)^2, C_d the correlations of the decoder's rows, one a latent dimension."""
        rows = F.normalize(self.decoder.weight.T, dim=1)
        return (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).square().mean()

    def squares(self) -> Tensor:
        """Half the sum of squares of all weights of g_e, g_r and g_d."""
        parts = [*self.encoder.parameters(), *self.relation.parameters(), *self.decoder.parameters()]
        return 0.5 * torch.stack([p.square().sum() for p in parts]).sum()


def _spread(said: Tensor, offset: float) -> Tensor:
    """A standard deviation from what a network says: `offset` where it says 0."""
    return (said.exp() - (1 - offset)).clamp_min(1e-10)


def sample(mean: Tensor, spread: Tensor, draw: torch.Generator | None) -> Tensor:
    """mean + spread * standard normal noise; the mean without a generator."""
    if draw is None:
        return mean
    noise = torch.randn(mean.shape, generator=draw, dtype=mean.dtype, device="cpu")
    return mean + spread * upload(noise, mean.device)


def divergence(mean: Tensor, spread: Tensor) -> Tensor:
    """KL(N(mean, spread^2) || N(0, 1)), mean over all entries."""
    return 0.5 * (spread.square() + mean.square() - 1 - 2 * spread.log()).mean()


class LEO(Pretrained):
    """Latent embedding optimisation on frozen features.

    Args:
        settings: the circumstances (the source's backbone is "wrn28_10").
        latent: L.
        steps: latent gradient steps.
        weight_steps: gradient steps on the decoded weights after them.
        beta, gamma: coefficients of the divergence and of the encoder's penalty.
        decay, orthogonality: lambda_1 and lambda_2.
        dropout: of features in training.
    """

    name = "leo"
    trains_on_features = True

    def __init__(
        self,
        settings: Settings,
        *,
        latent: int = 64,
        steps: int = 5,
        weight_steps: int = 5,
        beta: float = 1e-3,
        gamma: float = 1e-6,
        decay: float = 1e-6,
        orthogonality: float = 1e-3,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(settings)
        if settings.meta.augment != "none":
            raise ValueError(
                f"{self.name}: meta.augment must be 'none', got {settings.meta.augment!r}: it trains on features of "
                "images as they are; pretrain.augment is for the backbone."
            )
        self.steps, self.weight_steps = steps, weight_steps
        self.beta, self.gamma, self.decay, self.orthogonality = beta, gamma, decay, orthogonality
        self._features = self.network.output_size(settings.image_size)
        self._latent = latent
        torch.manual_seed(settings.seed)
        self.latent = Latent(self._features, latent, dropout).to(self.device)
        self._scale: Tensor | None = None

    def adapted_weights(
        self,
        support: Tensor,
        targets: Tensor,
        draw: torch.Generator | None,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The inner loops.

        Args:
            support: scaled features [T, S, D].
            targets: one-hot [S, way].
            draw: for samples and dropped features; None takes means of all and keeps no graph.
            steps: latent steps, other than the method's.

        Returns:
            Weights w' [T, way, D], the divergence and ||stop(z') - z||^2 (mean over entries).
        """
        assert self.steps is not None
        latent_steps = self.steps if steps is None else steps
        training = draw is not None

        def gradient(of: Tensor) -> Tensor:
            # A sum over tasks: each task's code has the gradient of its own loss.
            logits = self.latent.drop(support, draw) @ weight.transpose(1, 2)
            loss = cross_entropy(logits, targets) * len(support)
            return torch.autograd.grad(loss, of, create_graph=training, retain_graph=True)[0]

        mean, spread = self.latent.encode(self.latent.drop(support, draw), targets)
        start = codes = sample(mean, spread, draw)
        weight = sample(*self.latent.decode(codes), draw)
        for _ in range(latent_steps):
            codes = codes - self.latent.log_latent_rate.exp() * gradient(codes)
            weight = sample(*self.latent.decode(codes), draw)
        for _ in range(self.weight_steps):
            weight = weight - self.latent.log_weight_rate.exp() * gradient(weight)
        return weight, divergence(mean, spread), (codes.detach() - start).square().mean()

    def loss(self, tasks: Tasks) -> Tensor:
        """The meta-loss of a meta-batch of features."""
        way = self.settings.meta.way
        targets = one_hot(tasks.support_labels, way, tasks.support.dtype)
        weight, kl, moved = self.adapted_weights(tasks.support, targets, tasks.generator)
        wanted = one_hot(tasks.query_labels, way, tasks.query.dtype)
        loss = cross_entropy(self.latent.drop(tasks.query, tasks.generator) @ weight.transpose(1, 2), wanted)
        regular = self.decay * self.latent.squares() + self.orthogonality * self.latent.orthogonality()
        return loss + self.beta * kl + self.gamma * moved + regular

    def train(self, base: ImageSet, place: Place) -> History:
        before = self.pretrain(base, place)[1]
        features = self.represent(base.images)
        self._scale = feature_scale(features)
        scaled = features * self._scale

        def fetch(where: Tensor, draw: torch.Generator) -> Tensor:
            return scaled[upload(where, scaled.device)]

        self.latent.train()
        history = meta_train(
            self.latent,
            self.loss,
            base,
            fetch,
            self.settings.meta,
            seed=self.settings.seed,
            identity=self.training_identity(base),
            device=self.device,
            place=place,
        )
        self.latent.eval()
        return {"pretrain": before, "meta": history}

    def trained_tensors(self) -> dict[str, Tensor]:
        scale = torch.empty((), device="meta") if self._scale is None else self._scale
        latent = {f"latent.{name}": tensor for name, tensor in self.latent.state_dict().items()}
        return {**super().trained_tensors(), **latent, "scale": scale}

    def restore(self, tensors: dict[str, Tensor], moments: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
        super().restore(tensors, moments)
        prefix = "latent."
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.latent.load_state_dict(mine)
        self.latent.eval()
        self._scale = tensors["scale"].to(self.device)

    def adapted(self, support: Tensor, labels: Tensor, steps: int) -> Adapted:
        assert self._scale is not None
        targets, scale = one_hot(labels, self.settings.way, support.dtype), self._scale
        found, _, _ = self.adapted_weights((support * scale).unsqueeze(0), targets, None, steps)
        weight = found[0].detach()
        return Adapted(lambda query: query * scale @ weight.T, {"weight": weight})

    @property
    def parameters(self) -> int:
        return super().parameters + sum(p.numel() for p in self.latent.parameters())

    @property
    def adapted_parameters(self) -> int:
        """The latent codes and the weights that are adapted after them."""
        return self.settings.way * (self._latent + self._features)
