"""The dynamic convolution and the inside of its predictors, each in several ways, and the choice between them.

What is computed, and by which way:

    definition              the dynamic convolution as the paper defines it; second derivatives by way of it
    convolution             the dynamic convolution as layers call it, which chooses
    predictor_middle        what lies between a predictor's two convolutions, in one step on the CPU
    norms                   norms of patches, by which a SphereNet divides
    paths                   which way a tensor takes: "native" (C++ on the CPU), "triton" (CUDA) or "plain"
    precision               types of sums, no autocast, and what a float32 product is on a GPU: IEEE or TF32
    geometry                sizes of maps, and what each tap of a kernel sees
    layouts                 the memory format of maps whose channels are innermost

On the CPU:

    patches                 the similarity applied to patches, in plain PyTorch or by the compiled kernels
    compiled                `kernels.cpp`, compiled once a machine

On the GPU:

    operators, sphere       the seam: the convolution's and the predictor's operators, which autograd, `torch.compile`
                            and CUDA graphs know
    maps                    the predictor's operators on maps as layers have them
    launch, launch_rows     from tensors to grids of programs
    tiles                   how large a program's tiles are
    taps, diagonal, unconstrained, rows     the kernels, in Triton

Triton is imported by these last four only, and they are imported, by `launch` and `launch_rows`, when a tensor takes
the path "triton". Nothing here knows a layer: `nsl.layers` calls these functions.
"""
