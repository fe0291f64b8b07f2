# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # The conjecture, refuted on a laptop
#
# **Statement.** Gunasekar et al. (2017) conjecture that gradient flow on tied factors, $W=U^TU$, tends to the fit of
# minimum nuclear norm for every set of measurements, from any full-rank start that vanishes. The paper quotes it in
# section 5.1. Li, Luo and Lyu (2021) refute it by a completion of a 4x4 matrix, which is run below; so do two random
# sensing problems with Gaussian measurements. Its analogue for $W=M^TW'$ from $M_0=sI$, $W'_0=0$, outside of the
# conjecture's hypothesis, is refuted by two random 6x6 completions.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np
from IPython.display import Markdown

from theory.claims import bias, families
from theory.claims.ledger import Settings
from theory.figures import panels, show, show_ledger

settings = Settings(quick=profile == "demo")

# %% [markdown]
# ## The gap as the start vanishes
#
# The gap to the convex minimum for every size $s$ of the initialisation. Left: sensing of positive semidefinite 6x6
# matrices of rank one, 9 Gaussian measurements, tied factors from $U_0=sI$, as the conjecture has it. Middle: random
# completions, the analogue. Orange: the problems by which the ledger refutes; dotted, the gap of the target itself.
# There the flow goes to the target, a matrix of lower rank and larger nuclear norm, and its gap does not vanish.

# %%
scales, seeds = bias.SCALES, bias.conjecture_seeds(settings)
found = families.nuclear_gaps(seeds, scales)
known = families.counterexample_path((*scales, 1e-7))
figure, (left, middle, right) = panels(3, 3.8)
for axis, family, refuting in (
    (left, "sensing", bias.REFUTING_SENSING),
    (middle, "completion", bias.REFUTING_COMPLETIONS),
):
    gaps = found[family]
    for column, seed in enumerate(seeds):
        told = seed in refuting
        style, colour = ("o-", "#D55E00") if told else ("-", "#56B4E9")
        # Where the target is the minimum, the end may lie below it by the solver's tolerance.
        axis.loglog(scales, np.maximum(gaps.gap[:, column], 1e-5), style, color=colour, markersize=4)
        if told:
            axis.axhline(gaps.target_gap[column], color=colour, linestyle=":", linewidth=1)
    axis.set(xlabel="size s of the initialisation", ylabel="relative gap to the minimum nuclear norm")
    axis.set_title(f"6x6 {family}, {len(seeds)} seeds")
right.semilogx((*scales, 1e-7), known.gap, "o-", label="gap to the minimum trace")
right.semilogx((*scales, 1e-7), known.distance, "s--", label="distance to the fit of rank 1")
right.set(xlabel="size s of the initialisation", ylabel="relative gap, distance", title="Li, Luo and Lyu, R = 3")
right.legend(fontsize=8)
for axis in (left, middle, right):
    axis.invert_xaxis()
show(figure)

# %% [markdown]
# How common is this? Counted over the problems above (in the demo profile only four, chosen with the refuting ones
# among them):

# %%
Markdown(families.told_of_ends(found, scales))

# %% [markdown]
# Is it the integrator? LSODA, another method at other tolerances, gives the same nuclear norm:

# %%
for family, refuting in (("sensing", bias.REFUTING_SENSING), ("completion", bias.REFUTING_COMPLETIONS)):
    for seed in refuting:
        ours, other = found[family].gap[3, seeds.index(seed)], bias.gap_by_lsoda(family, seed, scales[3])
        name = f"{family}, seed {seed}, s = {scales[3]:g}"
        print(f"{name}: gap {other:.5f} by LSODA, {ours:.5f} by Runge-Kutta-Chebyshev")

# %% [markdown]
# ## The counterexample of Li, Luo and Lyu
#
# Tied factors from $U_0=sI$.
#
# Observe $W_{13}=1$, $W_{14}=W_{23}=R$ of a symmetric 4x4 matrix. $vv^T$ with $v=(1,R,1,R)$ fits with rank one and
# trace $2+2R^2$; a matrix of rank two fits with trace $4R$. For $R>1$ the second is smaller, and a vanishing start goes
# to the first: rank, not norm, is what it prefers. The approach is slow, so that even $s=10^{-7}$ is not at the end.

# %% [markdown]
# ## Verdict
#
# The conjecture is refuted by the example of Li, Luo and Lyu and by two Gaussian sensing problems, and its analogue for
# $W=M^TW'$ by two random completions. What a vanishing start prefers there is low rank and not a small norm. For
# symmetric commuting measurements (one orthonormal eigenbasis) the nuclear norm does tend to its minimum.

# %%
show_ledger([9, 10, 13], profile, out, results)
