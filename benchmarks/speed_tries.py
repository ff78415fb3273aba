"""Ways of being faster, each beside the default: measured by turns in one run, so that other work on the machine hits both alike.

A try says what its work is. Where networks are tried, the work is one call of each pass, weighed by how often a rollout makes it
(``Bench.calls``): the ratio is that of a rollout's time in networks. An interval is that of the median over pairs, drawn with replacement.
This file does not know tables or files.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_variants import contiguous, fused, has_bfloat16, in_a_thread
from torch import Tensor, nn

from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import Scenario
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.simulation.accelerate import accelerate
from drivesim.simulation.plan import FACTOR, decode_chunks
from drivesim.simulation.recording.recorder import Recorder
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator

__all__ = ["Bench", "every_try", "paired"]

Work = Callable[[], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
WINDOWS = 16
"""Interpolation windows that batches of several sizes make."""
MINUTE_S = 60.0


class Bench:
    """Networks of a checkpoint, inputs for one call of each pass, and how often a minute of video calls them."""

    def __init__(self, checkpoint: Checkpoint, settings: RolloutSettings, rounds: int, clock: str) -> None:
        self.checkpoint, self.settings, self.rounds, self.clock = checkpoint, settings, rounds, CLOCKS[clock]
        self.simulator = Simulator(checkpoint, settings)
        moves = isinstance(self.simulator.interpolation, FrameInterpolator)  # then keyframes are decoded, one by one
        self.window, self.reach = self.simulator.prediction.frames, 0 if moves else self.simulator.autoencoder.receptive_frames
        plan = self.simulator.plan(Scenario(MINUTE_S))
        chunk = 1 if moves else min(settings.decode_frames, plan.frames)
        pairs = sum(plan.level_frames(level) - 1 for level in range(plan.levels))
        self.calls = {
            "keyframes": sum(1 for _ in plan.windows()) * self._calls_of("keyframes"),
            "interpolation": pairs / settings.batch * self._calls_of("interpolation"),
            "decode": plan.keyframes if moves else sum(1 for _ in decode_chunks(plan.frames, chunk, self.reach)),
        }
        """Of network calls as ``works`` makes them, in a minute of video."""
        if self.simulator.refiner is not None:
            self.calls["refinement"] = plan.frames / settings.batch
        self.chunk = chunk

    def _calls_of(self, kind: str) -> int:
        how = self.simulator.how.get(kind)
        return 0 if how is None else how.steps * (1 + (how.guidance != 1) + (how.label_guidance != 1))

    def networks(self) -> dict[str, nn.Module]:
        """Copies, as they are before ``accelerate``."""
        found = {"keyframes": self.simulator.prediction, "decode": self.simulator.autoencoder}
        if self.simulator.interpolation is not None:
            found["interpolation"] = self.simulator.interpolation
        if self.simulator.refiner is not None:
            found["refinement"] = self.simulator.refiner
        return {name: copy.deepcopy(network) for name, network in found.items()}

    def accelerated(self, precision: str = "float32", compile: str = "none") -> dict[str, nn.Module]:
        return {name: accelerate(network, precision, compile) for name, network in self.networks().items()}

    def works(self, networks: dict[str, nn.Module]) -> dict[str, Work]:
        """One call of each pass."""
        made: dict[str, Work] = {"decode": self.decoding(networks["decode"], self.chunk)}
        made["keyframes"] = self.call(networks["keyframes"], 1, self.window)
        if "interpolation" in networks:
            made["interpolation"] = self.call(networks["interpolation"], self.settings.batch, FACTOR + 1)
        if "refinement" in networks:
            frames = torch.randn(self.settings.batch, 3, self.simulator.height, self.simulator.width)
            told = {name: value[:, 0] for name, value in self._labels(self.settings.batch, 1).items()}
            made["refinement"] = partial(networks["refinement"], frames, told)
        return made

    def call(self, network: nn.Module, batch: int, frames: int) -> Work:
        """One network call over ``batch`` windows with labels and known frames."""
        if isinstance(network, FrameInterpolator):
            first, last = torch.randn(2, batch, 3, self.simulator.height, self.simulator.width)
            return partial(network, first, last, self._labels(batch, frames), frames)
        x = torch.randn(batch, frames, *self.simulator.latent_shape)
        context = torch.randn(batch, frames, x.shape[2] + 2, *x.shape[3:])
        sigma, labels = torch.full((batch, frames), 0.7), self._labels(batch, frames)
        return partial(_called, network, x, sigma, labels, None if network.context == "slots" else context)

    def _labels(self, batch: int, frames: int) -> dict[str, Tensor]:
        track = self.simulator.labels(self.drive(batch * frames / self.settings.fps + 1)).at(range(batch * frames), self.settings.fps)
        arrays = track.arrays(self.settings.max_boxes)
        return {name: torch.from_numpy(values).unflatten(0, (batch, frames)) for name, values in arrays.items()}

    def drive(self, duration_s: float) -> Scenario:
        if not self.checkpoint.tracks.is_file():
            return Scenario(duration_s, time_of_day="day")
        return sample_scenario(TrackBank.load(self.checkpoint.tracks), duration_s, time_of_day="day", crowdedness=4.0)

    def decoding(self, autoencoder: nn.Module, frames: int) -> Work:
        """A chunk of ``frames`` and what is looked at around it."""
        latents = torch.randn(1, frames + 2 * self.reach, *self.simulator.latent_shape)
        return partial(_decoded, autoencoder, latents)

    def compared(
        self, name: str, work: str, default: Work, other: Work, note: str, rounds: int | None = None, clock: Clock | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """A row: ``other`` over ``default``, warmed up and then measured by turns. rounds: at most; clock: instead of the bench's."""
        default(), other()
        turns = range(min(rounds or self.rounds, self.rounds))
        return _row(name, work, [(1.0, [_pair(clock or self.clock, default, other, number) for number in turns])], note)

    def weighed(self, name: str, networks: dict[str, nn.Module], rounds: int | None = None, note: str = "") -> dict[str, Any]:
        """A row: other networks over the default ones, a call of each pass, weighed by a rollout's calls."""
        default, other = self.works(self.accelerated()), self.works(networks)
        found: dict[str, list[tuple[float, float]]] = {}
        for kind in default:
            default[kind](), other[kind]()
        for number in range(min(rounds or self.rounds, self.rounds)):
            for kind in default:
                found.setdefault(kind, []).append(_pair(self.clock, default[kind], other[kind], number))
        row = _row(name, "networks of a rollout", [(self.calls[kind], pairs) for kind, pairs in found.items()], note)
        return {**row, "passes": {kind: _row(name, kind, [(1.0, pairs)])["median"] for kind, pairs in found.items()}}


