"""Networks of the paper, built from one definition each by swapping the convolution."""

from nsl.models.cnn import PlainCNN, cnn9, cnn9pp, nsn9
from nsl.models.registry import count_parameters, create_model, list_models

__all__ = ["PlainCNN", "cnn9", "cnn9pp", "count_parameters", "create_model", "list_models", "nsn9"]
