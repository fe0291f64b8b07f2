# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Structures of the similarity: what may M be?
#
# A neural similarity puts a matrix between kernel and patch. One shared block $M_s$ of $K \times K$ numbers, $K$ being
# the number of kernel taps, serves all channels and filters of a layer. The paper works with two choices, a diagonal
# $M_s$ (DNS) and an unconstrained one (UNS), and names more; low rank is ours. What does each of them allow, what does
# it learn, and what is left of it at deployment?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %% [markdown]
# ## Formulas
#
# $$ y = W^\top \mathrm{diag}(M_s, \dots, M_s)\, X, \qquad \text{deployed as } (M^\top W)^\top X . $$
#
# | Structure | $M_s$ | free numbers |
# |---|---|---|
# | diagonal | $\mathrm{diag}(m)$ | $K$ |
# | unconstrained | any | $K^2$ |
# | full | any $CK \times CK$ matrix: nothing is shared among channels | $(CK)^2$ |
# | symmetric | $M_s = M_s^\top$ | $K(K+1)/2$ |
# | PSD | $L L^\top$, $L$ lower triangular | $K(K+1)/2$ |
# | low rank (ours) | $U V^\top$ | $2Kr$ |
# | l1 | another one with a penalty $\lambda \lVert M_s \rVert_1$ | of that one |
# | hard-sparse | at most $n$ non-zeros | $K^2$ |
# | shift | one non-zero a row | $K^2$ |
# | dilated | a mask on a fixed grid of taps | taps on the grid |
# | $D R$ | a learned Boolean shape times another one | $K$ more |
#
# Hard-sparse and shift keep the largest magnitudes and hand the gradient at $M_s$ to *all* numbers (straight-through).
# Projecting after each step instead would keep out for good what was dropped once.

# %% [markdown]
# ## Experiment
#
# A small network with two 5x5 layers, on the handwritten digits, once with each structure: the same seed, budget and
# recipe. All start from $M = I$ but low rank and dilated, which cannot be $I$; they start at the nearest that they
# allow. One seed, so the errors below are an illustration and not a ranking.

# %%
from reproduce.show.report import show, text
from reproduce.studies import structures

outcomes = [structures.run(label) for label in structures.STRUCTURES]

# %% [markdown]
# Rows one and two: $M_s - I$ of the second layer, before and after training (of the full structure, the block of the
# first channel). Rows three and four: the mean magnitude of the effective kernel $M^\top W$ at each of its taps, which
# is the shape that the kernel really has. Orange is negative, purple positive; dark blue is zero, yellow large.

# %%
show(structures.pictures(outcomes))

# %% [markdown]
# ## What is left at deployment
#
# `nsl.fold` turns every layer into a plain one. The shift structure becomes shifts of the input and one 1x1
# convolution, the dilated one a convolution with fewer taps and a dilation.

# %%
text(structures.markdown(outcomes))

# %%
for outcome in outcomes:
    print(f"{outcome.label:24s} {outcome.folded}")

# %% [markdown]
# ## Verdict

# %%
largest = max(outcome.fold_gap for outcome in outcomes)
moved = {outcome.label: abs(outcome.matrices[1] - outcome.matrices[0]).max() for outcome in outcomes}
diagonal = [o.label for o in outcomes if o.stayed_diagonal and not o.label.startswith("diagonal")]
most, least = max(moved, key=moved.get), min(moved, key=moved.get)
assert largest < 1e-3, largest
folding = f"changes no logit by more than {largest:.0e}" if largest else "changes no logit"
text(
    f"Folding {folding}. The similarity that moved most in this training is that of "
    f"*{most}* (by {moved[most]:.2f} in an entry), the least *{least}* ({moved[least]:.2f}; of the "
    "full structure, the first channel's block). The pictures show each "
    "structure's promise kept: the symmetric matrix is symmetric, the shift layer has one non-zero a row, the dilated "
    f"kernel lives on its grid. But in so short a training {', '.join(f'*{label}*' for label in diagonal)} made no use "
    "of what they may do beyond a diagonal without zeros: no shift was learned and no tap dropped."
)
