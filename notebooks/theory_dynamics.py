# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # ODEs and dynamical systems
#
# **Statement.** Section 5.2 relates NSL to differential equations in two ways: a residual NSL layer is a step of
# forward Euler, and a dynamic NSN is compared with the classic *dynamic neural unit*. Section 6 adds that a
# one-layer dynamic NSN is a quadratic function of its input.

# %% tags=["parameters"]
profile = "demo"  # "demo": fewer seeds
results = "results"
out = None  # folder of the ledger; None: results/theory

# %%
import numpy as np
import torch

from theory import dynamics
from theory.claims import systems
from theory.figures import panels, show, show_ledger

torch.set_num_threads(1)

# %% [markdown]
# ## A residual layer is an Euler step
#
# The paper: $f=W^T(W+M)X=x+W^TMX$ where $W^TW=\operatorname{Diag}(0,\dots,1,\dots,0)$, the 1 at the patch's
# centre. For $W$ to have the size of $M$ ($K\times K$) and this Gram matrix, $W=qe_c^T$ with $\lVert q\rVert=1$.
# So: take an NSL layer with kernel $q$ and similarity $qe_c^T+hM$. Its output is
#
# $$ q^T(qe_c^T+hM)X=x_c+h\,q^TMX, $$
#
# one forward Euler step of length $h$ for $\dot x=g(x)$, $g(x)_p=q^TMX_p$. A static $M$ makes $g$ linear, and $L$
# layers with $h=T/L$ must converge at first order to a matrix exponential; a dynamic $M_\theta(X)$ makes $g$
# nonlinear.

# %%
depths = [4, 8, 16, 32, 64, 128]
static, dynamic = systems.refinement_errors(1700, depths)
figure, (axis,) = panels(1, 4.6, 3.4)
axis.loglog(depths, static, "o-", label="static (exact: matrix exponential)")
axis.loglog(depths, dynamic, "s--", label="dynamic (reference: RK4)")
axis.loglog(depths, 2 * static[0] * depths[0] / np.array(depths), "k:", label="slope -1")
axis.set(xlabel="layers L of step 1/L", ylabel="largest error at time 1", title="Depth refines the time step")
axis.legend(fontsize=8)
print(f"layer against x + h conv(x, M^T q): relative error {systems.residual_identity(1700):.1e}")
show(figure)

# %% [markdown]
# ## The dynamic neural unit
#
# $\dot x=-ax+\tanh(wx+u)$, $y=g(x)$. For $w\le a$ there is one equilibrium; for $w>a$ and small $u$ three, the
# outer two stable: the unit remembers. Equilibria come from the zeros of the right-hand side, stability from its
# slope.

# %%
figure, (left, middle, right) = panels(3, 3.6)
x = np.linspace(-1.6, 1.6, 400)
for weight, style in ((0.5, "--"), (2.0, "-")):
    unit = dynamics.DynamicNeuralUnit(weight=weight)
    left.plot(x, unit.velocity(x, 0.0), style, label=f"w = {weight}")
    colour = left.lines[-1].get_color()
    for point, stable in unit.equilibria(0.0):
        size = 9 if weight < 1 else 5  # both have an equilibrium at 0
        left.plot(point, 0, "o", color=colour, markersize=size, fillstyle="full" if stable else "none")
left.axhline(0, color="gray", linewidth=1)
left.set(xlabel="state x", ylabel="dx/dt", title="u = 0; full circles: stable")
left.legend()
unit = dynamics.DynamicNeuralUnit()
for drive in np.linspace(-1, 1, 81):
    for point, stable in unit.equilibria(drive):
        middle.plot(drive, point, ".", markersize=3, color="#0072B2" if stable else "#D55E00")
middle.set(xlabel="input u", ylabel="equilibria", title="w = 2: blue stable, orange not")
drives = list(np.concatenate([np.linspace(0, 1, 11), np.linspace(1, -1, 21), np.linspace(-1, 0, 11)]))
right.plot(drives, unit.respond(0.1, drives, time=20.0), ".-", color="#009E73")
right.set(xlabel="input u, swept up, down, and back", ylabel="state x", title="Hysteresis")
show(figure)

# %% [markdown]
# A dynamic NSN has no state, by definition: its "dynamics" is in the weights, which depend on the present input only.

# %%
print(f"dynamic neural unit, input 0 after input +1 and after -1: states {systems.memory():.3f} apart")

# %% [markdown]
# ## Order in the input
#
# With a linear predictor $M(X)=\mathcal P X+I$ the output $W^TM(X)X$ of equation (3) is quadratic in $X$ (plus a
# linear term from the $I$ that section 3.3.1 adds). Along a line $X+tD$ a quadratic has vanishing third differences, a
# linear map vanishing second ones.

# %%
for name, layer in systems.layers_by_order(0).items():
    second, third, _ = systems.order_in_input(layer, 0)
    print(f"{name:20s} relative second difference {second:8.1e}, third {third:8.1e}")

# %% [markdown]
# One output along such a line, less the chord between its ends: zero where the layer is linear, a parabola where it is
# quadratic.

# %%
figure, (left, right) = panels(2, 4.4)
generator = torch.Generator().manual_seed(0)
base, line = torch.randn(2, 1, 2, 6, 6, generator=generator, dtype=torch.float64)
steps = np.linspace(-2, 2, 41)
for (name, layer), style in zip(systems.layers_by_order(0).items(), ("-", "--", "-.")):
    with torch.no_grad():
        values = np.array([float(layer(base + t * line)[0, 0, 2, 2]) for t in steps])
    chord = np.interp(steps, steps[[0, -1]], values[[0, -1]])
    deviation = (values - chord) / np.abs(values).max()
    left.plot(steps, deviation, style, label=name)
    right.plot(steps, deviation, style)
left.set(xlabel="t", ylabel="deviation from the chord\nover the largest output", title="Linear, quadratic, neither")
left.legend(fontsize=8)
closer = 1.3 * np.abs(deviation).max()  # of the last, SphereNet's
right.set(xlabel="t", ylim=(-closer, closer), title="The same, closer")
show(figure)

# %% [markdown]
# ## Verdict

# %%
show_ledger([17, 18, 27], profile, out, results)
