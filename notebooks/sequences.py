# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Sequences: a similarity that depends on the state
#
# The paper says that NSL applies to recurrent networks (section 1), and of classic dynamic neural units, whose state
# feeds back into them, that "it will be interesting to combine self-recurrence to NSL" (5.2). Does it help?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
from reproduce.show import beyond_report
from reproduce.show.report import Report

report = Report("sequences", profile, results)
report.scope()

# %% [markdown]
# ## Formulas
#
# $$ h' = \tanh\bigl(W_{x}^\top x + W_{h}^\top M h + b\bigr) . $$
#
# Plain: $M = I$. Static: $M$ is learned (also beside $W_x$) and folds into $W_h$. Of the state: $M(x, h) = I + {}$ a
# prediction of two linear maps from $(x, h)$, which starts at zero, so that training starts from the plain cell. $M$ is
# a mask over the units here. In a GRU the three gates see the same $M h$.
#
# ## Experiment
#
# Two tasks. *Digits row by row*: sixteen steps of one row of pixels, then the class. *The adding problem*: at every
# step a number and a mark; two steps are marked, one in each half; the target is the sum of the two marked numbers. Its
# error is the squared error in percent of the targets' variance: 100 is what a constant guess reaches, and
# $100 (1 - 2 / T)$ with $T$ steps who guesses twice the mean of the numbers, without looking at the marks: a cell that
# is no better has not learned the problem, and its verdicts say so. What tables call *test error* is
# this on the adding problem, as figures, verdicts and ranks say, and the share of wrong classes on
# the digits; a *point* is one percent of either kind.
# All cells have the same number of units, recipe and budget; a cell with a predictor has more parameters.

# %%
report.errors()

# %%
report.error_chart()

# %%
report.learning_curves()

# %% [markdown]
# ## What a cell predicts
#
# The mask over the state along the first test sequence: digits, then the adding problem.

# %%
beyond_report.state_masks(report, "dynamic_gru", "digit_rows")

# %%
beyond_report.state_masks(report, "dynamic_gru", "adding")

# %% [markdown]
# ## Verdict

# %%
report.claims()

# %%
report.answer()
