# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Table 4: all variants on CIFAR-10 and CIFAR-100
#
# Static and dynamic networks, with a diagonal (DNS) or an unconstrained (UNS) similarity, against a plain
# CNN and against CNN++, a plain CNN that is deeper, wider and has more parameters than every variant. The
# paper reports that every variant beats the CNN, that dynamic ones beat CNN++ and, in general, static
# ones, and that DNS and UNS perform alike (section 7.1, Table 4). Do they?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
from reproduce.show.report import Report

report = Report(4, profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# For a patch $X$ with channels $c$, and one kernel $W$,
#
# $$ f_M(W, X) = \sum_c W_c^\top M_s X_c , \qquad M_s \in \mathbb R^{9 \times 9}, $$
#
# | | DNS: $M_s$ diagonal | UNS: $M_s$ unconstrained |
# |---|---|---|
# | static: $M_s$ is a parameter | 9 numbers a layer | 81 numbers a layer |
# | dynamic: $M_s = g_\theta(X) + I$ | 9 maps a layer | 81 maps a layer |
#
# A static network is folded after training, $W \leftarrow M^\top W$, and then is a plain CNN of the same
# size and speed; the parameters below are those that are trained.

# %% [markdown]
# ## What the layers learned
#
# Shown here, and wherever it is said what layers learned, is the first stored training of a row, that is seed 0 but
# where this seed has not been run, on the first data set of the table.
#
# Static DNS: a mask a layer, as its distance from the identity.

# %%
report.static_similarities("static")

# %% [markdown]
# Static UNS: $M_s - I$, kernel taps down, patch elements across.

# %%
report.static_similarities("static_uns")

# %% [markdown]
# Dynamic DNS: the masks predicted over one test image by the first layer,

# %%
report.similarity_maps("dynamic")

# %% [markdown]
# and their mean and spread in every layer.

# %%
report.dynamic_similarities("dynamic")

# %% [markdown]
# ## Learning curves

# %%
report.learning_curves()

# %% [markdown]
# ## Paper and ours

# %%
report.errors()

# %%
report.error_chart()

# %% [markdown]
# ## Verdict
#
# A difference is between runs with the same seed, and positive where it is as the paper claims. The rule is
# written down in `reproduce/verdicts/statistics.py`.

# %%
report.claims()

# %% [markdown]
# ## In words

# %%
report.answer()
