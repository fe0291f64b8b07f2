"""Few-shot learning: the methods of the paper's Table 6 behind one interface (paper 7.2).

    method = create_method("static_nsn", Settings(image_size=32))
    method.fit(data.base)
    result = evaluate(method, data.novel, shot=5, query=15, episodes=600, seed=0)
"""

from __future__ import annotations

import inspect
from typing import Any

from nsl.fewshot.baseline_pp import BaselinePlusPlus
from nsl.fewshot.dynamic_nsn import DynamicNSN
from nsl.fewshot.evaluation import Evaluation, evaluate, interval, paired
from nsl.fewshot.finetune import Finetune, FinetuneClassifier
from nsl.fewshot.kshot import DiscriminativeKShot
from nsl.fewshot.leo import LEO
from nsl.fewshot.maml import MAML
from nsl.fewshot.matching import MatchingNet
from nsl.fewshot.meta_nsn import MetaDynamicNSN, MetaStaticNSN
from nsl.fewshot.method import Adapted, FewShotMethod
from nsl.fewshot.nearest import NearestNeighbour
from nsl.fewshot.proto import ProtoNet
from nsl.fewshot.relation import RelationNet
from nsl.fewshot.settings import Diverged, MetaRecipe, Place, Settings
from nsl.fewshot.static_nsn import StaticNSN
from nsl.fewshot.tadam import TADAM

#: Every method by name.
METHODS: dict[str, type[FewShotMethod]] = {
    method.name: method
    for method in (
        Finetune,
        FinetuneClassifier,
        NearestNeighbour,
        MatchingNet,
        ProtoNet,
        RelationNet,
        MAML,
        StaticNSN,
        DynamicNSN,
        MetaStaticNSN,
        MetaDynamicNSN,
        DiscriminativeKShot,
        TADAM,
        LEO,
        BaselinePlusPlus,
    )
}


def create_method(name: str, settings: Settings, **options: Any) -> FewShotMethod:
    """A method by name, not yet fitted. Its weights come from `settings.seed`; the global random state is left alone.

    Args:
        name: a key of `METHODS`.
        settings: the circumstances.
        options: of the method; see its class.

    Raises:
        ValueError: unknown name or option; the sentence lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"few-shot method must be one of {sorted(METHODS)}, got {name!r}")
    build = METHODS[name]
    parameters = inspect.signature(build).parameters
    known = set(parameters) - {"settings"}
    unknown = sorted(set(options) - known)
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        raise ValueError(f"few-shot method {name!r} has no option {unknown[0]!r}, it takes {sorted(known)}")
    return build(settings, **options)


__all__ = [
    "METHODS",
    "Adapted",
    "Diverged",
    "Evaluation",
    "FewShotMethod",
    "MetaRecipe",
    "Place",
    "Settings",
    "create_method",
    "evaluate",
    "interval",
    "paired",
]
