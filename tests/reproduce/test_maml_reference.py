"""The implementation that clones modules, which the benchmark compares with, computes the same numbers."""

from __future__ import annotations

import torch

from nsl.fewshot.maml import MAML
from reproduce.bench.fewshot import cloned_meta_loss
from tests.nsl.fewshot.toy import method, tasks


def test_cloning_modules_and_torch_func_give_the_same_meta_loss_and_gradient() -> None:
    maml = method("maml", width=2, train_steps=3, rate=0.1)
    assert isinstance(maml, MAML)
    maml.network.double()
    batch = tasks(2, 3, 2, 2, (3, 16, 16))
    parameters = list(maml.network.parameters())
    ours = maml.loss(batch)
    theirs = cloned_meta_loss(
        maml.network, batch.support, batch.support_labels, batch.query, batch.query_labels, 3, 0.1
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
