"""The dense definition, written out with loops: what every layer is compared with. Slow and obvious on purpose."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_neural_similarity_conv2d(
    x: Tensor,
    weight: Tensor,
    similarity: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """y[b,f,p] = vec(W_f)^T diag(M_s[p], ..., M_s[p]) vec(X_p), position by position (paper equations 1 and 2).

    x [B, C, H, W], weight [F, C / groups, kh, kw], similarity [B, K, K, Ho, Wo] or a mask [B, K, Ho, Wo].
    """
    if similarity.dim() == 4:
        similarity = torch.diag_embed(similarity.movedim(1, -1)).permute(0, 3, 4, 1, 2)
    batch, channels, height, width = x.shape
    filters, per_group, kh, kw = weight.shape
    padded = x.new_zeros(batch, channels, height + 2 * padding[0], width + 2 * padding[1])
    padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    ho, wo = similarity.shape[-2:]
    rows = []
    for i in range(ho):
        for j in range(wo):
            top, left = i * stride[0], j * stride[1]
            patch = padded[
                :,
                :,
                top : top + dilation[0] * (kh - 1) + 1 : dilation[0],
                left : left + dilation[1] * (kw - 1) + 1 : dilation[1],
            ]
            outputs = []
            for f in range(filters):
                first = f // (filters // groups) * per_group
                x_vec = patch[:, first : first + per_group].reshape(batch, -1)  # [B, (C / groups) K]
                w_vec = weight[f].reshape(-1)
                for_each_image = [
                    w_vec @ torch.block_diag(*[similarity[b, :, :, i, j]] * per_group) @ x_vec[b]
                    for b in range(batch)
                ]
                outputs.append(torch.stack(for_each_image))
            rows.append(torch.stack(outputs, 1))
    y = torch.stack(rows, -1).view(batch, filters, ho, wo)
    return y if bias is None else y + bias.view(1, -1, 1, 1)
