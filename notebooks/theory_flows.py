# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # The flows of equation (6)
#
# **Statement.** In linear regression $L(W)=\tfrac12\sum_i\lVert y_i-W^TX_i\rVert^2$ the paper replaces $W$ by
# $M^TW'$ and compares gradient descent on $W$ with gradient descent on $(W', M)$. With an infinitesimal step both
# become differential equations. This notebook derives them, integrates them, and checks every formula against
# numbers that do not use it.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np
from scipy.integrate import solve_ivp

from theory import Factorised, LinearRegression, Standard, closed_forms, integrate
from theory.figures import panels, show, show_ledger
from theory.flows import lambda_balanced
from theory.trajectory import ended

# %% [markdown]
# ## Derivation
#
# Write $r_i=y_i-W^TX_i$ and $S=\sum_iX_ir_i^T=-\nabla L(W)$. The standard flow is $\dot W=S$. For
# $L(W',M)=\tfrac12\sum_i\lVert y_i-W'^TMX_i\rVert^2$ a small change gives
#
# $$ dL=-\sum_i r_i^T\,(dW'^TM+W'^TdM)\,X_i
#      =-\langle dW',\,M S\rangle-\langle dM,\;W'S^T\rangle , $$
#
# so that $\dot W'=MS$ and $\dot M=W'S^T$. The effective weight $W=M^TW'$ therefore moves as
#
# $$ \dot W=\dot M^TW'+M^T\dot W'=S\,W'^TW'+M^TM\,S. $$
#
# In our copy of the paper the transposes of equation (6) are illegible. The derivation says $M^TM$; the other
# order, $MM^T$, is tried below as well. Nothing is claimed about what the paper prints.
#
# ## Experiment 1: both flows, integrated by scipy
#
# Below, `solve_ivp` integrates $(W', M)$ and $W$ directly from the two definitions, without this package's
# integrator. From the dense path of $W(t)=M^TW'$ we take a finite difference (fourth order), and compare it with
# the two candidate right-hand sides at the same times.

# %%
rng = np.random.default_rng(0)
n, N, m = 5, 4, 3
X, Y = rng.standard_normal((n, N)), rng.standard_normal((m, N))
kernel0, similarity0 = 0.6 * rng.standard_normal((n, m)), 0.6 * rng.standard_normal((n, n))


def descent(W):
    return X @ (Y - W.T @ X).T


def factorised(_, state):
    kernel, similarity = state[: n * m].reshape(n, m), state[n * m :].reshape(n, n)
    S = descent(similarity.T @ kernel)
    return np.concatenate([(similarity @ S).ravel(), (kernel @ S.T).ravel()])


def standard(_, state):
    return descent(state.reshape(n, m)).ravel()


options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-13}
step, centres = 1e-3, np.linspace(0.02, 1.5, 75)
times = np.unique(np.concatenate([centres + k * step for k in (-2, -1, 0, 1, 2)]))
nsl = solve_ivp(factorised, (0, 2), np.concatenate([kernel0.ravel(), similarity0.ravel()]), t_eval=times, **options)
plain = solve_ivp(standard, (0, 2), (similarity0.T @ kernel0).ravel(), t_eval=times, **options)
assert nsl.success, nsl.message
assert plain.success, plain.message


def at(solution, t):
    return solution.y[:, np.argmin(np.abs(solution.t - t))]


def effective(state):
    return state[n * m :].reshape(n, n).T @ state[: n * m].reshape(n, m)


rows = []
for t in centres:
    state = at(nsl, t)
    kernel, M = state[: n * m].reshape(n, m), state[n * m :].reshape(n, n)
    S = descent(M.T @ kernel)
    around = [effective(at(nsl, t + k * step)) for k in (-2, -1, 1, 2)]
    slope = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * step)
    right = M.T @ M @ S + S @ kernel.T @ kernel
    wrong = M @ M.T @ S + S @ kernel.T @ kernel
    around = [at(plain, t + k * step) for k in (-2, -1, 1, 2)]
    straight = (around[0] - 8 * around[1] + 8 * around[2] - around[3]) / (12 * step)
    S0 = descent(at(plain, t).reshape(n, m))
    rows.append(
        [
            np.linalg.norm(slope - right) / np.linalg.norm(slope),
            np.linalg.norm(slope - wrong) / np.linalg.norm(slope),
            np.linalg.norm(straight.reshape(n, m) - S0) / np.linalg.norm(S0),
        ]
    )
