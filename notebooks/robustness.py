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
from reproduce.show.report import Report, text

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
# All are in the nine convolutions of CNN-9, trained by the recipe of Table 4, for the share of its iterations that is
# printed below. Batch norm follows each, so that what is bounded is the input of batch norm, as in the source.
# Afterwards the first 200 test images are attacked: FGSM takes one step of the radius along the sign of the loss's
# gradient, PGD ten steps of a quarter of it from a random start. The table's errors are means over the radii 1, 2, 4
# and 8 of 255. Where PGD leaves next to nothing right of any network, they cannot differ: which radii these are is
# printed under the figure. They are the same images for every network and seed: intervals over seeds speak of these
# images, and do not count which ones a test set happens to have. The figure's errors at radius 0 are those on these
# images too, and so not the table's on all test images.

# %%
(slot,) = report.table.slots
share = slot.recipe["iterations"] / report.profile.slots["cifar10"].recipe["iterations"]
text(f"Iterations of a training: {slot.recipe['iterations']:,}; {100 * share:.3g} % of those of Table 4 here.")

# %% [markdown]
# ## Results

# %%
report.errors()

# %%
beyond_report.attack_curves(report)

# %%
attacks = [record["result"]["attack"] for row in report.table.rows for record in row.finished.values()]
lines = []
for place, radius in enumerate(attacks[0]["radii"] if attacks else []):
    errors = [attack["pgd"][place] for attack in attacks]
    span = f"{min(errors):g} to {max(errors):g}" if min(errors) < max(errors) else f"{errors[0]:g}"
    lines.append(f"- at radius {radius} of 255: {span} %")
text("\n".join(["PGD's error, over all rows and seeds:", "", *lines]) if lines else "No run is stored yet.")

# %% [markdown]
# ## Verdict

# %%
report.claims()

# %%
report.answer()
