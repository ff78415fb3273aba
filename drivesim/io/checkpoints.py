"""Weights on disk: safetensors for the numbers, JSON for how to rebuild the network; nothing that can carry code.

A checkpoint folder holds model.json (settings) and one ``<name>.safetensors`` + ``<name>.json`` for each network. Spatial weights may lie
in the image network's file only: then the video network's JSON says ``"image": "image"``. This file does not know what networks compute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import drivesim
from drivesim.errors import DrivesimError
from drivesim.recipes import RecipeError, build

from .atomic import replacing, write_json

__all__ = [
    "FAST", "FORMAT", "NETWORKS", "REFINER", "STAGES", "UPSAMPLERS", "VERSION", "WEIGHTS", "WORSE", "Checkpoint", "CheckpointError",
    "file_hash", "load_checkpoint", "load_network", "save_network", "save_settings",
]  # fmt: skip

FORMAT = "drivesim-checkpoint"
VERSION = 1
NETWORKS = {"autoencoder": "1_autoencoder", "image": "2_image", "prediction": "3_prediction", "interpolation": "4_interpolation"}
"""Networks of a full checkpoint folder and the training stage that makes each."""
FAST = {"image_fast": "3_prediction_fast", "prediction_fast": "3_prediction_fast", "interpolation_fast": "4_interpolation_fast"}
"""Networks that a folder may hold beside those or instead: the same in few calls."""
UPSAMPLERS = {
    "upsampler_image": "6_upsampler_image", "upsampler": "6_upsampler",
    "upsampler_image_fast": "6_upsampler_image_fast", "upsampler_fast": "6_upsampler_fast",
}  # fmt: skip
"""Networks that a folder may hold besides: 4x upsampling frame by frame and over time, in many calls and in one."""
REFINER = {"refiner": "7_refiner"}
"""And what gives finished frames what they lack."""
WORSE = {"image": "image_worse", "prediction": "prediction_worse"}
"""Network -> a worse version of it (less trained, smaller or both) that a folder may hold, for autoguidance."""
STAGES = {**NETWORKS, **FAST, **UPSAMPLERS, **REFINER, **{worse: NETWORKS[name] for name, worse in WORSE.items()}}
PRESETS = ("mini", "rds", "toy")
WEIGHTS = Path(drivesim.__file__).parent / "weights"


class CheckpointError(DrivesimError):
    """Weights that cannot be used: the message names the file, the tensor where there is one, and the mend."""


def save_network(
    path: str | Path, network: nn.Module, metadata: Mapping[str, Any], dtype: torch.dtype | None = None,
    without: Mapping[str, str] | None = None,
) -> Path:
    """Write ``<path>.safetensors`` and ``<path>.json`` (recipe, metadata, sha256), each atomically.

    dtype: floating tensors are cast to it (float16 halves the file).   without: prefixes such as "image." whose tensors are left out, and
    the neighbouring file that holds them, as the JSON then says (``"image": "upsampler_image"``).

    Returns:
        The safetensors file.

    Raises:
        CheckpointError: the network has no recipe, or the files cannot be written.
    """
    recipe = getattr(network, "recipe", None)
    if not isinstance(recipe, Mapping):
        raise CheckpointError(f"{type(network).__name__} has no recipe, so it could not be rebuilt from a file")
    weights, sidecar = _files(path)
    without = dict(without or {})
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith(tuple(without))}
    borrowed = {prefix.rstrip("."): file for prefix, file in without.items()}
    try:
        with replacing(weights) as part:
            # not save_file, which makes files that only their owner can read
            part.write_bytes(save({name: _stored(value, dtype) for name, value in kept.items()}))
        described = {"recipe": dict(recipe), "metadata": dict(metadata), "sha256": file_hash(weights)}
        write_json(sidecar, {**described, **borrowed, "without": list(without)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write {weights}: {reason}; free space or choose another folder") from error
    return weights


def load_network(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Rebuild a network from ``<path>.json`` and fill it strictly from ``<path>.safetensors``; eval mode, float32.

    Raises:
        CheckpointError: a file is missing, damaged or not the other's; a tensor is missing, left over or of another shape.
    """
    weights, sidecar = _files(path)
    description = _read_json(sidecar)
    state = _tensors(weights, description.get("sha256"))
    for prefix in description.get("without", []):
        neighbour, _ = _files(weights.parent / description.get(prefix.rstrip("."), prefix.rstrip(".")))
        state |= {prefix + name: value for name, value in _tensors(neighbour, None).items()}
    try:
        network = build(description.get("recipe"))
    except (RecipeError, ValueError) as error:
        raise CheckpointError(f"{sidecar}: {error}") from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"{sidecar}: its recipe does not build a network; write the checkpoint again")
    _fill(network, state, weights)
    return network.to(device).eval()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_settings(folder: str | Path, settings: Mapping[str, Any]) -> Path:
    """Write a checkpoint folder's model.json; format and version are added."""
    path = Path(folder) / "model.json"
    write_json(path, {"format": FORMAT, "version": VERSION, **settings})
    return path


