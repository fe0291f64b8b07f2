"""Bring your own network: conversion keeps outputs, only similarities train, folding and export keep outputs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nsl
from nsl.layers.hypernetwork import HyperConv2d


class Foreign(nn.Module):
    """Nothing of ours: residual, grouped, strided, dilated, reflecting, transposed, with a tied convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding="valid")
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.tied = nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1)
        self.pointwise = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.tied(torch.relu(self.tied(self.grouped(x))))
        x = self.pointwise(torch.relu(self.up(self.dilated(x))))
        return self.head(x.mean((2, 3)))


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    return {
        "cnn9": (nsl.create_model("cnn9", 10, width=8, image_size=16), images),
        "cnn9pp": (nsl.create_model("cnn9pp", 10, width=4, image_size=16), images),
        "predictor": (nsl.CNNPredictor(3, 9, 3, padding=1, hidden=4), images),
        "foreign": (Foreign(), torch.randn(2, 3, 17, 19)),
    }


NETWORKS = ("cnn9", "cnn9pp", "foreign", "predictor")


def trained_a_little(model: nn.Module, images: Tensor) -> nn.Module:
    """Running averages that are not the initial ones, and for what is trainable a few steps."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    model.train()
    for _ in range(3):
        optimiser.zero_grad()
        model(images).square().mean().backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained", "psd"])
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conversion_leaves_the_outputs(
    name: str, kind: str, similarity: str, mode: bool, dtype: torch.dtype
) -> None:
    model, images = networks()[name]
    model, images = model.to(dtype), images.to(dtype)
    trained_a_little(model, images).train(mode)
    expected = copy.deepcopy(model)(images)
    converted = nsl.convert(model, kind=kind, similarity=similarity)
    assert converted is model
    kinds = nsl.DynamicNSConv2d if kind == "dynamic" else nsl.NSConv2d
    assert any(isinstance(module, kinds) for module in converted.modules())
    assert all(module.training == mode for module in converted.modules())
    # In float32 the order of the sums shows in the last bit of logits of size 4.
    scale = expected.abs().max().clamp_min(1).item()
    tolerance = 1e-6 * scale if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(converted(images), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["cnn9", "cnn9pp", "foreign"])
@pytest.mark.parametrize("similarity", ["diagonal", "unconstrained", "shift", "full"])
def test_after_training_m_only_folding_leaves_the_outputs(name: str, similarity: str) -> None:
    model, images = networks()[name]
    where = (lambda _, m: not isinstance(m, nn.ConvTranspose2d)) if similarity == "full" else None
    nsl.convert(model, similarity=similarity, where=where)
    trainable = nsl.freeze_backbone(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained_a_little(model, images)
    changed = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert set(changed) <= set(trainable)
    assert any("similarity" in key for key in changed)
    assert all("similarity" in key or key.startswith(("classifier", "head")) for key in trainable)
    expected = model(images)
    folded = nsl.fold(model)
    assert not any(hasattr(module, "similarity") for module in folded.modules())
    torch.testing.assert_close(folded(images), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_the_old_parameters_and_a_tied_layer_stays_tied() -> None:
    model = Foreign()
    weight = model.tied.weight
    model.again = model.tied
    nsl.convert(model, similarity="unconstrained")
    assert model.tied.weight is weight
    assert model.again is model.tied
    assert isinstance(model.tied, nsl.NSConv2d)
    assert type(model.pointwise) is nn.Conv2d  # one tap: a similarity would be a factor
    assert type(model.up) is nsl.NSConvTranspose2d
    nsl.fold(model)
    assert model.again is model.tied
    assert type(model.tied) is nn.Conv2d


def test_a_hypernetwork_that_does_not_look_at_the_input_folds_and_the_other_stays() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(HyperConv2d(4, 4, 3, padding=1), HyperConv2d(4, 4, 3, dynamic=True)).double()
    layers[0].bias.data.normal_()  # type: ignore[union-attr]
    inputs = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    before = layers(inputs)
    folded = nsl.fold(layers)
    assert [type(layer) for layer in folded] == [nn.Conv2d, HyperConv2d]  # type: ignore[attr-defined]
    torch.testing.assert_close(folded(inputs), before)
    hooked = HyperConv2d(4, 4, 3)
    hooked.generator.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="has hooks, which folding would lose"):
        nsl.fold(hooked)


def test_where_chooses_by_name_and_module() -> None:
    model = nsl.convert(Foreign(), where=lambda name, module: name in ("stem", "head", "pointwise"))
    kinds = {name: type(module).__name__ for name, module in model.named_children()}
    assert kinds["stem"] == kinds["pointwise"] == "NSConv2d"
    assert kinds["head"] == "NSLinear"
    assert kinds["grouped"] == "Conv2d"


def test_a_single_convolution_and_its_memory_format_convert_and_fold() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 5, 5)
    layer = nsl.convert(plain)
    assert isinstance(layer, nsl.NSConv2d)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
    folded = nsl.fold(layer)
    assert type(folded) is nn.Conv2d
    torch.testing.assert_close(folded(x), plain(x))


def test_a_dynamic_conversion_trains_away_from_the_identity() -> None:
    model, images = networks()["cnn9"]
    nsl.convert(model, kind="dynamic", similarity="diagonal")
    assert all("predictor" in name or "classifier" in name for name in nsl.freeze_backbone(model))
    layer = model.stages[0][0].conv
    assert torch.equal(layer.predict_similarity(torch.randn(1, 8, 4, 4)), torch.ones(1, 9, 4, 4))
    trained_a_little(model, images)
    assert not torch.equal(layer.predict_similarity(torch.randn(1, 8, 4, 4)), torch.ones(1, 9, 4, 4))


def test_what_cannot_be_done_is_said_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="kind must be"):
        nsl.convert(Foreign(), kind="both")
    with pytest.raises(ValueError, match="found no layer"):
        nsl.convert(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="convert the model first"):
        nsl.freeze_backbone(Foreign())
    with pytest.raises(ValueError, match="found no classifier"):
        nsl.freeze_backbone(nsl.convert(nn.Sequential(nn.Conv2d(1, 1, 3))))
    hooked = nn.Sequential(nn.Conv2d(1, 1, 3))
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="module '0' has hooks"):
        nsl.convert(hooked)

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(len(x), 9, x.shape[2] - 2, x.shape[3] - 2)

    with pytest.raises(ValueError, match="predictor Own has no reset_to_identity"):
        nsl.convert(nn.Conv2d(1, 1, 3), kind="dynamic", predictor=Own())


def exported_models() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    foreign = nsl.convert(Foreign(), similarity="unconstrained")
    static = nsl.create_model("nsn9_static_diagonal", 10, width=4, image_size=8)
    shift = nsl.NSConv2d(3, 4, 3, padding=1, similarity="shift")
    for model in (foreign, static, shift):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "similarity" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(2, 3, 8, 8)
    return {
        "folded foreign": (nsl.fold(foreign), torch.randn(2, 3, 17, 19)),
        "folded static": (nsl.fold(static), images),
        "folded shift": (nsl.fold(shift), images),
        "dynamic diagonal": (nsl.create_model("nsn9_dynamic_diagonal", 10, width=4, image_size=8), images),
        "dynamic unconstrained": (nsl.DynamicNSConv2d(3, 4, 3, padding=1, similarity="unconstrained"), images),
    }


@pytest.mark.parametrize("name", sorted(exported_models()))
def test_exported_programs_give_the_same_outputs(name: str) -> None:
    model, images = exported_models()[name]
    model.eval()
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(exported_models()))
def test_onnx_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, images = exported_models()[name]
    model.eval()
    target = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), target, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(target)
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(images).detach(), rtol=0, atol=1e-4)


def test_folded_inference_has_the_plain_networks_layers() -> None:
    plain = nsl.create_model("cnn9", 10, width=4, image_size=8)
    folded = nsl.fold(nsl.create_model("nsn9_static_unconstrained", 10, width=4, image_size=8))
    assert repr(folded) == repr(plain)
    folded.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(F.softmax(folded.eval()(x), 1), F.softmax(plain.eval()(x), 1))


def test_even_kernels_become_dynamic_with_equal_outputs_train_and_export() -> None:
    torch.manual_seed(0)

    def network() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 2), nn.ReLU(), nn.Conv2d(8, 4, (6, 1)), nn.Flatten(),
            nn.Linear(4 * 2 * 7, 5),
        )  # fmt: skip

    plain = network().eval()
    images = torch.randn(2, 3, 16, 16)
    expected = plain(images)
    model = nsl.convert(plain, kind="dynamic", similarity="diagonal")
    assert sum(isinstance(module, nsl.DynamicNSConv2d) for module in model.modules()) == 3
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-6)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 1]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-5, atol=1e-5)


def test_converting_twice_leaves_the_predictors_alone() -> None:
    model = nsl.create_model("cnn9", 10, width=4)
    model = nsl.convert(model, kind="dynamic")
    count = sum(isinstance(module, nsl.DynamicNSConv2d) for module in model.modules())
    with pytest.raises(ValueError, match="found nothing to do: 10 layers"):
        nsl.convert(model, kind="dynamic")
    assert sum(isinstance(module, nsl.DynamicNSConv2d) for module in model.modules()) == count


@pytest.mark.parametrize("how", ["prune", "weight_norm", "parametrisation"])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_kernel_that_is_pruned_or_reparametrised_is_frozen_too(kind: str, how: str) -> None:
    from torch.nn.utils import parametrizations, prune

    model = nn.Sequential(nsl.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), kind=kind), nn.Flatten(), nn.Linear(16, 2))
    layer = model[0][0]
    if how == "prune":
        prune.l1_unstructured(layer, "weight", 0.5)
    elif how == "weight_norm":
        torch.nn.utils.weight_norm(layer)
    else:
        parametrizations.weight_norm(layer)
    left = nsl.freeze_backbone(model)
    assert all(name.startswith(("0.0.neural.", "2.")) for name in left), left
    assert any("similarity" in name or "predictor" in name for name in left)


STATIC_LAYERS = {
    "conv": (lambda: nsl.NSConv2d(3, 4, 3), "weight", (2, 3, 5, 5)),
    "shift": (lambda: nsl.NSConv2d(3, 4, 3, similarity="shift"), "weight", (2, 3, 5, 5)),
    "dilated": (lambda: nsl.NSConv2d(3, 4, 5, similarity="dilated"), "weight", (2, 3, 5, 5)),
    "conv1d": (lambda: nsl.NSConv1d(3, 4, 3, similarity="unconstrained"), "weight", (2, 3, 5)),
    "conv3d": (lambda: nsl.NSConv3d(3, 4, 2), "weight", (2, 3, 3, 3, 3)),
    "transposed": (lambda: nsl.NSConvTranspose2d(3, 4, 3), "weight", (2, 3, 5, 5)),
    "linear": (lambda: nsl.NSLinear(3, 4, similarity="unconstrained"), "weight", (2, 3)),
    "rnn": (lambda: nsl.NSRNNCell(3, 4), "weight_hh", (2, 3)),
    "gru": (lambda: nsl.NSGRUCell(3, 4, similarity="unconstrained"), "weight_ih", (2, 3)),
}


@pytest.mark.parametrize("name", STATIC_LAYERS)
@pytest.mark.parametrize("how", ["prune", "weight_norm"])
def test_a_weight_that_a_pre_hook_computes_is_not_folded_until_it_is_a_parameter(name: str, how: str) -> None:
    from torch.nn.utils import prune

    build, weight, shape = STATIC_LAYERS[name]
    layer, x = build(), torch.randn(shape)
    if how == "prune":
        prune.l1_unstructured(layer, weight, 0.5)
    else:
        torch.nn.utils.weight_norm(layer, weight)
    with torch.no_grad():
        getattr(layer, f"{weight}_orig" if how == "prune" else f"{weight}_v").add_(1)
    arguments = (weight.removeprefix("weight_"),) if "_" in weight else ()
    for read in (layer.fold, lambda: layer.effective_weight(*arguments), lambda: nsl.fold(nn.Sequential(layer))):
        with pytest.raises(ValueError, match=f"{weight} of .* is computed by a forward pre-hook"):
            read()
    expected = layer(x)  # the forward pass itself goes on
    (prune.remove if how == "prune" else torch.nn.utils.remove_weight_norm)(layer, weight)
    torch.testing.assert_close(layer.fold()(x), expected)


def test_a_similarity_or_bias_that_a_pre_hook_computes_is_not_folded() -> None:
    from torch.nn.utils import prune

    for name in ("similarity", "bias"):
        layer = nsl.NSConv2d(3, 4, 3)
        owner = layer.neural if name == "similarity" else layer
        prune.random_unstructured(owner, name, 0.5)
        with pytest.raises(ValueError, match=f"{name} of {type(owner).__name__} is computed by a forward pre-hook"):
            layer.fold()


HOOKS = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "forward pre": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "state dict": lambda module: module.register_state_dict_post_hook(lambda *_: None),
    "load state dict": lambda module: module.register_load_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_neither_conversion_nor_folding_drops_a_hook_in_silence(kind: str) -> None:
    plain, similar = nn.Sequential(nn.Conv2d(1, 1, 3)), nn.Sequential(nsl.NSConv2d(1, 1, 3))
    for model in (plain, similar):
        HOOKS[kind](model[0])
    with pytest.raises(ValueError, match="module '0' has hooks"):
        nsl.convert(plain)
    with pytest.raises(ValueError, match="module '0' has hooks, which folding would lose"):
        nsl.fold(similar)
    assert isinstance(similar[0], nsl.NSConv2d)


def test_folding_does_not_drop_a_hook_of_a_parameter_in_silence() -> None:
    model = nn.Sequential(nsl.NSConv2d(1, 1, 3))
    handle = model[0].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(ValueError, match="has hooks, which folding would lose"):
        nsl.fold(model)
    handle.remove()
    assert type(nsl.fold(model)[0]) is nn.Conv2d


@pytest.mark.parametrize("name", STATIC_LAYERS)
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_stays_frozen_when_folded(name: str, frozen: str) -> None:
    layer = STATIC_LAYERS[name][0]()
    for key, parameter in layer.named_parameters():
        parameter.requires_grad_(frozen not in key)
    for key, parameter in layer.fold().named_parameters():
        assert parameter.requires_grad == (frozen not in key), key


def test_a_parametrised_weight_folds_to_its_present_value_and_stays_frozen() -> None:
    layer = nsl.NSConv2d(3, 4, 3)
    torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original1.add_(1)
        layer.parametrizations.weight.original0.mul_(2)
    x = torch.randn(1, 3, 5, 5)
    assert layer.fold().weight.requires_grad
    layer.parametrizations.weight.requires_grad_(False)
    folded = layer.fold()
    torch.testing.assert_close(folded(x), layer(x))
    assert not folded.weight.requires_grad


def test_a_folded_shift_layer_loads_other_taps_and_takes_one_image() -> None:
    layers = []
    for count in (1, 1, 3):
        layer = nsl.NSConv2d(2, 3, 3, similarity="shift")
        with torch.no_grad():
            layer.similarity.zero_()
            layer.similarity.view(9, 9)[range(9), [len(layers) + k % count for k in range(9)]] = 1
        layers.append(layer.fold())
    x = torch.randn(2, 2, 5, 5)
    for source in layers[1:]:
        layers[0].load_state_dict(source.state_dict())
        torch.testing.assert_close(layers[0](x), source(x))
        torch.testing.assert_close(source(x[0]), source(x)[0])


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_layer_whose_parent_multiplies_by_its_weight_itself_is_refused(kind: str) -> None:
    # In evaluation mode without gradients the fast path of PyTorch would leave M out in silence.
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    with pytest.raises(ValueError, match=r"module 'layers\.0\.linear1' cannot get a similarity: its parent multiplies"):
        nsl.convert(model, kind, where=lambda name, module: isinstance(module, nn.Linear))


@pytest.mark.parametrize("name", ["static", "dynamic", "cell"])
def test_state_dicts_of_earlier_versions_load(name: str) -> None:
    """In them the layer itself owned the parameters of its similarity."""
    build = {
        "static": lambda: nsl.create_model("nsn9_static_diagonal", width=4, learn_shape=True),
        "dynamic": lambda: nsl.create_model("nsn9_dynamic_diagonal", width=4, predictor="release", learn_shape=True),
        "cell": lambda: nsl.NSGRUCell(3, 4),
    }[name]
    model, fresh = build(), build()
    old = {
        key.replace("neural_ih.similarity", "similarity_ih")
        .replace("neural_hh.similarity", "similarity_hh")
        .replace("neural.", ""): value
        for key, value in model.state_dict().items()
    }
    assert not any("neural" in key for key in old)
    fresh.load_state_dict(old)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_belongs_to_a_similarity_is_set_on_it_and_pruned_on_it_only() -> None:
    from torch.nn.utils import prune

    layer, dynamic = nsl.NSConv2d(3, 4, 3), nsl.DynamicNSConv2d(3, 4, 3)
    layer.similarity = nn.Parameter(torch.zeros(9))
    assert layer.neural.similarity.sum() == 0
    dynamic.predictor = nn.Conv2d(3, 9, 3)
    assert type(dynamic.neural.predictor) is nn.Conv2d
    assert [name for name, _ in dynamic.named_children()] == ["neural"]
    with pytest.raises(ValueError, match="prune or parametrise its attribute 'neural' and not the layer"):
        prune.random_unstructured(layer, "similarity", 0.5)
    prune.random_unstructured(layer.neural, "similarity", 0.5)
    with pytest.raises(ValueError, match="similarity of StaticSimilarity is computed by a forward pre-hook"):
        layer.similarity_matrix()


class Watched(nsl.NSConv2d):
    """A subclass with attributes of its own that begin as the names of what its similarity owns."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.register_buffer("similarity_ema", torch.zeros(9))
        self.shape_log = nn.Parameter(torch.zeros(2))
        self.register_parameter("predictor_scale", nn.Parameter(torch.ones(1)))
        self.similarity_history: list[int] = []


