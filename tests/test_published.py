"""Published weights: what is found, fetched, checked, converted and refused, on a toy registry; and the real table's form."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from drivesim.eval.features import I3D, PUBLISHED_NETWORKS, feature_network, random_weights
from drivesim.eval.networks.layouts import WeightsError, adapted, weights_hash
from drivesim.eval.networks.published import PUBLISHED, PublishedFile, cache_folder, fingerprint_matches, published_weights


class Toy(nn.Module):
    """A convolution and a normalisation, 5 tensors and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$DRIVESIM_WEIGHTS (returned) and a cache, both empty."""
    given = tmp_path / "given"
    given.mkdir()
    monkeypatch.setenv("DRIVESIM_WEIGHTS", str(given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return given


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def git_blob(content: bytes) -> str:
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()[:8]


def registry(content: bytes, **fields: object) -> dict[str, tuple[PublishedFile, ...]]:
    return {"toy": (PublishedFile("toy.pth", "release 1 of example.org/toy", **{"fingerprint": sha256(content), **fields}),)}  # type: ignore[arg-type]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return random_weights(Toy()).state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_fingerprints() -> None:
    assert fingerprint_matches(b"hello\n", "git:ce013625030ba8dba906f756967f9e9ca394464a")  # git hash-object
    assert fingerprint_matches(b"", "sha256:e3b0c442")
    assert not fingerprint_matches(b"hello", "git:ce013625030ba8dba906f756967f9e9ca394464a")
    assert not fingerprint_matches(b"hello", "sha256:e3b0c442")
    assert not fingerprint_matches(b"", "sha256:e3b0")  # too short to say anything
    assert not fingerprint_matches(b"", "")


def test_a_found_file_is_converted_once_and_read_from_the_cache_afterwards(folders: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (folders / "toy.pth").write_bytes(content)
    assert same(published_weights("toy", Toy(), registry=registry(content)), state)
    kept = cache_folder() / "toy.safetensors"
    assert same(load_file(kept), state)
    assert os.listdir(cache_folder()) == ["toy.safetensors"]
    (folders / "toy.pth").unlink()
    assert same(published_weights("toy", Toy(), registry=registry(content)), state)


def test_the_cache_folder_is_searched_too(state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "toy.pth").write_bytes(content)
    assert same(published_weights("toy", Toy(), registry=registry(content, fingerprint=git_blob(content))), state)


def test_a_named_file_may_have_any_name(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (tmp_path / "renamed.bin").write_bytes(content)
    assert same(published_weights("toy", Toy(), tmp_path / "renamed.bin", registry=registry(content)), state)
    (tmp_path / "other.bin").write_bytes(content + b" ")
    with pytest.raises(WeightsError, match=r"other.bin: not a published file of toy.*wanted: toy.pth"):
        published_weights("toy", Toy(), tmp_path / "other.bin", registry=registry(content))
    with pytest.raises(WeightsError, match="cannot read"):
        published_weights("toy", Toy(), tmp_path / "nothing.bin", registry=registry(content))


def test_a_named_folder_is_the_only_one_searched(tmp_path: Path, folders: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (folders / "toy.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(f"into {tmp_path}")):
        published_weights("toy", Toy(), tmp_path, registry=registry(content))
    assert same(published_weights("toy", Toy(), folders, registry=registry(content)), state)


def test_another_hash_is_refused(folders: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (folders / "toy.pth").write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=r"toy.pth: its hash is sha256:.*get it again from release 1 of example.org/toy"):
        published_weights("toy", Toy(), registry=registry(content))
    assert not cache_folder().exists()


def test_a_missing_file_is_described(folders: Path) -> None:
    with pytest.raises(WeightsError) as missing:
        published_weights("toy", Toy(), registry=registry(b""))
    message = str(missing.value)
    assert "put toy.pth (from release 1 of example.org/toy) into " + str(folders) in message
    assert "--fetch-weights" in message and "\n" not in message


def test_a_known_but_unfit_file_is_refused_with_its_reason(folders: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    unfit = registry(content, unfit="these are other weights")
    (folders / "toy.pth").write_bytes(content)
    for weights in (None, folders / "toy.pth"):
        with pytest.raises(WeightsError, match="these are other weights"):
            published_weights("toy", Toy(), weights, registry=unfit)


def test_a_damaged_copy_in_the_cache_is_named(folders: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (folders / "toy.pth").write_bytes(content)
    published_weights("toy", Toy(), registry=registry(content))
    kept = cache_folder() / "toy.safetensors"
    whole = kept.read_bytes()
    for damaged in (whole[:-4] + b"\0\0\0\1", whole[:40], save(state)):
        kept.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"toy.safetensors: .*delete it"):
            published_weights("toy", Toy(), registry=registry(content))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    folders: Path, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch_bytes(state)
    (folders / "toy.pth").write_bytes(content)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(published_weights("toy", Toy(), registry=registry(content)), state)


def test_fetching_checks_what_comes_back(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    content = torch_bytes(state)
    (tmp_path / "server.pth").write_bytes(content)
    known = registry(content, url=(tmp_path / "server.pth").as_uri())
    assert same(published_weights("toy", Toy(), fetch=True, registry=known), state)
    assert sorted(os.listdir(cache_folder())) == ["toy.pth", "toy.safetensors"]


@pytest.mark.parametrize("served", [b"<html>not found</html>", None])
def test_a_failed_fetch_leaves_nothing_behind(tmp_path: Path, state: dict[str, torch.Tensor], served: bytes | None) -> None:
    if served is not None:
        (tmp_path / "server.pth").write_bytes(served)
    known = registry(torch_bytes(state), url=(tmp_path / "server.pth").as_uri())
    with pytest.raises(WeightsError, match=r"could not fetch the weights of toy .*server.pth.*put toy.pth \(from release 1"):
        published_weights("toy", Toy(), fetch=True, registry=known)
    assert os.listdir(cache_folder()) == []


def test_nothing_to_fetch_says_so() -> None:
    with pytest.raises(WeightsError, match="no project offers a fixed address"):
        published_weights("toy", Toy(), fetch=True, registry=registry(b""))


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch_bytes, pickle.dumps])
def test_code_in_a_pickle_is_not_run_even_behind_the_right_hash(folders: Path, tmp_path: Path, write) -> None:
    content = write({"conv.weight": Trap(tmp_path / "sprung")})
    (folders / "toy.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable PyTorch file"):
        published_weights("toy", Toy(), registry=registry(content))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"junk", torch_bytes([1, 2]), torch_bytes({1: 2})])
def test_a_file_that_holds_no_state_dict_is_refused(folders: Path, content: bytes) -> None:
    (folders / "toy.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"toy.pth: (not a readable PyTorch file|holds no state dict)"):
        published_weights("toy", Toy(), registry=registry(content))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_opened_only_behind_a_whole_hash(folders: Path) -> None:
    toy = random_weights(nn.Sequential(nn.Linear(2, 2)))
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(toy, torch.zeros(1, 2)), buffer)
    content = buffer.getvalue()
    (folders / "toy.pth").write_bytes(content)
    whole = registry(content, fingerprint=git_blob(content), script=True)
    with pytest.raises(WeightsError, match="only when its whole hash is known"):
        published_weights("toy", toy, registry=registry(content, script=True))
    assert same(published_weights("toy", toy, registry=whole), dict(toy.state_dict()))


def test_weights_are_never_loaded_in_part(state: dict[str, torch.Tensor]) -> None:
    renamed = {name.replace("bn.weight", "bn.gamma"): value for name, value in state.items()}
    with pytest.raises(WeightsError, match=r"file: lacks bn.weight and has left over bn.gamma"):
        adapted(renamed, Toy(), "file")
    with pytest.raises(WeightsError, match=r"conv.weight is \(3,\), the network needs \(2, 1, 3, 3\)"):
        adapted({**state, "conv.weight": torch.zeros(3)}, Toy(), "file")
    with pytest.raises(WeightsError, match=r"bn.bias is str"):
        adapted({**state, "bn.bias": "no tensor"}, Toy(), "file")


def test_an_unknown_layout_names_what_it_met() -> None:
    with pytest.raises(WeightsError, match=r"unknown layout, its tensors are called layers.0.w, layers.1.w, layers.2.w and 2 more"):
        adapted({f"layers.{index}.w": torch.zeros(1) for index in range(5)}, Toy(), "file")


def test_counters_may_be_missing_and_half_precision_is_raised(state: dict[str, torch.Tensor]) -> None:
    old = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    found = adapted(old, Toy(), "file")
    assert found["bn.num_batches_tracked"] == 0
    assert found["conv.weight"].dtype == torch.float32


def hassony2_name(name: str) -> str:
    """The other way round, written apart from the code: our name -> that project's."""
    for ours, theirs in (("b0", "branch_0"), ("b1a", "branch_1.0"), ("b1b", "branch_1.1"), ("b2a", "branch_2.0"), ("b2b", "branch_2.1")):
        name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace(".b3b.", ".branch_3.1.").replace(".bn.", ".batch3d.").replace("logits.", "conv3d_0c_1x1.")
    return name.replace("Conv3d_", "conv3d_").replace("Mixed_", "mixed_")


