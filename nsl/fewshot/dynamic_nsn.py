"""Dynamic NSN: trained dynamic on the base classes; at test time only the classifier is retrained.

Source: paper 7.2, "Dynamic NSN": "its intermediate layers do not need to be finetuned in the testing stage".
"""

from __future__ import annotations

from typing import Any

from nsl.fewshot.finetune import LinearOnFeatures
from nsl.fewshot.settings import Settings


class DynamicNSN(LinearOnFeatures):
    """Features of a dynamic network and a linear classifier on them.

    Args:
        settings: the circumstances; the backbone is "cnn4" or "cnn9".
        similarity: "diagonal" or "unconstrained".
        predictor, predictor_options: of the similarity, see `nsl.DynamicNSConv2d`.
        steps, rate, decay: of the classifier's descent, see `nsl.fewshot.heads.fit_linear`.
    """

    name = "dynamic_nsn"
    kind = "dynamic"

    def __init__(
        self,
        settings: Settings,
        *,
        similarity: str = "diagonal",
        predictor: str = "sphere",
        predictor_options: dict[str, Any] | None = None,
        steps: int = 100,
        rate: float = 1.0,
        decay: float = 1e-3,
    ) -> None:
        self.similarity, self.predictor, self.predictor_options = similarity, predictor, predictor_options
        super().__init__(settings, steps=steps, rate=rate, decay=decay)