class WatchedCell(nsl.NSGRUCell):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.register_buffer("similarity_ih_ema", torch.zeros(3))


def test_a_subclass_keeps_what_only_begins_as_a_similaritys_names() -> None:
    layer = Watched(3, 4, 3)
    own = {"similarity_ema", "shape_log", "predictor_scale"}
    assert set(layer.state_dict()) == {"weight", "bias", "neural.similarity"} | own
    assert [name for name, _ in layer.neural.named_parameters()] == ["similarity"]
    assert layer.similarity_history == []
    for model, fresh in ((layer, Watched(3, 4, 3)), (WatchedCell(3, 4), WatchedCell(3, 4))):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(torch.randn_like(tensor))
        fresh.load_state_dict(model.state_dict())
        assert all(torch.equal(tensor, fresh.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_what_pruning_and_the_old_weight_norm_make_of_a_similarity_loads_into_the_part() -> None:
    from torch.nn.utils import prune

    layer = nsl.NSConv2d(3, 4, 3)
    prune.random_unstructured(layer.neural, "similarity", 0.5)
    fresh = nsl.NSConv2d(3, 4, 3)
    prune.identity(fresh.neural, "similarity")
    fresh.load_state_dict({key.replace("neural.", ""): value for key, value in layer.state_dict().items()})
    assert torch.equal(fresh.neural.similarity_mask, layer.neural.similarity_mask)
    for name in ("similarity_g", "similarity_v", "shape_orig"):
        with pytest.raises(ValueError, match=f"'{name}' would belong to the similarity of NSConv2d"):
            layer.register_parameter(name, nn.Parameter(torch.ones(1)))


@pytest.mark.parametrize("name", STATIC_LAYERS)
@pytest.mark.parametrize("copied", [False, True])
def test_a_network_with_a_parametrised_weight_norm_folds(name: str, copied: bool) -> None:
    from torch.nn.utils import parametrizations

    build, weight, shape = STATIC_LAYERS[name]
    model, x = nn.Sequential(build()), torch.randn(shape)
    parametrizations.weight_norm(model[0], weight)
    if name == "conv":
        parametrizations.weight_norm(model[0].neural, "similarity")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = copy.deepcopy(model) if copied else model
    expected = model(x)
    folded = nsl.fold(model)
    assert type(folded[0]).__module__.startswith(("torch.nn.modules", "nsl.layers.shift"))
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-6)


def test_a_hook_beside_a_parametrised_weight_norm_is_not_dropped_in_silence() -> None:
    model = nn.Sequential(nsl.NSConv2d(1, 1, 3))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    model[0]._register_load_state_dict_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="has hooks, which folding would lose"):
        nsl.fold(model)


