"""The layers of the paper (sections 3 and 6, appendix B), one subject a file.

    structures     what M looks like: diagonal, unconstrained, ...                      3.1, 3.4
    structure      what such a structure is: from free numbers to a matrix              3.1
    similarity     the similarity as a part of a layer, the shape D, and such a layer   3.1, 3.5
    static         M learned, folded into the kernel                                    3.2
    dynamic        M predicted from the input                                           3.3
    conv           static and dynamic convolutions                                      3.2, 3.3
    predictors     what predicts M at every position: SphereNet, the release's, a CNN   3.3.1
    shared         their kernels shared by several layers, adaptation networks           3.3.2
    middle         what lies between a predictor's two convolutions, in one step        3.3.1
    spherical      SphereConv and its operators                                         3.3, of Liu et al. 2017
    linear         fully connected layers, static and dynamic                           1, 3.1
    recurrent      recurrent cells                                                      1, 5.2
    attention      global neural similarity                                             6, B
    shift          a folded shift layer                                                 3.4

What the paper compares with, contains or leaves open:

    largest            the largest entries kept, with a gradient for the others         3.4
    shapes             continuous and predicted D, shifts with few taps                 3.4, 3.5
    unshared           one similarity a filter                                          4
    mahalanobis        M symmetric and positive semi-definite: metric learning          3.1
    decoupled          magnitude times angle                                            2
    dynamic_filter     filters completely generated                                     2, 6
    hypernetwork       kernels written from embeddings                                  2
    filter_selection   gates on filters, mixtures of banks                              2, 6
    deformable         taps that move                                                   2
    dynamic_recurrent  cells whose state moves their similarity                         5.2
    ode                layers as steps of a differential equation                       5.2
    window             what layers with a kernel a position or an image share
    inputs             what inputs of every layer are checked for
    unfusible          convolutions into which nothing can be folded
"""
