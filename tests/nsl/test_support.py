"""What is done with any layer of PyTorch, done with every public layer: the right result, or one clear sentence.

`docs/support.md` is this file's table: `python -m tests.nsl.test_support` writes it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, prune

import nsl

MAPS = (2, 3, 7, 6)
PLACE: Any = (3, 9, 3, 1, 1)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "NSConv1d": (lambda: nsl.NSConv1d(3, 4, 3, padding=1, similarity="unconstrained"), (2, 3, 7)),
    "NSConv2d": (lambda: nsl.NSConv2d(3, 4, 3, padding=1, similarity="unconstrained", learn_shape=True), MAPS),
    "NSConv3d": (lambda: nsl.NSConv3d(3, 4, 3, padding=1), (2, 3, 4, 5, 4)),
    "NSConvTranspose2d": (lambda: nsl.NSConvTranspose2d(3, 4, 3, stride=2), MAPS),
    "NSLinear": (lambda: nsl.NSLinear(4, 3, similarity="unconstrained"), (2, 4)),
    "NSRNNCell": (lambda: nsl.NSRNNCell(4, 3), (2, 4)),
    "NSGRUCell": (lambda: nsl.NSGRUCell(4, 3, similarity="unconstrained"), (2, 4)),
    "DynamicNSConv2d": (
        lambda: nsl.DynamicNSConv2d(3, 4, 3, padding=1, similarity="unconstrained", predictor_options={"hidden": 4}),
        MAPS,
    ),
    "DynamicNSLinear": (lambda: nsl.DynamicNSLinear(4, 3, similarity="unconstrained", block_size=2), (2, 4)),
    "SphereConv2d": (lambda: nsl.SphereConv2d(3, 4, 3, padding=1, operator="learnable_sigmoid"), MAPS),
    "GlobalSimilarity": (lambda: nsl.GlobalSimilarity(**nsl.sphere_maps(3), gamma=0.5), MAPS),
    "StaticGlobalSimilarity": (lambda: nsl.StaticGlobalSimilarity((7, 6)), MAPS),
    "ShiftConv2d": (lambda: nsl.NSConv2d(3, 4, 3, padding=1, similarity="shift").fold(), MAPS),
    "UnsharedNSConv2d": (lambda: nsl.UnsharedNSConv2d(3, 4, 3, padding=1, similarity="unconstrained"), MAPS),
    "DecoupledConv2d": (
        lambda: nsl.DecoupledConv2d(3, 4, 3, padding=1, angle="learnable_sigmoid", learnable=True),
        MAPS,
    ),
    "DynamicFilterConv2d": (lambda: nsl.DynamicFilterConv2d(3, 4, 3, padding=1, hidden=4), MAPS),
    "HyperConv2d": (lambda: nsl.HyperConv2d(3, 4, 3, padding=1, dynamic=True), MAPS),
    "SelectedConv2d": (lambda: nsl.SelectedConv2d(3, 4, 3, padding=1, hidden=4), MAPS),
    "MixtureConv2d": (lambda: nsl.MixtureConv2d(3, 4, 3, padding=1), MAPS),
    "DeformConv2d": (lambda: nsl.DeformConv2d(3, 4, 3, padding=1, modulated=True), MAPS),
    "DynamicNSRNNCell": (lambda: nsl.DynamicNSRNNCell(4, 3, hidden=2), (2, 4)),
    "DynamicNSGRUCell": (lambda: nsl.DynamicNSGRUCell(4, 3, hidden=2), (2, 4)),
    "ODEBlock": (lambda: nsl.ODEBlock(nsl.NSConv2d(3, 3, 3, padding=1), "rk4", 2), MAPS),
    "SpherePredictor": (lambda: nsl.SpherePredictor(*PLACE, hidden=4), MAPS),
    "ReleasePredictor": (lambda: nsl.ReleasePredictor(*PLACE, hidden=4), MAPS),
    "CNNPredictor": (lambda: nsl.CNNPredictor(*PLACE, hidden=4, head="tanh"), MAPS),
    "LinearPredictor": (lambda: nsl.LinearPredictor(4, 3, hidden=4), (2, 4)),
}
#: Public modules that are no layers: parts of them, and a metric of two arguments.
PARTS = {"SharedKernels", "StaticSimilarity", "DynamicSimilarity", "KernelGenerator", "Mahalanobis"}
CELLS = {"NSRNNCell", "NSGRUCell"}


class Absent(Exception):
    """The use has no meaning for this layer."""


def made(name: str) -> tuple[nn.Module, Tensor]:
    """The layer in evaluation mode, with parameters that are not the initial ones, and an input."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer, torch.randn(shape)


