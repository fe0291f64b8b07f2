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

# %% [markdown]
# ## Experiment
#
# Dynamic NSN-9 of width 8 on the handwritten digits, one seed, the same recipe and budget for all. A training has
# diverged when its loss is no longer finite or is far beyond chance (it is then stopped), or when its test loss is not
# finite at the end.

# %%
from reproduce.show.report import Report, show, text
from reproduce.studies import predictor_outputs as heads

outcomes = [heads.run(label) for label in heads.PREDICTORS]

# %%
show(heads.curves(outcomes))

# %%
text(heads.markdown(outcomes))

# %% [markdown]
# ## Verdict

# %%
found = {outcome.label: outcome for outcome in outcomes}
trivial = found["CNN, trivial"]
sane = [o.label for o in outcomes if o.test_error is not None and o.test_error < 50]
bounded = [o for o in outcomes if o is not trivial and o.label not in sane]
against = ", ".join(f"{o.label} ({o.divergence or f'{o.test_error:.1f} %'})" for o in bounded)
if trivial.divergence or trivial.test_error is None:
    trivially = "diverges here too"
elif trivial.test_error > 80:
    trivially = f"does not diverge here, but does not converge either ({trivial.test_error:.1f} % error)"
else:
    trivially = f"converges in this small setting ({trivial.test_error:.1f} % error)"
text(
    f"The trivially applied CNN {trivially}. This is the reading with the identity and small start scales. "
    f"{heads.other_reading(Report(1, profile, results).table)} "
    f"Below 50 % error after this budget: {'; '.join(sane) or 'none'}. "
    f"{f'Not so, though normalised or bounded: {against}. ' if against else ''}"
    "One seed on small images: an observation, not a measurement of the paper's claim; Table 1 has the runs."
)
