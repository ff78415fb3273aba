"""The wheel, installed in an environment of its own outside the checkout, runs.

Installing every dependency again would take minutes, so the fresh environment sees this one's packages through a path file; drivesim
itself, editable here, is hidden from it and comes from the wheel alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from toys import write_toy_checkpoint

from drivesim.datasets.sources.synthetic import make_road_world

ROOT = Path(__file__).parents[1]
# Only the folder is added: the outer environment's own .pth files, which would bring in an editable drivesim, are not read.
SEE_OUTER = "import sys; sys.path.append({outer!r})"
FOLDERS = {"drivesim": "drivesim", "datasets": "drivesim/datasets", "eval": "drivesim/eval", "configs": "drivesim/configs"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is tracked by packaging, so that the checkout is left as it was."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a fresh environment that holds the wheel."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, symlinks=os.name != "nt", with_pip=False)
    inner = Path(sysconfig.get_path("purelib", scheme="venv", vars={"base": str(home), "platbase": str(home)}))
    (inner / "outer.pth").write_text(SEE_OUTER.format(outer=sysconfig.get_path("purelib")) + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(_bin(home) / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return _bin(home) / "python"


def _bin(home: Path) -> Path:
    return home / ("Scripts" if os.name == "nt" else "bin")


def run(python: Path, *words: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a command that must succeed; one thread, because a busy machine punishes more on tiny networks."""
    environment = {"OMP_NUM_THREADS": "1"} | {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([str(python), *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_package_and_all_data(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in inside
    assert not {name.split("/")[0] for name in inside} & {"datasets", "eval", "configs", "tests"}


def test_it_is_the_wheel_that_is_imported(python: Path, tmp_path: Path) -> None:
    said = run(python, "-c", "import drivesim, drivesim.eval.signals as s; print(drivesim.__file__); print(s.__file__)", cwd=tmp_path)
    for line in said.splitlines():
        assert Path(line).is_relative_to(python.parents[1])
        assert not Path(line).is_relative_to(ROOT)


def test_help_runs(python: Path, tmp_path: Path) -> None:
    said = run(python.parent / "drivesim", "--help", cwd=tmp_path)
    assert "rollout" in said and "train" in said


def test_another_package_called_datasets_is_left_alone(python: Path, tmp_path: Path) -> None:
    """Also from inside a checkout, where the folder datasets/ lies in the working directory."""
    foreign = tmp_path / "foreign" / "datasets"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("WHOSE = 'theirs'\n")
    ask = "import datasets, drivesim.datasets, drivesim.eval.signals; print(datasets.WHOSE)"
    for folder in (tmp_path, ROOT):
        assert run(python, "-c", ask, cwd=folder, path=foreign.parent).strip() == "theirs"


def test_toy_rollout_runs(python: Path, tmp_path: Path) -> None:
    weights = write_toy_checkpoint(tmp_path / "weights")
    command = ["rollout", "--minutes", "0.04", "--out", "drive", "--checkpoint", str(weights), "--device", "cpu"]
    run(python.parent / "drivesim", *command, cwd=tmp_path)
    assert (tmp_path / "drive" / "dataset.json").is_file()
    assert list((tmp_path / "drive" / "videos").glob("*.mp4"))


def test_judging_runs_with_what_the_wheel_brings(python: Path, tmp_path: Path) -> None:
    """The judge's basis, the detector's weights and the page's templates are data files, which a wheel can lose."""
    drivesim = python.parent / "drivesim"
    run(drivesim, "data", "synth", "--out", "recorded", "--clips", "4", "--seconds", "5", "--height", "32", "--width", "64", cwd=tmp_path)
    make_road_world(tmp_path / "made", clips=4, seconds=5, height=32, width=64, seed=1)
    parts = ["--protocol", "fd_lite0_lossless", "--parts", "distances,labels", "--no-cache", "split=null", "progress=false"]
    said = run(drivesim, "evaluate", "--real", "recorded", "--generated", "made", *parts, cwd=tmp_path)
    assert "fd_lite0_lossless" in said and "AP50" in said
    run(drivesim, "report", "made", cwd=tmp_path)
    assert (tmp_path / "made" / "report.html").stat().st_size > 10_000
