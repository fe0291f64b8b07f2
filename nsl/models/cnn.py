"""CNN-9 and its relatives (paper 7.1; widths from the authors' release, appendix A is not in the text).

    root 3x3 conv, w | 3 x (3x3 conv, w) | pool | 3 x (3x3 conv, 2w) | pool | 3 x (3x3 conv, 4w) | pool | classifier

Each convolution is followed by batch norm and ReLU and has no bias. The root and the classifier are plain; the
nine convolutions between are what a Neural Similarity Network replaces. One network definition serves all:
`convolution` decides what stands at the nine places.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nsl.layers.conv import DynamicNSConv2d, NSConv2d
from nsl.layers.deformable import DeformConv2d
from nsl.layers.dynamic_filter import DynamicFilterConv2d
from nsl.layers.predictors import AnyPredictor, hidden_option
from nsl.layers.shared import BATCH_NORM_EPSILON, SharedKernels, adaptation_network
from nsl.layers.similarity import SHAPE_RATE, parts_of_similarities
from nsl.layers.structure import Block
from nsl.layers.structures import make_structure

VARIANTS = ("paper", "release")
#: Running averages. The release's decay of 0.999 suits its 42,500 iterations; ours also serves short budgets.
BATCH_NORM_MOMENTUM = {"paper": 0.1, "release": 0.001}

#: Their inner convolutions have a start of their own, which the network's must not replace.
OWN_START = (DynamicFilterConv2d, DeformConv2d)

Convolution = Callable[..., nn.Module]
"""(in_channels, out_channels, kernel_size, padding=..., bias=...) to a module."""


def he_initialise(network: nn.Module) -> None:
    """He initialisation of all kernels (fan in); similarities, predictors, offsets and what writes filters keep their
    own."""
    skip = parts_of_similarities(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module not in skip:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    for module in network.modules():
        if isinstance(module, OWN_START):
            module.reset_parameters()


class Chain(nn.Sequential):
    """A chain of named parts; a slice of it is a plain chain of these parts."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)


class ConvBlock(Chain):
    """Convolution without bias, batch norm, ReLU: [B, C, H, W] to [B, F, H, W]."""

    def __init__(
        self, in_channels: int, out_channels: int, convolution: Convolution, batch_norm_momentum: float
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum)
        self.relu = nn.ReLU(inplace=True)


def check_image_size(images: Tensor, size: int) -> None:
    """Compare height and width of images [..., H, W] with what a network is built for.

    They are known numbers under `torch.export` too, since a classifier over a whole map has no other size; what
    `torch.fx` traces with is let through.

    Raises:
        ValueError: another height or width.
    """
    if isinstance(images, Tensor) and images.dim() > 1 and images.shape[-2:] != (size, size):
        raise ValueError(f"images must be [B, 3, {size}, {size}] (image_size={size}), got {list(images.shape)}")


