# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Table 6: few-shot learning
#
# Classify images of five classes never seen before, from five labelled images of each. The paper trains on 64
# base classes of Mini-ImageNet and reports that its three strategies beat their direct competitors: static NSN
# the finetuning baseline, meta-learned static NSN MAML, dynamic NSN every method with the same four-layer
# backbone (section 7.2, Table 6). Do they?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %%
from nsl.fewshot import METHODS
from reproduce.show.fewshot_report import FewShotReport
from reproduce.show.report import text

report = FewShotReport(6, profile, results)
report.scope()

# %% [markdown]
# ## Method
#
# A backbone $f_{W,M}$ with similarity $M$, a classifier $\theta$; a task $T$ has a support set with loss $L_T$.
#
# | strategy | trained on the base classes | learned for a task |
# |---|---|---|
# | static NSN | $W$, with $M = I$ | $M$ (from $I$) and $\theta$ |
# | dynamic NSN | $W$ and the predictor of $M(X)$ | $\theta$ |
# | meta-learned static NSN | $W$ with $M = I$, then $M$ by equation (7) | $M$ and $\theta$ |
#
# $$ \min_M \sum_{T_i} L_{T_i}(f_{M'}), \qquad M' = M - \eta \nabla_M L_{T_i}(f_M) \tag{7} $$
#
# An unconstrained $M$ has 81 numbers a layer, so that four layers adapt 324 numbers and the classifier, where
# MAML adapts every kernel. The table below counts them. The inner steps take one rate for each tensor that they
# adapt, learned with $M$ (the paper names none): on features of norm one the classifier needs steps some hundred times
# as large as $M$'s (they start at 10 and at 0.03).

# %% [markdown]
# ## An episode
#
# The first of the test episodes, which are the same for every method.

# %%
report.episode()

# %% [markdown]
# ## M before and after adaptation
#
# To this episode. Static NSN starts from the identity,

# %%
report.adaptation("static")

# %% [markdown]
# meta-learned static NSN from the start that equation (7) has learned. Validation classes choose among its states;
# where they chose the one before the training, the verdicts below say so, and what is shown starts from $I$ too.

# %%
report.adaptation("meta_static")

# %% [markdown]
# ## Accuracy against the number of shots
#
# Tested with 1, 5 and 10 labelled images a class; methods that train on episodes trained with five. Shown is each
# method's first stored training, with intervals over its test episodes. That is seed 0 but where this seed has not been
# run; training and episodes are others then.

# %%
report.shots()

# %% [markdown]
# ## Accuracy against the number of gradient steps
#
# For the methods that take steps at test time, over a part of the episodes; of the first trainings again. Steps are of
# gradient descent but in two: LEO's are of its latent codes, five steps of the weights follow each time, and those of
# discriminative k-shot are L-BFGS's. Baseline++ steps on four images at a time, and 700 times in all: these are its
# first.

# %%
report.steps()

# %% [markdown]
# A method's own number of steps may lie beyond the axis, whose curve then shows the first of them only; and curves may
# lie on one another. Which they are:

# %%
curves, own, labels = {}, {}, {}
for row in report.table.rows:
    found = next((record["result"].get("steps") for record in row.finished.values()), None)
    usual = METHODS[row.method.model].defaults()
    if found and "steps" in usual:
        labels[row.method.key] = row.method.label
        curves[row.method.key] = {int(count): pair[0] for count, pair in found.items()}
        own[row.method.key] = report.profile.run(row.method, row.slot, 0).options.get("steps", usual["steps"])
last = max((max(curve) for curve in curves.values()), default=0)
longer = [f"{labels[key]} {count}" for key, count in own.items() if count > last]
sentences = [f"By their own rule these take more steps than the axis' {last}: {'; '.join(longer)}."] if longer else []
static = curves.get("static", {})
others = {key: curve for key, curve in curves.items() if key != "static" and curve.keys() == static.keys()}
near = [labels[key] for key, curve in others.items() if max(abs(curve[n] - static[n]) for n in static) < 1]
sentences += [f"Within a point of {labels['static']}'s at every number of steps: {'; '.join(near)}."] if near else []
text(" ".join(sentences) or "No such curve is stored.")

# %% [markdown]
# ## Paper and ours
#
# With fewer than three trainings the interval is over test episodes, as in the paper: it says how well the accuracy of
# these networks is known, not how much another training would change it. From three on it is over trainings; the table
# names the unit. The two tell different things, and their widths cannot be compared.
#
# *Published* are, where the data are CIFAR-FS, the values of the same methods that Bertinetto et al. (ICLR 2019) quote
# for a CNN-4, as a check that the competitors are not handicapped here.

# %%
report.accuracies()

# %%
report.accuracy_chart()

# %% [markdown]
# ## What sets dynamic NSN apart from ProtoNet
#
# Dynamic NSN differs from ProtoNet in four things at once: it is trained to tell all base classes apart and not on
# episodes, its classifier is retrained for every task, its predictors make it larger, and its similarity depends on the
# input. Two rows that the paper does not have set the first three aside: a plain CNN-4 with the same training and
# classifier, and one that also has as many parameters. Differences are the table's, with the intervals that decided.

# %%
report.controls()

# %% [markdown]
# ## What moving M brings to static NSN
#
# Its control takes the same gradient steps on the same features, at the same rate, with $M$ held at $I$.

# %%
report.moving()

# %% [markdown]
# ## Verdict
#
# A difference is between the same episodes or, from three trainings on, the same seeds, and positive where it is as the
# paper claims. The rule is written down in `reproduce/verdicts/statistics.py`.

# %%
report.claims()

# %% [markdown]
# ## In words

# %%
report.answer()