@torch.inference_mode()
def _called(network: nn.Module, x: Tensor, sigma: Tensor, labels: dict[str, Tensor], context: Tensor | None) -> Tensor:
    return network(x, sigma, labels, context)


@torch.inference_mode()
def _decoded(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    return autoencoder.decode(latents)


def _pair(clock: Clock, default: Work, other: Work, number: int) -> tuple[float, float]:
    """Seconds of (default, other); every second time the other one goes first."""
    if number % 2:
        second = _seconds(clock, other)
        return _seconds(clock, default), second
    return _seconds(clock, default), _seconds(clock, other)


def _seconds(clock: Clock, work: Work) -> float:
    begin = clock()
    work()
    return clock() - begin


def _row(name: str, work: str, weighed: Sequence[tuple[float, list[tuple[float, float]]]], note: str = "") -> dict[str, Any]:
    sums = sum(weight * np.array(pairs) for weight, pairs in weighed)
    return {"name": name, "work": work, **paired(np.asarray(sums)), "note": note}


def paired(seconds: np.ndarray, resamples: int = 2000) -> dict[str, Any]:
    """Rows (pairs, 2) of seconds, default and other -> median ratio, its 95% interval over pairs drawn with replacement, and medians."""
    ratios = seconds[:, 1] / seconds[:, 0]
    drawn = np.random.default_rng(0).integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high), "ratios": ratios.tolist(),
            "default_s": float(np.median(seconds[:, 0])), "other_s": float(np.median(seconds[:, 1]))}  # fmt: skip


