"""The networks of Tables 1-4: sizes, wiring, sharing and what the variants change."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import nsl
from nsl.models.cnn import PlainCNN

# Counted by running the authors' release (10 classes, width 32); of its static DNS network without masks the first.
RELEASE_PARAMETERS = {
    "cnn9": 511_200,
    "nsn9_static_diagonal": 511_281,
    "nsn9_static_unconstrained": 511_929,
    "nsn9_dynamic_diagonal": 890_946,
    "nsn9_dynamic_unconstrained": 2_014_560,
}


@pytest.mark.parametrize(("name", "parameters"), RELEASE_PARAMETERS.items())
def test_parameter_counts_equal_the_release(name: str, parameters: int) -> None:
    assert nsl.count_parameters(nsl.create_model(name, 10, variant="release")) == parameters


def test_cnn_plus_plus_is_slightly_larger_than_every_nsn() -> None:
    for width in (8, 16, 32):
        pp = nsl.count_parameters(nsl.create_model("cnn9pp", 10, width=width))
        largest = max(nsl.count_parameters(nsl.create_model(name, 10, width=width)) for name in RELEASE_PARAMETERS)
        assert largest < pp < 1.15 * largest


def test_a_shared_predictor_saves_about_half_of_the_predictor_parameters() -> None:
    plain = nsl.count_parameters(nsl.create_model("cnn9", 10))
    disjoint = nsl.count_parameters(nsl.create_model("nsn9_dynamic_diagonal", 10)) - plain
    shared = nsl.count_parameters(nsl.create_model("nsn9_dynamic_diagonal", 10, sharing="shared")) - plain
    assert 0.45 < shared / disjoint < 0.55


@pytest.mark.parametrize("name", [name for name in nsl.list_models() if "9" in name])
@pytest.mark.parametrize("image_size", [8, 16, 32])
def test_every_model_maps_images_to_logits(name: str, image_size: int) -> None:
    model = nsl.create_model(name, 7, width=4, image_size=image_size)
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["cnn9", "nsn9_static_diagonal", "nsn9_dynamic_diagonal", "spherenet"])
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (2, 2), (32, 33)])
def test_an_image_of_another_size_is_one_sentence(name: str, size: tuple[int, int]) -> None:
    """Larger ones had several logits a class, smaller ones ended in a convolution of the classifier's kernel."""
    model = nsl.create_model(name, 7, width=2)
    with pytest.raises(ValueError, match=rf"^images must be \[B, 3, 32, 32\] .*, got \[1, 3, {size[0]}, {size[1]}\]$"):
        model(torch.zeros(1, 3, *size))


def test_a_network_that_averages_its_last_map_takes_other_sizes() -> None:
    model = nsl.create_model("cnn10", 7, width=2, image_size=32)
    assert model(torch.zeros(2, 3, 48, 40)).shape == (2, 7)


def test_the_size_of_images_is_compared_wherever_a_network_is_traced_exported_compiled_and_mapped() -> None:
    torch.manual_seed(0)
    model = nsl.create_model("nsn9_dynamic_diagonal", 7, width=2, image_size=16).eval()
    images, more = torch.randn(2, 3, 16, 16), torch.randn(5, 3, 16, 16)
    batch = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(model, (images,), dynamic_shapes=batch).module()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for run in (program, torch.fx.symbolic_trace(model), compiled, torch.func.vmap(lambda one: model(one[None])[0])):
        torch.testing.assert_close(run(more), model(more), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="images must be"):
        torch.export.export(nsl.create_model("cnn9", 7, width=2, image_size=16), (torch.randn(2, 3, 24, 24),))


