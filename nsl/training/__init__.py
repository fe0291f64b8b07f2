"""Training: one loop, one recipe, checkpoints that resume to the same numbers."""

from nsl.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nsl.training.loop import TrainResult, batches, evaluate, parameter_groups, train
from nsl.training.observe import observe
from nsl.training.schedule import Recipe

__all__ = [
    "CheckpointError",
    "Recipe",
    "TrainResult",
    "batches",
    "evaluate",
    "load_checkpoint",
    "observe",
    "parameter_groups",
    "save_checkpoint",
    "train",
]
