"""The GPU's kernels, and the choice between them and the other ways of computing the same.

    paths                   which way a tensor takes: "native" (C++ on the CPU), "triton" (CUDA) or "plain"
    precision               what a float32 product is on a GPU: IEEE or TF32, one setting for everything
    operators, sphere       the seam: the convolution's and the predictor's operators, which autograd, `torch.compile`
                            and CUDA graphs know
    maps                    the predictor's operators on maps as layers have them
    launch, launch_rows     from tensors to grids of programs
    tiles                   how large a program's tiles are
    taps, diagonal, unconstrained, rows     the kernels, in Triton

Triton is imported by the kernels and by `launch` only, and they are imported when a tensor takes the path "triton".
"""
