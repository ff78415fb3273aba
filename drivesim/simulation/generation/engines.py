"""Who makes the groups of a generation: this process, several of this machine, or a Ray cluster.

All three hand out groups and pass on what was made; a worker that dies costs the groups it was at, which are begun again elsewhere. This
file does not know what a group holds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from drivesim.errors import DrivesimError, UsageError
from drivesim.simulation.generation.maker import Maker, Told
from drivesim.simulation.generation.order import Group, Order

__all__ = ["Parts", "here", "on_ray", "on_workers"]

Parts = list[dict[str, Any]]
DEATHS = 3
"""A group that this many workers died of is given up."""

ANSWER_S = 10.0
"""Seconds in which a Ray cluster answers."""

_MAKER: list[Maker] = []
"""Of a worker process: its networks, loaded once."""


def here(order: Order, groups: Sequence[Group], told: Told | None = None) -> Iterator[tuple[Group, Parts]]:
    """One after the other in this process. told: of every step, how many frames it made."""
    maker = Maker(order)
    for group in groups:
        yield group, maker.make(group, told)


def on_workers(order: Order, groups: Sequence[Group], workers: int) -> Iterator[tuple[Group, Parts]]:
    """In ``workers`` processes of this machine; groups come in the order in which they are finished.

    Raises:
        DrivesimError: whatever a worker raised, or a group at which workers died again and again.
    """
    left, deaths = {group.number: group for group in groups}, Counter[int]()
    while left:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (order,)) as pool:
            at = {pool.submit(_make, group): group for group in left.values()}
            try:
                for future in _finished(at):
                    yield at[future], future.result()
                    del left[at[future].number]
            except BrokenProcessPool:
                begun = [group for future, group in at.items() if group.number in left][:workers]
                deaths.update(group.number for group in begun)
                _give_up(left, deaths)
            except GeneratorExit:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _finished(at: dict[Future[Parts], Group]) -> Iterator[Future[Parts]]:
    waiting = set(at)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        # those that were finished before a worker died come first
        yield from sorted(done, key=lambda future: isinstance(future.exception(), BrokenProcessPool))


def _give_up(left: dict[int, Group], deaths: Counter[int]) -> None:
    number, count = deaths.most_common(1)[0]
    if count >= DEATHS:
        names = ", ".join(request.scenario_id for request in left[number].requests[:3])
        raise DrivesimError(
            f"a worker died {count} times while it made {names}, ...; perhaps it was out of memory: try fewer --workers or a smaller "
            "generation.batch. What is finished stays; the same command goes on"
        )


def _start(order: Order) -> None:
    _MAKER[:] = [Maker(order)]


def _make(group: Group) -> Parts:
    return _MAKER[0].make(group)


def on_ray(order: Order, groups: Sequence[Group], address: str, workers: int) -> Iterator[tuple[Group, Parts]]:
    """By ``workers`` actors of a Ray cluster. address: "local" = a cluster of this machine that ends with the generation.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.   DrivesimError: whatever a worker raised.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UsageError("--ray needs Ray; install it with: pip install 'drivesim[ray]'") from None
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address, workers * order.threads)
    try:
        yield from _by_actors(ray, order, groups, workers)
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, address: str, cpus: int) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        _knock(address)
        ray.init("local", num_cpus=cpus, **quiet) if address == "local" else ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {address!r} ({error}); start one with `ray start --head`, or take --ray local") from error


def _knock(address: str) -> None:
    """Ray waits for minutes for a cluster that is not there. Raises OSError where nobody answers at HOST:PORT."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), ANSWER_S).close()


def _by_actors(ray: Any, order: Order, groups: Sequence[Group], workers: int) -> Iterator[tuple[Group, Parts]]:
    gpus = 1 if order.device.startswith("cuda") else 0
    worker = ray.remote(num_cpus=order.threads, num_gpus=gpus, max_restarts=-1, max_task_retries=DEATHS)(RayWorker)
    idle = [worker.remote(order) for _ in range(min(workers, len(groups)))]
    waiting, busy = list(groups), dict[Any, tuple[Any, Group]]()
    while waiting or busy:
        while waiting and idle:
            actor, group = idle.pop(), waiting.pop(0)
            busy[actor.make.remote(group)] = (actor, group)
        done, _ = ray.wait(list(busy))
        actor, group = busy.pop(done[0])
        try:
            parts = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, DrivesimError) else DrivesimError(f"a Ray worker failed: {error.cause}") from error
        except ray.exceptions.RayError as error:
            names = ", ".join(request.scenario_id for request in group.requests[:3])
            raise DrivesimError(f"Ray could not make {names}, ... ({type(error).__name__}); the same command goes on") from error
        idle.append(actor)
        yield group, parts


class RayWorker:
    """A Ray actor: one process with its networks. Ray starts it again when it dies, and gives it the group it was at once more."""

    def __init__(self, order: Order) -> None:
        self.maker = Maker(order)

    def make(self, group: Group) -> Parts:
        return self.maker.make(group)
