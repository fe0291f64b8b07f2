# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Table 1: which network should predict the similarity?
#
# A dynamic layer predicts the similarity matrix from its own input. The paper reports that a plain CNN is
# hard to train in this place, and that a *SphereNet*, whose responses do not grow with the length of the
# patch, trains easily and gives a lower error (section 7.1, Table 1, CIFAR-10). Does it?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
import math

from reproduce.declare.shapes import shape
from reproduce.show.report import Report, text

report = Report(1, profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# At output position $p$ a dynamic diagonal layer (DNS) with kernel taps $k$ computes
#
# $$ y_{f,p} = \sum_c \sum_k W_{f,c,k}\, m_{p,k}\, x_{c,\,p+\delta(k)}, \qquad m_p = 1 + g_\theta(x)_p , $$
#
# where $g_\theta$ is a predictor of two $3\times 3$ convolutions. The paper's is a hyperspherical network: every
# product is divided by the norms of kernel and patch,
#
# $$ h_p = \max\!\left(0, \frac{\langle \theta_1, X_p\rangle}{\lVert\theta_1\rVert\,\lVert X_p\rVert}\right),
# \qquad g_\theta(x)_p = \frac{\langle \theta_2, h_{N(p)}\rangle}
# {\lVert\theta_2\rVert\,\lVert h_{N(p)}\rVert} \in [-1, 1], $$
#
# so that each mask value lies in $[0, 2]$ whatever the weights are. The CNN needs "normalization (or sigmoid
# activation)" of its output to converge, says the paper; which normalisation is not said, and the competitor here has
# the sigmoid. What each row has, read off the networks that are trained:

# %%
report.predictors()

# %%
report.predictor_difference("dynamic", "dynamic_cnn")

# %% [markdown]
# The first three rows of the table below are the paper's. The trivially applied CNN is its sentence "dynamic NSN can
# not converge if trivially applying CNN", in two readings: in SphereNet's place, and in the place of all of M with the
# start that any CNN has. The other rows beyond the paper are the predictor of the authors' code, whose outputs are not
# bounded, and a SphereNet without the identity, which section 3.3.1 calls for: once with the small start scales, which
# are made for the identity and leave the network nearly without signal (the notebook on predictor heads shows it), and
# once with He's start.

# %% [markdown]
# ## What the layer does
#
# The mask that the first dynamic layer predicts over one test image, one map for each tap of the kernel.
# White is $m = 1$, the ordinary convolution.
#
# Shown here, and wherever it is said what layers learned, is the first stored training of a row, that is seed 0 but
# where this seed has not been run, on the first data set of the table.

# %%
report.similarity_maps("dynamic")

# %% [markdown]
# Mean and standard deviation of the predicted masks over the patches of test images, layer by layer: with
# the SphereNet predictor,

# %%
report.dynamic_similarities("dynamic")

# %% [markdown]
# and with the CNN predictor.

# %%
report.dynamic_similarities("dynamic_cnn")

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
# ## What *diverged* means
#
# A training has diverged when its loss is not finite or many times that of guessing, and is then stopped; or when it
# came to its end and the test loss is not finite there. Its last errors are not counted. What is stored of each:

# %%
lines = []
for row in report.table.rows:
    classes = shape(report.profile.slots[row.slot].data).classes
    for seed, record in row.records.items():
        result, curve = record["result"], record["result"]["curve"]
        if record["status"] != "diverged":
            continue
        line = f"- {row.method.label}, seed {seed}: {result['divergence']}."
        if curve and all(point["train_loss"] is not None for point in curve):
            losses, errors = zip(*((point["train_loss"], point["test_error"]) for point in curve))
            line += (
                f" Its training loss was finite at all {len(curve)} evaluations, {losses[-1]:.2f} at the last "
                f"(guessing: {math.log(classes):.2f}), and its test errors there were {min(errors):.1f} to "
                f"{max(errors):.1f} % (guessing: {100 - 100 / classes:.0f} %)."
            )
        lines.append(line)
text("\n".join(lines) or "No stored run of this table diverged.")

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
