"""Hypernetworks: kernels written by one small network from an embedding of the layer (paper 2 and 3.3.1, ref. 18).

Source: Ha, Dai, Le, HyperNetworks, ICLR 2017. Static (their section 3.1): a kernel of C x F channels is tiled by
blocks; each block has an embedding z and all layers share the two linear maps that turn z into the block. Dynamic:
theirs is recurrent, where the weights are scaled anew at every step; for a convolution, our choice, the embeddings are
scaled by numbers read off the image, z * (1 + V mean(x)). That has no bound, and through nine layers, without
weight decay on generator and embeddings, it ran away on CIFAR-10; z * (1 + tanh(V mean(x))) has one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.precision import exactly
from nsl.layers.inputs import check_maps
from nsl.layers.similarity import random_state_kept
from nsl.layers.static import keep_frozen
from nsl.layers.window import Window


class KernelGenerator(nn.Module):
    """The shared network: an embedding to a block of a kernel, by two linear maps (Ha et al., equation 2).

        a_i = W_i z + B_i   (i = 1 .. block inputs),      block[:, i, :] = W_out a_i + B_out

    Args:
        kernel_size: of all layers that it serves.
        block: (outputs, inputs) of a block, or one number for both.
        embedding: length of z.
        hidden: length of a_i; None: as z.
        decay: the weights and all embeddings are named to the optimiser as kernels are (attribute `decayed`, which
            `nsl.training.optimiser.parameter_groups` reads), so that weight decay reaches them.

    Parameters:
        weight_in [inputs, hidden, embedding], bias_in [inputs, hidden], weight_out [outputs K, hidden], bias_out
        [outputs K].

    Shapes: [..., embedding] to [..., outputs, inputs, K].

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int],
        block: int | tuple[int, int] = 16,
        embedding: int = 64,
        hidden: int | None = None,
        decay: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.decayed = ("weight_in", "weight_out") if decay else ()
        self.block = (block, block) if isinstance(block, int) else block
        self.embedding, self.hidden = embedding, embedding if hidden is None else hidden
        if min(*self.block, *kernel_size, embedding, self.hidden) < 1:
            raise ValueError(
                f"kernel generator: all sizes must be positive, got block {self.block}, kernel_size {kernel_size}, "
                f"embedding {embedding}, hidden {self.hidden}"
            )
        outputs, inputs = self.block
        taps = kernel_size[0] * kernel_size[1]

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight_in, self.bias_in = empty(inputs, self.hidden, embedding), empty(inputs, self.hidden)
        self.weight_out, self.bias_out = empty(outputs * taps, self.hidden), empty(outputs * taps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Variances that give block entries of variance 1 from embeddings of variance 1; biases zero."""
        nn.init.normal_(self.weight_in, std=1 / math.sqrt(self.embedding))
        nn.init.normal_(self.weight_out, std=1 / math.sqrt(self.hidden))
        nn.init.zeros_(self.bias_in)
        nn.init.zeros_(self.bias_out)

    def multiply_adds(self, embedding: Tensor, output: Tensor) -> int:
        """Of all blocks that are written."""
        blocks = output.numel() // (self.block[0] * self.block[1] * self.kernel_size[0] * self.kernel_size[1])
        return blocks * (self.weight_in.numel() + self.block[1] * self.weight_out.numel())

    def extra_repr(self) -> str:
        text = f"block={self.block}, kernel_size={self.kernel_size}, embedding={self.embedding}, hidden={self.hidden}"
        return text if self.decayed else f"{text}, decay=False"

    def forward(self, embedding: Tensor, scale: float = 1.0) -> Tensor:
        """[..., embedding] to blocks [..., outputs, inputs, K], times `scale`."""
        inner = torch.einsum("ihz,...z->...ih", self.weight_in, embedding) + self.bias_in
        # The last map being linear, its small input is scaled and not all that it writes.
        numbers = F.linear(scale * inner, self.weight_out, scale * self.bias_out)  # [..., inputs, outputs K]
        return numbers.unflatten(-1, (self.block[0], -1)).transpose(-3, -2)


class HyperConv2d(Window):
    """A convolution whose kernel a shared generator writes from this layer's embeddings.

        y = conv(x, s K(z)),    dynamic: y = conv(x, s K(z * (1 + V mean_p x)))    with s = sqrt(2 / (C K)), He's scale
                                bounded: y = conv(x, s K(z * (1 + tanh(V mean_p x))))

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, device, dtype: as in
            `torch.nn.Conv2d`; zero padding, one group.
        generator: shared among the layers; its block must divide the channels. None: one of the layer's own.
        dynamic: scale the embeddings by the input, one kernel an image.
        bounded: by factors from 0 to 2, which keeps deep networks from running away; with `dynamic` only.

    Parameters:
        embedding [F / outputs, C / inputs, Z], generator.*, scaling.weight [Z, C] with dynamic (zero at the start:
        the network starts as the static one), bias [F].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: the generator's block does not divide the channels, or it is for another kernel size; `bounded`
            without `dynamic`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        generator: KernelGenerator | None = None,
        dynamic: bool = False,
        bounded: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        shares = generator is not None
        if generator is None:
            generator = KernelGenerator(self.kernel_size, (out_channels, in_channels), device=device, dtype=dtype)
        outputs, inputs = generator.block
        if generator.kernel_size != self.kernel_size or out_channels % outputs or in_channels % inputs:
            raise ValueError(
                f"generator writes blocks of {outputs} x {inputs} channels and {generator.kernel_size} taps, which do "
                f"not tile a kernel of {out_channels} x {in_channels} and {self.kernel_size}"
            )
        if bounded and not dynamic:
            raise ValueError("bounded says how the input scales the embeddings: it needs dynamic=True")
        self.generator, self.dynamic, self.bounded, self.shares = generator, dynamic, bounded, shares
        self.decayed = ("embedding",) if generator.decayed else ()
        shape = (out_channels // outputs, in_channels // inputs, generator.embedding)
        self.embedding = nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))
        self.scaling = (
            nn.Linear(in_channels, generator.embedding, bias=False, device=device, dtype=dtype) if dynamic else None
        )
        self.add_bias(bias, device=device, dtype=dtype)
        self._start()

    def reset_parameters(self) -> None:
        """Embeddings of variance 1; scaling and bias zero; a generator of the layer's own to its start. A shared one
        keeps its numbers."""
        if not self.shares:
            self.generator.reset_parameters()
        self._start()

    def _start(self) -> None:
        nn.init.normal_(self.embedding)
        if self.scaling is not None:
            nn.init.zeros_(self.scaling.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def kernel(self, input: Tensor | None = None) -> Tensor:
        """The kernel [F, C, K]; of a dynamic layer the kernels of these images [B, F, C, K].

        Raises:
            ValueError: a dynamic layer was given no input, or other ones.
        """
        embedding = self.embedding
        if self.scaling is not None:
            if input is None:
                raise ValueError("a dynamic hypernetwork's kernel depends on the input: give it")
            check_maps(input, self.in_channels, batched=True)
            read = self.scaling(input.mean((2, 3)))
            embedding = embedding * (1 + (read.tanh() if self.bounded else read))[:, None, None, :]
        scale = math.sqrt(2 / (self.in_channels * self.taps))
        blocks = self.generator(embedding, scale)  # [..., Fb, Cb, outputs, inputs, K]
        return blocks.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without those of its parts: the kernel's."""
        return output.shape[-2] * output.shape[-1] * self.out_channels * self.in_channels * self.taps

    def maps(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        if self.dynamic:
            output = self.each_its_kernel(input, self.kernel(input))
        else:
            output = F.conv2d(input, self.kernel().unflatten(-1, self.kernel_size), None, *self.geometry)
        return self.with_bias(output)

    def fold(self) -> nn.Conv2d:
        """The plain convolution that a static layer computes.

        Raises:
            ValueError: the layer is dynamic.
        """
        if self.dynamic:
            raise ValueError("a dynamic hypernetwork has one kernel an image and does not fold")
        with torch.no_grad(), random_state_kept(self.parameters()), exactly(next(self.parameters())):
            kernel = self.kernel().unflatten(-1, self.kernel_size)
            plain = nn.Conv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,
                *self.geometry,
                bias=self.bias is not None,
                device=kernel.device,
                dtype=kernel.dtype,
            )
            plain.weight.copy_(kernel)
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        keep_frozen(plain, self)
        trained = (parameter for name, parameter in self.named_parameters() if name != "bias")
        plain.weight.requires_grad_(any(parameter.requires_grad for parameter in trained))
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dynamic={self.dynamic}" + (", bounded=True" if self.bounded else "")