class _Networks(Mapping[str, nn.Module]):
    """The folder's networks by name, each loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._loaded:
            if name not in set(self):
                raise KeyError(name)
            self._loaded[name] = load_network(self.folder / name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.safetensors")) if path.with_suffix(".json").exists())

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: ``settings`` is model.json; networks are loaded when asked for."""

    folder: Path
    settings: dict[str, Any]

    @cached_property
    def networks(self) -> Mapping[str, nn.Module]:
        """name -> network, float32, eval mode, on the CPU."""
        return _Networks(self.folder)

    def network(self, name: str) -> nn.Module:
        """One network.

        Raises:
            CheckpointError: it is not in the folder, or its files do not fit.
        """
        self.demand([name])
        return self.networks[name]

    def demand(self, names: Collection[str]) -> None:
        """Raises CheckpointError where the folder does not hold all of these networks; names those missing and what makes them."""
        missing = [name for name in names if not _holds(self.folder, name)]
        if missing:
            raise CheckpointError(_missing(self.folder, missing))

    @cached_property
    def hash(self) -> str:
        """SHA-256 over model.json and every weights file: two folders with the same hash make the same video."""
        digest = hashlib.sha256()
        for path in [self.folder / "model.json", *sorted(self.folder.glob("*.safetensors"))]:
            digest.update(f"{path.name} {file_hash(path)}\n".encode())
        return digest.hexdigest()

    @property
    def tracks(self) -> Path:
        """Where the track bank lies, if there is one."""
        return self.folder / "tracks.parquet"


def load_checkpoint(folder: str | Path = "mini", need: tuple[str, ...] | None = None) -> Checkpoint:
    """Open a checkpoint folder, or weights inside the package by preset name ("mini").

    need: networks that must be there; () opens a folder whose training has only begun, None asks for one of each of NETWORKS, the plain
    one or that of few calls.

    Raises:
        CheckpointError: no such folder, no or unknown model.json, or files missing (all are named, with the command that makes them).
    """
    folder = _resolve(folder)
    served = (name for name in NETWORKS if not _holds(folder, f"{name}_fast"))
    missing = [name for name in (served if need is None else need) if not _holds(folder, name)]
    if missing or not (folder / "model.json").is_file():
        raise CheckpointError(_missing(folder, missing))
    settings = _read_json(folder / "model.json")
    if settings.get("format") != FORMAT or str(settings.get("version", "")).split(".")[0] != str(VERSION):
        found = f"{settings.get('format')!r} version {settings.get('version')!r}"
        raise CheckpointError(f"{folder / 'model.json'}: {found} is not {FORMAT} version {VERSION}; update drivesim or export it again")
    return Checkpoint(folder, settings)


def _resolve(folder: str | Path) -> Path:
    """A folder that exists is itself; otherwise the bare name of a preset means the weights inside the package."""
    bare = isinstance(folder, str) and folder in PRESETS
    return WEIGHTS / folder if bare and not Path(folder).is_dir() else Path(folder)


def _holds(folder: Path, name: str) -> bool:
    return all(path.is_file() for path in _files(folder / name))


def _missing(folder: Path, names: list[str]) -> str:
    files = [f"{name}{suffix}" for name in names for suffix in (".safetensors", ".json") if not (folder / f"{name}{suffix}").is_file()]
    files = files if (folder / "model.json").is_file() else ["model.json", *files]
    preset = folder.name if folder.parent == WEIGHTS else "mini"
    stages = dict.fromkeys(STAGES[name] for name in names if name in STAGES) or [NETWORKS["autoencoder"]]
    what = "no weights" if folder.is_dir() else "no weights: no such checkpoint folder"
    out = Path("runs") / preset if folder.parent == WEIGHTS else folder  # nobody trains into an installed package
    commands = "; ".join(f"drivesim train experiment={preset}/{stage} data=CLIPS out={out}" for stage in stages)
    use = f", and use them with --checkpoint {out}" if out != folder else ""
    return f"{folder}: {what}; missing {', '.join(files)}; make them with: {commands}{use}"


def _files(path: str | Path) -> tuple[Path, Path]:
    """``<path>`` with or without a suffix of ours -> (weights file, JSON file)."""
    path = Path(path)
    stem = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(stem + ".safetensors"), path.with_name(stem + ".json")


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy that owns its memory, as safetensors asks, in the type wanted."""
    value = value.detach().to("cpu", dtype if dtype is not None and value.is_floating_point() else value.dtype)
    return value.clone(memory_format=torch.contiguous_format)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing file; a network needs its .safetensors and its .json side by side") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error}); copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; copy the checkpoint again")
    return content


def _tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """All tensors of a file, half precision raised to float32."""
    if not path.is_file():
        raise CheckpointError(f"{path}: missing file; copy the checkpoint again or train this stage")
    if sha256 is not None and file_hash(path) != sha256:
        raise CheckpointError(f"{path}: its content is not what its .json describes (sha256); copy both files again")
    try:
        loaded = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); copy the checkpoint again") from error
    return {name: value.float() if value.is_floating_point() and value.itemsize < 4 else value for name, value in loaded.items()}


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Strict load whose error names the first tensor at fault."""
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shaped = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if missing:
        raise CheckpointError(f"{path}: tensor {missing[0]} is missing ({len(missing)} in all); export the checkpoint again")
    if shaped:
        name = min(shaped)
        found, needed = tuple(state[name].shape), tuple(wanted[name].shape)
        raise CheckpointError(f"{path}: tensor {name} has shape {found}, the network needs {needed} ({len(shaped)} such); export it again")
    if extra:
        raise CheckpointError(f"{path}: tensor {extra[0]} belongs to no layer of the network ({len(extra)} such); export it again")
    network.load_state_dict(state, strict=True)
