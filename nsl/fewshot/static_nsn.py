"""Static NSN: at test time only the similarity M, from the identity, and a new classifier are finetuned.

Source: paper 7.2, "Static NSN": "we first finetune both the static neural similarity matrix and the classifier on the
novel class data"; "we need to initialize the neural similarity matrix with an identity matrix".
"""

from __future__ import annotations

from nsl.fewshot.finetune import GradientAdaptation
from nsl.fewshot.settings import Settings


class StaticNSN(GradientAdaptation):
    """A plain backbone trained on the base classes, with an identity similarity added for the adaptation.

    The weights are those of the finetuning baseline to the bit; without a step the features are too.

    Args:
        settings: the circumstances; the backbone is "cnn4" or "cnn9".
        similarity: "diagonal" or "unconstrained".
        steps, rate, backbone_rate, momentum, decay: as in `GradientAdaptation`; backbone_rate is M's.
    """

    name = "static_nsn"
    kind = "static"
    adapts_similarities = True

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "unconstrained",
        steps: int = 40,
        rate: float = 1.0,
        backbone_rate: float = 0.05,
        momentum: float = 0.9,
        decay: float = 1e-3,
    ) -> None:
        self.similarity = similarity
        super().__init__(
            settings, steps=steps, rate=rate, backbone_rate=backbone_rate, momentum=momentum, decay=decay
        )

    def pretrained_kind(self) -> str:
        return "none"

    def adapts(self, name: str) -> bool:
        return name.endswith(".similarity")
