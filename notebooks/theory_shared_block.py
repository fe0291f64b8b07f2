# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # The bias of NSL's own factorisation
#
# **Statement.** In linear regression the bias of the factorised flow cannot be seen (notebook on implicit bias). But a
# convolution with NSL is no such regression: one block $M_s$ of 9 x 9 serves all channels and all filters.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np

from theory import convex, observables
from theory.claims import blocks
from theory.claims.ledger import Settings
from theory.figures import panels, show, show_ledger

settings = Settings(quick=profile == "demo")

# %% [markdown]
# ## Derivation
#
# Equation (2) of the paper, with $C$ channels and $F$ filters and kernel taps $k,l$:
#
# $$ y_{f}=\sum_{c,k,l}W'_{f,c,l}\,M_s[l,k]\,X_{c,k}=\sum_{c,k}V_{k,(c,f)}X_{c,k},\qquad V=M_s^TW', $$
#
# where $W'$ is unfolded to $9\times CF$. So the layer is a factorisation of the *unfolding* $V$, and the loss of a set
# of patches is matrix sensing of $V$: the measurement of patch $p$ and filter $f$ has $X_p$ in the columns of $f$. Here
# the fits of minimum nuclear norm and of minimum Frobenius norm differ, because the data see each filter's columns
# separately while the nuclear norm ties them together. For a diagonal $M_s$ the factorisation is one of rows, and the
# norm is $\sum_k\lVert V_k\rVert_2$: few taps.

# %%
scales = (1.0, 0.3, 0.1, 0.03, 0.01)
figure, axes = panels(3, 3.8)
for seed in range(2 if settings.quick else 5):
    problem, target = blocks.shared_block_problem(2000 + seed)
    least = convex.minimum_nuclear_norm(problem.A, problem.y)[1]
    gaps = [observables.nuclear_norm(blocks.shared_flow(problem, s)) / least - 1 for s in scales]
    line = axes[0].loglog(scales, gaps, "o-", markersize=4)[0]
    plain = observables.nuclear_norm(blocks.minimum_frobenius(problem)) / least - 1
    axes[0].axhline(plain, color=line.get_color(), linestyle=":", linewidth=1)
    problem, target = blocks.shared_block_problem(2600 + seed, rows=3)
    least = convex.least_group_norm(problem.A, problem.y)[1]
    gaps = [np.linalg.norm(blocks.shared_flow(problem, s, diagonal=True), axis=1).sum() / least - 1 for s in scales]
    axes[1].loglog(scales, gaps, "s-", markersize=4)
axes[0].set(xlabel="s", ylabel="gap to the minimum nuclear norm", title="UNS (dotted: minimum Frobenius)")
axes[1].set(xlabel="s", ylabel=r"gap to the minimum of $\sum_k\Vert V_k\Vert$", title="DNS, target on three taps")
for axis in axes[:2]:
    axis.invert_xaxis()
ends = {"target": target, "minimum Frobenius": blocks.minimum_frobenius(problem)}
ends |= {f"DNS, s = {s:g}": blocks.shared_flow(problem, s, diagonal=True) for s in (1.0, 0.01)}
for (name, weight), style in zip(ends.items(), ("k.-", "--", ":", "o-")):
    axes[2].plot(np.arange(1, 10), np.linalg.norm(weight, axis=1), style, markersize=4, label=name)
axes[2].set(xlabel="tap k", ylabel=r"$\Vert V_k\Vert$", title="Taps of the last problem")
axes[2].set_ylim(0, 1.4 * axes[2].get_ylim()[1])  # the legend above the lines
axes[2].legend(fontsize=7, loc="upper center", ncols=2)
show(figure)

# %% [markdown]
# From a start of size 0.01 the unfolding is close to its minimum nuclear norm, and its effective rank below half of
# that of the fit of minimum Frobenius norm to which a plain convolution from zero converges. From 1e-5 it comes to the
# planted target of rank 2, also in the problems in which the matrix of minimum nuclear norm is another one: what the
# flow prefers is low rank, which small nuclear norm goes with (claims 10 and 20). The layers of this package start from
# $M=I$ and a random $W'$, which is neither small nor balanced: claim 23 says what is left of the closed forms there,
# claim 19 what is seen.

# %% [markdown]
# ## Verdict
#
# In the convolutional setting, unlike in regression, a bias towards low rank can be seen: from a small start the
# unfolding ends near its minimum nuclear norm, far below the fit of minimum Frobenius norm, and from a smaller one near
# the target of low rank, where that is not the matrix of minimum nuclear norm too. For a diagonal mask the bias towards
# few taps is measured and not gated.

# %%
show_ledger([20, 23, 26], profile, out, results)