def test_both_i3d_layouts_are_read() -> None:
    network = I3D()
    state = dict(network.state_dict())
    foreign = {hassony2_name(name): value for name, value in state.items()}
    assert {"conv3d_1a_7x7.batch3d.bias", "mixed_5c.branch_2.1.conv3d.weight", "conv3d_0c_1x1.conv3d.bias"} < foreign.keys()
    assert not foreign.keys() & state.keys()
    assert same(adapted(foreign, network, "file"), state)
    del foreign["mixed_4b.branch_0.conv3d.weight"]
    with pytest.raises(WeightsError, match=r"lacks Mixed_4b.b0.conv3d.weight"):
        adapted(foreign, network, "file")


def test_the_hash_is_of_what_decides_the_features(state: dict[str, torch.Tensor]) -> None:
    first = weights_hash(state)
    assert weights_hash(dict(reversed(state.items()))) == first
    assert weights_hash({**state, "bn.num_batches_tracked": torch.tensor(7)}) == first
    assert weights_hash({**state, "bn.bias": state["bn.bias"] + 1e-6}) != first
    assert weights_hash({**state, "conv.weight": state["conv.weight"].reshape(2, 9)}) != first


def test_the_table_of_published_files_is_whole() -> None:
    assert PUBLISHED.keys() == PUBLISHED_NETWORKS.keys()
    for file in (file for files in PUBLISHED.values() for file in files):
        assert re.fullmatch(r"sha256:[0-9a-f]{8}|git:[0-9a-f]{40}", file.fingerprint)
        assert file.url is None or (file.url.startswith("https://github.com/") and file.url.endswith(file.name))
        assert not file.script or file.fingerprint.startswith("git:")


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_files_the_real_networks_say_what_they_need(name: str, folders: Path) -> None:
    with pytest.raises(WeightsError) as missing:
        feature_network(name)
    assert all(file.name in str(missing.value) for file in PUBLISHED[name] if not file.unfit)
    assert str(folders) in str(missing.value)


