"""Neural Similarity Learning (Liu, Liu, Rehg, Song, NeurIPS 2019): the layers, drop-in for PyTorch.

    layer = nsl.NSConv2d(16, 32, 3, padding=1)          # static: y = conv(x, M^T W), folds into a Conv2d
    layer = nsl.DynamicNSConv2d(16, 32, 3, padding=1)   # dynamic: M(X) predicted at every position
    model = nsl.create_model("nsn9_dynamic_diagonal", num_classes=10)
    model = nsl.convert(your_model, kind="static", similarity="unconstrained")
    model = nsl.load(table=1, method="dynamic")         # a network that a run trained and kept
"""

from nsl.convert import convert, fold, freeze_backbone, reset_to_identity
from nsl.kernels.convolution import neural_similarity_conv2d
from nsl.kernels.definition import reference_conv2d
from nsl.layers.attention import GlobalSimilarity, StaticGlobalSimilarity, orthogonality_penalty, sphere_maps
from nsl.layers.conv import DynamicNSConv2d, NSConv1d, NSConv2d, NSConv3d, NSConvTranspose2d
from nsl.layers.decoupled import DecoupledConv2d
from nsl.layers.deformable import DeformConv2d
from nsl.layers.dynamic import DynamicSimilarity
from nsl.layers.dynamic_filter import DynamicFilterConv2d, similarity_of_filters
from nsl.layers.dynamic_recurrent import DynamicNSGRUCell, DynamicNSRNNCell
from nsl.layers.filter_selection import MixtureConv2d, SelectedConv2d
from nsl.layers.hypernetwork import HyperConv2d, KernelGenerator
from nsl.layers.linear import DynamicNSLinear, LinearPredictor, NSLinear
from nsl.layers.mahalanobis import Mahalanobis, neighbourhood_loss
from nsl.layers.ode import ODEBlock
from nsl.layers.predictors import CNNPredictor, ReleasePredictor, SpherePredictor
from nsl.layers.recurrent import NSGRUCell, NSRNNCell
from nsl.layers.shapes import FewTaps, Shaped
from nsl.layers.shared import SharedKernels
from nsl.layers.shift import ShiftConv2d
from nsl.layers.similarity import is_dynamic, similarity_penalty
from nsl.layers.spherical import SphereConv2d, angular, patch_norm
from nsl.layers.static import StaticSimilarity
from nsl.layers.structure import Block, Structure
from nsl.layers.structures import (
    L1,
    PSD,
    STRUCTURES,
    Diagonal,
    Dilated,
    Full,
    HardSparse,
    LowRank,
    Shift,
    Symmetric,
    Unconstrained,
)
from nsl.layers.unshared import UnsharedNSConv2d
from nsl.models import count_multiply_adds, count_parameters, create_model, list_models
from nsl.zoo import load

__version__ = "0.1.0"

__all__ = [
    "L1",
    "PSD",
    "STRUCTURES",
    "Block",
    "CNNPredictor",
    "DecoupledConv2d",
    "DeformConv2d",
    "Diagonal",
    "Dilated",
    "DynamicFilterConv2d",
    "DynamicNSConv2d",
    "DynamicNSGRUCell",
    "DynamicNSLinear",
    "DynamicNSRNNCell",
    "DynamicSimilarity",
    "FewTaps",
    "Full",
    "GlobalSimilarity",
    "HardSparse",
    "HyperConv2d",
    "KernelGenerator",
    "LinearPredictor",
    "LowRank",
    "Mahalanobis",
    "MixtureConv2d",
    "NSConv1d",
    "NSConv2d",
    "NSConv3d",
    "NSConvTranspose2d",
    "NSGRUCell",
    "NSLinear",
    "NSRNNCell",
    "ODEBlock",
    "ReleasePredictor",
    "SelectedConv2d",
    "Shaped",
    "SharedKernels",
    "Shift",
    "ShiftConv2d",
    "SphereConv2d",
    "SpherePredictor",
    "StaticGlobalSimilarity",
    "StaticSimilarity",
    "Structure",
    "Symmetric",
    "Unconstrained",
    "UnsharedNSConv2d",
    "angular",
    "convert",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "fold",
    "freeze_backbone",
    "is_dynamic",
    "list_models",
    "load",
    "neighbourhood_loss",
    "neural_similarity_conv2d",
    "orthogonality_penalty",
    "patch_norm",
    "reference_conv2d",
    "reset_to_identity",
    "similarity_of_filters",
    "similarity_penalty",
    "sphere_maps",
]
