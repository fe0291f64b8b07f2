# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Does a plain CNN diverge as a predictor?
#
# "Dynamic NSN can not converge if trivially applying CNN to the predictor, and we have to perform normalization (or
# sigmoid activation) to the predictor's final output to make it converge. In contrast, SphereNet can make dynamic NSN
# converge easily" (section 7.1). What happens with each of these outputs?

# %% tags=["parameters"]
profile = "demo"
results = "results"

# %% [markdown]
# ## Formula
#
# $$ M(X) = g(\mathrm{predictor}(X)) + I, \qquad
# g(r) = r,\quad \mathrm{BN}(r),\quad \sigma(r) - \tfrac12,\quad \tanh(r). $$
#
# The first is the trivial one; it has no batch norm anywhere in the predictor. SphereNet divides both convolutions by
# the norms of kernel and patch, which bounds every number by 1 and needs no $g$. Beside it: the same without the
# identity, $M(X) = \mathrm{predictor}(X)$, and the predictor of the authors' code, which ends in batch normalisation.
#
# Predictors start with the small scales of the authors' code, which are made for $I + {}$ a small prediction. Where the
# prediction is all of $M$, they make $M$ small: the convolutions' outputs fall below the $\varepsilon$ that batch norm
# adds to the variance, and the signal vanishes layer by layer. So without the identity there is a row with He's start
# too. The signal before any training, behind the first and the last of the nine dynamic layers:

# %%
import warnings

from reproduce.show.report import Report, show, text
from reproduce.studies import predictor_outputs as heads

lines = ["| Predictor | behind the first | behind the last |", "|---|---|---|"]
for label in (name for name in heads.PREDICTORS if name.startswith("SphereNet")):
    first, last = heads.signal(label)
    lines.append(f"| {label} | {first:.2g} | {last:.2g} |")
text("\n".join(["Standard deviation of the output of batch norm, whose weights are 1:", "", *lines]))

# %% [markdown]
# ## Experiment
#
# Dynamic NSN-9 of width 8 on the handwritten digits, one seed, the same recipe and budget for all. A training has
# diverged when its loss is no longer finite or is far beyond chance (it is then stopped), or when its test loss is not
# finite at the end. Where a training ends at the loss of guessing, `nsl` warns; who was warned about is printed here.

# %%
outcomes = []
for label in heads.PREDICTORS:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        outcomes.append(heads.run(label))
    for warning in told:
        guessing = "learned next to nothing" in str(warning.message)
        print(f"{label}: {'ends at the loss of guessing' if guessing else warning.message}")

# %%
show(heads.curves(outcomes))

# %%
text(heads.markdown(outcomes))

# %% [markdown]
# ## Verdict

# %%
found = {outcome.label: outcome for outcome in outcomes}
trivial = found["CNN, trivial"]
if trivial.test_error is None:
    trivially = f"diverges here too ({trivial.divergence})"
else:
    trivially = f"does not diverge here and ends at {trivial.test_error:.1f} % error, where guessing has 90 %"
ended = sorted((o for o in outcomes if o.test_error is not None), key=lambda o: o.test_error)
errors = "; ".join(f"{o.label} {o.test_error:.1f} %" for o in ended)
text(
    f"The trivially applied CNN {trivially}. This is the reading with the identity and small start scales. "
    f"{heads.other_reading(Report(1, profile, results).table)} "
    f"Errors after this budget, the lowest first: {errors}. "
    "One seed on small images: an observation, not a measurement of the paper's claim; Table 1 has the runs."
)
