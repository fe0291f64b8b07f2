"""What users do with the comparators and extensions beyond `test_every_layer.py`: mixed precision and export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nsl.layers.mahalanobis import Mahalanobis
from tests.nsl.test_every_layer import COMPARATORS, made


@pytest.mark.parametrize("name", COMPARATORS)
def test_layers_run_under_autocast_and_channels_last(name: str) -> None:
    layer, x = made(name)
    expected = layer(x)
    if x.dim() == 4:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    torch.testing.assert_close(y.float(), expected, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("name", COMPARATORS)
def test_layers_are_exported_with_equal_outputs(name: str) -> None:
    layer, x = made(name)
    layer.eval()
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_metric_keeps_its_state() -> None:
    metric = Mahalanobis(4, 2)
    nn.init.normal_(metric.factor)
    fresh = Mahalanobis(4, 2)
    fresh.load_state_dict(metric.state_dict())
    assert torch.equal(fresh.matrix(), metric.matrix())
