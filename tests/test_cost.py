"""Costs told before a rollout are those of the rollout: operations counted, bytes followed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as nnf
from benchmark_scripts import benchmark
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import Scenario
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.device import Stopwatch
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator
from drivesim.simulation.trace import trace
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

KIB = 2**10
SECONDS = 3.6
FEW = {"steps_image": 1, "steps_keyframes": 2, "steps_interpolation": 1}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return benchmark("untrained").write_untrained("toy", tmp_path_factory.mktemp("untrained"))


def costs(checkpoint: Checkpoint, upsampling: UpsamplerSettings | None = None, **settings: object) -> Costs:
    chosen = RolloutSettings.of(checkpoint.settings["rollout"], **settings)
    return Costs(described(checkpoint), checkpoint.settings, chosen, upsampling)


class TestTrace:
    def test_bytes_alive_at_once(self) -> None:
        def chain() -> torch.Tensor:
            first = torch.zeros(KIB)  # 4 KiB
            second = first + 1
            del first
            return second * 2  # second and its double

        assert trace(chain).live == 8 * KIB

    def test_views_and_weights_are_not_new(self) -> None:
        layer = nn.Linear(64, 64, device="meta")
        assert trace(lambda: layer(torch.zeros(16, 64))).live == 2 * 16 * 64 * 4

    def test_operations(self) -> None:
        conv, linear = nn.Conv2d(3, 5, 3, padding=1, device="meta"), nn.Linear(7, 11, device="meta")
        assert trace(lambda: conv(torch.zeros(2, 3, 8, 9))).flop == 2 * 2 * 8 * 9 * 3 * 5 * 9
        assert trace(lambda: linear(torch.zeros(4, 7))).flop == 2 * 4 * 7 * 11

    def test_attention_counts_but_keeps_no_table(self) -> None:
        def call() -> torch.Tensor:
            query = torch.zeros(2, 3, 500, 16)
            return nnf.scaled_dot_product_attention(query, query, query)

        found = trace(call)
        assert found.flop == 2 * 2 * 2 * 3 * 500 * 500 * 16
        assert found.live == 2 * 2 * 3 * 500 * 16 * 4

    def test_half_precision_halves_what_layers_make(self) -> None:
        layer = nn.Linear(64, 256, device="meta", dtype=torch.bfloat16)
        found = trace(lambda: layer(torch.zeros(16, 64)), "bfloat16")
        assert found.live == 16 * 64 * (4 + 2) + 16 * 256 * 2


@dataclass
class Counting(Stopwatch):
    flops: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops[name] = self.flops.get(name, 0.0) + counter.get_total_flops()


@pytest.mark.parametrize("wishes", [{}, {"guidance": 2.0, "fps": 1.875}, {"label_guidance": 2.0, "decode_frames": 8}])
def test_operations_of_a_rollout_are_told_before(toy: Checkpoint, wishes: dict) -> None:
    simulator = Simulator(toy, RolloutSettings.of(toy.settings["rollout"], **FEW, **wishes))
    watch = simulator.stopwatch = Counting()
    upsampling = UpsamplerSettings(network="upsampler", steps=2, overlap=1)
    upsampler = Upsampler(toy, upsampling, stopwatch=watch)
    assert sum(len(step.frames) for step in upsampler.steps(simulator.run(Scenario(SECONDS)))) == round(SECONDS * simulator.settings.fps)
    told = costs(toy, upsampling, **FEW, **wishes).flop(SECONDS)
    assert told.keys() == watch.flops.keys()
    for name, flop in watch.flops.items():  # labels cost a little, too
        assert told[name] == pytest.approx(flop, rel=0.05), name


def test_bytes_are_a_straight_line_over_batch_and_chunk(toy: Checkpoint) -> None:
    found = costs(toy)
    assert found.interpolation(7).live == pytest.approx(found.interpolation_live(7), rel=0.01)
    assert found.decode(40).live == pytest.approx(found.decode_live(40), rel=0.01)
    assert found.interpolation_live(8) > found.interpolation_live(7) and found.decode_live(8) > found.decode_live(7)


def test_tiles_need_less_than_whole_frames(toy: Checkpoint) -> None:
    found = costs(toy, UpsamplerSettings())
    assert found.enlarge(16).live < found.enlarge(0).live
    assert found.enlarge(16).flop < found.enlarge(0).flop


def test_only_what_is_loaded_weighs(toy: Checkpoint) -> None:
    assert set(costs(toy, fps=1.875).weights) == {"autoencoder", "image", "prediction"}
    assert set(costs(toy, UpsamplerSettings()).weights) == {"autoencoder", "image", "prediction", "interpolation", "upsampler_fast"}
    full, half = costs(toy).weights["prediction"], costs(toy, precision="bfloat16").weights["prediction"]
    assert full == 4 * sum(weight.numel() for weight in toy.network("prediction").parameters())
    assert 0.5 * full <= half < 0.7 * full
