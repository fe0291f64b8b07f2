"""The dynamic convolution's GPU kernels, and the choice between them and the other ways of computing it.

    paths       which way a tensor takes: "native" (C++ on the CPU), "triton" (CUDA) or "plain" (PyTorch's operations)
    precision   what a float32 product is on a GPU: IEEE or TF32, one setting for everything
    operators   the seam: operators that autograd, `torch.compile` and CUDA graphs know
    launch      tensors to grids of programs
    tiles       how large a program's tiles are
    taps, diagonal, unconstrained    the kernels, in Triton

Triton is imported by `launch` and the kernels only, and they are imported when a tensor takes the path "triton".
"""
