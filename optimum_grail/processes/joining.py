"""Which processes take part: those that ``torchrun`` or ``accelerate launch`` has started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta

import torch.distributed as dist

from optimum_grail.errors import ProcessError
from optimum_grail.processes.channel import Channel
from optimum_grail.processes.ranks import ALONE, Ranks

PATIENCE = timedelta(hours=2)
"""How long a process is waited for that is neither gone nor comes: while the first one evaluates, all others wait."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells every process it starts."""

_CURRENT: ContextVar[Ranks | None] = ContextVar("processes", default=None)


def launched() -> int:
    """How many processes a launcher has started together with this one, itself included."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    count = os.environ.get("WORLD_SIZE", "")
    return int(count) if count.isdecimal() and all(os.environ.get(name) for name in LAUNCHED) else 1


def place() -> int:
    """This process among those of the same machine, from 0."""
    found = os.environ.get("LOCAL_RANK", "")
    return int(found) if found.isdecimal() else 0


@contextmanager
def joined(patience: timedelta = PATIENCE) -> Iterator[Ranks]:
    """All processes that were launched together, for the time of the body; this one alone where there are no others.
    Inside another such body they are the same.

    An error in the body is told to the others, whatever they do, and ends them with it. Every process has to enter, and
    to do the same inside.

    Args:
        patience: how long the others are waited for.

    Raises:
        ProcessError: another process did not come, failed, or is gone.
    """
    outer = _CURRENT.get()
    if outer is not None or launched() == 1:
        yield outer or ALONE
        return
    ours = not dist.is_initialized()
    channel = _channel(patience)
    current = _CURRENT.set(Ranks(channel.index, channel.count, channel))
    try:
        yield Ranks(channel.index, channel.count, channel)
        channel.begin("the end of the run")
    except ProcessError:
        raise  # the others know, or are gone
    except Exception as error:
        with suppress(ProcessError):
            channel.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        _CURRENT.reset(current)
        if ours:
            dist.destroy_process_group()


def _channel(patience: timedelta) -> Channel:
    minutes = patience.total_seconds() / 60
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=patience)
        titles, values = (dist.new_group(backend="gloo", timeout=patience) for _ in range(2))
    except RuntimeError as error:
        raise ProcessError(
            f"The processes of this run did not find each other within {minutes:g} minutes: {error}. Start all of them "
            "with one command, such as torchrun --nproc-per-node 2; unset WORLD_SIZE to run in one process."
        ) from error
    return Channel(dist.get_rank(), dist.get_world_size(), titles, values, minutes)
