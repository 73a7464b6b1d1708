"""One process, or several that torchrun started: which device, who is first, and what all learn.

Everything that is not a net's fit runs in the first process alone. With one process, which is the
default, nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

Found = TypeVar("Found")

WAIT = timedelta(hours=6)
"""For the first process, while it searches and the others have nothing to do."""


@contextmanager
def met() -> Iterator[None]:
    """Together with the others while the block runs, if torchrun started some."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(dist.get_node_local_rank())
        yield
    finally:
        dist.destroy_process_group()


def many() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """A GPU where there is one, the CPU else."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def level(net: torch.nn.Module) -> None:
    """Every process goes on with the parameters of the first."""
    if many() > 1:
        with torch.no_grad():
            for parameter in net.parameters():
                dist.broadcast(parameter, src=0)


def average(net: torch.nn.Module) -> None:
    """Each gradient becomes its mean over all processes, in one message.

    Not PyTorch's DistributedDataParallel: in 2.13 whoever makes one keeps the process group's
    threads beyond its end, and one of them may abort a process that has done its work, as Python
    ends around it (2 of 17 on a loaded machine).
    """
    if many() == 1:
        return
    found = [one.grad for one in net.parameters() if one.grad is not None]
    whole = torch.cat([one.reshape(-1) for one in found])
    dist.all_reduce(whole)
    whole /= many()
    for one, mean in zip(found, whole.split([one.numel() for one in found]), strict=True):
        one.copy_(mean.reshape(one.shape))


def by_first(work: Callable[[], Found]) -> Found:
    """What the first process finds, in all of them. What it raises, all raise."""
    if many() == 1:
        return work()
    told: list[object] = [None, None]
    if number() == 0:
        try:
            told[0] = work()
        except Exception as exc:  # to be raised everywhere, or the others would wait
            told[1] = exc
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise cast(Exception, told[1])
    return cast(Found, told[0])
