"""What users do with networks beside calling them: starts of their own, wrappers, modules around a layer, files."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nsl
import nsl.data
from nsl.kernels.convolution import pair
from nsl.layers.shapes import FewTaps
from nsl.models.registry import builder
from nsl.training.export import load_model, save_model


def smallest(name: str, **options: Any) -> nn.Module:
    """A network of a few filters."""
    taken = inspect.signature(builder(name)).parameters
    small = {"image_size": 32, "width": 2}
    return nsl.create_model(name, 4, **{key: value for key, value in small.items() if key in taken}, **options)


def fill(module: nn.Module) -> None:
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()


@pytest.mark.parametrize("name", nsl.list_models())
def test_a_network_that_was_built_without_memory_is_filled_as_one_with_it(name: str) -> None:
    """Inner modules first, as the guide says: every tensor has the spread of one that was built with memory."""
    torch.manual_seed(0)
    usual = smallest(name)
    with torch.device("meta"):
        filled = smallest(name)
    filled = filled.to_empty(device="cpu")
    with torch.no_grad():
        for value in [*filled.parameters(), *filled.buffers()]:
            value.fill_(77)
    torch.manual_seed(1)
    filled.apply(fill)
    expected = usual.state_dict()
    for key, value in filled.state_dict().items():
        other = expected[key]
        assert bool((value == 77).all()) == bool((other == 77).all()), key
        if value.is_floating_point() and value.numel() >= 64:
            assert value.std().item() == pytest.approx(other.std().item(), rel=0.6), key
        elif value.is_floating_point():
            assert value.abs().max() <= 20 * other.abs().max() + 1e-6, key


@pytest.mark.parametrize("name", ["deformable9", "dynamic_filter9"])
def test_resetting_a_network_keeps_the_starts_of_offsets_and_of_what_writes_filters(name: str) -> None:
    torch.manual_seed(0)
    network = smallest(name)
    before = {key: float(value.detach().abs().max()) for key, value in network.named_parameters()}
    network.reset_parameters()  # type: ignore[operator]
    for key, value in network.named_parameters():
        assert (value.abs().max() == 0) == (before[key] == 0), key


def test_a_loop_that_initialises_every_convolution_is_followed_by_the_similarities_own_start() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nsl.DynamicNSConv2d(16, 8, 3), nn.ReLU())
    x = torch.randn(4, 16, 9, 9)

    def distance() -> float:
        return float((network[0].predict_similarity(x) - 1).detach().abs().max())  # type: ignore[operator]

    near = distance()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    assert distance() > 3 * near
    for layer in network.modules():
        if hasattr(layer, "neural"):
            layer.neural.reset_parameters()
    assert distance() < 2 * near


@pytest.mark.parametrize("layer", [nsl.NSLinear, nsl.DynamicNSLinear])
def test_a_transformers_fast_path_does_not_leave_m_out(layer: Any) -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    for name in ("linear1", "linear2"):
        plain = getattr(encoder, name)
        similar = layer(plain.in_features, plain.out_features, block_size=4)
        with torch.no_grad():
            for parameter in similar.neural.parameters():
                parameter.add_(0.5)
        setattr(encoder, name, similar)
    x = torch.randn(3, 5, 8)
    expected = encoder(x).detach()
    encoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), expected)
    if layer is nsl.NSLinear:  # and folds as before
        nsl.fold(encoder)
        assert type(encoder.linear1) is nn.Linear
        with torch.no_grad():
            torch.testing.assert_close(encoder(x), expected, rtol=1e-5, atol=1e-5)


def test_a_padded_transformer_takes_static_layers_and_tells_what_to_do_with_dynamic_ones() -> None:
    """By default `nn.TransformerEncoder` makes nested tensors of padded sequences."""
    torch.manual_seed(0)
    x, padded = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    def encoder(layer: Any, nested: bool = True) -> nn.TransformerEncoder:
        torch.manual_seed(0)
        part = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        part.linear1 = layer(8, 16)
        return nn.TransformerEncoder(part, 1, enable_nested_tensor=nested).eval()

    with torch.no_grad():
        found = encoder(nsl.NSLinear)(x, src_key_padding_mask=padded)
        expected = encoder(nsl.NSLinear, nested=False)(x, src_key_padding_mask=padded)
        torch.testing.assert_close(found[~padded], expected[~padded])
        with pytest.raises(ValueError, match="enable_nested_tensor=False"):
            encoder(nsl.DynamicNSLinear)(x, src_key_padding_mask=padded)
        assert encoder(nsl.DynamicNSLinear, nested=False)(x, src_key_padding_mask=padded).shape == x.shape


def test_a_network_wrapped_for_several_processes_is_not_converted() -> None:
    class DistributedDataParallel(nn.Module):
        """Stands for PyTorch's, which needs a process group."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    DistributedDataParallel.__module__ = "torch.nn.parallel.distributed"
    wrapped = DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match=r"wrapped by DistributedDataParallel.*convert it before it is wrapped"):
        nsl.convert(wrapped)