def every_try(bench: Bench, only: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of all tries whose name contains one of ``only``, in the order of the issue; None = all."""
    for name, rows in TRIES.items():
        if only is None or any(part in name for part in only):
            yield from rows(bench)


def weights_as_trained(bench: Bench) -> Iterator[dict[str, Any]]:
    networks = {name: contiguous(network) for name, network in bench.networks().items()}
    yield bench.weighed("weights not channels-last", networks, note="the default is channels-last")


def normalisation(bench: Bench) -> Iterator[dict[str, Any]]:
    networks = {name: fused(network) for name, network in bench.accelerated().items()}
    yield bench.weighed("fused normalisation", networks, note="norm, modulation and SiLU in one sweep")


def compiled(bench: Bench) -> Iterator[dict[str, Any]]:
    networks = bench.accelerated(compile="default")
    works, begin = bench.works(networks), time.perf_counter()
    try:
        for work in works.values():
            _repeated(work, 2)
    except Exception as error:  # whatever a machine without a compiler says
        yield {"name": "torch.compile", "work": "networks of a rollout", "note": f"failed: {str(error).splitlines()[0]}"}
        return
    start_s = time.perf_counter() - begin
    row = bench.weighed("torch.compile", networks)
    saved = row["default_s"] - row["other_s"]  # in a minute of video
    pays = f"pays after {start_s / saved:.1f} minutes of video" if saved > 0 else "never pays"
    yield {**row, "note": f"first calls took {start_s:.0f} s: {pays}", "start_s": start_s}


def half_precision(bench: Bench) -> Iterator[dict[str, Any]]:
    hardware = "the processor has bfloat16 instructions" if has_bfloat16() else "this processor has no bfloat16 instructions"
    yield bench.weighed("bfloat16", bench.accelerated("bfloat16"), rounds=2, note=hardware)


def batches(bench: Bench) -> Iterator[dict[str, Any]]:
    network = bench.accelerated().get("interpolation")
    if network is None:
        return
    works = {size: bench.call(network, size, FACTOR + 1) for size in (1, 2, 4, 8, 16)}
    several = {size: partial(_repeated, work, WINDOWS // size) for size, work in works.items()}
    for size in works:
        if size != 8:
            yield bench.compared(f"batches of {size}", f"{WINDOWS} interpolation windows, one step", several[8], several[size],
                                 "over batches of 8")  # fmt: skip


def chunks(bench: Bench) -> Iterator[dict[str, Any]]:
    autoencoder, common = bench.accelerated()["decode"], 64
    works = {size: partial(_repeated, bench.decoding(autoencoder, size), common // size) for size in (8, 16, 32, 64)}
    for size in works:
        if size != 32:
            yield bench.compared(f"decode chunks of {size}", f"{common} frames", works[32], works[size],
                                 f"over chunks of 32; {2 * bench.reach} frames around each are looked at, too", rounds=3)  # fmt: skip


def threads(bench: Bench) -> Iterator[dict[str, Any]]:
    before = torch.get_num_threads()
    works = bench.works(bench.accelerated())

    def alone(work: Work) -> None:
        torch.set_num_threads(1)
        try:
            work()
        finally:
            torch.set_num_threads(before)

    for kind, work in works.items():
        yield bench.compared("one thread", f"a call of {kind}", work, partial(alone, work), f"over {before}", clock=CLOCKS["wall"])


def encoding(bench: Bench) -> Iterator[dict[str, Any]]:
    """Chunks of a rollout written as they come, or by a thread that is at most one chunk behind."""
    scenario, chunks = bench.drive(3 * bench.chunk / bench.settings.fps), 2
    simulator = bench.simulator

    def rolled(write: Callable[[Recorder, Iterator[Any]], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            size, frames = (simulator.height, simulator.width), chunks * bench.chunk
            with Recorder(Path(folder) / "out", bench.settings.fps, size, frames) as recorder:
                write(recorder, islice(simulator.run(scenario), chunks))

    def as_they_come(recorder: Recorder, steps: Iterator[Any]) -> None:
        for step in steps:
            recorder.write(step)

    yield bench.compared("a thread that encodes", f"a rollout of {chunks} chunks to disk", partial(rolled, as_they_come),
                         partial(rolled, in_a_thread), "", rounds=3, clock=CLOCKS["wall"])  # fmt: skip


def _repeated(work: Work, times: int) -> None:
    for _ in range(times):
        work()


TRIES: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "channels-last": weights_as_trained, "fused normalisation": normalisation, "bfloat16": half_precision, "batches": batches,
    "decode chunks": chunks, "threads": threads, "encoding": encoding, "compile": compiled,
}  # fmt: skip
