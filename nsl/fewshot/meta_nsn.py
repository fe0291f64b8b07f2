"""Meta-learned NSN: a pretrained backbone whose similarity is meta-learned (paper 7.2, equation 7).

    min_M sum_i L_i(f_{M'}),   M' = M - eta grad_M L_i(f_M)

The backbone is pretrained on the base classes and stays fixed to the bit; MAML is done over the similarity and the
classifier only. Batch norm keeps the running statistics of the pretraining, so that queries are classified one by
one, unlike in MAML.

The paper leaves a meta-learned dynamic similarity to the future; `MetaDynamicNSN` is ours: the predictors take the
place of M.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nsl.conv import DynamicNSConv2d, NSConv2d
from nsl.data.fewshot import ImageSet
from nsl.fewshot.heads import feature_scale
from nsl.fewshot.maml import GradientMeta
from nsl.fewshot.meta import image_fetcher, meta_train
from nsl.fewshot.pretrain import pretrain
from nsl.fewshot.settings import History, Place, Settings
from nsl.models.backbones import Backbone, BackboneClassifier, create_backbone

#: Images over which the scale of the pretrained features is measured.
SCALE_IMAGES = 512


class ScaledClassifier(BackboneClassifier):
    """A classifier on features multiplied by a constant, so that they have mean norm one, as in the other methods."""

    scale: torch.Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("scale", torch.ones(()))
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] to logits [B, way]."""
        return self.classifier(self.backbone(images) * self.scale)


class _MetaNSN(GradientMeta):
    """What the static and the dynamic variant share.

    Args:
        settings: the circumstances; the backbone is "cnn4" or "cnn9".
        similarity: "diagonal" or "unconstrained".
        predictor_options: of the dynamic predictor.
        rate, train_steps, steps, first_order, vectorise: as in `GradientMeta`.
    """

    network: ScaledClassifier
    kind: str
    pretrained_kind: str

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str,
        predictor_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.similarity, self.predictor_options = similarity, predictor_options
        super().__init__(settings, **options)

    def build(self) -> ScaledClassifier:
        return ScaledClassifier(self._backbone(self.kind), self.settings.way, self.settings.image_size)

    def _backbone(self, kind: str) -> Backbone:
        settings = self.settings
        return create_backbone(
            settings.backbone,
            width=settings.width,
            kind=kind,
            similarity=self.similarity,
            predictor_options=self.predictor_options if kind == "dynamic" else None,
        )

    def train(self, base: ImageSet, place: Place) -> History:
        assert self.moments is not None
        settings = self.settings
        torch.manual_seed(settings.seed)
        backbone = self._backbone(self.pretrained_kind)
        whole = BackboneClassifier(backbone, base.num_classes, settings.image_size).to(self.device)
        kind = self.pretrained_kind
        identity: dict[str, Any] = {"backbone": settings.backbone, "width": settings.width, "kind": kind}
        if kind != "none":
            identity |= {"similarity": self.similarity, "predictor": self.predictor_options}
        before = pretrain(
            whole,
            base,
            settings.pretrain,
            seed=settings.seed,
            device=settings.device,
            identity=identity,
            place=place,
        )
        missing, unexpected = self.network.backbone.load_state_dict(backbone.state_dict(), strict=False)
        assert not unexpected
        assert all(name.endswith(".similarity") for name in missing)
        # Evaluation mode: the running statistics are part of the backbone that stays fixed.
        self.network.eval()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self.adapts(name))
        fetch = image_fetcher(base, self.moments, settings.meta.augment, self.device)
        with torch.no_grad():
            some = torch.arange(0, len(base.labels), max(1, len(base.labels) // SCALE_IMAGES))
            images = image_fetcher(base, self.moments, "none", self.device)(some, torch.Generator())
            self.network.scale.copy_(feature_scale(self.network.backbone(images)))
        history = meta_train(
            self.network,
            self.loss,
            base,
            fetch,
            settings.meta,
            seed=settings.seed,
            device=self.device,
            place=place,
            parameters=list(self.start().values()),
        )
        return {"pretrain": before, "meta": history}


class MetaStaticNSN(_MetaNSN):
    """Equation (7): the static similarity and the classifier are meta-learned, the kernels stay as pretrained."""

    name = "meta_static_nsn"
    kind, pretrained_kind = "static", "none"

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "unconstrained",
        rate: float = 0.1,
        train_steps: int = 5,
        steps: int = 10,
        first_order: bool = False,
        vectorise: bool | None = None,
    ) -> None:
        super().__init__(
            settings,
            similarity=similarity,
            rate=rate,
            train_steps=train_steps,
            steps=steps,
            first_order=first_order,
            vectorise=vectorise,
        )

    def adapts(self, name: str) -> bool:
        return name.endswith(".similarity") or name.startswith("classifier.")

    def similarities(self) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        """Layer name, the meta-learned M_s [K, K] and the one after the last adaptation."""
        found = []
        for name, layer in self.network.named_modules():
            if isinstance(layer, NSConv2d):
                start = layer.similarity.detach()
                free = (self._fast or {}).get(f"{name}.similarity", start)
                assemble = layer.structure.assemble
                found.append((name, assemble(start, layer.block), assemble(free, layer.block)))
        return found


class MetaDynamicNSN(_MetaNSN):
    """The predictors of a dynamic network and the classifier are meta-learned; ours, not the paper's.

    Only the predictors' last convolutions are adapted: they are linear in the predicted similarity, as M is in the
    static network.
    """

    name = "meta_dynamic_nsn"
    kind, pretrained_kind = "dynamic", "dynamic"

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "diagonal",
        predictor_options: dict[str, Any] | None = None,
        rate: float = 0.1,
        train_steps: int = 3,
        steps: int = 10,
    ) -> None:
        # First order and task by task: the compiled dynamic convolution has a first derivative only.
        super().__init__(
            settings,
            similarity=similarity,
            predictor_options=predictor_options,
            rate=rate,
            train_steps=train_steps,
            steps=steps,
            first_order=True,
            vectorise=False,
        )

    def adapts(self, name: str) -> bool:
        return ".predictor.second." in name or name.startswith("classifier.")

    def dynamic_layers(self) -> list[str]:
        """Names of the layers whose predictors are adapted."""
        return [name for name, layer in self.network.named_modules() if isinstance(layer, DynamicNSConv2d)]
