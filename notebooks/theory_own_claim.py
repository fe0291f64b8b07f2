# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Your own problem, factorisation and claim
#
# **Statement.** The ledger is open: a loss, a parametrisation and a claim of your own need a few lines each, and are
# checked like those of the paper, mutants included.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np
from IPython.display import Markdown

import theory

# %% [markdown]
# ## A claim in fifteen lines
#
# The decorator says what is claimed, by whom, and what counts as holding; the function measures. `mutants` names wrong
# dynamics (`theory.claims.mutants`) under which the gate must fail.


# %%
@theory.claim(
    id="never-below",
    statement="From M_0 = I, W'_0 = 0 no singular value of M falls below 1.",
    source="a reader: M M^T = I + W'W'^T",
    threshold="smallest singular value along the path > 1 - 1e-9",
    mutants=("preconditioned",),
)
def never_below(settings):
    rng = np.random.default_rng(0)
    problem = theory.LinearRegression(rng.standard_normal((4, 3)), rng.standard_normal((2, 3)))
    path = theory.integrate(problem, theory.Factorised(np.zeros((4, 2)), np.eye(4)))
    M = path.parametrisation.blocks(path.states)[1]
    smallest = np.linalg.svd(M, compute_uv=False).min()
    return theory.Finding(theory.verdict_of(smallest > 1 - 1e-9), {"smallest": smallest}, "one Gaussian regression.")


Markdown(theory.ledger_text(theory.check("never-below")))

# %% [markdown]
# The verdict is what is measured: if the claim fails, the ledger says so.
#
# ## A loss and a factorisation of your own
#
# A problem is `shape`, `loss` and `descent` (minus the gradient in $W$); a parametrisation is `weight`, `velocity` and
# `weight_velocity`. Here: a smooth absolute loss, and $W=M^TDW'$ with a fixed diagonal $D$.


# %%
class SmoothAbsolute(theory.Problem):
    def __init__(self, X, Y):
        self.X, self.Y, self.shape = X, Y, (len(X), len(Y))

    def loss(self, weight):
        r = self.Y - weight.swapaxes(-1, -2) @ self.X
        return (np.sqrt(1 + r**2) - 1).sum(axis=(-1, -2))

    def descent(self, weight):
        r = self.Y - weight.swapaxes(-1, -2) @ self.X
        return self.X @ (r / np.sqrt(1 + r**2)).swapaxes(-1, -2)


class Weighted(theory.Factorised):
    def __init__(self, W_prime0, M0, d):
        super().__init__(W_prime0, M0)
        self.D = np.diag(d)

    def weight(self, state):
        kernel, M = self.blocks(state)
        return M.swapaxes(-1, -2) @ self.D @ kernel

    def velocity(self, state, descent):
        kernel, M = self.blocks(state)
        return self.pack(self.D @ M @ descent, self.D @ kernel @ descent.swapaxes(-1, -2))

    def weight_velocity(self, state, descent):
        kernel, M = self.blocks(state)
        squared = self.D @ self.D
        left = M.swapaxes(-1, -2) @ squared @ M @ descent
        return left + descent @ kernel.swapaxes(-1, -2) @ squared @ kernel

    def invariants(self, state):
        kernel, M = self.blocks(state)
        C = kernel @ kernel.swapaxes(-1, -2) - M @ M.swapaxes(-1, -2)
        d = np.diag(self.D)  # entry (a, b) of C moves in proportion to d_a - d_b
        return {"W'W'^T - M M^T where d_a = d_b": C * np.equal.outer(d, d)}


rng = np.random.default_rng(1)
path = theory.integrate(
    SmoothAbsolute(rng.standard_normal((4, 3)), rng.standard_normal((2, 3))),
    Weighted(0.1 * rng.standard_normal((4, 2)), np.eye(4), [1.0, 2.0, 0.5, 1.0]),
)
lost = path.losses[0] - path.losses[-1]
gap = abs(lost - path.dissipated[-1]) / lost
drifts = path.invariants()

# %% [markdown]
# ## Verdict

# %%
Markdown(
    f"The flow {'converged' if path.converged else 'did not converge'}, to loss {path.losses[-1]:.1e}. What it lost "
    f"and what it dissipated differ by {gap:.0e} of it, and what is conserved moves by at most "
    f"{max(drifts.values()):.0e}: "
    + ("the two classes above are a right gradient flow." if gap < 1e-5 and max(drifts.values()) < 1e-5 else
       "one of the two classes above has a wrong derivative.")
)
