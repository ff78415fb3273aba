"""From ``key=value`` words to a composed configuration, and from Hydra's errors to one sentence with the nearest name.

The configurations live in ``drivesim.configs``. This file knows Hydra and no command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hydra
import hydra.utils
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drivesim.errors import UsageError

__all__ = ["CONFIG_ERRORS", "CONFIG_MODULE", "as_override", "call", "check_words", "compose", "explain", "nearest"]

CONFIG_MODULE = "drivesim.configs"
CONFIG_ERRORS = (HydraException, OmegaConfBaseException)


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration ``name`` with overrides, as Hydra composes it.

    Raises:
        UsageError: a word that is no ``key=value``, an unknown key or an unknown choice; the nearest known name is suggested.
    """
    check_words(overrides)
    try:
        with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            config = hydra.compose(name, list(overrides))
            _check_kinds(hydra.compose(name), config)
    except CONFIG_ERRORS as error:
        raise explain(error, name) from error
    return config


def call(name: str, flags: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """Compose ``name``, set ``flags`` and then ``overrides``, and call its ``_target_``; returns what that returns."""
    words = [as_override(key, value) for key, value in flags.items() if value is not None]
    config = compose(name, [*words, *overrides])
    target = str(config["_target_"])
    arguments = OmegaConf.to_container(config, resolve=True)
    assert isinstance(arguments, dict)
    arguments.pop("_target_")
    return hydra.utils.get_method(target)(**{str(key): value for key, value in arguments.items()})


def as_override(key: str, value: Any) -> str:
    """One ``key=value`` word that Hydra reads back as the same value: text is quoted, so paths may hold any character."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, int | float):
        return f"{key}={value}"
    return f"{key}=" + _quoted(str(value))


def _quoted(text: str) -> str:
    text = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{text}'"


def check_words(words: Iterable[str]) -> None:
    """Raises UsageError for a word without ``=``, which Hydra would explain in terms of its grammar."""
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"cannot use {word!r}: settings are written key=value")


def _check_kinds(defaults: DictConfig, config: DictConfig) -> None:
    """Where the default is a number, raises UsageError for anything else."""
    values = dict(_leaves(OmegaConf.to_container(config)))
    for key, default in _leaves(OmegaConf.to_container(defaults)):
        if isinstance(default, bool) or not isinstance(default, int | float) or key not in values:
            continue
        value = values[key]
        if isinstance(value, str) and ("${" in value or value == "???"):
            continue  # points elsewhere, or is still to be given
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{key} must be a number, not {'null' if value is None else repr(value)}")


def explain(error: Exception, name: str) -> UsageError:
    """What Hydra or OmegaConf found wrong with an override of configuration ``name``, as one sentence."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        return UsageError(f"no {group} named {choice}{nearest(choice, choices(group))}")
    if isinstance(error, OverrideParseException):
        return UsageError(f"cannot read {error.override!r}: put quotes around text that holds special characters")
    message = str(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        known = keys(name)
        passed = f"{unknown[1].rpartition('.')[0]}._target_" in known
        return UsageError(f"unknown key {unknown[1]}{nearest(unknown[1], known)}{f' (+{unknown[1]}=... adds it all the same)' * passed}")
    return UsageError(" ".join(line.strip() for line in message.splitlines()[:2]))


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean ...?"`` for the known name that is spelled most alike, whole or in its last part; empty when none is."""
    names = sorted(set(known))
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not found:
        tails = {name.rpartition(".")[2]: name for name in reversed(names)}
        found = [tails[tail] for tail in difflib.get_close_matches(word.rpartition(".")[2], tails, n=1, cutoff=0.7)]
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(names)}" if 0 < len(names) <= 24 else ""


def keys(name: str) -> set[str]:
    """Every dotted key of configuration ``name`` as it stands."""
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return {key for key, _ in _leaves(OmegaConf.to_container(hydra.compose(name)))}


def choices(group: str) -> set[str]:
    """Every choice of a config group, sub-groups written ``preset/stage``."""
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return set(_choices(loader, group, ""))


def _choices(loader: Any, group: str, inner: str) -> Iterable[str]:
    for choice in loader.get_group_options(f"{group}/{inner}".rstrip("/")):
        yield f"{inner}{choice}"
    for folder in loader.list_groups(f"{group}/{inner}".rstrip("/")):
        yield from _choices(loader, group, f"{inner}{folder}/")


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every dotted key with its value, branches included."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _leaves(value, f"{prefix}{key}.")
