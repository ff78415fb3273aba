"""``drivesim evaluate`` and ``drivesim report`` as typed: flags reach what they name, with the judge that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drivesim.cli import main
from drivesim.datasets.sources.synthetic import make_road_world


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("judging")
    for seed, name in enumerate(("recorded", "made")):
        make_road_world(root / name, clips=5, seconds=5, height=32, width=64, seed=seed)
    return root / "recorded", root / "made"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_evaluate_then_report(worlds: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recorded, made = worlds
    words = ["--protocol", "fd_lite0_lossless", "--parts", "distances", "split=null", "progress=false"]
    assert main(["evaluate", "--real", str(recorded), "--generated", str(made), *words]) == 0
    shown = capsys.readouterr().out
    assert "fd_lite0_lossless" in shown and "refused" in shown, "20 frames a side are too few for a Frechet distance"
    assert "FID" not in shown and "FVD" not in shown
    result = json.loads((made / "evaluation" / "result.json").read_text())
    part = result["protocols"]["fd_lite0_lossless"]
    assert part["frechet"]["value"] is None and abs(part["kernel"]["value"]) < 1 and part["n_real"] == part["n_generated"] == 25
    assert main(["report", str(made)]) == 0
    page = (made / "report.html").read_text()
    assert "fd_lite0_lossless" in page and "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--protocol", "fvd"], 2, "fvd_2048x16_lossless"),
        (["--protocol", "fd_lite"], 2, "codec"),
        (["--parts", "smell"], 2, "distances, drift, labels, memorisation"),
        (["limit=0"], 2, "limit must be a whole number from 1"),
        (["--protocol", "fid_10k_h264crf18"], 1, "inception"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str], code: int, told: str, worlds: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIVESIM_WEIGHTS", raising=False)
    recorded, made = worlds
    assert main(["evaluate", "--real", str(recorded), "--generated", str(made), "split=null", *words]) == code
    assert told in capsys.readouterr().err


def test_the_same_clips_on_both_sides_are_refused(worlds: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--real", str(worlds[0]), "--generated", str(worlds[0]), "split=null"]) == 2
    assert "same files" in capsys.readouterr().err


def test_a_folder_without_clips_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "empty" in capsys.readouterr().err
