"""``drivesim evaluate`` end to end, with a stand-in for the feature networks: what is written, what is marked, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from standins import StandIn, noisy_clips
from toy_checkpoint import make_checkpoint

from drivesim.commands.evaluate import run
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval import evaluate as evaluation
from drivesim.eval import parts, protocols
from drivesim.eval.compare import Comparison, Sides, distances
from drivesim.eval.derived import frozen, reconstructed
from drivesim.eval.evaluate import evaluate
from drivesim.eval.extract import features_of
from drivesim.eval.footage import Footage
from drivesim.eval.plots import plot_distances
from drivesim.eval.result import table
from drivesim.io.records import DatasetRecords, clip_row, read_records, write_records
from drivesim.io.video import write_video
from drivesim.labels import LabelTrack

FRAMES, CLIPS = protocols.DEFAULT


def network(name: str, *_: object) -> StandIn:
    return StandIn(name, hash=("1" if name == "lite0-clips" else "2") * 64)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that one test computed serve the next: only clips that a test changes are decoded again."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """Stand-in networks, small protocols, no plots, a cache of this file's own."""
    monkeypatch.setattr(evaluation, "plot_distances", lambda *_: None)
    for module in (evaluation, parts):
        monkeypatch.setattr(module, "feature_network", network)
    for name, protocol in protocols.PROTOCOLS.items():
        small = replace(protocol, size=(32, 64), minimum=20, enough=40, clips=48, resamples=50)
        monkeypatch.setitem(protocols.PROTOCOLS, name, small)
    monkeypatch.setattr(parts, "CLIPS", protocols.PROTOCOLS[CLIPS])
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two datasets of eight clips of 80 frames, half of them split "test"; the second says that it was generated."""
    root = tmp_path_factory.mktemp("worlds")
    kinds = {"real": {"kind": "simulated"}, "made": {"kind": "generated", "context_frames": 0, "checkpoint": "abc"}}
    for seed, (name, kind) in enumerate(kinds.items()):
        write_dataset(root / name, noisy_clips(8, frames=80, size=(32, 64), seed=seed), kind)
    return {name: root / name for name in kinds}


def write_dataset(root: Path, clips: list[np.ndarray], origin: dict[str, Any]) -> None:
    rows = []
    for number, frames in enumerate(clips):
        clip_id, split = f"clip{number}", "train" if number % 2 else "test"
        write_video(root / "videos" / f"{clip_id}.mp4", frames, 7.5)
        track = LabelTrack.unknown(len(frames), 7.5)
        more = {"split": split, "provenance": json.dumps(origin)}
        rows.append(clip_row(track, clip_id, f"videos/{clip_id}.mp4", *frames.shape[1:3], **more))
    write_records(root, DatasetRecords(root, pd.DataFrame(rows)))


def judged(worlds: dict[str, Path], out: Path, **more: Any) -> dict[str, Any]:
    return evaluate(worlds["real"], worlds["made"], out=out, progress=False, **{"parts": "distances", **more})


# what is written


def test_the_result_is_complete(worlds: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    judged(worlds, tmp_path / "out", checkpoint=checkpoint.folder)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["format"], result["version"]) == ("drivesim-evaluation", 1)
    assert result["real"]["split"] == "test" and result["real"]["clips"] == 4 and result["real"]["kind"] == "simulated"
    assert (result["generated"]["context_frames"], result["generated"]["checkpoint"]) == (0, "abc")
    part = result["protocols"][CLIPS]
    assert part["protocol"] == json.loads(json.dumps(protocols.PROTOCOLS[CLIPS].describe()))
    assert part["network"]["name"] == "lite0-clips" and len(part["network"]["hash"]) == 64
    assert part["n_real"] == part["n_generated"] == 20
    for numbers in (part, part["floor"], part["ceiling"], part["baselines"]["frozen"]):
        for kind in ("frechet", "kernel"):
            assert numbers[kind]["low"] <= numbers[kind]["value"] <= numbers[kind]["high"]
    assert part["floor"]["n"] == 20 and part["ceiling"]["n"] == 20
    assert "frozen" not in result["protocols"][FRAMES]["baselines"]
    plot_distances(result, tmp_path / "distances.png")
    assert (tmp_path / "distances.png").stat().st_size > 10_000


def test_the_csv_holds_every_number_of_the_protocols(worlds: dict[str, Path], tmp_path: Path) -> None:
    result = judged(worlds, tmp_path / "out")
    with (tmp_path / "out" / "result.csv").open(newline="") as file:
        rows = {(row["protocol"], row["quantity"]): row for row in csv.DictReader(file)}
    assert {quantity for _, quantity in rows} == {f"{what}{kind}" for what in ("", "floor_", "frozen_") for kind in ("frechet", "kernel")}
    value = result["protocols"][CLIPS]["floor"]["frechet"]["value"]
    assert float(rows[CLIPS, "floor_frechet"]["value"]) == value and rows[CLIPS, "frechet"]["n"] == "20"


def test_the_second_time_nothing_is_computed_again(worlds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = judged(worlds, tmp_path / "out", protocol=CLIPS)
    seen: list[StandIn] = []
    monkeypatch.setattr(evaluation, "feature_network", lambda name, *_: seen.append(network(name)) or seen[-1])
    again = judged(worlds, tmp_path / "out", protocol=CLIPS)
    assert [stand_in.seen for stand_in in seen] == [0] and again["protocols"] == first["protocols"]
    judged(worlds, tmp_path / "out", protocol=CLIPS, no_cache=True)
    assert seen[1].seen > 0


def test_the_command_prints_a_table_and_where_the_result_is(
    worlds: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "it's, [odd]"
    shutil.copytree(worlds["made"], odd)
    flags = {"real": [worlds["real"]], "generated": [odd], "protocol": [FRAMES], "parts": ["distances"], "out": None, "split": None}
    assert run(flags, ["progress=false"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["protocol", "distance"] and lines[1].startswith(f"{FRAMES}  Frechet")
    assert lines[-1] == f"result: {odd / 'evaluation'}" and (odd / "evaluation" / "result.json").is_file()


# what the numbers mean


def test_worse_clips_lie_farther_away(tmp_path: Path) -> None:
    """In memory: clips from the reference's distribution, and ones much brighter."""
    real = Footage.from_frames("real", noisy_clips(48, size=(32, 64)), 7.5)
    values = []
    for bright in (0.5, 0.8):
        made = Footage.from_frames("made", noisy_clips(48, size=(32, 64), seed=1, bright=bright), 7.5)
        part = Comparison(protocols.PROTOCOLS["fvd_lite0_256x16_lossless"], network("lite0-clips"), Sides(real, made)).result()
        values.append((part["frechet"]["value"], part["kernel"]["value"]))
    assert values[1][0] > 3 * values[0][0] > 0 and values[1][1] > 3 * abs(values[0][1])


