"""One run on several processes, as torchrun starts them: who takes part, and what they have to agree on.

Every process ("rank") holds the whole network and takes every `size`-th picture of each batch. PyTorch's
DistributedDataParallel adds up the gradients while they are computed; what a loss is divided by is added up here, so
that a step is that of one process with the whole batch. Decisions (to stop, to skip a step) are taken together.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from latentface.errors import LatentFaceError
from latentface.model.predict import pick_device

Result = TypeVar("Result")

PATIENCE = timedelta(hours=2)  # of a process that waits for others: the first may be fitting an entry


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; alone as it stands."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """What `--device` says; of several processes on GPUs each gets its own, whichever number was named."""
        device = pick_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if self.local_size > torch.cuda.device_count():
            raise LatentFaceError(
                f"{self.local_size} processes on {torch.cuda.device_count()} GPUs: give torchrun --nproc_per_node "
                f"{torch.cuda.device_count()}, or --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element; no gradient passes."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        return bool(self.add_up(torch.tensor(int(flag))))

    def gather(self, value: Any) -> list[Any]:
        """Of every process, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def by_first(self, make: Callable[[], Result]) -> Result:
        """What the first process makes, for all of them; it travels pickled. Only the first may raise an error."""
        if self.size == 1:
            return make()
        made = [make() if self.first else None]
        distributed.broadcast_object_list(made, 0)
        return cast(Result, made[0])

    @contextmanager
    def explaining(self, remedy: str) -> Iterator[None]:
        """Raises LatentFaceError in place of what gloo and NCCL raise where another process is gone.

        From then on this process does not end by SIGTERM: torchrun sends one to those that are left as soon as it sees
        the death, often before the line of the error is out.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _lost(error):
                raise
            if threading.current_thread() is threading.main_thread():  # signals are its alone
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise LatentFaceError(
                f"process {self.rank} of {self.size} (0 to {self.size - 1}) lost another one of the run, whose own "
                f"line says why if it was not killed; {remedy}"
            ) from error

    def agree(self, what: str, value: Any) -> None:
        """Raises LatentFaceError, in every process, where they do not hold the same; `value` by its `repr`."""
        if self.size == 1:
            return
        found = self.gather(hashlib.sha256(repr(value).encode()).hexdigest())
        if len(set(found)) > 1:
            others = [rank for rank, checksum in enumerate(found) if checksum != found[0]]
            raise LatentFaceError(
                f"process 0 and process {others[0]} differ in {what}: give it by a flag, or the same files to all"
            )

    def copy_first(self, model: nn.Module) -> None:
        """Gives every process the first one's weights and batch statistics."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            whole = tensor.contiguous()  # channels-last ones cannot travel
            distributed.broadcast(whole, 0)
            tensor.copy_(whole)

    def spread(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network to run forward in a training step: its gradients are the mean over all processes."""
        if self.size == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started together, or this one alone; only the first speaks on the standard output.

    Raises LatentFaceError where another one is gone.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield Ranks()
        return
    ranks = Ranks(_number("RANK"), size, _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE", size))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    try:
        with (
            ranks.explaining("start again"),
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(sys.stdout if ranks.first else nowhere),
        ):
            # DistributedDataParallel imports it, and its default arguments would hold a group that is there already.
            import_module("torch.distributed.nn.functional")
            store = _fresh_store()
            place: dict[str, Any] = {"store": store, "rank": ranks.rank, "world_size": size} if store else {}
            distributed.init_process_group(backend, timeout=PATIENCE, **place)
            yield ranks
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        # Whoever still holds the group keeps gloo's threads, and one that lets go of a tensor while Python ends aborts
        # the process (https://github.com/pytorch/pytorch/issues/190489). Plots leave cycles that hold the run.
        gc.collect()


def restarted() -> bool:
    """Whether torchrun has started these processes anew, after one had failed (--max-restarts)."""
    return _number("TORCHELASTIC_RESTART_COUNT") > 0


def _fresh_store() -> distributed.Store | None:
    """After a restart on one machine: where processes find each other, without the addresses of those that are gone.

    torchrun's own store still has them (https://github.com/pytorch/pytorch/issues/135712). On several machines the
    number of restarts differs between them: there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has to be set for torchrun.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not (restarted() and shared and _number("GROUP_WORLD_SIZE", 1) == 1):
        return None
    shared_store = distributed.TCPStore(os.environ["MASTER_ADDR"], _number("MASTER_PORT"), is_master=False)
    return distributed.PrefixStore(f"restart {_number('TORCHELASTIC_RESTART_COUNT')}", shared_store)


def _number(name: str, default: int = 0) -> int:
    """Of torchrun's variables."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise LatentFaceError(
            f"the environment's {name}={os.environ[name]!r} is no number: start by torchrun"
        ) from None


def _lost(error: RuntimeError) -> bool:
    """Gloo and NCCL have no error of their own for a peer that is gone."""
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)