def test_plain_and_folded_networks_can_still_be_scripted() -> None:
    for model in (
        nsl.create_model("cnn9", 7, width=2, image_size=16),
        nsl.fold(nsl.create_model("nsn9_static_diagonal", 7, width=2, image_size=16)),
    ):
        images = torch.randn(2, 3, 16, 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, that TorchScript grows old
            scripted = torch.jit.script(model.eval())
        torch.testing.assert_close(scripted(images), model(images))


def test_static_networks_start_as_the_baseline_cnn() -> None:
    """M = I at the start: same weights, same outputs."""
    cnn = nsl.create_model("cnn9", 10, width=4).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for name in ("nsn9_static_diagonal", "nsn9_static_unconstrained"):
        model = nsl.create_model(name, 10, width=4).double().eval()
        model.load_state_dict(cnn.state_dict(), strict=False)
        torch.testing.assert_close(model(x), cnn(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("predictor", ["sphere", "cnn", "release"])
def test_dynamic_networks_start_near_the_identity(predictor: str) -> None:
    torch.manual_seed(0)
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, width=8, predictor=predictor)
    layer = model.stages[0][0].conv
    m = layer.predict_similarity(torch.rand(4, 8, 32, 32))
    assert (m - 1).abs().max() < 0.3


def test_release_variant_starts_the_static_mask_with_the_flattened_eye() -> None:
    layer = nsl.create_model("nsn9_static_diagonal", 10, width=4, variant="release").stages[0][0].conv
    assert layer.similarity.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_the_shared_kernels_are_one_object_and_train_from_all_layers() -> None:
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, width=4, sharing="shared")
    layers = [m for m in model.modules() if isinstance(m, nsl.DynamicNSConv2d)]
    assert len(layers) == 9
    assert len({id(layer.predictor.first) for layer in layers}) == 1
    assert len({id(layer.predictor.adaptation) for layer in layers}) == 9
    clone = nsl.create_model("nsn9_dynamic_diagonal", 10, width=4, sharing="shared")
    clone.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(clone.eval()(x), model.eval()(x), rtol=0, atol=0)


def test_the_releases_shared_predictor_has_batch_norms_of_each_layers_own() -> None:
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, width=4, sharing="shared", predictor="release")
    layers = [m for m in model.modules() if isinstance(m, nsl.DynamicNSConv2d)]
    assert len({id(layer.predictor.first) for layer in layers}) == 1
    assert len({id(layer.predictor.first_norm) for layer in layers}) == 9


def test_layers_of_one_map_size_can_share_an_adaptation_network() -> None:
    def networks(model: nn.Module) -> int:
        return len({id(m.predictor.adaptation) for m in model.modules() if isinstance(m, nsl.DynamicNSConv2d)})

    options = {"width": 4, "sharing": "shared", "adaptation": "map_size"}
    model = nsl.create_model("nsn9_dynamic_diagonal", 10, **options)
    assert networks(model) == 5  # two stages begin with other channels than they go on with
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="for sharing='shared' only"):
        nsl.create_model("nsn9_dynamic_diagonal", 10, adaptation="map_size")


def test_the_variant_chooses_the_predictor_and_a_named_one_wins() -> None:
    def predictor(**options: str) -> str:
        model = nsl.create_model("nsn9_dynamic_diagonal", 10, width=4, **options)
        return type(model.stages[0][0].conv.predictor).__name__

    assert predictor() == "SpherePredictor"
    assert predictor(variant="release") == "ReleasePredictor"
    assert predictor(variant="release", predictor="sphere") == "SpherePredictor"


def test_the_convolution_is_all_that_differs_between_the_networks() -> None:
    def skeleton(name: str) -> list[str]:
        model = nsl.create_model(name, 10, width=4)
        convolutions = (nn.Conv2d, nsl.StaticSimilarity)
        return [type(m).__name__ for _, m in model.named_modules() if not isinstance(m, convolutions)]

    assert skeleton("cnn9") == skeleton("nsn9_static_diagonal")
    assert isinstance(nsl.create_model("cnn9"), PlainCNN)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'resnet' is unknown \(did you mean 'resnet\d\d'\?\); model must be one of"):
        nsl.create_model("resnet")
    with pytest.raises(ValueError, match=r"'nothing of that kind' is unknown; model must be one of"):
        nsl.create_model("nothing of that kind")
    with pytest.raises(ValueError, match="has no argument 'predictor'"):
        nsl.create_model("cnn9", predictor="cnn")
    with pytest.raises(ValueError, match="multiple of 8"):
        nsl.create_model("cnn9", image_size=30)
    with pytest.raises(ValueError, match="variant must be one of"):
        nsl.create_model("cnn9", variant="tf1")
    with pytest.raises(ValueError, match="sharing must be"):
        nsl.create_model("nsn9_dynamic_diagonal", sharing="both")


def test_importing_nsl_loads_no_plotting_or_notebook_library() -> None:
    code = (
        "import sys, nsl\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy', 'papermill', 'jupytext', 'PIL', 'theory', 'reproduce'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize(("classes", "size", "width"), [(20, 16, 8), (100, 16, 32), (10, 48, 8)])
def test_cnn_plus_plus_is_the_smallest_beyond_the_largest_nsn_for_images_of_other_sizes(
    classes: int, size: int, width: int
) -> None:
    def count(name: str) -> int:
        return nsl.count_parameters(nsl.create_model(name, classes, image_size=size, width=width))

    largest = count("nsn9_dynamic_unconstrained")
    assert largest < count("cnn9pp") < 1.15 * largest