def other_size(x: Tensor, name: str) -> Tensor:
    """An input of another batch size, and of another height and width where the layer has such a thing."""
    grows = x.dim() > 2 and name != "StaticGlobalSimilarity"
    return torch.randn(5, x.shape[1], *(size + 3 * grows for size in x.shape[2:]))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def weight_name(layer: nn.Module) -> str:
    for name in ("weight", "weight_hh"):
        if name in layer._parameters:
            return name
    raise Absent


def empty_batch(name: str, layer: nn.Module, x: Tensor) -> None:
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])


def unbatched(name: str, layer: nn.Module, x: Tensor) -> None:
    close(layer(x[0]), layer(x)[0])


def wrong_shape(name: str, layer: nn.Module, x: Tensor) -> None:
    wrong = [x[..., :-1] if x.dim() == 2 or name == "StaticGlobalSimilarity" else torch.cat([x, x], 1)]
    if name not in ("NSLinear", "DynamicNSLinear", "LinearPredictor", "StaticGlobalSimilarity"):  # any [..., N]
        wrong.append(x[None, None])
    for other in wrong:
        with pytest.raises(ValueError, match=r"^input must be .*, got [\[(][\d, ]*[\])]$"):
            layer(other)


def channels_last(name: str, layer: nn.Module, x: Tensor) -> None:
    if x.dim() != 4:
        raise Absent
    expected = layer(x)
    close(layer(x.contiguous(memory_format=torch.channels_last)), expected)
    close(layer.to(memory_format=torch.channels_last)(x), expected)


def non_contiguous(name: str, layer: nn.Module, x: Tensor) -> None:
    strided = torch.stack([x, x], -1)[..., 0]
    assert not strided.is_contiguous()
    close(layer(strided), layer(x))


def _of_type(dtype: torch.dtype, tolerance: float) -> Callable[[str, nn.Module, Tensor], None]:
    def use(name: str, layer: nn.Module, x: Tensor) -> None:
        expected = layer(x)
        found = layer.to(dtype)(x.to(dtype))
        assert found.dtype == dtype
        close(found.float(), expected, tolerance)

    return use


def meta_and_load(name: str, layer: nn.Module, x: Tensor) -> None:
    for assign in (False, True):
        with torch.device("meta"):  # a folded layer's construction reads its kernel's values
            twin = copy.deepcopy(layer).to("meta") if name == "ShiftConv2d" else LAYERS[name][0]().eval()
        if not assign:
            twin.to_empty(device="cpu")
        twin.load_state_dict(layer.state_dict(), assign=assign)
        close(twin(x), layer(x), 0)


def fake_tensors(name: str, layer: nn.Module, x: Tensor) -> None:
    shape = layer(x).shape
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(torch.empty(x.shape)).shape == shape
        if name != "ShiftConv2d":  # whose construction reads its kernel's values
            assert LAYERS[name][0]().eval()(torch.empty(x.shape)).shape == shape


def traced_by_make_fx(name: str, layer: nn.Module, x: Tensor) -> None:
    graph, other = make_fx(layer, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x), other_size(x, name)
    close(graph(other), layer(other))


class Together(nn.Module):
    """Layers of one input as one network, so that they are exported in one go."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, input: Tensor) -> list[Tensor]:
        return [layer(input) for layer in self.layers.values()]


def sizes_of(x: Tensor, name: str) -> tuple[dict[int, Any]]:
    """Every size of the input but its channels, as an unknown; a learned M over a map has the map's size."""
    unknown = [0] if name == "StaticGlobalSimilarity" or x.dim() == 2 else [0, *range(2, x.dim())]
    return ({axis: torch.export.Dim(f"size{axis}", min=2 if axis == 0 else 4) for axis in unknown},)


def group_of(name: str) -> tuple[str, ...]:
    """The layers with an input of this one's shape."""
    if name == "StaticGlobalSimilarity":
        return (name,)
    return tuple(
        one for one, (_, shape) in LAYERS.items() if shape == LAYERS[name][1] and one != "StaticGlobalSimilarity"
    )


@functools.cache
def exported(names: tuple[str, ...]) -> tuple[Any, Together, Tensor]:
    network, x = Together({name: made(name)[0] for name in names}).eval(), made(names[0])[1]
    return torch.export.export(network, (x,), dynamic_shapes=sizes_of(x, names[0])), network, x