def test_the_other_kinetics_weights_are_not_fvds(folders: Path) -> None:
    (folders / "rgb_imagenet.pt").write_bytes(b"whatever")
    with pytest.raises(WeightsError, match=r"rgb_imagenet.pt is refused .*not the TF-Hub ones that FVD is defined on"):
        feature_network("i3d-kinetics-400")


def test_a_network_with_its_published_weights_bears_its_plain_name(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_weights(I3D(), salt=1).state_dict()
    content = torch_bytes(state)
    name = "i3d-kinetics-400"
    monkeypatch.setitem(PUBLISHED, name, (PublishedFile("weights.pth", "a test", git_blob(content)),))  # type: ignore[arg-type]
    (folders / "weights.pth").write_bytes(content)
    network = feature_network(name)
    assert (network.name, network.hash) == (name, weights_hash(state))


def test_published_i3d_tells_black_from_white(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of google-research/frechet_video_distance: 16 black clips against 16 white ones of 15 frames have an FVD of 131."""
    weights = os.environ.get("DRIVESIM_TEST_WEIGHTS")
    if weights is None:
        pytest.skip("no published weights (set DRIVESIM_TEST_WEIGHTS to their folder)")
    network = feature_network("i3d-kinetics-400", weights=Path(weights))
    black, white = (network(torch.full((1, 15, 3, 64, 64), value, dtype=torch.uint8)) for value in (0, 255))
    assert float((black - white).double().square().sum()) == pytest.approx(131, abs=1)