residual = np.array(rows)
print(f"largest relative residual along the path: dW/dt - (M^T M S + S W'^T W'): {residual[:, 0].max():.1e}")
print(f"                                          dW/dt - (M M^T S + S W'^T W'): {residual[:, 1].max():.1e}")
print(f"                                          standard flow, dW/dt - S:      {residual[:, 2].max():.1e}")

# %%
figure, (left, right_axes) = panels(2)
left.semilogy(centres, residual[:, 0], label=r"$M^TM\,S+S\,W'^TW'$")
left.semilogy(centres, residual[:, 1], "--", label=r"$MM^T\,S+S\,W'^TW'$")
left.semilogy(centres, residual[:, 2], ":", label=r"standard flow, $S$")
left.set(xlabel="time t", ylabel="relative residual of dW/dt", title="Finite difference of W against both orders")
left.legend(fontsize=8)
losses = [0.5 * np.sum((Y - effective(at(nsl, t)).T @ X) ** 2) for t in centres]
straight_losses = [0.5 * np.sum((Y - at(plain, t).reshape(n, m).T @ X) ** 2) for t in centres]
right_axes.semilogy(centres, losses, label="(W', M)")
right_axes.semilogy(centres, straight_losses, "--", label="W")
right_axes.set(xlabel="time t", ylabel="loss L", title="Same start W, two dynamics")
right_axes.legend()
show(figure)

# %% [markdown]
# The residual of $M^TM$ is that of a finite difference; that of $MM^T$ is of order one: the order matters and
# $M^TM$ is right. (The ledger's claim 1 checks the same without any integration error: the loss is quadratic in
# every single parameter, so central differences of it are exact.)
#
# ## Two dynamics, not one at two speeds
#
# Both flows start from the same $W$ and both fit the data, but the curves differ even if time is ignored.

# %%
problem = LinearRegression(X, Y)
pair = Factorised(kernel0, similarity0)
ours = ended(integrate(problem, pair, stop_loss=1e-16))
theirs = ended(integrate(problem, Standard(similarity0.T @ kernel0), stop_loss=1e-16))
figure, (left, middle, right_axes) = panels(3, 3.6)
for path, style, name in ((ours, "-", "(W', M)"), (theirs, "--", "W")):
    left.plot(path.weights[:, 0, 0], path.weights[:, 1, 0], style, label=name)
    middle.plot(path.times[1:], path.singular_values[1:, 0], style, label=name)  # a logarithmic axis has no time 0
    for r in (1, 2):
        middle.plot(path.times[1:], path.singular_values[1:, r], style, color=middle.lines[-1].get_color())
left.plot(*ours.weights[0, :2, 0], "ko", label="common start")
left.set(xlabel="$W_{11}$", ylabel="$W_{21}$", title="Paths of two entries of W")
left.legend(fontsize=8)
middle.set(xscale="log", xlabel="time t", ylabel="singular values of W", title="Singular values")
middle.legend(fontsize=8)
drift = ours.parametrisation.invariants(ours.states)["W'W'^T - M M^T"]
kernel, similarity = pair.blocks(ours.states)
other = kernel @ kernel.swapaxes(-1, -2) - similarity.swapaxes(-1, -2) @ similarity
right_axes.loglog(ours.times[1:], np.abs(drift - drift[0]).max(axis=(1, 2))[1:], label=r"$W'W'^T-MM^T$")
right_axes.loglog(ours.times[1:], np.abs(other - other[0]).max(axis=(1, 2))[1:], "--", label=r"$W'W'^T-M^TM$")
right_axes.loglog(
    ours.times[1:],
    np.abs(ours.losses[0] - ours.losses - ours.dissipated)[1:],
    ":",
    label=r"$L(0)-L(t)-\int\Vert\dot\theta\Vert^2$",
)
right_axes.set(xlabel="time t", ylabel="largest drift", title="Conserved, and not")
right_axes.legend(fontsize=7)
show(figure)

