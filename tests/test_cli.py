"""The command line by itself: help, flags, exit codes, and what a mistake is answered with."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from drivesim import cli
from drivesim.commands.config import as_override, compose, nearest
from drivesim.errors import DrivesimError, UsageError

ROOT = Path(__file__).parents[1]
EXPORTS = ("coco", "yolo", "kitti", "bdd100k", "lerobot")
IMPORTS = ("videos", "kitti", "bdd100k", "nuscenes", "comma2k19", "lerobot", "coco", "yolo")
COMMANDS = (
    "rollout", "generate", "edit", "train", "data synth", "data check", "data agree", "data label", "data stats",
    *(f"data import {source}" for source in IMPORTS), *(f"data export {form}" for form in EXPORTS),
    "scenario make", "scenario sample", "scenario show",
)  # fmt: skip


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    code = cli.main(list(words))
    caught = capsys.readouterr()
    return code, caught.out, caught.err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys, *command.split(), "--help")
    assert code == 0 and out.startswith("Usage: drivesim") and not err


def test_help_imports_nothing_heavy() -> None:
    ask = "import sys; from drivesim import cli; cli.main(['rollout', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    assert not {"torch", "numpy", "hydra", "cv2", "pandas", "lightning"} & set(loaded)


def shown_defaults(text: str) -> dict[str, str]:
    """--flag -> the default its help names."""
    flat = " ".join(text.split())
    return dict(re.findall(r"(--[\w-]+) (?:<\w+>)?[^\[]*?\[default: ([^\]]*)\]", flat))


@pytest.mark.parametrize(("command", "config"), [("rollout", "rollout"), ("data synth", "command/data_synth")])
def test_defaults_in_help_are_those_of_the_configuration(command: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown, values = shown_defaults(say(capsys, *command.split(), "--help")[1]), compose(config)
    assert len(shown) >= 6
    for flag, default in shown.items():
        name = flag.strip("-").replace("-", "_")
        value = values[name] if name in values else values.rollout[name]
        assert value is None or str(value) == default, flag


def test_every_flag_of_rollout_is_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {flag.strip("-").replace("-", "_") for flag in re.findall(r"^  (--[\w-]+)", say(capsys, "rollout", "--help")[1], re.MULTILINE)}
    config = compose("rollout")
    assert flags - {"help"} <= set(config) | set(config.rollout)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("rollot", "rollout"),
        ("rollout --minuts 1", "did you mean --minutes?"),
        ("rollout --minutes one", "--minutes"),
        ("rollout --minutes", "--minutes"),
        ("rollout secs=3", "unknown key secs"),
        ("rollout sed=3", "did you mean seed?"),
        ("rollout rollout.guidence=2", "did you mean rollout.guidance?"),
        ("rollout night", "'night'"),
        ("rollout minutes=abc", "minutes must be a number"),
        ("data synth", "--out"),
        ("data synth --out nowhere clipz=3", "did you mean clips?"),
        ("data chek here", "check"),
        ("train", "experiment=PRESET/STAGE"),
        ("train experiment=toy/3_predicton", "did you mean toy/3_prediction?"),
        ("train experiment=toy/3_prediction traner.max_steps=3", "did you mean trainer.max_steps?"),
        ("train --foo", "--foo"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(words: str, named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = say(capsys, *words.replace("nowhere", str(tmp_path / "nowhere")).split())
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and named in err
    assert not out and "Traceback" not in err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys)
    assert code == 2 and "Commands:" in out and not err


def test_train_shows_what_it_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, "train", "--show", "experiment=toy/3_prediction", "trainer.max_steps=7")
    assert code == 0
    shown = OmegaConf.create(out)
    assert shown.stage == "3_prediction" and shown.trainer.max_steps == 7 and OmegaConf.is_missing(shown, "data")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys, "--version")[:2] == (0, "drivesim 0.1.0\n")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (DrivesimError("no such\nthing"), 1, "error: no such thing"),
        (UsageError("not like that"), 2, "error: not like that"),
        (OSError(28, "No space left on device", "here/it"), 1, "error: No space left on device: here/it"),
        (RuntimeError("boom"), 1, "error: RuntimeError: boom (a fault in drivesim; --debug shows where)"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_errors_become_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise raised

    monkeypatch.setattr("drivesim.commands.data.run", fail)
    assert say(capsys, "data", "check", "x") == (code, "", line + "\n")


@pytest.mark.parametrize("words", [["--debug", "rollout", "sed=1"], ["rollout", "sed=1", "--debug"]])
def test_debug_shows_where(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = say(capsys, *words)
    assert code == 2 and "Traceback" in err and err.endswith("error: unknown key sed; did you mean seed?\n")


@pytest.mark.parametrize("text", ["plain", "with space", "a,b", "it's", "back\\slash", "end\\", "k=v", "[x]", "${y}", "ünï", "null", "1"])
def test_text_survives_being_an_override(text: str) -> None:
    config = OmegaConf.to_container(compose("rollout", [as_override("out", text)]), resolve=False)
    assert isinstance(config, dict)
    assert config["out"] == text


def test_nearest_name() -> None:
    assert nearest("guidence", ["a.guidance", "b"]) == "; did you mean a.guidance?"
    assert nearest("zzz", ["alpha", "beta"]) == "; known are alpha, beta"
