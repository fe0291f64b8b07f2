# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Implicit bias: nuclear norm, hypentropy, depth
#
# **Statement.** Section 5.1 argues that learning $M$ and $W'$ together regularises implicitly, and cites matrix
# factorisation (minimum nuclear norm) and deep factorisation (low rank). Where can this be seen, and how strong
# is it?

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import itertools

import numpy as np

from theory import DiagonalSimilarity, convex, integrate, observables
from theory.batched import adaptive_flow
from theory.claims import bias, limits
from theory.claims.ledger import Settings
from theory.figures import panels, show, show_ledger
from theory.problems import random_completion
from theory.trajectory import ended

settings = Settings(quick=profile == "demo")

# %% [markdown]
# ## In the paper's own setting the bias cannot be seen
#
# **Claim.** From $M_0=sI$, $W'_0=0$ the factorised flow in linear regression ends at $W_*=(X^T)^+Y^T$ for every
# $s\neq0$. *Proof.* $\dot M=W'S^T$ and $\dot W'=MS$ with $S=\sum_iX_ir_i^T$ keep the columns of $W'$, and the rows and
# columns of $M-sI$, in the range of $X$ (they start there). So $\Pi W=\Pi M^TW'=s\,\Pi W'=0$ throughout, and
# $C=-s^2I$ gives $M^TM\succeq s^2I$, so the loss decreases exponentially. The limit is a least-squares solution
# in the range of $X$; there is only one. $\square$
#
# **Claim.** $W_*$ minimises *every* unitarily invariant norm among the solutions. *Proof.* Any other solution is
# $W_*+\Pi A$, and $(W_*+\Pi A)^T(W_*+\Pi A)=W_*^TW_*+A^T\Pi A\succeq W_*^TW_*$; by Weyl's inequality every
# singular value is at least that of $W_*$. $\square$
#
# So in multi-output regression, minimum nuclear norm and minimum Frobenius norm are the same point, and from this start
# a bias towards one cannot be told from the other. (From a generic small start the factorised flow keeps more off the
# range of $X$ than the standard one and usually ends with the *larger* nuclear norm: figures in claim 7.) We must go to
# sensing and completion.
#
# ## Diagonal M: the potential is known
#
# With one output and diagonal $M$, $\beta_j=\mu_jw'_j$ and $c_j=w_j'^2-\mu_j^2\neq0$ is constant, so
# $\dot\beta_j=(\mu_j^2+w_j'^2)S_j=\sqrt{c_j^2+4\beta_j^2}\,S_j$, that is
#
# $$ \frac{d}{dt}\operatorname{arcsinh}\frac{2\beta_j}{|c_j|}=2S_j,\qquad S=Xr\in\operatorname{range}X. $$
#
# These are the optimality conditions, among the fits, of the hypentropy (Ghai, Hazan and Singer 2020)
#
# $$ q_\alpha(\beta)=\sum_j\Bigl(\beta_j\operatorname{arcsinh}\frac{\beta_j}{2\alpha^2}
# -\sqrt{\beta_j^2+4\alpha^4}+2\alpha^2\Bigr), $$
#
# with $\alpha=s/2$ when $w'_0=0$ and $\mu_0=s$, the size of the start: then $|c_j|=4\alpha^2$. It is $\ell_2$-like for
# large $s$, $\ell_1$-like for small $s$.

# %%
problem = limits.sparse_regression(np.random.default_rng(5))
least, least_norm = convex.minimum_l1(problem.X, problem.Y[0])
figure, (left, right) = panels(2)
for scale in (3.0, 0.3, 0.03):
    path = integrate(problem, DiagonalSimilarity(np.zeros((10, 1)), np.full(10, scale)), rtol=1e-9, atol=1e-12)
    exact = convex.minimum_hypentropy(problem.X, problem.Y[0], scale / 2)
    line = left.plot(np.arange(1, 11), path.limit()[:, 0], "o", label=f"flow, s = {scale:g}")[0]
    left.plot(np.arange(1, 11), exact, "_", markersize=14, color=line.get_color())
left.plot(np.arange(1, 11), least, "k.", markersize=3, label="minimum l1")
left.set(xlabel="coordinate j", ylabel=r"$\beta_j$ at the limit", title="Limits; bars: dual Newton solution")
left.legend(fontsize=7)
alphas = np.geomspace(1, 1e-8, 25)
for seed in range(2 if settings.quick else 5):
    other = limits.sparse_regression(np.random.default_rng(800 + seed))
    base = convex.minimum_l1(other.X, other.Y[0])[1]
    norms = [np.abs(convex.minimum_hypentropy(other.X, other.Y[0], a)).sum() / base - 1 for a in alphas]
    right.loglog(alphas, np.maximum(norms, 1e-12), alpha=0.8)
right.loglog(alphas[1:], 0.2 / np.log(1 / alphas[1:]), "k--", label=r"$\propto 1/\log(1/\alpha)$")
right.set(
    xlabel=r"$\alpha=s/2$",
    ylabel=r"excess of the $\ell_1$ norm",
    title="How slowly l1 is approached",
    ylim=(1e-6, 2),
)
right.invert_xaxis()
right.legend(fontsize=8)
show(figure)

