"""What can be computed of the related work without data: identities, orders of schemes, savings of shifts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import nsl
from nsl.layers.dynamic_filter import DynamicFilterConv2d, similarity_of_filters
from nsl.layers.ode import SCHEMES, ODEBlock
from nsl.layers.shapes import FewTaps
from nsl.layers.spherical import EPSILON

#: Steps whose errors are compared, and those of the reference.
STEPS, EXACT = (5, 10, 20, 40), 200
#: Largest relative difference of what is the same in float64.
LIMIT = 1e-10


def filter_gaps() -> dict[str, float]:
    """Largest differences, relative to the largest output, between dynamic filters and a dynamic NSN whose M computes
    them: M of all channels, one kernel's outer product, and the best block that the channels share."""
    torch.manual_seed(0)
    layer = DynamicFilterConv2d(3, 4, 3, padding=1, bias=False, hidden=8, dtype=torch.float64)
    weight = torch.randn(4, 27, dtype=torch.float64)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = layer(x)[0].flatten(1).t()  # [P, F]
        filters = layer.filters(x)[0].flatten(1, 2).flatten(2).permute(2, 0, 1)  # [P, F, CK]
        patches = layer.patches(x)[0].flatten(0, 1).flatten(1).t()  # [P, CK]

    def gap(similarity: Tensor) -> float:
        found = torch.einsum("fn,pnm,pm->pf", weight, similarity, patches)
        return float((found - wanted).abs().max() / wanted.abs().max())

    one = torch.einsum("n,pm->pnm", weight[0] / weight[0].square().sum(), filters[:, 0])
    first = torch.einsum("n,pnm,pm->p", weight[0], one, patches) - wanted[:, 0]
    blocks = torch.stack(
        [
            torch.block_diag(*[torch.linalg.lstsq(weight.view(12, 9), each.reshape(12, 9)).solution] * 3)
            for each in filters
        ]
    )
    return {
        "M of all channels, all kernels": gap(similarity_of_filters(weight, filters)),
        "M = w v^T / |w|^2, one kernel": float(first.abs().max() / wanted[:, 0].abs().max()),
        "best block shared by the channels": gap(blocks),
    }


def scheme_errors(smooth: bool = True) -> dict[str, tuple[int, list[int], list[float]]]:
    """By scheme: its order, numbers of steps, and the errors at time 1 of dx/dt = W^T M(x) x for a small dynamic layer.

    Its predictor is smooth (tanh), as the orders assume, or the SphereNet, whose ReLU has a kink.
    """
    torch.manual_seed(0)
    made: dict[str, Any] = {"predictor_options": {"hidden": 4}}
    if smooth:
        parts = (nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 9, 3, padding=1))
        made = {"predictor": nn.Sequential(*parts).double()}
    field = nsl.DynamicNSConv2d(2, 2, 3, padding=1, bias=False, dtype=torch.float64, **made)
    with torch.no_grad():
        for parameter in field.predictor.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
        exact = ODEBlock(field, "rk4", EXACT)(x)
        found = {}
        for name, (order, _) in SCHEMES.items():
            more = {"iterations": 16} if name.startswith("implicit") else {}
            errors = [float((ODEBlock(field, name, n, **more)(x) - exact).norm()) for n in STEPS]
            found[name] = (order, list(STEPS), errors)
    return found


def filters_agree() -> tuple[bool, str]:
    """Whether an unconstrained M computes generated filters (6)."""
    shared, one, block = filter_gaps().values()
    holds = max(shared, one) < LIMIT < 0.1 < block
    if not holds:
        return False, f"outputs differ by {shared:.0e}, {one:.0e} and {block:.0e} of the largest"
    words = "of the largest with an M of all channels, by more than 10 % with the best block that channels share"
    return True, f"outputs differ by less than {LIMIT:.0e} {words}"