def test_a_classifier_that_was_taken_off_is_no_classifier() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))
    model = nn.Module()
    model.body, model.fc = nsl.convert(body), nn.Identity()
    assert nsl.freeze_backbone(model) == ["body.0.neural.similarity", "body.4.weight", "body.4.bias"]
    model.head = nn.Linear(2, 2)  # a later name that has parameters
    assert nsl.freeze_backbone(model) == ["body.0.neural.similarity", "head.weight", "head.bias"]


def test_the_last_linear_layer_of_a_predictor_is_no_classifier() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nsl.DynamicNSLinear(4, 2))
    predicted = ["2.neural.predictor.first.weight", "2.neural.predictor.second.weight"]
    assert sorted(nsl.freeze_backbone(model)) == ["2.bias", *predicted, "2.weight"]


class Offset(nn.Conv2d):
    """A plain layer of the user's, whose constructor makes a buffer too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("offset", torch.full((1,), 2.0))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.offset


class NSOffset(nsl.NSConv2d):
    plain = Offset

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 2


FOLDED = {
    **{name: build for name, (build, _, _) in STATIC_LAYERS.items()},
    "unshared": lambda: nsl.UnsharedNSConv2d(3, 4, 3),
    "hypernetwork": lambda: nsl.HyperConv2d(3, 4, 3),
    "subclass": lambda: NSOffset(3, 4, 3),
    "meta": lambda: nsl.NSConv2d(3, 4, 3, device="meta"),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folding_leaves_the_random_state_alone(name: str) -> None:
    layer = FOLDED[name]()
    state = torch.random.get_rng_state()
    folded = layer.fold()
    assert torch.equal(state, torch.random.get_rng_state())
    assert {tensor.device for tensor in folded.parameters()} == {tensor.device for tensor in layer.parameters()}
    if name == "subclass":
        x = torch.randn(1, 3, 5, 5)
        assert type(folded) is Offset
        torch.testing.assert_close(folded(x), layer(x))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_static_conversion_leaves_the_random_state_alone(device: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).to(device)
    state = torch.random.get_rng_state()
    nsl.convert(model)
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_predictor_of_every_conversion_has_a_start_of_its_own() -> None:
    torch.manual_seed(0)
    models = [nsl.convert(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), kind="dynamic") for _ in range(2)]
    starts = [layer.predictor.first.weight for model in models for layer in model]  # type: ignore[attr-defined]
    assert not any(torch.equal(first, second) for i, first in enumerate(starts) for second in starts[:i])


def test_a_layer_with_a_patched_forward_is_refused() -> None:
    for method in ("forward", "_conv_forward"):
        conv = nn.Conv2d(3, 4, 3)
        setattr(conv, method, getattr(conv, method))
        with pytest.raises(ValueError, match=f"module '0' has a {method} of its own"):
            nsl.convert(nn.Sequential(conv))


def test_what_is_inside_of_a_layer_of_the_package_stays_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nsl.DeformConv2d(8, 8, 3, padding=1))
    nsl.convert(model)
    assert type(model[0]) is nsl.NSConv2d
    assert type(model[1].offset) is nn.Conv2d
    assert model[1].offset.rate == 0.1  # type: ignore[comparison-overlap]


def test_a_lazy_layer_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="module '1' has no weights yet"):
        nsl.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"residual": False}, "no identity"), ({"predictor_options": {"relu_output": True}}, "relu_output")],
)
def test_a_dynamic_conversion_that_is_no_start_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"module '0'.*{message}"):
        nsl.convert(nn.Sequential(nn.Conv2d(3, 4, 3)), kind="dynamic", **options)


class WithAuxiliary(nn.Module):
    """A network whose last linear map is not its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: nn.Sequential(nn.BatchNorm2d(3), net),
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(nn.Sequential(nn.Identity(), net)),
    ],
)
def test_the_classifier_of_a_wrapped_network_is_found_everywhere(wrap: Any) -> None:
    from nsl.training import Recipe, parameter_groups

    wrapped = wrap(nsl.convert(WithAuxiliary()))
    left = {name.rsplit(".", 2)[-2] for name in nsl.freeze_backbone(wrapped)}
    assert left == {"neural", "fc"}
    groups = parameter_groups(wrap(WithAuxiliary()), Recipe(iterations=1, classifier_rate=0.05))
    assert sorted(p.shape[0] for group in groups if group["rate"] == 0.05 for p in group["params"]) == [5, 5]
    cnn = nsl.convert(wrap(nsl.create_model("cnn9", 4, width=4, image_size=16)))
    assert not any(isinstance(module, nsl.NSConv2d) and module.out_channels == 4 and module.kernel_size == (2, 2)
                   for module in cnn.modules())


