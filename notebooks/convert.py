# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Bring your own network: convert, train only M, fold, export
#
# The paper trains a similarity in three ways; one of them starts from a pretrained network: load its weights, add
# identity similarities, train those with the backbone fixed. What does that look like for a network that knows nothing
# of this package, and how much can $M$ alone repair when the data change?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %% [markdown]
# ## Formula
#
# $$ y = W^\top X \;\longrightarrow\; y = W^\top M X,\quad M = I \;\longrightarrow\; \min_M L(M)\ \text{with } W
# \text{ fixed} \;\longrightarrow\; W \leftarrow M^\top W . $$
#
# The outputs do not change at the first and the last arrow.

# %% [markdown]
# ## A pretrained network
#
# A plain CNN (`cnn9`, no similarity anywhere), trained on the handwritten digits.

# %%
import copy

import torch

import nsl
from reproduce.show.report import text
from reproduce.studies import adaptation

pretrained = adaptation.pretrained()
digits = adaptation.digits()
error = {"pretrained, upright digits": adaptation.test_error(pretrained, digits)}

# %% [markdown]
# ## The data change
#
# The same digits lying on their side. The network has never seen that.

# %%
turned = adaptation.turned(digits)
error["pretrained, turned digits"] = adaptation.test_error(pretrained, turned)

# %% [markdown]
# ## Convert: identity similarities, the same outputs

# %%
adapted = {}
images = turned.test_images[:32].float() / 255
for similarity in ("diagonal", "unconstrained"):
    model = copy.deepcopy(pretrained)
    before = model(images)
    nsl.convert(model, kind="static", similarity=similarity)
    print(f"{similarity}: largest change of a logit {(model(images) - before).abs().max().item():.1e}")
    adapted[similarity] = model
print(adapted["unconstrained"].stages[0][0].conv)

# %% [markdown]
# ## Train only M
#
# Everything else is frozen, the classifier too, so that what improves is the similarity's doing: 90 numbers for the
# ten diagonal similarities together, 810 for the ten unconstrained ones.

# %%
for similarity, model in adapted.items():
    trainable = nsl.freeze_backbone(model, train_classifier=False)
    frozen = {name: value.clone() for name, value in model.named_parameters() if name not in trainable}
    adaptation.fit(model, turned)
    assert all(torch.equal(value, frozen[name]) for name, value in model.named_parameters() if name in frozen)
    label = f"{similarity} M trained ({adaptation.trainable(model)} numbers), turned digits"
    error[label] = adaptation.test_error(model, turned)

# %% [markdown]
# Batch norm's running averages follow the new data too (they are no parameters). What they alone do:

# %%
averages = adaptation.averages_only(pretrained, turned)
error["only batch norm's averages, turned digits"] = adaptation.test_error(averages, turned)

# %% [markdown]
# A dynamic conversion predicts $M$ at every position by a new network in every layer. Together these have more numbers
# than the pretrained network, whose kernels stay as they are: what they repair is not the doing of a few.

# %%
dynamic = copy.deepcopy(pretrained)
whole = nsl.count_parameters(dynamic)
nsl.convert(dynamic, kind="dynamic", similarity="diagonal", predictor_options={"hidden": 16})
nsl.freeze_backbone(dynamic, train_classifier=False)
added = adaptation.trainable(dynamic)
assert added > whole
print(f"predictors: {added:,} numbers, {added / whole:.2f} times the {whole:,} of the pretrained network")
adaptation.fit(dynamic, turned)
label = f"dynamic diagonal M trained ({added} numbers; the network has {whole}), turned digits"
error[label] = adaptation.test_error(dynamic, turned)

# %% [markdown]
# ## Fold: a plain network again

# %%
expected = adapted["unconstrained"](images)
folded = nsl.fold(adapted["unconstrained"])
print("layers:", sorted({type(module).__name__ for module in folded.modules() if not list(module.children())}))
print(f"largest change of a logit by folding: {(folded(images) - expected).abs().max().item():.1e}")

# %% [markdown]
# ## Export
#
# The folded network is plain for every exporter; the dynamic one exports too, as ordinary tensor operations.

# %%
import io
import logging
import warnings

import onnxruntime

warnings.simplefilter("ignore", FutureWarning)  # the exporter's own
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
gaps = {}
for name, model in {"folded": folded, "dynamic": dynamic}.items():
    reference = model(images)
    program = torch.export.export(model, (images,))
    gaps[name, "torch.export"] = (program.module()(images) - reference).abs().max().item()
    file = io.BytesIO()
    torch.onnx.export(model, (images,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    gaps[name, "ONNX, onnxruntime"] = (torch.from_numpy(output) - reference).abs().max().item()

# %%
text(
    "\n".join(
        ["| Network | Route | Largest change of a logit |", "|---|---|---|"]
        + [f"| {name} | {route} | {gap:.0e} |" for (name, route), gap in gaps.items()]
    )
)

# %% [markdown]
# ## Verdict

# %%
assert max(gaps.values()) < 1e-3, gaps
text(
    "\n".join(
        ["| Network and data | Test error % |", "|---|---|"]
        + [f"| {name} | {value:.1f} |" for name, value in error.items()]
    )
    + f"\n\nOne seed and {len(turned.test_images)} test images, so an illustration: conversion and folding leave the "
    "outputs as they are, and what the frozen backbone gains on the turned digits beyond batch norm's averages is the "
    "similarity's. That of the dynamic one takes more trained numbers than the backbone has."
)