def test_stills_do_not_move_and_keep_their_first_frame() -> None:
    shots = Footage.from_frames("clips", noisy_clips(2), 7.5).shots(16, 7.5)
    for shot, still in zip(shots, frozen(shots), strict=True):
        frames = still.read()
        assert np.array_equal(frames[0], shot.read()[0]) and (frames == frames[:1]).all() and still.key != shot.key


def test_reconstructions_are_the_checkpoint_s_and_have_its_key(tmp_path: Path) -> None:
    shots = Footage.from_frames("clips", noisy_clips(2), 7.5).shots(16, 7.5)
    pixels, latents = (make_checkpoint(tmp_path / name, pixels=name == "pixels") for name in ("pixels", "latents"))
    made = reconstructed(shots, pixels)
    assert made[0].read().shape == (16, 32, 64, 3), "at the checkpoint's size"
    assert len({shot.key for shot in (*shots, *made, *reconstructed(shots, latents))}) == 6
    exact = Footage.from_frames("clips", noisy_clips(1, size=(32, 64)), 7.5).shots(16, 7.5)
    assert np.array_equal(reconstructed(exact, pixels)[0].read(), exact[0].read()), "the identity reconstructs exactly"


def test_both_sides_and_the_floor_have_equally_many_shots(tmp_path: Path) -> None:
    real = Footage.from_frames("real", noisy_clips(40, size=(32, 64)), 7.5)
    made = Footage.from_frames("made", noisy_clips(30, size=(32, 64), seed=1), 7.5)
    train = Footage.from_frames("train", noisy_clips(24, size=(32, 64), seed=2), 7.5)
    protocol = protocols.PROTOCOLS["fvd_lite0_256x16_lossless"]  # x264 does not repeat itself on pictures this small
    part = Comparison(protocol, network("lite0-clips"), Sides(real, made, train)).result()
    assert (part["n_real"], part["n_generated"], part["floor"]["n"]) == (30, 30, 24)
    assert any("the floor is at 24 clips a side, not at 30" in mark for mark in part["marks"])
    features = [features_of(protocol.shots(side, 24), network(""), size=protocol.size, codec="lossless") for side in (real, train)]
    again = distances(*features, protocol)
    assert part["floor"]["frechet"]["value"] == pytest.approx(again["frechet"]["value"])