def exports(name: str, layer: nn.Module, x: Tensor) -> None:
    names = group_of(name)
    program, network, x = exported(names)
    other = other_size(x, name)
    close(program.module()(other)[names.index(name)], network(other)[names.index(name)])


@functools.cache
def session(names: tuple[str, ...]) -> Any:
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program, _, x = exported(names)
    model = torch.onnx.export(program, (x,), dynamo=True, verbose=False, optimize=False).model_proto
    return runtime.InferenceSession(model.SerializeToString())


def exports_to_onnx(name: str, layer: nn.Module, x: Tensor) -> None:
    names = group_of(name)
    running, (_, network, x) = session(names), exported(names)
    other = other_size(x, name)
    found = running.run(None, {running.get_inputs()[0].name: other.numpy()})[names.index(name)]
    close(torch.from_numpy(found), network(other)[names.index(name)].detach(), 1e-4)


def copied(name: str, layer: nn.Module, x: Tensor) -> None:
    close(copy.deepcopy(layer)(x), layer(x), 0)


def pickled(name: str, layer: nn.Module, x: Tensor) -> None:
    close(pickle.loads(pickle.dumps(layer))(x), layer(x), 0)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True))


def _through_a_file(scripted: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


def traced_by_torchscript(name: str, layer: nn.Module, x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript grows old, and that a trace keeps sizes and branches
        close(_through_a_file(torch.jit.trace(layer, (x,)))(x), layer(x))


def scripted_by_torchscript(name: str, layer: nn.Module, x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(_through_a_file(torch.jit.script(layer))(x), layer(x))


def default_device(name: str, layer: nn.Module, x: Tensor) -> None:
    expected = layer(x)
    with torch.device("meta"):
        found = layer(x)
        layer(x.requires_grad_()).sum().backward()
        fresh = LAYERS[name][0]() if name != "ShiftConv2d" else layer.to("meta")
        assert all(tensor.is_meta for tensor in (*fresh.parameters(), *fresh.buffers()))
    close(found, expected, 0)


def pruned_and_folded(name: str, layer: nn.Module, x: Tensor) -> None:
    weight = weight_name(layer)
    prune.l1_unstructured(layer, weight, 0.5)
    expected = layer(x)
    if not hasattr(layer, "fold"):
        prune.remove(layer, weight)
        return close(layer(x), expected)
    with pytest.raises(ValueError, match=f"{weight} of .* is computed by a forward pre-hook"):
        layer.fold()
    prune.remove(layer, weight)
    return close(nsl.fold(nn.Sequential(layer))(x), expected)


def normed_and_frozen(name: str, layer: nn.Module, x: Tensor) -> None:
    expected = layer(x)
    parametrizations.weight_norm(layer, weight_name(layer))
    close(layer(x), expected)
    nsl.freeze_backbone(nn.ModuleList([layer]), classifier=nn.Identity())
    for key, parameter in layer.named_parameters():
        assert parameter.requires_grad == key.startswith("neural"), key


def converted_twice(name: str, layer: nn.Module, x: Tensor) -> None:
    model, expected = nn.Sequential(layer), layer(x)
    with suppress(ValueError):  # a predictor alone has plain convolutions, the layers have none
        nsl.convert(model, where=lambda *_: True)
    close(model(x), expected)
    with pytest.raises(ValueError, match=r"found (no layer|nothing to do)"):
        nsl.convert(model, where=lambda *_: True)


def hooked(name: str, layer: nn.Module, x: Tensor) -> None:
    expected, called = layer(x), []
    layer.register_forward_pre_hook(lambda *_: called.append("before"))
    layer.register_forward_hook(lambda *_: called.append("after"))
    layer.register_full_backward_hook(lambda *_: called.append("backward"))
    found = layer(x.requires_grad_())
    found.sum().backward()
    close(found, expected)
    assert called == ["before", "after", "backward"]


def traced_by_fx(name: str, layer: nn.Module, x: Tensor) -> None:
    optional = {key: None for key in ("hx", "output_size") if key in inspect.signature(layer.forward).parameters}
    graph, other = torch.fx.symbolic_trace(layer, concrete_args=optional), other_size(x, name)
    close(graph(x), layer(x))
    close(graph(other), layer(other))


def forward_derivative(name: str, layer: nn.Module, x: Tensor) -> None:
    if name == "SelectedConv2d":  # a straight-through derivative is no limit of differences
        raise Absent
    layer, x, step = layer.double(), x.double(), 1e-6
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    close(tangent, (layer(x + step * direction) - layer(x - step * direction)) / (2 * step), 1e-6)


USES: dict[str, Callable[[str, nn.Module, Tensor], None]] = {
    "empty batch": empty_batch,
    "unbatched input": unbatched,
    "other channels or dimensions": wrong_shape,
    "channels_last": channels_last,
    "non-contiguous input": non_contiguous,
    "float16": _of_type(torch.float16, 0.05),
    "bfloat16": _of_type(torch.bfloat16, 0.2),
    "float64": _of_type(torch.float64, 1e-5),
    "meta device, to_empty, load": meta_and_load,
    "FakeTensor": fake_tensors,
    "make_fx": traced_by_make_fx,
    "torch.export, dynamic sizes": exports,
    "ONNX, dynamic axes": exports_to_onnx,
    "TorchScript: torch.jit.trace, save": traced_by_torchscript,
    "TorchScript: torch.jit.script": scripted_by_torchscript,
    "deepcopy": copied,
    "pickle, torch.save": pickled,
    "another default device": default_device,
    "prune, fold": pruned_and_folded,
    "weight_norm, freeze": normed_and_frozen,
    "convert twice": converted_twice,
    "hooks": hooked,
    "torch.fx": traced_by_fx,
    "forward-mode derivative": forward_derivative,
}
#: (layer, use) to what is said instead.
_OTHERS = ("SphereConv2d", "DecoupledConv2d", "SelectedConv2d", "MixtureConv2d", "DeformConv2d")
#: What computes by Python functions with derivatives of their own, which a saved trace cannot hold.
_PYTHON = ("DynamicNSConv2d", "SphereConv2d", "GlobalSimilarity", "DecoupledConv2d", "SpherePredictor",
           "ReleasePredictor")  # fmt: skip
#: The first thing that `torch.jit.script` does not compile; of all other layers an annotation.
_UNSCRIPTED = {
    **dict.fromkeys(("SphereConv2d", "GlobalSimilarity", "SelectedConv2d"), "if-expression's true branch has type"),
    "StaticGlobalSimilarity": "cannot statically infer the expected size of a list in this context",
    "LinearPredictor": "python value of type 'float' cannot be used as a value",
}
REFUSED = {
    (name, "weight_norm, freeze"): "freeze_backbone found no similarity to train: convert the model first"
    for name in _OTHERS
} | {("DeformConv2d", "forward-mode derivative"): "forward AD with grid_sampler_2d that does not support it"}
REFUSED |= {(name, "TorchScript: torch.jit.trace, save"): "Could not export Python function call" for name in _PYTHON}
REFUSED |= {
    (name, "TorchScript: torch.jit.script"): _UNSCRIPTED.get(name, "Unknown type annotation") for name in LAYERS
}
#: (layer, use) without a meaning: no maps to lay channels last, no weight of its own to prune.
_NO_MAPS = ("NSConv1d", "NSConv3d", "NSLinear", "NSRNNCell", "NSGRUCell", "DynamicNSLinear", "LinearPredictor",
            "DynamicNSRNNCell", "DynamicNSGRUCell")  # fmt: skip
_NO_WEIGHT = (
    "GlobalSimilarity", "StaticGlobalSimilarity", "ShiftConv2d", "SpherePredictor", "ReleasePredictor", "CNNPredictor",
    "LinearPredictor", "DynamicFilterConv2d", "HyperConv2d", "ODEBlock",
)  # fmt: skip
ABSENT = {(name, "channels_last") for name in _NO_MAPS} | {
    (name, use) for name in _NO_WEIGHT for use in ("prune, fold", "weight_norm, freeze")
} | {("SelectedConv2d", "forward-mode derivative")}
#: What a use asks for beyond its name.
NOTES = {
    "other channels or dimensions": "one sentence: what was expected and what came",
    "float16": "to 0.05, bfloat16 to 0.2, of the float32 output",
    "torch.export, dynamic sizes": "batch, height and width, the latter at least 4; `StaticGlobalSimilarity` has the "
    "map's size in its M. Every structure is tested too",
    "ONNX, dynamic axes": "by `torch.onnx.export(..., dynamo=True)`; the older exporter fails on dynamic layers",
    "TorchScript: torch.jit.trace, save": "at the size that was traced; dynamic and hyperspherical convolutions are "
    "refused by `torch.jit.save`: use `torch.export`",
    "TorchScript: torch.jit.script": "not supported: use `torch.export`. A network folded into "
    "plain layers can be scripted",
    "prune, fold": "a pruned weight is folded after `prune.remove`; before, `fold` says so in a sentence. "
    "What is pruned is W: the kernel in use is M^T W, whose zeros an M that mixes taps fills again",
    "weight_norm, freeze": "a norm (also `spectral_norm`'s) is that of W, and not of the kernel in use, M^T W",
    "convert twice": "the second conversion finds nothing left and says so",
    "torch.fx": "optional arguments are given by `concrete_args`, `{'hx': None}` of a cell and `{'output_size': None}` "
    "of a transposed convolution; the convolution itself is a leaf of the graph",
    "forward-mode derivative": "`torch.autograd.forward_ad`, compared with finite differences",
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_use_of_every_layer_gives_the_right_result_or_one_clear_sentence(name: str, use: str) -> None:
    layer, x = made(name)
    sentence = REFUSED.get((name, use))
    if sentence is None:
        try:
            USES[use](name, layer, x)
        except Absent:
            assert (name, use) in ABSENT
        else:
            assert (name, use) not in ABSENT
    else:
        with pytest.raises(Exception, match=re.escape(sentence)):
            USES[use](name, layer, x)


@functools.cache
def structures() -> tuple[Any, Any, nn.Module, Tensor]:
    """Convolutions of every structure, dynamic where it can be predicted, as one network: exported, and its inputs."""
    torch.manual_seed(0)
    fixed = ("full", "l1", "shift")
    layers: dict[str, nn.Module] = {f"static {key}": nsl.NSConv2d(3, 4, 2, similarity=key) for key in fixed}
    for key in set(nsl.STRUCTURES) - {"full", "l1"}:
        options: Any = {"similarity": key, "learn_shape": True, "predictor_options": {"hidden": 2}}
        layers[f"dynamic {key}"] = nsl.DynamicNSConv2d(3, 4, 2, **options)
    network, x = Together(layers).eval(), torch.randn(MAPS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    program = torch.export.export(network, (x,), dynamic_shapes=sizes_of(x, "NSConv2d"))
    return program, network, torch.randn(5, 3, 11, 9), x


def test_every_structure_exports_with_dynamic_batch_height_and_width() -> None:
    program, network, other, _ = structures()
    for found, expected in zip(program.module()(other), network(other)):
        close(found, expected)


def test_every_structure_exports_to_onnx_with_dynamic_axes() -> None:
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program, network, other, x = structures()
    model = torch.onnx.export(program, (x,), dynamo=True, verbose=False, optimize=False).model_proto
    running = runtime.InferenceSession(model.SerializeToString())
    found = running.run(None, {running.get_inputs()[0].name: other.numpy()})
    for one, expected in zip(found, network(other)):
        close(torch.from_numpy(one), expected.detach(), 1e-4)


def test_every_public_layer_is_in_the_table() -> None:
    public = {name for name in nsl.__all__ if isinstance(getattr(nsl, name), type)}
    assert {name for name in public if issubclass(getattr(nsl, name), nn.Module)} == set(LAYERS) | PARTS


DOCUMENT = Path(__file__).parents[2] / "docs" / "support.md"


def document() -> str:
    """The table as Markdown."""
    numbers = {use: number for number, use in enumerate(NOTES, 1)}
    lines = [
        "# What works with which layer",
        "",
        "Every cell is a test (`tests/nsl/test_support.py`; `python -m tests.nsl.test_support` writes this file).",
        "*yes*: the right result, compared with the plain call. –: it has no meaning for this layer. A letter:",
        "refused, in the sentence below.",
        "",
        "| | " + " | ".join(LAYERS) + " |",
        "|---|" + "---|" * len(LAYERS),
    ]
    sentences = {sentence: chr(ord("a") + number) for number, sentence in enumerate(dict.fromkeys(REFUSED.values()))}
    for use in USES:
        cells = [
            sentences[REFUSED[name, use]] if (name, use) in REFUSED else "–" if (name, use) in ABSENT else "yes"
            for name in LAYERS
        ]
        mark = f" [{numbers[use]}]" if use in numbers else ""
        lines.append(f"| {use}{mark} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {use}: {NOTES[use]}." for use, number in numbers.items()), ""]
    lines += [f"- {letter}: \"{sentence}\"" for sentence, letter in sentences.items()]
    return "\n".join(lines) + "\n"


def test_the_table_of_what_is_supported_is_that_of_these_tests() -> None:
    assert DOCUMENT.read_text() == document(), "run `python -m tests.nsl.test_support`"


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
