"""One training shared by several processes: who has which images, and what they add up.

Started by `torchrun --nproc-per-node N -m nsl.train ...`; NCCL between GPUs, gloo between CPUs. Every process takes its
slice of each global batch, with the augmentation that one process would give it, so that with the same global batch
the loss curve is that of one process within rounding. Batch norm is the exception: by default each process uses the
statistics of its own slice, as is usual; `sync_batch_norm` (CUDA only) takes those of the whole batch.

`--max-restarts` brings all processes back to the last checkpoint when one dies. On several machines torchrun must
then be started with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, see `_store_of_this_attempt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from nsl.training.execution import choose_device


class World(NamedTuple):
    """This process's number and how many there are."""

    rank: int
    size: int


def world() -> World:
    """Of the processes that share the training; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


def local_device(device: str | torch.device) -> torch.device:
    """The device of this process: with "auto" or "cuda", one GPU a process of the machine."""
    if str(device) in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return choose_device(device)


@contextmanager
def joined(device: str | torch.device = "auto") -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end; alone, nothing happens.

    Raises:
        ValueError: more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield world()
        return
    own = local_device(device)
    if own.type == "cuda":
        if own.index is not None and own.index >= torch.cuda.device_count():
            raise ValueError(
                f"--nproc-per-node asks for more processes than this machine has GPUs ({torch.cuda.device_count()}); "
                "ask for at most one a GPU, or use --device cpu."
            )
        torch.cuda.set_device(own)
    backend = "nccl" if own.type == "cuda" else "gloo"
    store = _store_of_this_attempt()
    if store is None:
        dist.init_process_group(backend)
    else:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield world()
        # All leave together: a process that ends while another still talks to it may abort.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _store_of_this_attempt() -> dist.Store | None:
    """Where the processes find each other's addresses, apart from those of the attempts that torchrun gave up.

    torchrun keeps one store for all its restarts on a machine (PyTorch issue 135712, and again in 2.13), so that
    restarted processes would look for the dead ones' ports. None, the usual way, where torchrun makes a new store.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    if not (shared and one_machine):  # attempts are counted on each machine alone
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def own_range(count: int) -> range:
    """The items of `count` that belong to this process; nearly equal, together all."""
    rank, size = world()
    return range(rank * count // size, (rank + 1) * count // size)


def add_up(values: torch.Tensor) -> torch.Tensor:
    """Sums over the processes of float64 values on each one's device; alone, the values themselves."""
    if world().size > 1:
        dist.all_reduce(values)
    return values


def share_buffers(model: nn.Module) -> None:
    """Give every process rank 0's buffers: batch norm's running statistics differ by what each has seen.

    One message for the buffers of a type.
    """
    if world().size < 2:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for buffer in model.buffers():
        by_type.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_type.values():
        together = torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
        dist.broadcast(together, 0)
        for buffer, part in zip(buffers, together.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(part.view(buffer.shape))
