# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Semantic segmentation: a class at every pixel
#
# The paper closes with the hope that NSL is "further applied to more applications, e.g., semantic segmentation"
# (section 8). Does a neural similarity improve a fully convolutional network?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
from reproduce.show import beyond_report
from reproduce.show.report import Report

report = Report("segmentation", profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# Three stages of two 3x3 convolutions with poolings between them; a 1x1 classifier a stage, whose scores are enlarged
# and added (Long, Shelhamer and Darrell, 2015). Plain, static ($M^\top W$) and dynamic ($W^\top M(X) X$, a mask for
# every position) convolutions after the root. Scenes are handwritten digits in several sizes and colours on an uneven
# ground; a pixel's class is the digit whose ink covers it, or the ground: 11 classes. Test scenes hold other
# digits than training scenes. The score is the mean over classes of
#
# $$ \mathrm{IoU}_c = |P_c \cap T_c| \,/\, |P_c \cup T_c| $$
#
# of the pixels predicted as $c$ and those of $c$. The networks have one width, and the dynamic one has its predictors'
# parameters besides (in the table): the comparison does not tell similarity from size.
#
# ## Results

# %%
report.errors()

# %%
report.error_chart()

# %%
beyond_report.class_bars(report)

# %%
beyond_report.segmentations(report)

# %% [markdown]
# The mask that the first dynamic layer predicts over one test scene, one map for each tap of its kernel:

# %%
report.similarity_maps("dynamic")

# %% [markdown]
# ## Verdict

# %%
report.claims()

# %%
report.answer()