# what is marked


def test_too_few_shots_are_marked_or_refused(worlds: dict[str, Path], tmp_path: Path) -> None:
    part = judged(worlds, tmp_path / "out")["protocols"][CLIPS]
    assert any(mark.startswith("only 20 clips a side, 40 are asked for") for mark in part["marks"])
    part = judged(worlds, tmp_path / "out", limit=18)["protocols"][CLIPS]
    assert part["frechet"]["value"] is None and part["kernel"]["value"] is not None
    assert part["marks"][0] == "Frechet distance refused: 18 clips a side mean nothing, 20 are the least"
    with pytest.raises(UsageError, match=r"only 10 frames .* at least 16 are needed"):
        judged(worlds, tmp_path / "out", limit=10)


def test_an_unreadable_clip_is_named_counted_and_marked(worlds: dict[str, Path], tmp_path: Path) -> None:
    made = shutil.copytree(worlds["made"], tmp_path / "made")
    video = sorted((made / "videos").iterdir())[0]
    video.write_bytes(video.read_bytes()[:3000])
    result = evaluate(worlds["real"], made, protocol=CLIPS, parts="distances", out=tmp_path / "out", progress=False, split=None)
    part = result["protocols"][CLIPS]
    assert part["n_generated"] < part["n_real"] == 40
    assert any(mark.startswith("generated: 1 clips could not be read") and video.stem in mark for mark in part["marks"])
    assert any(video.stem in line for line in table(result))


def test_clips_that_hold_no_shot_are_counted(worlds: dict[str, Path], tmp_path: Path) -> None:
    made = shutil.copytree(worlds["made"], tmp_path / "made")
    records = read_records(made)
    write_video(made / "videos" / "short.mp4", noisy_clips(1, frames=9, size=(32, 64))[0], 7.5)
    short = records.clips.iloc[:1].assign(clip_id="short", video="videos/short.mp4", frames=9, duration_s=1.2)
    write_records(made, DatasetRecords(made, pd.concat([records.clips, short], ignore_index=True)))
    result = evaluate(worlds["real"], made, protocol=CLIPS, parts="distances", out=tmp_path / "out", progress=False)
    marks = result["protocols"][CLIPS]["marks"]
    assert any("generated: 1 of 9 clips hold no shot: shorter than the 16 frames" in mark for mark in marks)


def test_lossless_protocols_say_when_files_had_lost_something(worlds: dict[str, Path], tmp_path: Path) -> None:
    part = judged(worlds, tmp_path / "out", protocol="fvd_lite0_256x16_lossless")["protocols"]["fvd_lite0_256x16_lossless"]
    assert sum("had lost something before this lossless protocol" in mark for mark in part["marks"]) == 2
    assert not any("lossless" in mark for mark in judged(worlds, tmp_path / "out")["protocols"][CLIPS]["marks"])


def test_without_train_clips_there_is_no_floor(worlds: dict[str, Path], tmp_path: Path) -> None:
    part = judged(worlds, tmp_path / "out", split=None)["protocols"][CLIPS]
    assert part["floor"] is None and "no floor: no train clips" in part["marks"]


