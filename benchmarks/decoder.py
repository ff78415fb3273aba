"""What temporal layers bring to the decoder (Video LDM, section 3.1.1): held-out clips through the image and through the video decoder.

    python benchmarks/decoder.py --image STAGE1/autoencoder --video mini --data SIM SIM_LONG --split test --out decoder.json

Windows of 16 frames at 7.5 fps, chosen as the protocol fvd_lite0_256x16_lossless chooses them, are encoded and decoded by both. Distances
are from the same recorded windows: ``fvd_lite0_256x16_lossless`` is that protocol's ceiling; ``fd_lite0_windows_lossless`` is of two
frames a window, not of the protocol's own choice of frames, hence its name. Flicker is how far a frame lies from the mean of its
neighbours; ``change_error`` how far its change from the last frame lies from the recorded change. "video - image" has its own interval over
drives, which are drawn for both at once: below 0 means less distance or flicker. Without --image the image decoder is the video decoder's
own image layers, frame by frame, which is not what stage 1 had: say so where it is quoted. Recorded frames come from MP4 files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fidelity import Lite0Panel, Side, as_json, differences, fidelity_table, judged, metrics_of, weak
from held_out_windows import machine, without_nan
from torch import Tensor
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.eval.codec import resized
from drivesim.eval.footage import Footage
from drivesim.eval.intervals import Interval
from drivesim.eval.protocols import protocol_named
from drivesim.io.checkpoints import WEIGHTS, file_hash, load_network
from drivesim.models.autoencoder import Autoencoder
from drivesim.shapes import as_bytes, as_floats

PROTOCOL = protocol_named("fvd_lite0_256x16_lossless")
NAMES = {"fvd_lite0_windows": PROTOCOL.name, "fd_lite0_windows": "fd_lite0_windows_lossless"}
"""What the panel calls its rows -> what they are here."""
RECORDED, IMAGE, VIDEO, CHANGE = "recorded", "image decoder", "video decoder", "video - image"
Decode = Callable[[Tensor], Tensor]
Table = dict[str, dict[str, Interval]]


def autoencoder_file(place: str) -> Path:
    """A preset inside the package, a checkpoint folder, or an autoencoder's file with or without suffix -> the safetensors file."""
    path = WEIGHTS / place if not Path(place).exists() and (WEIGHTS / place).is_dir() else Path(place)
    path = path / "autoencoder" if path.is_dir() else path
    return path.with_name(path.name.removesuffix(".safetensors").removesuffix(".json") + ".safetensors")


def loaded(place: str) -> Autoencoder:
    """Raises UsageError where it is another kind of network."""
    network = load_network(autoencoder_file(place))
    if not isinstance(network, Autoencoder):
        raise UsageError(f"{place}: holds a {type(network).__name__}, not an Autoencoder; name the file of a first stage")
    return network


def encoder_hash(network: Autoencoder) -> str:
    """SHA-256 over names and bytes of everything that turns frames into latents: the encoder and its normalisation."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if name.startswith("encoder.") or name in ("latent_mean", "latent_std"):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoder_difference(one: Autoencoder, other: Autoencoder) -> float:
    """Largest absolute difference of two encoders' weights; NaN where they are built differently."""
    first, second = one.encoder.state_dict(), other.encoder.state_dict()
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        return float("nan")
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def compared(image: Autoencoder, video: Autoencoder) -> dict[str, Any]:
    """Hashes of both encoders and what they say."""
    hashes = {IMAGE: encoder_hash(image), VIDEO: encoder_hash(video)}
    return {**hashes, "identical": hashes[IMAGE] == hashes[VIDEO], "largest_difference": encoder_difference(image, video)}


def frame_by_frame(network: Autoencoder) -> Decode:
    """Latents (1, t, c, h, w) -> frames, each without its neighbours: temporal layers are left out."""
    return lambda latents: network.decode(latents[0][:, None])[:, 0][None]


