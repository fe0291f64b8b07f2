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
from reproduce.report import Report

report = Report(1, profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# At output position $p$ a dynamic diagonal layer (DNS) with kernel taps $k$ computes
#
# $$ y_{f,p} = \sum_c \sum_k W_{f,c,k}\, m_{p,k}\, x_{c,\,p+\delta(k)}, \qquad m_p = 1 + g_\theta(x)_p , $$
#
# where $g_\theta$ is two $3\times 3$ convolutions with batch normalisation and a ReLU between them. The two
# predictors differ in one thing: the SphereNet divides the first response by the norm of the patch it sees,
#
# $$ h_p = \frac{\langle \theta_1, X_p\rangle}{\sqrt{\lVert X_p\rVert^2 + 10^{-4}}}, $$
#
# the CNN does not. The CNN predictor's last step is batch normalisation: the paper says that without a
# normalised (or sigmoid) output the network does not converge. Initial values are the same, near $m = 1$,
# the inner product.

# %% [markdown]
# ## What the layer does
#
# The mask that the first dynamic layer predicts over one test image, one map for each tap of the kernel.
# White is $m = 1$, the ordinary convolution.

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
# ## Verdict
#
# Differences are the first method's error minus the second's, over runs with the same seed. The rule is
# written down in `reproduce/statistics.py`.

# %%
report.claims()