def sphere_agrees() -> tuple[bool, str]:
    """Whether hyperspherical convolution is W^T M(X) X with M(X) = I / (|w| |X|) (3.1, 3.3)."""
    torch.manual_seed(0)
    layer = nsl.SphereConv2d(3, 4, 3, padding=1, dtype=torch.float64)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        found = layer(x)[0].flatten(1).t()  # [P, F]
        patches = nn.functional.unfold(x, 3, padding=1)[0].t()  # [P, CK]
        kernels = layer.weight.flatten(1)
        lengths = [(vectors.square().sum(1) + EPSILON).sqrt() for vectors in (kernels, patches)]
        similarity = torch.eye(27, dtype=torch.float64) / (lengths[0] * lengths[1][:, None])[..., None, None]
        wanted = torch.einsum("fn,pfnm,pm->pf", kernels, similarity, patches)
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    less = f"less than {LIMIT:.0e}" if gap < LIMIT else f"{gap:.0e}"
    return gap < LIMIT, f"outputs differ by {less} of the largest from those of M(X) = I / (|w| |X|)"


def attention_agrees() -> tuple[bool, str]:
    """Whether global neural similarity without the identity is softmax self-attention (6)."""
    torch.manual_seed(0)
    query, key, value = (nn.Conv2d(6, 6, 1, dtype=torch.float64) for _ in range(3))
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        found = nsl.GlobalSimilarity(query, key, value, residual=False, gamma=None)(x).flatten(2)
        rows = (part(x).flatten(2).transpose(1, 2) for part in (query, key, value))
        wanted = nn.functional.scaled_dot_product_attention(*rows).transpose(1, 2)
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    less = f"less than {LIMIT:.0e}" if gap < LIMIT else f"{gap:.0e}"
    return gap < LIMIT, f"outputs differ by {less} of the largest from those of softmax self-attention"


def folded_is_plain() -> tuple[bool, str]:
    """Whether static NSN-9, with any M, folds into a network of CNN-9's layers that computes the same (3.2)."""
    plain = nsl.create_model("cnn9")
    costs = (nsl.count_parameters(plain), nsl.count_multiply_adds(plain, 32))
    gaps, same = [], True
    for name in ("nsn9_static_diagonal", "nsn9_static_unconstrained"):
        torch.manual_seed(0)
        network = nsl.create_model(name).double().eval()
        with torch.no_grad():
            for part in (each for each in network.modules() if isinstance(each, nsl.NSConv2d)):
                for parameter in part.neural.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
            wanted, folded = network(x), nsl.fold(network)
            gaps.append(float((folded(x) - wanted).abs().max() / wanted.abs().max()))
        same &= (nsl.count_parameters(folded), nsl.count_multiply_adds(folded.float(), 32)) == costs
    holds = same and max(gaps) < LIMIT
    less = f"less than {LIMIT:.0e}" if max(gaps) < LIMIT else f"{max(gaps):.0e}"
    said = "are" if same else "are not"
    return holds, (
        f"with random M (DNS, UNS) outputs change by {less} of the largest, and parameters ({costs[0]:,}) and "
        f"multiply-adds ({costs[1]:,}) {said} the plain network's"
    )


def rankings_agree() -> tuple[bool, str]:
    """Whether a PSD similarity ranks kernels of equal length in M as the Mahalanobis distance does (3.1)."""
    torch.manual_seed(0)
    metric = nsl.Mahalanobis(9, dtype=torch.float64)
    nn.init.normal_(metric.factor)
    x, y = torch.randn(50, 9, dtype=torch.float64), torch.randn(12, 9, dtype=torch.float64)
    with torch.no_grad():
        y = y / metric(y, y).diagonal().sqrt()[:, None]
        same = metric(x, y).argsort(1, descending=True) == metric.squared_distance(x, y).argsort(1)
    count = int(same.all(1).sum())
    return count == len(x), f"{count} of {len(x)} vectors rank 12 kernels of equal length alike by both"


def orders_agree() -> tuple[bool, str]:
    """Whether layers with shared weights reach the orders of the schemes that they are (5.2)."""
    found = {name: (order, slope(errors)) for name, (order, _, errors) in scheme_errors().items()}
    said = ", ".join(f"{name.replace('_', ' ')} {value:.1f} (theory {order})" for name, (order, value) in found.items())
    return all(abs(value - order) < 0.15 for order, value in found.values()), f"measured orders: {said}"


