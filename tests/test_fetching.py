"""Clip datasets that lie elsewhere: fetched whole or not at all, once, again where a file changed, and read as if they lay here."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from drivesim.cli import main
from drivesim.datasets.check import check_dataset
from drivesim.datasets.clips import ClipDataset
from drivesim.datasets.datamodule import ClipDataModule
from drivesim.datasets.exports.coco import export_coco
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.clips import open_clips
from drivesim.eval.footage import Footage
from drivesim.io.fetching import cache_folder, local_folder
from drivesim.io.places import Place
from drivesim.io.records import DatasetError, read_records
from drivesim.simulation.inputs import read_boxes, read_start
from drivesim.simulation.scenes.sources import open_bank


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=4, seconds=3, height=32, width=64)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def address(world: Path) -> str:
    """The dataset in memory."""
    url = f"memory://{uuid.uuid4().hex}/clips"
    for path in world.rglob("*"):
        if path.is_file():
            Place(url).write(str(path.relative_to(world)), path.read_bytes())
    return url


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were fetched, as they come."""
    names: list[str] = []
    own = Place.get

    def get(place: Place, some: Any) -> None:
        names.extend(some)
        own(place, some)

    monkeypatch.setattr(Place, "get", get)
    return names


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_paths_of_this_disk_stay_as_they_are(world: Path, cache: Path) -> None:
    assert local_folder(world) == world and local_folder(str(world)) == world
    assert local_folder("not/there") == Path("not/there")
    assert local_folder(f"file://{world}") == world == local_folder(world.as_uri())
    assert read_records(f"file://{world}").clip_ids == read_records(world).clip_ids
    assert not cache.exists()


def test_what_lies_elsewhere_is_fetched_once(world: Path, address: str, asked: list[str], cache: Path) -> None:
    for name in ("parts/a.json", "quarantine/dataset.json", ".rollout.lock", "videos/of_nobody.mp4"):
        Place(address).write(name, b"no reader looks at it")
    folder = local_folder(address)
    assert files_of(folder) == files_of(world)
    assert folder.name == "clips" and folder.is_relative_to(cache)
    assert sorted(asked) == sorted(files_of(world))
    assert local_folder(address + "/") == folder and len(asked) == len(files_of(world))


def test_tables_alone_need_no_videos(address: str, asked: list[str]) -> None:
    assert open_bank(address).drives
    assert asked and not [name for name in asked if name.endswith(".mp4")]


def test_only_what_has_changed_is_fetched_again(world: Path, address: str, asked: list[str]) -> None:
    before = local_folder(address)
    told = json.loads((world / "dataset.json").read_text())
    Place(address).write_json("dataset.json", {**told, "creator": "another"})
    asked.clear()
    after = local_folder(address)
    assert after != before and json.loads((after / "dataset.json").read_text())["creator"] == "another"
    assert asked == ["dataset.json"], "videos and tables are those of before"
    assert files_of(before) == files_of(world), "who reads from it now goes on reading it"


def test_a_video_of_the_same_size_that_was_replaced_is_noticed(world: Path, address: str) -> None:
    name = next(name for name in files_of(world) if name.endswith(".mp4"))
    local_folder(address)
    Place(address).write(name, bytes(len((world / name).read_bytes())))
    assert not any((local_folder(address) / name).read_bytes())


def test_killed_in_the_middle_nothing_half_is_there(
    world: Path, address: str, asked: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, left = MemoryFileSystem.get_file, [6]

    def cut_off(system: Any, remote: str, local: str, **more: Any) -> None:
        own(system, remote, local, **more)
        left[0] -= 1
        if not left[0]:
            Path(local).write_bytes(Path(local).read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr("drivesim.io.fetching.AT_A_TIME", 1)
    monkeypatch.setattr(MemoryFileSystem, "get_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        local_folder(address)
    whole = files_of(world)
    kept = {str(path.relative_to(folder)): path.read_bytes() for folder in cache.rglob("clips") for path in folder.rglob("*.*")}
    assert len(kept) == 5 and kept.items() <= whole.items()
    monkeypatch.setattr(MemoryFileSystem, "get_file", own)
    asked.clear()
    assert files_of(local_folder(address)) == whole
    assert len(asked) == len(whole) - 5, "the next one goes on with it"


def test_a_file_that_comes_incomplete_is_not_kept(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, remote, local, **more: Path(local).write_bytes(b"half"))
    with pytest.raises(DatasetError, match=r"clips/.* came incomplete"):
        local_folder(address)
    assert [path for path in cache.rglob("*") if path.suffix in (".mp4", ".parquet")] == []


def test_a_damaged_copy_is_fetched_again(world: Path, address: str) -> None:
    folder = local_folder(address)
    (folder / "boxes.parquet").write_bytes(b"cut off by a power failure")
    assert files_of(local_folder(address)) == files_of(world)


def test_a_dataset_that_changes_meanwhile_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Place.get

    def get(place: Place, some: Any) -> None:
        own(place, some)
        place.write("rollout.json", b"{}")

    monkeypatch.setattr(Place, "get", get)
    with pytest.raises(DatasetError, match="changed while it was fetched"):
        local_folder(address)


def test_what_cannot_be_read_is_one_clear_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"memory://not/there: nothing is there"):
        read_records("memory://not/there")
    with pytest.raises(UsageError, match=r"nosuch://bucket/clips: .*plug-in"):
        read_records("nosuch://bucket/clips")

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    with monkeypatch.context() as patch:
        patch.setattr("fsspec.core.url_to_fs", missing)
        with pytest.raises(UsageError, match=r"s3://bucket/clips: Install s3fs to access S3; .*plug-in"):
            read_records("s3://bucket/clips")

    def forbidden(*_: Any, **__: Any) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "find", forbidden)
    with pytest.raises(DrivesimError, match=rf"cannot read {address}: no credentials; see that"):
        read_records(address)


@pytest.mark.parametrize("lost", ["dataset.json", "clips.parquet", "boxes.parquet"])
def test_a_dataset_that_is_not_whole_is_told(address: str, lost: str) -> None:
    Place(address).remove(lost)
    with pytest.raises(DatasetError, match=f"no {lost} there: not a clip dataset, or not all of one"):
        read_records(address)


def test_an_unfinished_generation_is_told(address: str) -> None:
    Place(address).remove("dataset.json")
    Place(address).write_json("generation.json", {})
    with pytest.raises(DatasetError, match="its generation is not finished"):
        ClipDataset(address)


def test_a_cache_that_cannot_be_written_is_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DrivesimError, match=r"cannot keep memory://.*XDG_CACHE_HOME"):
        local_folder(address)