# %% [markdown]
# The general bound on the excess is $O(1/\log(1/\alpha))$ (dashed, constant arbitrary): very slow. Each line is
# one problem. The excess falls faster, as a power of $\alpha$: $2(1-\rho)$, with $\rho$ the largest inactive
# $|x_j^T\nu|$ of the dual solution $\nu$ ($x_j$: row $j$ of $X$), where that is unique (claim 8).
#
# ## Sensing: the symmetric commuting case
#
# Symmetric measurements that commute, and so have one orthonormal eigenbasis, reduce to the case above on the spectrum
# (claim 9): the nuclear norm tends to its minimum, but not monotonically, as one problem shows. Where they commute
# without being symmetric, it need not: in another problem of claim 9 the gap stays. That the limit $s\to0$ has minimum
# nuclear norm for every set of measurements is a conjecture about tied factors. It is false: see the notebook on the
# conjecture.

# %%
grid = np.geomspace(10, 1e-6, 40)
figure, axes = panels(2)
for seed in range(900, 906):
    axes[0].loglog(grid, limits.spectral_gaps(seed, tuple(grid)), alpha=0.7)
axes[0].set(title="Commuting sensing: six problems", ylim=(1e-6, 2))
axes[1].semilogx(grid, limits.spectral_gaps(limits.RISING_SEED, tuple(grid)), "k-")
sensing, _, spectra = limits.commuting_sensing(np.random.default_rng(limits.RISING_SEED))
for scale in (1.0, 0.3, 0.1):
    norm, _ = limits.commuting_limit(limits.RISING_SEED, scale)
    axes[1].semilogx(scale, norm / convex.minimum_l1(spectra, sensing.y)[1] - 1, "o", color="#D55E00")
axes[1].set(title=f"Seed {limits.RISING_SEED}: it rises on the way (circles: flows)", xlim=(1e-3, 10))
for axis in axes:
    axis.invert_xaxis()
    axis.set(xlabel="size s of the initialisation", ylabel="relative gap to the minimum nuclear norm")
show(figure)

# %% [markdown]
# One line on the left seems to level off. It goes on falling, but very slowly: a second fit, on other eigenvalues, has
# nearly the least norm, and the limit leaves it only as $s$ vanishes.

# %%
sensing, _, spectra = limits.commuting_sensing(np.random.default_rng(900))
least_norm = convex.minimum_l1(spectra, sensing.y)[1]
# The fits with as many eigenvalues as there are measurements: the corners, among which is the minimum.
corners = (np.linalg.solve(spectra[list(some)].T, sensing.y) for some in itertools.combinations(range(6), 3))
second = sorted(np.abs(corner).sum() / least_norm - 1 for corner in corners)[1]
slow = (1e-8, 1e-30, 1e-50)
gaps = ", ".join(f"{gap:.1e} at s = {s:g}" for s, gap in zip(slow, limits.spectral_gaps(900, slow)))
print(f"seed 900: relative gap {gaps}; that of the second fit: {second:.1e}")

# %% [markdown]
# ## Depth
#
# For $W=F_1\cdots F_N$ with balanced factors, $\dot\sigma_r=-N(\sigma_r^2)^{1-1/N}\langle\nabla
# L,u_rv_r^T\rangle$: small singular values stay small the longer, the deeper the product. Completion of a 24x24
# matrix of rank 2:

# %%
runs = bias.depth_runs([1100 + k for k in range(3 if settings.quick else 6)])
for run in runs:
    ended(run.end)
figure, (left, middle, right) = panels(3, 3.6)
depths = [run.depth for run in runs]
for axis, key, label in (
    (left, "effective_rank", "effective rank (target: 2)"),
    (middle, "test_error", "relative error on the whole matrix"),
    (right, "nuclear_norm", "nuclear norm / that of the target"),
):
    values = np.array([getattr(run, key) for run in runs])
    axis.plot(depths, values, "o", color="#56B4E9", markersize=4)
    axis.plot(depths, np.median(values, axis=1), "k-", label="median")
    axis.set(xlabel="depth N", ylabel=label, xticks=depths)
middle.set_yscale("log")
left.set_title(f"{len(runs[0].test_error)} seeds")
right.legend()
show(figure)

# %% [markdown]
# Rank and error fall from $N=1$ to 2 to 3, paired by problem; from 3 to 4 nothing can be claimed (claim 11). The
# nuclear norm of three factors lies *above* that of two although they recover better (claim 12): the nuclear norm, the
# only norm tried, does not capture what depth does. Singular values over time, depth 2 and 3, from one small start:

# %%
single, target = random_completion(12, 2, 90, [3])
figure, axes = panels(2)
for axis, depth in zip(axes, (2, 3)):
    flow = bias.gaussian_product(12, depth, 1e-3, [3])
    times, spectra, clock = [], [], 0.0
    for until in np.linspace(0.02, 1.5 if depth == 2 else 6.0, 40):
        end = adaptive_flow(single, flow, stop_loss=0.0, horizon=until - clock, rtol=1e-4, atol=1e-8)
        assert np.allclose(end.times, until - clock)  # at the time asked for, not out of steps
        flow, clock = flow.started(end.states), until
        times.append(until)
        spectra.append(observables.singular_values(end.weights)[0])
    axis.semilogy(times, np.maximum(spectra, 1e-6))
    axis.set(xlabel="time t", ylabel="singular values of W", title=f"depth {depth}", ylim=(1e-6, None))
show(figure)

# %% [markdown]
# ## Verdict
#
# In the paper's own regression the bias cannot be told from minimum norm. It can be seen where $M$ is diagonal, as
# hypentropy, and in sensing and completion, as low rank, the more so the deeper the factorisation up to three factors.
# That the nuclear norm is what becomes least is refuted; it does not capture what depth does either.

# %%
show_ledger([7, 8, 9, 10, 11, 12], profile, out, results)