@dataclass(frozen=True)
class Saving:
    """A 5x5 layer with shifts, folded: its taps, multiply-adds beside the convolution's, and seconds beside its."""

    name: str
    taps: int
    multiply_adds: float
    seconds: float


def _seconds(layers: list[nn.Module], x: Tensor, repeats: int) -> list[float]:
    """Seconds of one core for one call of each, the best of ``repeats`` turns; other work on the machine costs none."""
    best, threads = [float("inf")] * len(layers), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for turn in range(repeats + 1):
                for place, layer in enumerate(layers):
                    started = time.process_time()
                    layer(x)
                    if turn:  # the first one warms up
                        best[place] = min(best[place], time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best


def shift_savings(channels: int = 32, size: int = 32, repeats: int = 5) -> list[Saving]:
    """Layers with shifts of all taps and with at most few, folded and timed on one core of this machine."""
    torch.manual_seed(0)
    x = torch.randn(16, channels, size, size)
    plain = nn.Conv2d(channels, channels, 5, padding=2, bias=False)
    structures: dict[str, nsl.Structure] = {"shift": nsl.Shift()}
    structures |= {f"at most {n} tap{'s' if n > 1 else ''}": FewTaps(n) for n in (9, 5, 3, 1)}
    options: dict[str, Any] = {"padding": 2, "bias": False}
    made = [nsl.NSConv2d(channels, channels, 5, similarity=each, **options) for each in structures.values()]
    folded: list[Any] = [layer.fold() for layer in made]
    usual, *times = _seconds([plain, *folded], x, repeats)
    shares = [layer.pointwise.weight.numel() / plain.weight.numel() for layer in folded]
    return [
        Saving("convolution 5x5", 25, 1.0, 1.0),
        *(
            Saving(name, len(layer.taps), share, spent / usual)
            for name, layer, share, spent in zip(structures, folded, shares, times)
        ),
    ]


def network_savings(counts: tuple[int, ...] = (3, 1), width: int = 32, size: int = 32, repeats: int = 5) -> str:
    """CNN-9, and static NSN-9 of at most so many shifts a layer once folded, as a table: shifts, millions of
    multiply-adds and milliseconds an image, of one core of this machine."""
    torch.manual_seed(0)
    x = torch.randn(16, 3, size, size)
    networks: dict[str, nn.Module] = {"CNN-9": nsl.create_model("cnn9", width=width, image_size=size)}
    for count in counts:
        made = nsl.create_model("few_taps9", width=width, image_size=size, count=count)
        networks[f"at most {count} shift{'s' if count > 1 else ''} a layer, folded"] = nsl.fold(made)
    lines = ["| network | taps or shifts | multiply-adds, millions | ms an image |", "| --- | --- | --- | --- |"]
    times = _seconds([network.eval() for network in networks.values()], x, repeats)
    for (name, network), spent in zip(networks.items(), times):
        shifts = [len(layer.taps) for layer in network.modules() if isinstance(layer, nsl.ShiftConv2d)]
        cost = nsl.count_multiply_adds(network, size) / 1e6
        lines.append(f"| {name} | {sum(shifts) or 9 * 9} | {cost:.1f} | {1000 * spent / len(x):.2f} |")
    return "\n".join(lines)


def savings_markdown(found: list[Saving]) -> str:
    """The savings as a table."""
    lines = ["| folded layer | taps | multiply-adds | time |", "| --- | --- | --- | --- |"]
    lines += [f"| {s.name} | {s.taps} | {s.multiply_adds:.2f} | {s.seconds:.2f} |" for s in found]
    return "\n".join(lines)


def slope(errors: list[float]) -> float:
    """The order that the last two of `STEPS` show."""
    return math.log(errors[-2] / errors[-1]) / math.log(STEPS[-1] / STEPS[-2])
