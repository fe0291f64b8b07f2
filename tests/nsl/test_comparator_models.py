"""Networks with the comparators in CNN-9, for sequences, for pixels and fully connected ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import nsl
from nsl.layers.deformable import DeformConv2d
from nsl.layers.dynamic_filter import DynamicFilterConv2d
from nsl.layers.filter_selection import SelectedConv2d
from nsl.layers.hypernetwork import HyperConv2d
from nsl.layers.ode import SCHEMES
from nsl.models.comparators import MODELS
from nsl.models.segmentation import SegmentationNetwork
from nsl.models.sequence import CELLS, SequenceNetwork
from nsl.training import Recipe, observe, parameter_groups

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MODELS),
    ("dynamic_filter9", {"local": False}),
    ("dynamic_filter9", {"local": False, "depthwise": False, "hidden": 3}),
    ("dynamic_filter9", {"depthwise": False, "hidden": 2}),
    ("dynamic_filter9", {"depthwise": False, "hidden": 2, "normalise": False}),
    ("hyper9", {"dynamic": True}),
    ("hyper9", {"dynamic": True, "bounded": True}),
    ("deformable9", {"stages": 3, "modulated": True}),
    ("deformable9", {"predicted": False}),
    ("unshared9", {"similarity": "unconstrained"}),
    ("shaped9", {"kind": "dynamic", "boolean": True}),
    *(("ode9", {"scheme": scheme}) for scheme in SCHEMES),
    *(("mlp", {"kind": kind}) for kind in ("plain", "static", "dynamic")),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_network_trains_one_step_and_is_counted(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nsl.create_model(name, 7, width=4, image_size=16, **options)
    x = torch.randn(4, 3, 16, 16)
    y = model(x)
    assert y.shape == (4, 7)
    y.logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert nsl.count_multiply_adds(model, 16) > 0
    with torch.device("meta"):
        built = nsl.create_model(name, 7, width=4, image_size=16, **options)
    assert nsl.count_parameters(built) == nsl.count_parameters(model)


def test_he_initialisation_of_the_network_leaves_starts_of_their_own() -> None:
    torch.manual_seed(0)
    for module in nsl.create_model("deformable9", width=4).modules():
        if isinstance(module, DeformConv2d):
            assert not module.offset.weight.any()
    for module in nsl.create_model("dynamic_filter9", width=16).modules():
        if isinstance(module, DynamicFilterConv2d):
            assert module.second.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)


def test_offsets_learn_at_a_rate_of_their_own() -> None:
    model = nsl.create_model("deformable9", width=4, rate=0.25)
    groups = parameter_groups(model, Recipe(iterations=1))
    slow = {id(p) for group in groups if group["rate"] == 0.25 for p in group["params"]}
    offsets = [m.offset for m in model.modules() if isinstance(m, DeformConv2d)]
    assert slow == {id(p) for offset in offsets for p in offset.parameters()}


def test_a_hypernetwork_has_one_generator() -> None:
    layers = [m for m in nsl.create_model("hyper9", width=4).modules() if isinstance(m, HyperConv2d)]
    assert len(layers) == 9
    assert len({id(layer.generator) for layer in layers}) == 1


@pytest.mark.parametrize("decay", [True, False])
def test_weight_decay_reaches_what_a_hypernetworks_kernels_are_written_from(decay: bool) -> None:
    model = nsl.create_model("hyper9", width=4, decay=decay)
    groups = parameter_groups(model, Recipe(iterations=1))
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    sources = ("weight_in", "weight_out", "embedding")
    written_from = [p for name, p in model.named_parameters() if name.endswith(sources)]
    assert len(written_from) == 11  # nine embeddings, one generator
    assert {id(p) in decayed for p in written_from} == {decay}
    biases = [p for name, p in model.named_parameters() if name.endswith(("bias_in", "bias_out"))]
    assert not any(id(p) in decayed for p in biases)


def test_only_the_last_three_convolutions_are_deformable_by_default() -> None:
    kinds = [type(m) for m in nsl.create_model("deformable9", width=4).stages.modules() if hasattr(m, "kernel_size")]
    deformable = [kind for kind in kinds if kind is DeformConv2d]
    assert len(deformable) == 3
    with pytest.raises(ValueError, match="stages must be 1, 2 or 3"):
        nsl.create_model("deformable9", stages=0)


def test_multiply_adds_of_generated_kernels_are_counted_by_hand() -> None:
    """3 channels, 4 filters of 3x3 on a map of 5x5."""
    layer = DynamicFilterConv2d(3, 4, 3, padding=1, hidden=2, depthwise=True)
    expected = 25 * (2 * 27 + 27 * 2 + 27 + 12)  # generator, filters' use, pointwise
    assert nsl.count_multiply_adds(layer, 5) == expected
    layer = DynamicFilterConv2d(3, 4, 3, padding=1, hidden=2, local=False)
    assert nsl.count_multiply_adds(layer, 5) == 3 * 2 + 2 * 108 + 25 * 108
    layer = DynamicFilterConv2d(3, 4, 3, padding=1, hidden=2, normalise=False)
    assert nsl.count_multiply_adds(layer, 5) == 25 * (27 * 2 + 108 * 3 + 8)
    layer = DynamicFilterConv2d(3, 4, 3, padding=1, hidden=2)
    assert nsl.count_multiply_adds(layer, 5) == 25 * (27 * 2 + 108 * 2 + 108)
    hyper = HyperConv2d(3, 4, 3, padding=1)
    g = hyper.generator
    assert nsl.count_multiply_adds(hyper, 5) == 25 * 108 + 3 * 64 * 64 + 3 * 36 * 64
    assert (g.block, g.embedding, g.hidden) == ((4, 3), 64, 64)


def test_a_record_shows_what_the_layers_did() -> None:
    from nsl.data import load

    data = load("digits", image_size=8, test_per_class=2)
    seen = observe(nsl.create_model("deformable9", width=4, image_size=8), data)
    assert [item["layer"] for item in seen["other"]] == [f"stages.2.{i}.conv" for i in range(3)]
    assert len(seen["other"][0]["first"]) == 9
    assert "dynamic" not in seen
    model = nsl.create_model("selected9", width=4, image_size=8, batch_norm=False)
    assert observe(model, data)["other"][0]["mean"] == [1.0] * 4


def test_gates_depend_on_the_image_from_the_start() -> None:
    torch.manual_seed(0)
    model, found = nsl.create_model("selected9", width=8), []

    def seen(layer: SelectedConv2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        with torch.no_grad():
            found.append(layer.gates(*inputs).mean(0))

    for module in model.modules():
        if isinstance(module, SelectedConv2d):
            module.register_forward_hook(seen)  # type: ignore[arg-type]
    model.train()(torch.randn(64, 3, 32, 32))
    assert min(shares.mean() for shares in found) > 0.8
    # Of some filters some images have the gate open and others closed.
    shares = torch.cat(found)
    assert ((shares > 0) & (shares < 1)).float().mean() > 0.1


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_network_reads_one_step_after_the_other(cell: str) -> None:
    torch.manual_seed(0)
    network = SequenceNetwork(3, 5, width=6, cell=cell).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    state = torch.zeros(2, 6, dtype=torch.float64)
    for t in range(4):
        state = network.cell(x[:, t], state)
        torch.testing.assert_close(network.states(x)[:, t], state)
    torch.testing.assert_close(network(x), network.classifier(state))


def test_sequence_networks_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="cell must be one of"):
        SequenceNetwork(3, 5, cell="lstm")
    with pytest.raises(ValueError, match="hidden is for dynamic cells"):
        SequenceNetwork(3, 5, cell="gru", hidden=3)
    with pytest.raises(ValueError, match="similarity is for static and dynamic cells"):
        SequenceNetwork(3, 5, cell="gru", similarity="diagonal")


@pytest.mark.parametrize("kind", ["plain", "static", "dynamic"])
def test_a_segmentation_network_has_logits_at_every_pixel(kind: str) -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(4, width=4, kind=kind)
    x = torch.randn(2, 3, 24, 28)
    assert network(x).shape == (2, 4, 24, 28)
    with pytest.raises(ValueError, match="kind must be one of"):
        SegmentationNetwork(4, kind="other")


def test_the_networks_of_one_kind_differ_in_the_convolution_only() -> None:
    sizes = {kind: nsl.count_parameters(SegmentationNetwork(4, width=4, kind=kind)) for kind in ("plain", "static")}
    assert sizes["static"] - sizes["plain"] == 6 * 9


def test_an_mlp_starts_as_the_plain_one() -> None:
    torch.manual_seed(0)
    plain = nsl.create_model("mlp", width=4, image_size=8).eval()
    for kind in ("static", "dynamic"):
        other = nsl.create_model("mlp", width=4, image_size=8, kind=kind).eval()
        other.load_state_dict(plain.state_dict(), strict=False)
        x = torch.randn(3, 3, 8, 8)
        torch.testing.assert_close(other(x), plain(x))
