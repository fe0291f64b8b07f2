"""Training: one loop, one recipe, checkpoints that resume to the same numbers."""

from nsl.training.batches import batches
from nsl.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from nsl.training.evaluate import evaluate
from nsl.training.execution import Execution
from nsl.training.loop import TrainResult, train
from nsl.training.observe import observe
from nsl.training.optimiser import parameter_groups
from nsl.training.schedule import Recipe

__all__ = [
    "CheckpointError",
    "Execution",
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
