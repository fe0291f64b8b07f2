# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Margins
#
# **Statement.** On separable data the loss has no minimum; gradient flow runs to infinity in some direction. The
# paper quotes that for deep linear networks this is the direction of maximum margin (Ji and Telgarsky; Gunasekar
# et al. 2018). Which margin depends on the structure of $M$.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np

from theory import convex
from theory.claims import margins
from theory.figures import panels, show, show_ledger

# %% [markdown]
# ## Derivation
#
# $w=M^Tw'$ is homogeneous of degree two in $\theta=(w',M)$. With $L=\sum_ie^{-y_iw^Tx_i}$ the flow with time
# rescaled by $1/L$ is gradient *ascent* on $-\log L$,
#
# $$ \frac{d\theta}{d\tau}=-\nabla_\theta\log L=\sum_ip_i\,\nabla_\theta(y_iw^Tx_i),\qquad
#    p_i\propto e^{-y_iw^Tx_i}. $$
#
# Its path is the same, but $\lVert\theta\rVert^2$ grows exponentially in $\tau$ where it grew like $\log t$:
# margins that would need time $e^{1000}$ are reached. $L$ itself underflows, so everything is computed from $\log
# L$. Limit directions satisfy the optimality (KKT) conditions of $\min\lVert\theta\rVert^2$ subject to margins $\ge1$.
# For unconstrained $M$, $\min\lVert w'\rVert^2+\lVert M\rVert_F^2=2\lVert w\rVert_2$: maximum $\ell_2$ margin.
# For diagonal $M$, $\min\sum w_j'^2+\mu_j^2=2\lVert w\rVert_1$: maximum $\ell_1$ margin. The problem in $\theta$ is not
# convex, and its KKT points need not be its minimisers. That the limits here are those of the convex problems in $w$ is
# a theorem of its own (Gunasekar, Lee, Soudry and Srebro 2018, on fully connected and on diagonal linear networks).
#
# ## Experiment

# %%
# The first seed whose l1 and l2 directions are at least 10 degrees apart.
rng = np.random.default_rng(margins.distinct_seeds(1)[0])
problem = margins.separable_data(rng)
free, diagonal = margins.small_starts(problem, rng)
paths = {
    "unconstrained M": margins.margin_path(problem, free),
    "diagonal M": margins.margin_path(problem, diagonal),
}
figure, (left, right) = panels(2)
for axis, norm in ((left, "l2"), (right, "l1")):
    for (name, path), style in zip(paths.items(), ("o-", "s--")):
        axis.plot(-path.levels, getattr(path, norm), style, markersize=4, label=name)
    axis.axhline(1, color="gray", linewidth=1)
    axis.set(xscale="log", xlabel=r"$\log(1/L)$", ylabel=f"{norm} margin / maximum {norm} margin")
left.legend(fontsize=8)
for name, path in paths.items():
    print(f"{name}: l2 ratio {path.l2[-1]:.5f}, l1 ratio {path.l1[-1]:.5f} at log L = {path.levels[-1]:.0f}")
show(figure)

# %% [markdown]
# ## A picture in the plane
#
# Two inputs, so that the directions can be drawn: both flows from the same start, and the two optimal directions. The
# axis, $\log(1/L)$, is logarithmic, so that the curves begin where $L$ has fallen below 1; the direction of the start,
# where $L$ is larger, is dotted.

# %%
seed = margins.distinct_seeds(1, n=2, samples=9)[0]
flat = margins.separable_data(np.random.default_rng(seed), n=2, count=9)
best = {norm: convex.maximum_margin(flat.signed, norm)[0] for norm in ("l2", "l1")}
free, diagonal = margins.small_starts(flat, np.random.default_rng(3))
figure, (left, right) = panels(2, 4.2, 3.8)
signs = flat.labels > 0
left.plot(*flat.X[:, signs], "o", color="#0072B2", label="+1")
left.plot(*flat.X[:, ~signs], "s", color="#D55E00", label="-1")
for (norm, direction), style in zip(best.items(), ("-", "--")):
    unit = direction / np.linalg.norm(direction)
    line = np.outer(np.array([-unit[1], unit[0]]), [-3, 3])
    left.plot(*line, style, color="k", linewidth=1, label=f"maximum {norm} margin")
left.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-3, 3), ylim=(-3, 3), title="Data and separating lines")
left.legend(fontsize=7)
goals = {norm: np.degrees(np.arctan2(direction[1], direction[0])) for norm, direction in best.items()}
goals["l1"] -= 360 * np.round((goals["l1"] - goals["l2"]) / 360)
for (name, start), style in zip((("unconstrained M", free), ("diagonal M", diagonal)), ("o-", "s--")):
    path = margins.margin_path(flat, start)
    angle = np.degrees(np.unwrap(np.arctan2(path.directions[:, 1], path.directions[:, 0])))
    angle -= 360 * np.round((angle[-1] - goals["l2"]) / 360)  # the turn on which the directions are drawn
    right.plot(-path.levels, angle, style, markersize=4, label=name)
for angle, style in zip(goals.values(), ("-", "--")):
    right.axhline(angle, color="k", linestyle=style, linewidth=1)
(begun,) = np.atleast_2d(free.weight(free.initial)[:, 0])
started = np.degrees(np.arctan2(begun[1], begun[0]))
started -= 360 * np.round((started - goals["l2"]) / 360)
right.axhline(started, color="gray", linestyle=":", linewidth=1, label="start of both")
right.set(
    xscale="log",
    xlabel=r"$\log(1/L)$",
    ylabel="direction of w (degrees)",
    title="Black: maximum l2 (line), l1 (dashed)",
)
right.legend(fontsize=8)
show(figure)

# %% [markdown]
# ## Alignment
#
# What tells the factorised flow from $w'$ alone, which would reach the same direction, is that the factors align: $M$
# loses all its singular values but one, whose direction is that of $w'$. The imbalance $w'w'^T-MM^T$ stays constant
# while $\sigma_1$ grows with the margin, $\sigma_1^2\approx\lVert w\rVert\propto\log(1/L)$, so
# $\sigma_2/\sigma_1\propto\log(1/L)^{-1/2}$.

# %%
free, _ = margins.small_starts(problem, np.random.default_rng(3))
path = margins.margin_path(problem, free)
spread, off = margins.alignment(free, path.states)
late = path.levels <= -1
figure, (left, right) = panels(2)
left.loglog(-path.levels[late], spread[late], "o-", label=r"$\sigma_2/\sigma_1$ of M")
left.loglog(-path.levels[late], spread[-1] * np.sqrt(path.levels[-1] / path.levels[late]), "k--", label="slope -1/2")
right.loglog(-path.levels[late], np.maximum(off[late], 1e-16), "s-", color="#D55E00")
left.set(xlabel=r"$\log(1/L)$", ylabel="ratio", title="M becomes rank one")
right.set(xlabel=r"$\log(1/L)$", ylabel=r"$1-|\langle u_1,w'\rangle|/\Vert w'\Vert$", title="and points along w'")
left.legend()
show(figure)

# %% [markdown]
# ## Verdict

# %%
show_ledger([15, 22], profile, out, results)