class StagedCNN(nn.Module):
    """A root, stages of convolutions with a pooling at their ends, and a classifier without bias.

    Args:
        num_classes: outputs.
        root: module from images [B, 3, S, S] to [B, channels, S', S'].
        channels: of the root.
        stages: filters and number of convolutions of each stage.
        last: the last stage's pooling; the others halve the map.
        classifier_size: height and width of the map that is left: a valid convolution over all of it classifies, a
            linear layer without bias, as in the release.
        image_size: height and width of the square input.
        convolution: what stands in the stages.
        variant: "paper" or "release" (see DISCREPANCIES.md); read by the optimiser set-up too.

    Class attributes:
        any_size: whether images of other sizes have the same number of logits too, since the last pooling averages.

    Shapes: [B, 3, image_size, image_size] to logits [B, num_classes].
    """

    any_size: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int,
        root: nn.Module,
        channels: int,
        stages: Sequence[tuple[int, int]],
        last: nn.Module,
        classifier_size: int,
        image_size: int,
        convolution: Convolution,
        variant: str,
    ) -> None:
        super().__init__()
        self.variant, self.image_size, self.root = variant, image_size, root
        built = []
        for number, (filters, depth) in enumerate(stages, 1):
            blocks: list[nn.Module] = []
            for _ in range(depth):
                blocks.append(ConvBlock(channels, filters, convolution, BATCH_NORM_MOMENTUM[variant]))
                channels = filters
            built.append(nn.Sequential(*blocks, last if number == len(stages) else nn.MaxPool2d(2)))
        self.stages = nn.Sequential(*built)
        self.classifier = nn.Conv2d(channels, num_classes, classifier_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of all kernels (fan in); similarities and predictors keep their own."""
        he_initialise(self)

    def set_averages(self, options: dict[str, Any]) -> None:
        """Give the predictors the variant's running averages too, unless their options have some."""
        if "batch_norm_momentum" not in options:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = BATCH_NORM_MOMENTUM[self.variant]

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to the last map [B, F, classifier_size, classifier_size]."""
        return self.stages(self.root(images))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to logits [B, num_classes].

        Raises:
            ValueError: images of another size, where the classifier would give several logits a class or none.
        """
        # TorchScript, which takes plain and folded networks, would have to compile the check.
        if not torch.jit.is_scripting():
            self._check(images)
        return self.classifier(self.features(images)).flatten(1)

    def _check(self, images: Tensor) -> None:
        if not self.any_size:
            check_image_size(images, self.image_size)


def check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {list(VARIANTS)}, got {variant!r}")


class PlainCNN(StagedCNN):
    """VGG-like network of three stages.

    Args:
        num_classes: outputs.
        width: w above, filters of the root and the first stage.
        depth: convolutions a stage.
        image_size: height and width of the square input, a multiple of 8.
        convolution: what stands at the 3 * depth places after the root.
        variant: "paper" or "release" (see DISCREPANCIES.md); read by the optimiser set-up too.

    Shapes: [B, 3, image_size, image_size] to logits [B, num_classes]; `features` to [B, 4 * width, S / 8, S / 8].

    Raises:
        ValueError: image_size is not a positive multiple of 8, width or num_classes is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 32,
        depth: int = 3,
        image_size: int = 32,
        convolution: Convolution = nn.Conv2d,
        variant: str = "paper",
    ) -> None:
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8 (three poolings), got {image_size}")
        if width < 1 or num_classes < 1:
            raise ValueError(f"width and num_classes must be positive, got {width} and {num_classes}")
        check_variant(variant)
        root = ConvBlock(3, width, nn.Conv2d, BATCH_NORM_MOMENTUM[variant])
        stages = [(width, depth), (2 * width, depth), (4 * width, depth)]
        last = nn.MaxPool2d(2)
        super().__init__(num_classes, root, width, stages, last, image_size // 8, image_size, convolution, variant)

    def reset_parameters(self) -> None:
        """He initialisation of all kernels (fan in); similarities and predictors keep their own."""
        super().reset_parameters()
        if self.variant == "release":
            for module in self.modules():
                if isinstance(module, NSConv2d):
                    _release_similarity(module)


def _release_similarity(layer: NSConv2d) -> None:
    """The release initialises the static DNS mask with eye(3) flattened: the main diagonal 1, the rest 0."""
    if layer.structure.name == "diagonal":
        with torch.no_grad():
            layer.similarity.copy_(torch.eye(*layer.kernel_size, device=layer.similarity.device).flatten())


def cnn9(num_classes: int, *, width: int = 32, image_size: int = 32, variant: str = "paper") -> PlainCNN:
    """The baseline: 511,200 parameters at width 32 for 10 classes, the release's static DNS network without masks."""
    return PlainCNN(num_classes, width, 3, image_size, nn.Conv2d, variant)


def cnn9pp(num_classes: int, *, width: int = 32, image_size: int = 32, variant: str = "paper") -> PlainCNN:
    """CNN++: deeper (four convolutions a stage) and wider, slightly more parameters than every NSN variant.

    The paper gives no widths. Ours is the smallest width whose parameters exceed those of the largest NSN-9
    (dynamic, unconstrained) of base width `width` for such images: 55 for 32, 2.05 million parameters for 10 classes.
    """
    with torch.device("meta"):
        largest = nsn9(num_classes, kind="dynamic", similarity="unconstrained", width=width, image_size=image_size)
    target = sum(parameter.numel() for parameter in largest.parameters())

    def count(wider: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in PlainCNN(num_classes, wider, 4, image_size).parameters())

    widths = range(width + 1, 8 * width + 8)
    wider = widths[bisect_right(widths, target, key=count)]
    return PlainCNN(num_classes, wider, 4, image_size, nn.Conv2d, variant)


def nsn9(
    num_classes: int,
    *,
    kind: str,
    similarity: str = "diagonal",
    width: int = 32,
    image_size: int = 32,
    variant: str = "paper",
    predictor: AnyPredictor | None = None,
    sharing: str = "disjoint",
    adaptation: str = "layer",
    learn_shape: bool = False,
    shape_rate: float = SHAPE_RATE,
    residual: bool = True,
    predictor_options: dict[str, Any] | None = None,
) -> PlainCNN:
    """CNN-9 with a neural similarity in its nine convolutions.

    Args:
        num_classes, width, image_size, variant: as in `PlainCNN`.
        kind: "static" or "dynamic".
        similarity: "diagonal" or "unconstrained".
        predictor: "sphere", "cnn" or "release" (dynamic only; Table 1), or what makes one of your own, see
            `nsl.DynamicNSConv2d`; None: "sphere", the release's with variant="release".
        sharing: "disjoint", one predictor a layer, or "shared", one for all layers behind adaptation networks
            (dynamic only; Table 3).
        adaptation: "layer", an adaptation network a layer, or "map_size", one for all layers of equal map size and
            input channels (shared only; paper 3.3.2).
        learn_shape: the rows "(J)" of Table 2.
        shape_rate: of the learned shape, see `nsl.NSConv2d`.
        residual: False: M without the identity (dynamic only).
        predictor_options: passed to the predictor. Hidden channels default to the release's 64 (diagonal) and
            128 (unconstrained), in proportion to `width`.

    Raises:
        ValueError: an unknown or impossible choice; the sentence lists the possible ones.
    """
    shape: dict[str, Any] = {"learn_shape": learn_shape, "shape_rate": shape_rate}
    if kind == "static":
        dynamic_only = (predictor, sharing, adaptation, residual, predictor_options)
        if dynamic_only != (None, "disjoint", "layer", True, None):
            raise ValueError(
                "predictor, sharing, adaptation, residual and predictor_options are for kind='dynamic' only"
            )
        convolution: Convolution = partial(NSConv2d, similarity=similarity, **shape)
        return PlainCNN(num_classes, width, 3, image_size, convolution, variant)
    if kind != "dynamic":
        raise ValueError(f"kind must be 'static' or 'dynamic', got {kind!r}")
    predictor = default_predictor(variant) if predictor is None else predictor
    options = hidden_option(predictor, similarity, width) | (predictor_options or {})
    convolution = partial(
        DynamicNSConv2d, similarity=similarity, predictor=predictor, residual=residual, **shape
    )
    if sharing == "shared":
        convolution = _sharing(convolution, width, similarity, predictor, adaptation, options)
    elif sharing != "disjoint":
        raise ValueError(f"sharing must be 'disjoint' or 'shared', got {sharing!r}")
    elif adaptation != "layer":
        raise ValueError("adaptation='map_size' is for sharing='shared' only")
    else:
        convolution = partial(convolution, predictor_options=options)
    network = PlainCNN(num_classes, width, 3, image_size, convolution, variant)
    network.set_averages(options)
    return network


def default_predictor(variant: str) -> str:
    """The predictor that belongs to a variant."""
    return "release" if variant == "release" else "sphere"


def _sharing(
    convolution: Convolution,
    width: int,
    similarity: str,
    predictor: AnyPredictor,
    adaptation: str,
    options: dict[str, Any],
) -> Convolution:
    """Convolutions whose predictors have the same two kernels, and adaptation networks a layer or a map size."""
    if predictor not in ("sphere", "release"):
        raise ValueError(f"sharing='shared' needs predictor='sphere' or 'release', got {predictor!r}")
    if adaptation not in ("layer", "map_size"):
        raise ValueError(f"adaptation must be 'layer' or 'map_size', got {adaptation!r}")
    if adaptation == "map_size" and predictor != "sphere":
        raise ValueError("adaptation='map_size' needs predictor='sphere'")
    degrees = make_structure(similarity).degrees_of_freedom(Block((3, 3)))
    operator: dict[str, Any] = {"operator": options["operator"]} if "operator" in options else {}
    kernels = SharedKernels(width, degrees, 3, options["hidden"], release=predictor == "release", **operator)
    networks: dict[tuple[int, int], nn.Module] = {}

    def build(in_channels: int, out_channels: int, kernel_size: int, **more: Any) -> nn.Module:
        own = {**options, "shared": kernels}
        if adaptation == "map_size":
            # In a network that doubles its filters with every pooling, the two numbers tell the map's size.
            key = (in_channels, out_channels)
            if key not in networks:
                momentum = {name: options[name] for name in ("batch_norm_momentum",) if name in options}
                networks[key] = adaptation_network(in_channels, width, kernel_size, padding=1, **momentum)
            own["adaptation"] = networks[key]
        return convolution(in_channels, out_channels, kernel_size, predictor_options=own, **more)

    return build