def test_names_that_climb_out_are_not_fetched(address: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = MemoryFileSystem.find

    def find(system: Any, path: str, **more: Any) -> dict[str, Any]:
        return {**own(system, path, **more), f"{path}/../../../evil.json": {"size": 3}, f"{path}/..\\evil.json": {"size": 3}}

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    local_folder(address)
    assert list(tmp_path.rglob("*evil*")) == []


def test_training_reads_it_like_a_folder(world: Path, address: str) -> None:
    batches = []
    for data in (str(world), address, [f"file://{world}"]):
        module = ClipDataModule(data, 4, 32, 64, fps=7.5, batch_size=2, samples_per_epoch=4)
        module.setup()
        batches.append(next(iter(module.train_dataloader())))
    for other in batches[1:]:
        assert np.array_equal(other["frames"], batches[0]["frames"])


def test_evaluation_reads_datasets_and_videos(world: Path, address: str) -> None:
    here, there = Footage.open([world]), Footage.open([address])
    assert [clip.digest for clip in there.clips] == [clip.digest for clip in here.clips]
    assert there.name == here.name and there.paths == (address,), "the result says where they lie"
    for name in (*read_records(world).clips["video"], "notes.txt"):
        Place(address + "-videos").write(f"some/{Path(name).name}", (world / name).read_bytes() if "mp4" in name else b"")
    films = open_clips([local_folder(address + "-videos", dataset=False)], None)
    assert len(films.clips) == 4 and films.skipped == {}


def test_commands_take_addresses(world: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", address, "--deep"]) == 0
    assert f"{address}: no faults" in capsys.readouterr().out
    assert main(["data", "stats", address, "--out", str(tmp_path / "stats.png")]) == 0
    assert f"dataset: {address}" in capsys.readouterr().out and (tmp_path / "stats.png").exists()
    assert main(["data", "export", "coco", address, "--out", str(tmp_path / "there")]) == 0
    export_coco(world, tmp_path / "here")
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert main(["report", address, "--out", str(tmp_path / "page.html")]) == 0
    assert main(["scenario", "sample", "--bank", address, "--out", str(tmp_path / "table.parquet"), "--count", "1"]) == 0
    assert main(["data", "check", "memory://not/there"]) == 1
    told = capsys.readouterr().err
    assert "memory://not/there: nothing is there" in told and len(told.splitlines()) == 1


def test_what_would_write_into_it_asks_for_another_place(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Place(address).listing()
    for words, mend in (
        (["data", "stats", address], "say with --out where the picture goes"),
        (["data", "check", address, "--quarantine"], "copy the dataset to this disk"),
        (["data", "agree", address, "--quarantine", "--min-agreement", "0.5"], "copy the dataset to this disk"),
        (["evaluate", "--real", address, "--generated", address], "say with --out where the result goes"),
        (["report", address], "say with --out where the page goes"),
    ):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert f"{address} is not a folder of this disk" in told and mend in told and len(told.splitlines()) == 1
    assert Place(address).listing() == before


def test_agreement_and_labels_are_written_where_it_lies(world: Path, address: str, tmp_path: Path, asked: list[str]) -> None:
    shutil.copytree(world, tmp_path / "clips")
    for command in ("agree", "label"):
        for dataset in (str(tmp_path / "clips"), address):
            assert main(["data", command, dataset, "progress=false"]) == 0
        asked.clear()
        here, there = read_records(tmp_path / "clips"), read_records(address)
        assert "agreement_f1" in there.clips and there.clips.equals(here.clips) and there.boxes.equals(here.boxes)
        assert asked and not [name for name in asked if name.endswith(".mp4")], "videos are those of before"
    assert check_dataset(address)["faults"] == 0


def test_boxes_and_a_start_for_a_rollout_may_lie_elsewhere(world: Path, address: str, tmp_path: Path) -> None:
    clip = read_records(world).clip_ids[0]
    for name in ("boxes.parquet", f"videos/{clip}.mp4"):
        here, there = world / name, f"{address}/{name}"
        if name.endswith("parquet"):
            tracks = [read_boxes(path, 3.0, 7.5, clip) for path in (here, there)]
            assert tracks[0] and all(np.array_equal(one.xyxy, other.xyxy) for one, other in zip(*tracks, strict=True))
        else:
            assert np.array_equal(read_start(here, 32, 64, 1.875), read_start(there, 32, 64, 1.875))
    with pytest.raises(UsageError, match=f"{address}/boxes.parquet: holds boxes of 4 clips"):
        read_boxes(f"{address}/boxes.parquet", 3.0, 7.5)
    with pytest.raises(UsageError, match=f"{address}/none.png: no such file"):
        read_start(f"{address}/none.png", 32, 64, 1.875)
