# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # What bounds a predictor, and what stacked layers make of it
#
# **Statement.** Section 3.3: "Naively using a neural network" as predictor of $M(X)$ "is very unstable"; with
# hyperspherical convolutions, whose outputs lie between -1 and 1, $M=I+\mathrm{SphereNet}(X)$ is "bounded and well
# behaved". The bound is a fact. A second fact holds in networks without normalisation only: there a linear head makes a
# stack grow much faster than its input. Batch norm removes this growth, and the paper's networks and ours have it after
# every convolution. So the growth is not shown to be why a predictor diverges there; what survives is the bound.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np

from theory.claims import predictor
from theory.figures import panels, show, show_ledger

# %% [markdown]
# ## Derivation
#
# **Bound.** A hyperspherical convolution returns $\langle w,X\rangle/(\lVert w\rVert\lVert X\rVert)$, a cosine. With
# it as last layer and nothing after, $|M-I|\le1$ entry by entry, whatever the weights: training cannot leave the bound.
#
# **Degree without normalisation.** A cosine does not change when $X$ is scaled. So $M(tX)=M(X)$, a layer $W^TM(X)X$ is
# homogeneous of degree one, and so is a stack of $L$ such layers with ReLU. With a linear head, $M(tX)-I=t\,(M(X)-I)$;
# for large $t$ a layer is of degree two, and $L$ layers of degree $2^L$: an input twice as large gives an output
# $2^{2^L}$ times as large.
#
# **Degree with batch norm.** Batch norm with the statistics of the batch, as in training, divides by the size of what
# comes in: $\mathrm{BN}(tZ)=\mathrm{BN}(Z)$. After a layer of degree one or two the scale of the input is gone, with
# SphereNet exactly, with a linear head for large $t$. Every block is then of degree zero, at any depth.
#
# ## Experiment
#
# Random stacks of diagonal dynamic layers, transcribed from the paper in numpy; the figure's have no normalisation.
# With SphereNet the lines of all depths lie on one.

# %%
sizes = np.geomspace(1e-2, 1e3, 26)
maps = np.random.default_rng(0).standard_normal((3, 6, 6))
figure, (left, right) = panels(2, 4.4)
for depth, colour in zip((1, 2, 3, 4), ("#0072B2", "#D55E00", "#009E73", "#CC79A7")):
    layers = predictor.network(0, depth)
    for kind, style in (("sphere", "-"), ("linear", "--")):
        grown = [np.linalg.norm(predictor.run_network(layers, kind, t * maps)) for t in sizes]
        unit = np.linalg.norm(predictor.run_network(layers, kind, 1e-3 * maps)) / 1e-3
        left.loglog(sizes, np.array(grown) / unit, style, color=colour, label=f"depth {depth}, {kind}")
left.set(xlabel="size t of the input", ylabel="output over its small-input slope", ylim=(1e-3, 1e16))
left.set_title("Lines: SphereNet; dashed: linear head")
left.legend(fontsize=7)
bounds = np.array([predictor.largest_output(seed) for seed in range(60)])
right.hist(bounds[:, 0], bins=15, label="random weights")
right.axvline(1, color="k", linestyle="--", label="the bound; reached where a kernel equals a patch")
right.set(xlabel="largest |M - I|", ylabel="predictors", title="Weights and inputs of sizes 1e-6 to 1e6")
right.set_ylim(0, 1.3 * right.get_ylim()[1])  # the legend above the bars
right.legend(fontsize=7, loc="upper left")
show(figure)

# %%
for depth in (1, 2, 3, 4):
    layers = predictor.network(1, depth)
    degrees = [predictor.homogeneity(layers, kind, maps) for kind in ("sphere", "linear")]
    print(f"depth {depth}: degree {degrees[0]:.6f} with SphereNet, {degrees[1]:.6f} with a linear head")

# %% [markdown]
# The same stacks with batch norm before every ReLU, on a batch of four. Batch norm fixes the size of its output,
# whatever comes in, so the degree says little; how much the output changes at all when the input is doubled says more.

# %%
batch = np.random.default_rng(1).standard_normal((4, 3, 6, 6))
for depth in (1, 2, 3, 4):
    layers = predictor.network(1, depth)
    degrees = [predictor.homogeneity(layers, kind, batch, norm=True) for kind in ("sphere", "linear")]
    print(f"depth {depth}: degree {abs(degrees[0]):.6f} with SphereNet, {abs(degrees[1]):.6f} with a linear head")
    for size in (1.0, 1e6):
        changes = [predictor.change_by_doubling(layers, kind, batch, size) for kind in ("sphere", "linear")]
        print(f"  input of size {size:g} doubled: changes by {changes[0]:.1e} and {changes[1]:.1e} of itself")

# %% [markdown]
# The small constants that implementations add under the roots of the norms change this only for inputs of their size.
# With stored statistics, as in evaluation, batch norm is an affine map, and the degrees are those without it.

# %% [markdown]
# ## Verdict
#
# SphereNet's outputs are bounded for any weights and inputs; a linear head's are not. Without normalisation a linear
# head makes a stack grow the faster, the deeper it is, but batch norm removes this growth with either predictor. So the
# growth does not show why a predictor diverges in the paper's networks.

# %%
show_ledger([21, 18], profile, out, results)
