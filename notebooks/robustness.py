# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Robustness: is a bounded similarity harder to fool?
#
# Of decoupled similarities, magnitude times angle, the paper says that they are "shown to be useful for improving
# network generalization and adversarial robustness" (section 2, after Liu et al., 2018). Is it so for these networks?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
from reproduce.show import beyond_report
from reproduce.show.report import Report

report = Report("robustness", profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# | | similarity of kernel $w$ and patch $x$ at the angle $\theta$ |
# |---|---|
# | inner product | $\lVert w \rVert \lVert x \rVert \cos\theta$ |
# | hyperspherical | $\cos\theta$ |
# | ball | $\min(\lVert x \rVert, \rho) / \rho \cdot \cos\theta$ |
# | tanh | $\tanh(\lVert x \rVert / \rho) \cos\theta$ |
# | learnable | $\alpha_f \tanh(\lVert x \rVert / \rho_f)\, g_f(\theta)$, numbers of the filter learned |
#
# The hyperspherical one is also a dynamic neural similarity without parameters (3.3), $M(X) = I / (\lVert w \rVert
# \lVert X \rVert)$: the last claim below is that identity, computed.
#
# All are in the nine convolutions of CNN-9, trained as in Table 4. Batch norm follows each, so that what is bounded is
# the input of batch norm, as in the source. Afterwards the first 200 test images are attacked: FGSM takes one step of
# the radius along the sign of the loss's gradient, PGD ten steps of a quarter of it from a random start. The table's
# errors are means over the radii 1, 2, 4 and 8 of 255; at the largest, where PGD leaves next to nothing right of any
# network, they cannot differ. They are the same images for every network and seed: intervals
# over seeds speak of these images, and do not count which ones a test set happens to have. The figure's errors at
# radius 0 are those on these images too, and so not the table's on all test images.

# %% [markdown]
# ## Results

# %%
report.errors()

# %%
beyond_report.attack_curves(report)

# %% [markdown]
# ## Verdict

# %%
report.claims()

# %%
report.answer()
