"""Networks of the paper, built from one definition each by swapping the convolution."""

from nsl.models.cnn import PlainCNN, cnn9, cnn9pp, nsn9
from nsl.models.cnn10 import ImageNetCNN, cnn10, cnn10pp, nsn10
from nsl.models.cost import count_multiply_adds
from nsl.models.registry import count_parameters, create_model, list_models

__all__ = [
    "ImageNetCNN",
    "PlainCNN",
    "cnn9",
    "cnn9pp",
    "cnn10",
    "cnn10pp",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "list_models",
    "nsn9",
    "nsn10",
]