def test_no_part_of_a_classifier_is_converted() -> None:
    network = nn.Module()
    network.features = nn.Conv2d(3, 4, 3)
    network.classifier = nn.Sequential(nn.Conv2d(4, 2, 4), nn.Flatten())
    nsl.convert(network)
    assert type(network.features) is nsl.NSConv2d
    assert type(network.classifier[0]) is nn.Conv2d


def test_multiply_adds_of_a_compiled_network_are_those_of_the_network() -> None:
    network = smallest("nsn9_dynamic_diagonal").eval()
    expected = nsl.count_multiply_adds(network, 32)
    network.compile(backend="eager")
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert nsl.count_multiply_adds(network, 32) == expected > 0


def saved(path: Path, network: nn.Module, name: str, options: dict[str, Any]) -> None:
    save_model(path, network, name, options, nsl.data.load("digits"))


def built(name: str, **options: Any) -> nn.Module:
    data = nsl.data.load("digits")
    return nsl.create_model(name, data.num_classes, image_size=data.image_size, **options)


def test_a_file_is_written_of_what_it_says_only(tmp_path: Path) -> None:
    path, dynamic = tmp_path / "net.safetensors", "nsn9_dynamic_diagonal"
    static = built("nsn9_static_diagonal", width=4)
    for network, name, options, words in (
        (built(dynamic, width=4, residual=False), dynamic, {"width": 4}, "give all options"),
        (nsl.fold(built("nsn9_static_diagonal", width=4)), "nsn9_static_diagonal", {"width": 4}, "before it is folded"),
        (AveragedModel(static), "nsn9_static_diagonal", {"width": 4}, "classifier.weight is missing in it"),
        (static, "nsn9_static_diagonal", {"width": 8}, r"is \(\d+, .*\) in it and \(\d+, .*\) in that one"),
        (static, "mlp", {"similarity": nsl.L1("diagonal")}, "name structures by their names"),
    ):
        with pytest.raises(ValueError, match=words):
            saved(path, network, name, options)
        assert not path.exists()
    nsl.freeze_backbone(static)
    saved(path, nn.SyncBatchNorm.convert_sync_batchnorm(static), "nsn9_static_diagonal", {"width": 4})
    _, about = load_model(path)
    assert about["model"]["parameters"] == sum(parameter.numel() for parameter in static.parameters())


@pytest.mark.parametrize("name", nsl.list_models())
def test_every_network_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    data = nsl.data.load("digits", image_size=32)
    options = {"width": 2} if "width" in inspect.signature(builder(name)).parameters else {}
    torch.manual_seed(0)
    network = nsl.create_model(name, data.num_classes, image_size=data.image_size, **options).eval()
    save_model(tmp_path / "net.safetensors", network, name, options, data)
    loaded, _ = load_model(tmp_path / "net.safetensors")
    x = torch.randn(2, 3, data.image_size, data.image_size)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(x), network(x), rtol=0, atol=0)