def test_the_floor_comes_from_the_datasets_that_have_a_train_split(worlds: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "test only"
    write_dataset(whole, noisy_clips(4, frames=80, size=(32, 64), seed=7), {"kind": "simulated"})
    records = read_records(whole)
    write_records(whole, replace(records, clips=records.clips.assign(split="test")))
    real = [worlds["real"], whole]
    result = evaluate(real, worlds["made"], protocol=CLIPS, parts="distances", out=tmp_path / "out", progress=False)
    assert result["real"]["clips"] == 8 and result["protocols"][CLIPS]["floor"]["n"] == 20


def test_train_clips_of_another_kind_give_no_floor(worlds: dict[str, Path], tmp_path: Path) -> None:
    result = judged(worlds, tmp_path / "out", train=worlds["made"])
    assert result["protocols"][CLIPS]["floor"] is None
    assert any("the train clips are generated, the real side is simulated" in mark for mark in result["marks"])


def test_one_drive_has_no_interval(worlds: dict[str, Path], tmp_path: Path) -> None:
    made = shutil.copytree(worlds["made"], tmp_path / "made")
    records = read_records(made)
    write_records(made, replace(records, clips=records.clips.assign(provenance=json.dumps({"kind": "generated", "drive": "one"}))))
    part = evaluate(worlds["real"], made, protocol=CLIPS, parts="distances", out=tmp_path / "out", progress=False)["protocols"][CLIPS]
    assert part["frechet"]["low"] is None and "generated: one drive only, so the interval is unknown" in part["marks"]


# the other parts


def test_copies_are_looked_for_where_there_are_train_clips(worlds: dict[str, Path], tmp_path: Path) -> None:
    result = judged(worlds, tmp_path / "out", parts="memorisation")
    assert result["memorisation"]["n"] == {"generated": 40, "train": 20, "test": 20} and result["protocols"] == {}
    with pytest.raises(UsageError, match="give --train"):
        judged(worlds, tmp_path / "out", parts="memorisation", split=None)


def test_parts_that_do_not_apply_are_left_out_unless_asked_for(worlds: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no clip of made is that long"):
        judged(worlds, tmp_path / "out", parts="distances,drift")


def test_a_part_that_fails_costs_only_itself(worlds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: parts.Bench) -> dict[str, Any]:
        raise DrivesimError("the detector is missing")

    monkeypatch.setattr(evaluation, "BESIDE", {"labels": parts.Part("label_fidelity", lambda sides: True, broken)})
    result = judged(worlds, tmp_path / "out", parts=None)
    assert result["label_fidelity"] is None and "no labels: the detector is missing" in result["marks"] and result["protocols"]
    with pytest.raises(DrivesimError, match="the detector is missing"):
        judged(worlds, tmp_path / "out", parts=["labels"])


# what is refused


def test_the_same_files_on_both_sides(worlds: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(worlds["real"], tmp_path / "copy")
    with pytest.raises(UsageError, match="real and generated hold the same files: 4 of 8 clips of copy are clips of real"):
        evaluate(worlds["real"], copy, progress=False)
    with pytest.raises(UsageError, match="the same files: all clips"):
        evaluate(worlds["real"], copy, split=None, progress=False)


def test_fewer_frames_than_a_protocol_needs(worlds: dict[str, Path], tmp_path: Path) -> None:
    for number, clip in enumerate(noisy_clips(30, frames=10, size=(32, 64))):
        write_video(tmp_path / "made" / f"{number}.mp4", clip, 7.5)
    with pytest.raises(UsageError, match=r"made gives only 0 clips \(16 frames at 7.5 fps\).*shorter than the 16 frames"):
        evaluate(worlds["real"], tmp_path / "made", protocol=CLIPS, progress=False)
    result = evaluate(worlds["real"], tmp_path / "made", parts="distances", out=tmp_path / "out", progress=False)
    assert list(result["protocols"]) == [FRAMES] and any(mark.startswith(f"not judged: {CLIPS}: made gives") for mark in result["marks"])


def test_mixed_sizes_on_the_generated_side(worlds: dict[str, Path], tmp_path: Path) -> None:
    for size in (32, 64):
        write_video(tmp_path / "made" / f"{size}.mp4", noisy_clips(1, size=(size, 64))[0], 7.5)
    with pytest.raises(UsageError, match="several sizes"):
        evaluate(worlds["real"], tmp_path / "made", progress=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"protocol": "fvd"}, "a protocol's name says the codec"),
        ({"protocol": "psnr"}, "no protocol named psnr"),
        ({"parts": "distances,colour"}, "no part named colour"),
        ({"limit": 0}, "limit must be a whole number"),
        ({"checkpoint": "nowhere"}, "no such checkpoint folder"),
        ({"split": "night"}, "no clips of split 'night'"),
    ],
)
def test_values_that_cannot_be(worlds: dict[str, Path], tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DrivesimError, match=message):
        judged(worlds, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_said_before_anything_is_decoded(
    worlds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *_: object) -> StandIn:
        raise DrivesimError(f"{name}: put the file there")

    monkeypatch.setattr(evaluation, "feature_network", absent)
    monkeypatch.setattr(evaluation, "_sides", lambda *_: pytest.fail("clips were opened"))
    with pytest.raises(DrivesimError, match="i3d-kinetics-400: put the file there"):
        judged(worlds, tmp_path / "out", protocol="fvd_2048x16_h264crf18")
