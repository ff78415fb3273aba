"""Weights: what is saved is loaded, strictly; every way a checkpoint can be wrong has its message."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from drivesim.io import checkpoints
from drivesim.io.checkpoints import NETWORKS, CheckpointError, file_hash, load_checkpoint, load_network, save_network, save_settings
from drivesim.recipes import recipe


class Image(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.recipe = recipe(self, width=width)
        self.layer = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


class Video(nn.Module):
    def __init__(self, image: nn.Module, frames: int = 3) -> None:
        super().__init__()
        self.recipe = recipe(self, image=image, frames=frames)
        self.image = image
        self.temporal = nn.Linear(frames, frames)


@pytest.fixture(autouse=True)
def nameable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes may only name classes of the package: lend it ours."""
    module = ModuleType("drivesim.toys")
    for cls in (Image, Video):
        monkeypatch.setattr(cls, "__module__", "drivesim.toys")
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "drivesim.toys", module)


def save_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    image = Image()
    save_network(folder / "image", image, {"steps": 3})
    save_network(folder / "autoencoder", Image(2), {})
    save_network(folder / "interpolation", Video(Image(), 5), {})
    save_network(folder / "prediction", Video(image), {}, without={"image.": "image"})
    save_settings(folder, {"preset": "toy", "height": 16})
    return folder


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=0)


def test_saved_is_loaded(tmp_path: Path) -> None:
    network = Video(Image())
    weights = save_network(tmp_path / "net", network, {"steps": 3})
    back = load_network(tmp_path / "net")
    assert_same_weights(back, network)
    assert not back.training
    assert_same_weights(load_network(weights), network)
    sidecar = json.loads((tmp_path / "net.json").read_text())
    assert sidecar["metadata"] == {"steps": 3}
    assert sidecar["sha256"] == file_hash(weights)
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors", "net.json"}


def test_half_precision_is_raised_on_load(tmp_path: Path) -> None:
    network = Image(64)
    weights = save_network(tmp_path / "net", network, {}, dtype=torch.float16)
    stored = load_file(weights)
    assert stored["layer.weight"].dtype == torch.float16
    assert stored["norm.num_batches_tracked"].dtype == torch.int64
    back = load_network(weights)
    assert back.state_dict()["layer.weight"].dtype == torch.float32
    torch.testing.assert_close(back.state_dict()["layer.weight"], network.state_dict()["layer.weight"].half().float(), rtol=0, atol=0)


def test_tied_and_sliced_weights_can_be_saved(tmp_path: Path) -> None:
    network = Image()
    network.layer.weight = nn.Parameter(torch.randn(4, 8)[:, ::2])
    save_network(tmp_path / "net", network, {})
    assert_same_weights(load_network(tmp_path / "net"), network)


def test_spatial_weights_are_borrowed_and_swapped(tmp_path: Path) -> None:
    save_folder(tmp_path)
    stored = load_file(tmp_path / "prediction.safetensors")
    assert all(name.startswith("temporal.") for name in stored)
    assert json.loads((tmp_path / "prediction.json").read_text())["image"] == "image"
    image = load_network(tmp_path / "image")
    assert_same_weights(load_network(tmp_path / "prediction").image, image)  # type: ignore[arg-type]
    other = Image()
    save_network(tmp_path / "image", other, {})
    assert_same_weights(load_network(tmp_path / "prediction").image, other)  # type: ignore[arg-type]
    save_network(tmp_path / "image", Image(8), {})
    with pytest.raises(CheckpointError, match=r"tensor image.layer.bias has shape \(8,\), the network needs \(4,\)"):
        load_network(tmp_path / "prediction")


def test_a_checkpoint_folder(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save_folder(tmp_path))
    assert checkpoint.settings["height"] == 16
    assert sorted(checkpoint.networks) == sorted(NETWORKS)
    assert checkpoint.network("prediction") is checkpoint.networks["prediction"]
    assert checkpoint.tracks == tmp_path / "tracks.parquet"
    before = checkpoint.hash
    assert load_checkpoint(str(tmp_path)).hash == before
    save_network(tmp_path / "image", Image(), {})
    assert load_checkpoint(tmp_path).hash != before
    with pytest.raises(CheckpointError, match=r"missing upsampler.safetensors, upsampler.json"):
        checkpoint.network("upsampler")