def test_a_rate_for_a_classifier_that_is_not_found_is_refused() -> None:
    from nsl.training import Recipe, parameter_groups

    with pytest.raises(ValueError, match=r"classifier_rate=0\.05 is for the classifier, and Sequential has none"):
        parameter_groups(nn.Sequential(nn.Linear(2, 2)), Recipe(iterations=1, classifier_rate=0.05))


def test_folding_under_autocast_rounds_nothing() -> None:
    layer = nsl.NSConv2d(3, 4, 3, similarity="unconstrained")
    nn.init.normal_(layer.similarity)
    with torch.autocast("cpu", torch.bfloat16):
        folded = layer.fold().weight
    assert torch.equal(folded, layer.fold().weight)


def test_what_a_user_puts_into_a_block_of_the_package_is_converted() -> None:
    block = nsl.ODEBlock(nn.Conv2d(4, 4, 3, padding=1))
    model = nsl.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block))
    assert sum(isinstance(module, nsl.NSConv2d) for module in model.modules()) == 2
    assert not any(isinstance(module, nsl.NSConv2d) for module in nsl.fold(model).modules())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_folded_shift_layer_is_exported_for_any_size(stride: int) -> None:
    layer = nsl.fold(nsl.NSConv2d(3, 4, 3, stride=stride, padding=1, similarity="shift")).eval()
    assert isinstance(layer, nsl.ShiftConv2d)
    sizes = {2: torch.export.Dim("H", min=4, max=64), 3: torch.export.Dim("W", min=4, max=64)}
    program = torch.export.export(layer, (torch.randn(1, 3, 10, 12),), dynamic_shapes=(sizes,))
    images = torch.randn(1, 3, 9, 17)
    torch.testing.assert_close(program.module()(images), layer(images))