def test_sizes_that_are_no_whole_numbers_are_refused() -> None:
    assert pair([2], "stride") == pair(torch.tensor(2), "stride") == (2, 2)
    for wrong in (1.5, (1, 5, 1), (), "same", (1, 2.0)):
        with pytest.raises(ValueError, match="padding must be an integer or a pair of integers, got"):
            pair(wrong, "padding")
    with pytest.raises(ValueError, match="kernel_size must be an integer"):
        nsl.MixtureConv2d(8, 4, 3.7)  # type: ignore[arg-type]
    for kind in (nsl.HyperConv2d, nsl.DeformConv2d, nsl.MixtureConv2d, nsl.DynamicFilterConv2d):
        with pytest.raises(ValueError, match=f"bias must be True or False, got 8; {kind.__name__} has no groups"):
            kind(8, 8, 3, 1, 1, 1, 8)


def test_an_average_of_folded_shifts_is_saved_with_the_taps_it_computes_with() -> None:
    torch.manual_seed(0)
    layer = nsl.NSConv2d(3, 4, 5, padding=2, similarity=FewTaps(4))
    with torch.no_grad():
        layer.similarity.uniform_(0.5, 1.5)
    folded = layer.fold()
    average = AveragedModel(folded, multi_avg_fn=get_ema_multi_avg_fn(0.9995), use_buffers=True)
    for _ in range(10):
        average.update_parameters(folded)
    other = nsl.NSConv2d(3, 4, 5, padding=2, similarity=FewTaps(4)).fold()
    other.load_state_dict(average.module.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(other(x), folded(x), rtol=1e-4, atol=1e-5)


def test_a_users_hyperspherical_convolution_in_a_predictor_is_called() -> None:
    class Own(nsl.SphereConv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 0 * super().forward(input)

    torch.manual_seed(0)
    layer = nsl.DynamicNSConv2d(3, 4, 3, padding=1)
    predictor = layer.neural.predictor
    assert isinstance(predictor, nsl.SpherePredictor)
    first = predictor.first
    assert isinstance(first, nsl.SphereConv2d)
    predictor.first = Own(3, first.out_channels, 3, padding=1, bias=False)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(layer.predict_similarity(x), torch.ones_like(layer.predict_similarity(x)))


def test_penalties_of_penalties_add_up() -> None:
    layer = nsl.NSConv2d(3, 4, 3, similarity=nsl.L1(nsl.L1("diagonal", 1.0), 1e-4))
    assert float(nsl.similarity_penalty(layer).detach()) == pytest.approx(9 * 1.0001)


def test_a_predictor_whose_last_weight_is_computed_cannot_be_silenced() -> None:
    layer = nsl.DynamicNSConv2d(3, 4, 3)
    nn.utils.parametrizations.weight_norm(layer.neural.predictor.second)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the weight of the predictor's last step is computed"):
        nsl.reset_to_identity(layer)


def test_a_slice_of_a_block_is_a_chain_of_its_parts() -> None:
    block = smallest("cnn9").root  # type: ignore[union-attr]
    assert isinstance(block, nn.Sequential)
    assert [type(part) for part in block[:2]] == [nn.Conv2d, nn.BatchNorm2d]
    assert block[0] is block.conv


@pytest.mark.parametrize("build", [partial(nsl.SelectedConv2d, 3, 4, 3), partial(nsl.SphereConv2d, 3, 4, 3, bias=True)])
def test_a_bias_is_replaced_by_what_distributes_it_and_by_no_fusion(build: Any) -> None:
    layer = build()
    other = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match="leave it out of the fusion"):
        layer.bias = other
    sharding: dict[str, Any] = {"__name__": "torch.distributed.fsdp._fully_shard"}
    exec("def put(layer, bias): layer.bias = bias", sharding)
    sharding["put"](layer, other)
    assert layer.bias is other