# %% [markdown]
# ## What is conserved
#
# $\frac{d}{dt}W'W'^T=MSW'^T+W'S^TM^T=\frac{d}{dt}MM^T$, so $C=W'W'^T-MM^T$ is constant. With $\Pi$ the projector
# off the range of $X$, $\dot M\Pi=W'\sum_ir_iX_i^T\Pi=0$, so $M\Pi$ is constant. The loss lost is $\int\lVert
# MS\rVert^2+\lVert W'S^T\rVert^2$, by the chain rule.
#
# ## The closed form for $\lambda$-balanced starts
#
# If $C=\lambda I$, then with $P=W'^TW'$: $W^TW=W'^TMM^TW'=P^2-\lambda P$, hence on the row space of $W'$
# $P=\tfrac\lambda2+(\tfrac{\lambda^2}4+W^TW)^{1/2}$, and likewise
# $M^TM=-\tfrac\lambda2+(\tfrac{\lambda^2}4+WW^T)^{1/2}$: the flow closes in $W$. For $\lambda>0$,
# $W'W'^T=\lambda I+MM^T$ always has full rank. So the row space of $W'$ is that of $W$ as long as $W$, and with it $M$,
# has full rank. Such a start exists for $m\ge n$, and for $m>n$ the formula for $P$ needs the projector on the row
# space. (From a $W$ of lower rank different $\lambda$-balanced pairs go on differently.) The formulas hold for every
# shape. With whitened inputs, $XX^T=I$, $\Phi=XY^T$ and $Z=[M,W']$, the Gram matrix $G=Z^TZ$ obeys the Riccati equation
# $\dot G=FG+GF-G^2$, $F=\begin{pmatrix}-\lambda/2&\Phi\\\Phi^T&\lambda/2\end{pmatrix}$, with the solution
#
# $$ G(t)=e^{Ft}Z_0^T\Bigl[I+Z_0\int_0^te^{2F\tau}d\tau\,Z_0^T\Bigr]^{-1}Z_0e^{Ft}. $$

# %%
grid = np.linspace(0, 4, 41)
figure, axes = panels(4, 3.2)
for axis, (lam, outputs) in zip(axes, ((-0.7, 4), (0.0, 4), (0.5, 4), (0.5, 6))):
    white = LinearRegression(rng.standard_normal((4, 8)), rng.standard_normal((outputs, 8))).whitened()
    balanced = lambda_balanced(0.05 * rng.standard_normal((4, outputs)), lam, rng)
    path = integrate(white, balanced, times=grid)
    exact = closed_forms.whitened_riccati(white, *balanced.blocks(balanced.initial), lam, grid)
    axis.plot(grid, path.singular_values)
    axis.set_prop_cycle(None)
    axis.plot(grid[::3], np.linalg.svd(exact, compute_uv=False)[::3], "k.", markersize=4)
    gap = np.abs(exact - path.weights).max()
    axis.set(xlabel="time t", ylabel="singular values of W", title=rf"$\lambda={lam}$, m = {outputs}, error {gap:.0e}")
show(figure)

# %% [markdown]
# Lines: integrated flow. Dots: the closed form. Balanced starts ($\lambda=0$) learn one mode after the other; the
# singular values obey $\dot\sigma_r=\sqrt{\lambda^2+4\sigma_r^2}\;u_r^TSv_r$, slow near zero only if $\lambda$ is
# small.
#
# ## Flow and algorithm
#
# People run finite steps. One gradient step with rate $\eta$ changes $C$ by exactly
# $\eta^2(MSS^TM^T-W'S^TSW'^T)$, so gradient descent drifts at first order while the implicit midpoint rule conserves
# every quadratic invariant to rounding. Under momentum $C$ is not conserved (claim 28). Large steps are claim 29.
# Weight decay on both factors is a nuclear norm on $W$. Decay on $W'$ alone leaves nothing within the range of $X$; off
# it, where $XX^T$ has not full rank, it takes away, like $t^{-1/4}$, what the flow without decay keeps (claim 24). A
# learning rate of its own for $M$ is another start and another clock (claim 25).

# %% [markdown]
# ## Verdict
#
# The two flows are as derived, with $M^TM$ and not $MM^T$ in equation (6), and they differ in their paths, not only in
# speed. From $\lambda$-balanced starts the flow closes in $W$ and, with whitened inputs, has a closed form. What noise
# and large steps do to the conserved balance is measured and not gated.

# %%
show_ledger([1, 2, 3, 4, 5, 6, 16, 24, 25, 28, 29], profile, out, results)
