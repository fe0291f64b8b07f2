# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Figures 1 to 3 of the paper, drawn from live layers
#
# What is drawn here are the numbers inside real layer objects: a plain convolution, a static and a dynamic
# neural similarity layer, each trained for a moment on handwritten digits so that there is something to see.
# Do they compute what the figures show?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
import torch
from torch import nn

import nsl
import nsl.data
from nsl.data.augment import normalise
from reproduce.show import figures
from reproduce.show.report import show, text
from reproduce.studies import live_layers

torch.set_num_threads(1)
digits = nsl.data.load("digits", image_size=16)

torch.manual_seed(0)
static = live_layers.train_briefly(nsl.NSConv2d(3, 8, 3, padding=1, similarity="unconstrained"), digits)
dynamic = live_layers.train_briefly(nsl.DynamicNSConv2d(3, 8, 3, padding=1, similarity="unconstrained"), digits)
images = digits.test_images[[int((digits.test_labels == label).nonzero()[0]) for label in (3, 6)]]
inputs = normalise(images, digits.mean, digits.std)
with torch.no_grad():
    fixed = static.similarity_matrix().detach()
    predicted = dynamic.predict_similarity(inputs)  # [image, kernel tap, patch element, row, column]
list(predicted.shape)

# %% [markdown]
# ## Figure 1: three similarities as bipartite graphs
#
# Kernel $W$ and patch $X$ have nine elements a channel. A line between $W_k$ and $X_l$ is the multiplication
# $W_k\, M_{kl}\, X_l$; its width is $|M_{kl}|$ beside the picture's largest, blue for positive and orange for negative,
# and below 2 % of that it is not drawn. The inner product knows nine lines of equal width. A static similarity has up
# to 81 that are the same for every patch. A dynamic similarity has other lines for each patch.

# %%
row, column = 8, 8
figure = figures.new_figure(9.5, 3.6)
axes = figure.subplots(1, 4)
figures.bipartite(axes[0], torch.eye(9), "inner product\n$M = I$")
figures.bipartite(axes[1], fixed, "static similarity\nany patch")
for ax, image in zip(axes[2:], (0, 1)):
    matrix = predicted[image, :, :, row, column]
    figures.bipartite(ax, matrix, f"dynamic similarity\nimage {image + 1}, centre patch")
show(figure)

# %% [markdown]
# The quantity that all of them compute is $f_M(W, X) = \sum_c W_c^\top M_s X_c$. For the first image's centre
# patch, by hand and by the layer:

# %%
patch = nn.functional.pad(inputs, (1, 1, 1, 1))[0, :, row : row + 3, column : column + 3].reshape(3, 9)
with torch.no_grad():
    kernel = dynamic.weight[0].reshape(3, 9)
    by_hand = torch.einsum("ck,kl,cl->", kernel, predicted[0, :, :, row, column], patch) + dynamic.bias[0]
    by_layer = dynamic(inputs)[0, 0, row, column]
print(f"by hand {by_hand:.6f}, by the layer {by_layer:.6f}")

# %% [markdown]
# ## Figure 2: static and dynamic similarity
#
# Two images go through both layers. The static one applies the same $M_s$ to each patch and so can be folded
# into its kernel, $W \leftarrow M^\top W$. The dynamic one predicts $M_s = g_\theta(X) + I$ for every patch:
# both images, and both marked patches of an image, get their own.

# %%
places = ((8, 8), (3, 8))
spread = float(
    (torch.cat([fixed[None], *(predicted[..., r, c] for r, c in places)]) - torch.eye(9)).abs().max()
)
figure = figures.new_figure(9, 4.2)
axes = figure.subplots(2, 5)
for number in range(2):
    figures.picture(
        axes[number, 0], images[number], f"input {number + 1}", *((row - 1, column - 1, 3) for row, column in places)
    )
    figures.matrix_picture(axes[number, 1], fixed, "static $M_s - I$", spread)
    for ax, (r, c) in zip(axes[number, 2:4], places):
        shown = figures.matrix_picture(
            ax, predicted[number, :, :, r, c], f"dynamic $M_s - I$\nrow {r}, column {c}", spread
        )
    with torch.no_grad():
        response = dynamic(inputs)[number].square().mean(0).sqrt()
    axes[number, 4].imshow(response, cmap="cividis")
    axes[number, 4].set_title("dynamic layer's response,\nr.m.s. over filters", fontsize=8)
    axes[number, 4].set(xticks=[], yticks=[])
figure.colorbar(shown, ax=list(axes[:, 3]), label="$M_s - I$", shrink=0.8)
show(figure)

# %% [markdown]
# Folding the static layer gives a plain `Conv2d` with equal outputs:

# %%
with torch.no_grad():
    fold_gap = float((static.fold()(inputs) - static(inputs)).abs().max())
print(f"largest difference: {fold_gap:.2e}")

# %% [markdown]
# ## Figure 3: disjoint and shared predictors
#
# The nine dynamic layers of NSN-9 (width 32) and the predictors they use, read off the two networks. With
# disjoint parametrisation every layer has its own. With shared parametrisation one pair of kernels serves all,
# and each layer adds an adaptation network that brings its channels to a common width. Numbers are trainable
# parameters.

# %%
figure = figures.new_figure(9.5, 4.2)
predictors = {sharing: live_layers.ownership(sharing) for sharing in ("disjoint", "shared")}
for ax, (sharing, found) in zip(figure.subplots(1, 2), predictors.items()):
    title = f"{sharing}: {found.total:,} predictor parameters"
    figures.ownership(ax, found.layers, found.own, found.shared, title, found.common)
show(figure)

# %% [markdown]
# ## Verdict

# %%
folding = f"changes no output by more than {fold_gap:.0e}" if fold_gap else "changes no output"
gap = abs(float(by_hand - by_layer))
assert max(gap, fold_gap) < 1e-4, (gap, fold_gap)
text(
    f"Yes. The formula by hand gives the layer's number (difference {gap:.0e}), and folding {folding}: a static "
    "similarity needs nothing beyond a plain convolution once it is trained, while the dynamic one has to be predicted "
    "for every patch. Shared parametrisation takes the predictors from "
    f"{predictors['disjoint'].total:,} to {predictors['shared'].total:,} parameters."
)
