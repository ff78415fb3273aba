"""``drivesim train``: one stage of training under ``hydra.main``, so that sweeps, launchers and ``hydra.*`` settings work as everywhere.

Hydra reads ``sys.argv``, so it is rewritten for the time of the call. Hydra makes no folder and writes no log: a stage keeps everything
under ``out``. This file does not know what a stage is: it instantiates the configuration and calls ``drivesim.training.run``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from drivesim.commands.config import CONFIG_ERRORS, CONFIG_MODULE, check_words, compose, explain
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.fetching import local_folder
from drivesim.io.records import read_records
from drivesim.io.tables import read_header
from drivesim.simulation.scenes.track_bank import build_bank
from drivesim.training.run import train

__all__ = ["run"]

QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")


def run(words: Sequence[str], multirun: bool, show: bool) -> None:
    """Train the stage that ``experiment=PRESET/STAGE`` names.

    Args:
        words: Hydra overrides. multirun: sweep over comma-separated values. show: print the composed configuration instead.

    Raises:
        UsageError: no experiment, or a key or choice that does not exist.
    """
    check_words(words)
    if not any(word.lstrip("+").startswith("experiment=") for word in words):
        raise UsageError("say what to train: experiment=PRESET/STAGE, for instance experiment=toy/1_autoencoder")
    if show:
        print(OmegaConf.to_yaml(compose("train", words)))
        return
    failures: list[BaseException] = []
    with _arguments([*QUIET, *words, *(["--multirun"] if multirun else [])]) as own:

        @hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name="train", version_base="1.3")
        def task(config: DictConfig) -> None:
            sys.argv[:] = own  # Lightning starts its other processes with these words
            try:
                _train(config)
            except BaseException as error:  # kept from Hydra, which would print it in its own way; raised again below
                failures.append(error)

        try:
            task()
        except CONFIG_ERRORS as error:
            raise explain(error, "train") from error
    if failures:
        raise failures[0]


@contextmanager
def _arguments(words: Sequence[str]) -> Iterator[list[str]]:
    """``sys.argv`` is ``words`` inside, and Hydra raises its errors instead of printing them; yields the arguments as they were."""
    own, full = list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")
    sys.argv[:] = [own[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield own
    finally:
        sys.argv[:] = own
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]


def _train(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "data"):
        raise UsageError("say which clips to train on: data=FOLDER or data=[FOLDER, ...]")
    roots = [local_folder(root) for root in ([config.data] if isinstance(config.data, str) else config.data)]
    for root in roots:
        read_header(root)  # before anything is built or written
    L.seed_everything(config.seed, workers=True, verbose=False)
    parts = {name: instantiate(config[name], _convert_="all") for name in ("module", "datamodule", "trainer", "callbacks", "loggers")}
    folder = train(**parts, max_minutes=config.max_minutes)
    if parts["module"].global_rank == 0 and not (folder / "tracks.parquet").exists():
        _write_bank(folder, roots)


def _write_bank(folder: Path, roots: Sequence[Path]) -> None:
    """The traffic of the training clips, from which rollouts sample theirs."""
    try:
        build_bank([read_records(root) for root in roots]).save(folder / "tracks.parquet")
    except DrivesimError as error:
        print(f"no track bank written ({error}): rollouts from {folder} need --boxes for boxes to be known")