def test_missing_weights_name_the_files_and_the_commands(tmp_path: Path) -> None:
    save_folder(tmp_path)
    (tmp_path / "prediction.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing prediction.json; .* experiment=mini/3_prediction data=CLIPS out="):
        load_checkpoint(tmp_path)
    assert "autoencoder" in load_checkpoint(tmp_path, need=()).networks
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing model.json"):
        load_checkpoint(tmp_path, need=())
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_mini_means_the_weights_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"no weights.*missing model.json, autoencoder.safetensors.*experiment=mini/1_autoencoder"):
        load_checkpoint()
    save_folder(tmp_path / "weights" / "mini")
    assert load_checkpoint("mini").folder == tmp_path / "weights" / "mini"


def rewrite(path: Path, **changes: Tensor | None) -> None:
    """Change tensors of a file and keep its JSON in step."""
    state = {name.replace("/", "."): value for name, value in (load_file(path) | changes).items() if value is not None}
    save_file(state, path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(sidecar | {"sha256": file_hash(path)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer.bias": None}, "tensor layer.bias is missing"),
        ({"layer.bias": torch.zeros(5)}, r"tensor layer.bias has shape \(5,\), the network needs \(4,\)"),
        ({"head.weight": torch.zeros(5)}, "tensor head.weight belongs to no layer"),
    ],
)
def test_loading_is_strict(tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
    rewrite(save_network(tmp_path / "net", Image(), {}), **changes)
    with pytest.raises(CheckpointError, match=rf"net.safetensors: {message}"):
        load_network(tmp_path / "net")


def test_damaged_files(tmp_path: Path) -> None:
    weights = save_network(tmp_path / "net", Image(), {})
    sidecar, content = weights.with_suffix(".json"), weights.read_bytes()
    weights.write_bytes(content[:-8])
    with pytest.raises(CheckpointError, match="its content is not what its"):
        load_network(tmp_path / "net")
    described = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**described, "sha256": file_hash(weights)}))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_network(tmp_path / "net")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"net.safetensors: missing file"):
        load_network(tmp_path / "net")
    sidecar.write_text("{")
    with pytest.raises(CheckpointError, match=r"net.json: not a readable JSON"):
        load_network(tmp_path / "net")
    sidecar.unlink()
    with pytest.raises(CheckpointError, match=r"net.json: missing file"):
        load_network(tmp_path / "net")


@pytest.mark.parametrize("target", ["os.system", "drivesim.toys.Nothing", "drivesim.toys.Image"])
def test_recipes_that_build_nothing(tmp_path: Path, target: str) -> None:
    weights = save_network(tmp_path / "net", Image(), {})
    sidecar = weights.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"recipe": {"_target_": target, "depth": 3}}))
    with pytest.raises(CheckpointError, match=r"net.json: "):
        load_network(tmp_path / "net")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"recipe": None}))
    with pytest.raises(CheckpointError, match="does not build a network"):
        load_network(tmp_path / "net")


def test_unknown_versions_are_refused(tmp_path: Path) -> None:
    save_folder(tmp_path)
    save_settings(tmp_path, {"version": 2})
    with pytest.raises(CheckpointError, match=r"model.json: 'drivesim-checkpoint' version 2 is not"):
        load_checkpoint(tmp_path)


def test_a_network_without_a_recipe_and_a_folder_without_room(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Linear has no recipe"):
        save_network(tmp_path / "net", nn.Linear(2, 2), {})
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        save_network(tmp_path / "file" / "net", Image(), {})


def test_weights_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    weights = save_network(tmp_path / "image", Image(), {})
    assert weights.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_without_weights_in_the_package_training_is_sent_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(CheckpointError, match=r"1_autoencoder data=CLIPS out=runs/mini.*use them with --checkpoint runs/mini"):
        load_checkpoint("mini")
