"""Neural Similarity Learning (Liu, Liu, Rehg, Song, NeurIPS 2019): the layers, drop-in for PyTorch.

    layer = nsl.NSConv2d(16, 32, 3, padding=1)          # static: y = conv(x, M^T W), folds into a Conv2d
    layer = nsl.DynamicNSConv2d(16, 32, 3, padding=1)   # dynamic: M(X) predicted at every position
    model = nsl.create_model("nsn9_dynamic_diagonal", num_classes=10)
"""

from nsl.conv import DynamicNSConv2d, NSConv2d
from nsl.functional import neural_similarity_conv2d
from nsl.models import count_multiply_adds, count_parameters, create_model, list_models
from nsl.predictor import CNNPredictor, SharedKernels, SpherePredictor
from nsl.similarity import Diagonal, Structure, Unconstrained
from nsl.spherical import SphereConv2d, patch_norm

__version__ = "0.1.0"

__all__ = [
    "CNNPredictor",
    "Diagonal",
    "DynamicNSConv2d",
    "NSConv2d",
    "SharedKernels",
    "SphereConv2d",
    "SpherePredictor",
    "Structure",
    "Unconstrained",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "list_models",
    "neural_similarity_conv2d",
    "patch_norm",
]
