"""What benchmarks/speed.py makes of seconds that are known, and that what it tries computes the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from toy_checkpoint import make_checkpoint

from drivesim.io.checkpoints import Checkpoint
from drivesim.models.blocks import Norm
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.quality import rollout_settings

speed, report, tries = benchmark("speed"), benchmark("speed_report"), benchmark("speed_tries")
process, variants = benchmark("speed_process"), benchmark("speed_variants")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "toy", steps_keyframes=1, decode_frames=8)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: Checkpoint) -> Any:
    """Run one command of the script; returns what it wrote."""

    def ran(*words: object) -> dict[str, Any]:
        out = tmp_path / "speed.json"
        monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", *map(str, words), "--checkpoint", str(toy.folder), "--out", str(out)])
        speed.main()
        return json.loads(out.read_text())

    return ran


def whole(**more: Any) -> Any:
    timings = {"elapsed_s": 6.0, "first_second_s": 3.0, "keyframes_s": 4.0, "encode_s": 1.0}
    told = {"frames": 75, "fps": 7.5, "timings": timings}
    return process.Whole(**{"wall_s": 10.0, "begun_s": 3.0, "first_second_s": 6.0, "cpu_s": 18.0, "system_s": 1.0, "peak_bytes": 2**30,
                            "told": told, **more})  # fmt: skip


def test_passes_add_up_to_the_whole_and_work_is_told_of_networks_only() -> None:
    rows = {row["pass"]: row for row in report.passes_of(whole(), {"keyframes": 2e12}, peak=1e12)}
    assert {name: row["seconds"] for name, row in rows.items()} == {
        "import and load": 3.0, "keyframes": 4.0, "encode": 1.0, "rest": 2.0, "networks": 4.0, "all": 10.0,
    }  # fmt: skip
    assert rows["keyframes"]["gflop_per_s"] == 500 and rows["keyframes"]["share_of_peak"] == 0.5 and rows["keyframes"]["share"] == 0.4
    assert "gflop" not in rows["encode"] and whole().video_s == 10.0


def test_targets_are_said_to_be_met_or_missed() -> None:
    found = {**speed.facts(whole(told={**whole().told, "checkpoint": {}, "settings": {"quality": "fast"}, "passes": {}, "threads": 2,
                                       "versions": {}})),
             "passes": [], "peak_flop_per_s": {"matrix": 1e11}}  # fmt: skip
    assert report.table_of_passes(found).count("| met |") == 3
    slow = report.table_of_passes({**found, "wall_s": 11.0, "first_second_s": 10.5, "peak_mib": 2000.0})
    assert slow.count("| missed |") == 3 and "| met |" not in slow


def test_a_straight_line_is_found() -> None:
    runs = [{"minutes": minutes, "wall_s": 5 + 40 * minutes, "peak_mib": 700 + minutes} for minutes in (1.0, 2.0, 5.0)]
    found = report.lengths_of(runs)
    assert (found["start_s"], found["s_per_minute"]) == (pytest.approx(5), pytest.approx(40))
    assert found["farthest_off"] < 1e-9 and found["memory_growth"] == pytest.approx(705 / 701)
    assert report.lengths_of([*runs, {"minutes": 10.0, "wall_s": 800.0, "peak_mib": 900.0}])["farthest_off"] > 0.1
    assert report.lengths_of(runs[:1]) == {}


def test_ratios_of_pairs() -> None:
    seconds = np.array([[1.0, 0.5], [2.0, 1.0], [4.0, 2.0]])
    found = tries.paired(seconds)
    assert (found["median"], found["low"], found["high"], found["default_s"], found["other_s"]) == (0.5, 0.5, 0.5, 2.0, 1.0)
    assert report.verdict(found["low"], found["high"]) == "faster" and report.verdict(1.1, 1.2) == "slower"
    assert report.verdict(0.9, 1.1) == "no difference seen"


def test_passes_are_weighed_by_their_calls() -> None:
    row = tries._row("one", "both", [(10.0, [(1.0, 2.0)] * 3), (5.0, [(4.0, 1.0)] * 3)])
    assert row["default_s"] == 30 and row["other_s"] == 25 and row["median"] == pytest.approx(25 / 30)


def test_calls_are_those_of_a_rollout(toy: Checkpoint) -> None:
    """Counted and weighed, they are the operations of a minute of video, but for the first frame and chunks that the video ends."""
    settings = rollout_settings(toy, guidance=2.0, label_guidance=1.5, batch=3)
    bench = tries.Bench(toy, settings, 1, "cpu")
    cost = Costs(described(toy), toy.settings, settings, None)
    flop = cost.flop(60.0)
    assert bench.calls["keyframes"] * cost.keyframes().flop == pytest.approx(flop["keyframes"])
    between = bench.calls["interpolation"] * cost.interpolation(3).flop
    assert between == pytest.approx(flop["interpolation"], rel=1e-3), "what all windows share counts once"
    assert bench.calls["decode"] * cost.decode(8).flop == pytest.approx(flop["decode"], rel=0.02)


def test_normalisation_in_one_sweep_is_the_same() -> None:
    torch.manual_seed(0)
    norm, x = Norm(24), torch.randn(3, 24, 4, 6) + 5
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    scale, shift = torch.randn(2, 3, 24, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(variants.norm_modulate_silu(norm, x), torch.nn.functional.silu(norm(x)))
        plain = torch.nn.functional.silu(torch.addcmul(shift, norm(x), 1 + scale))
        torch.testing.assert_close(variants.norm_modulate_silu(norm, x, scale, shift), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [variants.fused, variants.contiguous])
def test_networks_that_are_tried_answer_alike(change: Any, toy: Checkpoint) -> None:
    torch.manual_seed(0)
    bench = tries.Bench(toy, rollout_settings(toy), 1, "cpu")
    default, other = bench.networks(), {name: change(network) for name, network in bench.networks().items()}
    assert set(default) == {"keyframes", "interpolation", "decode"}
    works = bench.works(default)
    for name in default:
        function, _, *inputs = works[name].func, *works[name].args
        torch.testing.assert_close(function(other[name], *inputs), works[name](), rtol=1e-3, atol=1e-4)


class Kept:
    """A recorder that is slow and refuses a step."""

    def __init__(self, refuses: int = -1) -> None:
        self.written: list[int] = []
        self.refuses = refuses

    def write(self, step: int) -> None:
        if step == self.refuses:
            raise OSError("no space")
        self.written.append(step)


def test_a_thread_that_writes_keeps_the_order_and_is_at_most_one_behind() -> None:
    kept = Kept()

    def steps() -> Iterator[int]:
        for number in range(20):
            yield number
            assert number - len(kept.written) <= 2, "one that waits and one that is being written"

    variants.in_a_thread(kept, steps())
    assert kept.written == list(range(20))


def test_what_the_thread_could_not_write_is_raised_here() -> None:
    kept = Kept(refuses=3)
    with pytest.raises(OSError, match="no space"):
        variants.in_a_thread(kept, iter(range(20)))
    assert kept.written == [0, 1, 2]

    def broken() -> Iterator[int]:
        yield 0
        raise ZeroDivisionError

    kept = Kept()
    with pytest.raises(ZeroDivisionError):
        variants.in_a_thread(kept, broken())
    assert kept.written == [0]


def test_every_try_of_a_toy(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["channels-last", "fused", "bfloat16", "batches", "chunks", "threads", "encoding"]
    made = run("tries", "--rounds", "2", "--threads", "1", "--set", "rollout.batch=2", "--only", *names)["tries"]
    said = [row["name"] for row in made["tries"]]
    assert [name for name in said if name.startswith("batches")] == [f"batches of {size}" for size in (1, 2, 4, 16)]
    assert {"weights not channels-last", "fused normalisation", "bfloat16", "one thread", "a thread that encodes"} <= set(said)
    assert all(row["low"] <= row["median"] <= row["high"] and min(row["ratios"]) > 0 for row in made["tries"])
    assert made["rounds"] == 2 and made["threads"] == 1 and made["peak_flop_per_s"]["matrix"] > 0
    assert capsys.readouterr().out.count("\n| ") == len(made["tries"]) + 1


def test_table_and_minutes_of_a_toy(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("table", "--minutes", 0.1, "--threads", "1")["table"]
    (one,) = made["qualities"].values()
    passes = {row["pass"]: row for row in one["passes"]}
    assert {"import and load", "image", "keyframes", "interpolation", "decode", "encode", "labels", "preview", "rest"} < set(passes)
    parts = sum(row["seconds"] for name, row in passes.items() if name not in ("networks", "all"))
    assert parts == pytest.approx(one["wall_s"]) and 0 < one["begun_s"] < one["first_second_s"] <= one["wall_s"]
    assert one["peak_mib"] > 50 and one["rollout"]["threads"] == 1 and one["rollout"]["frames"] == 45
    both = run("minutes", "--minutes", 0.02, 0.05, "--threads", "1", "--plot", tmp_path / "plot.png")
    assert [round(one["video_s"] * 7.5) for one in both["minutes"]["runs"]] == [9, 22] and "table" in both, "the parts keep each other"
    assert (tmp_path / "plot.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "of the peak" in said and "first playable second after" in said


def test_a_rollout_that_fails_is_quoted() -> None:
    with pytest.raises(RuntimeError, match="minutes must be a positive number"):
        process.run_whole(["--minutes", "-1"])