def measured(image: Autoencoder, video: Autoencoder, decode_image: Decode, args: argparse.Namespace) -> dict[str, Side]:
    """Both decoders' frames and the recorded ones, window by window."""
    panel, sides = Lite0Panel(), {name: Side() for name in (RECORDED, IMAGE, VIDEO)}
    footage, same = Footage.open(args.data, args.split), encoder_hash(image) == encoder_hash(video)
    for shot in tqdm(PROTOCOL.shots(footage, args.windows), unit="window", disable=None):
        true = resized(shot.read(), PROTOCOL.size)
        latents = encoded(video, true)
        made = {IMAGE: decode_image(latents if same else encoded(image, true)), VIDEO: video.decode(latents)}
        for name, frames in {RECORDED: true, **{name: pictures(frames) for name, frames in made.items()}}.items():
            panel.see(sides[name], frames, shot.drive, "windows")
            sides[name].see_pixels(frames, None if name == RECORDED else true, shot.drive)
    return {name: Side({NAMES.get(metric, metric): rows for metric, rows in side.items()}) for name, side in sides.items()}


def encoded(network: Autoencoder, frames: np.ndarray) -> Tensor:
    """uint8 (t, H, W, 3) -> latents (1, t, c, h, w)."""
    return network.encode(as_floats(torch.from_numpy(frames)).permute(0, 3, 1, 2))[None]


def pictures(frames: Tensor) -> np.ndarray:
    """(1, t, 3, H, W) in [-1, 1] -> uint8 (t, H, W, 3)."""
    return np.ascontiguousarray(as_bytes(frames[0]).permute(0, 2, 3, 1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="image autoencoder: a preset, checkpoint folder or file; default: the video one's image layers")
    parser.add_argument("--video", default="mini", help="video autoencoder: a preset, checkpoint folder or file")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets of one kind")
    parser.add_argument("--split", default="test")
    parser.add_argument("--windows", type=int, default=96, help="most windows; the protocol's own number is 256")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    video = loaded(args.video)
    image = video if args.image is None else loaded(args.image)
    with torch.inference_mode():
        sides = measured(image, video, frame_by_frame(video) if args.image is None else image.decode, args)
    rows = {name: judged(side, sides[RECORDED], args.resamples) for name, side in sides.items()}
    rows[RECORDED] = {name: value for name, value in rows[RECORDED].items() if name == "flicker"}
    rows[CHANGE] = differences(sides[VIDEO], sides[IMAGE], sides[RECORDED], args.resamples)
    report(args, image, video, sides, rows, time.perf_counter() - began)


def report(args: argparse.Namespace, image: Autoencoder, video: Autoencoder, sides: dict[str, Side], rows: Table, seconds: float) -> None:
    """On screen and as JSON."""
    told, data = machine(), [f"{root.name} {args.split}" for root in args.data]
    encoders = compared(image, video)
    windows, marks = len(sides[RECORDED][PROTOCOL.name].values), weak(sides[RECORDED], PROTOCOL.minimum)
    print(f"{told['machine']}, {told['date']}, {windows} windows of {', '.join(data)}, {seconds:.0f} s\n")
    print(fidelity_table(rows, metrics_of(sides.values())))
    same = "the very same" if args.image is None else "bit-identical" if encoders["identical"] else "NOT identical"
    print(f"\nEncoders: {same} ({encoders[IMAGE][:12]}, {encoders[VIDEO][:12]}; largest difference {encoders['largest_difference']:.3g})")
    print("".join(f"\n- {mark}" for mark in marks))
    if args.out:
        places = {IMAGE: args.image or args.video, VIDEO: args.video}
        content = {
            **told, "protocol": PROTOCOL.describe(), "files": {name: file_hash(autoencoder_file(place)) for name, place in places.items()},
            "image_layers_of_the_video_decoder": args.image is None, "encoders": encoders, "data": data, "windows": windows,
            "marks": marks, "rows": as_json(rows),
        }  # fmt: skip
        args.out.write_text(json.dumps(without_nan(content), indent=1))


if __name__ == "__main__":
    main()
