"""Labels against a detector in closed form: perfect, shifted, missed, invented, ignored; the judge's own matching; piece by piece."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.boxes import JudgedFrame, match, precision, recall
from drivesim.eval.label_fidelity import JUDGE
from drivesim.io.checkpoints import file_hash, save_network
from drivesim.io.records import rows_of
from drivesim.labels import Boxes, LabelTrack
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.detector import BoxDetector, Detections
from drivesim.models.looking import fitted
from drivesim.simulation.agreement import BOX_COLUMNS, CLIP_COLUMNS, FILTER, Agreement, Tally, ceiling, held_against, look_every, overlaps

HEIGHT, WIDTH = 128, 256


class SeesWhite(BoxDetector):
    """Finds every white rectangle to the pixel, as a car with a score of 0.9, or 0.1 where it is grey."""

    def __init__(self) -> None:
        super().__init__((8, 8), (1, 1), 8, threshold=0.5)
        self.looks = 0

    def detect(self, frames: Tensor, threshold: float | None = None, limit: int = 64) -> list[Detections]:
        self.looks += len(frames)
        return [self._in(frame.permute(1, 2, 0).numpy()) for frame in frames]

    def _in(self, frame: np.ndarray) -> Detections:
        _, _, stats, _ = cv2.connectedComponentsWithStats((frame[..., 0] > 60).astype(np.uint8))
        rows = [(x, y, x + w, y + h, 0.9 if frame[y, x, 0] > 200 else 0.1) for x, y, w, h, _ in stats[1:]]
        table = np.array(sorted(rows, key=lambda row: -row[4]), np.float32).reshape(-1, 5)
        height, width = frame.shape[:2]
        xyxy, score = torch.from_numpy(table[:, :4] / (width, height, width, height)).float(), torch.from_numpy(table[:, 4])
        return Detections(xyxy, score, torch.zeros(len(score), dtype=torch.int64), 0.0)


def picture(*boxes: tuple[int, int, int, int], value: int = 255) -> np.ndarray:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        frame[y1:y2, x1:x2] = value
    return frame


def track(*frames: list[tuple[int, int, int, int]], ignore: bool = False, category: int = 0, fps: float = 2.0) -> LabelTrack:
    """Labels in pixels; the n-th box of a frame is track n."""
    rows = [(t, n, *box) for t, boxes in enumerate(frames) for n, box in enumerate(boxes)]
    table = np.array(rows, np.float32).reshape(-1, 6)
    xyxy = (table[:, 2:] / (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)
    ids, count = table[:, :2].astype(np.int64), len(table)
    boxes = Boxes(ids[:, 0], ids[:, 1], np.full(count, category, np.int64), xyxy, np.full(count, ignore))
    unknown = LabelTrack.unknown(len(frames), fps)
    return LabelTrack(fps, unknown.values, boxes, np.ones(len(frames), bool))


A, B = (20, 40, 60, 80), (120, 40, 160, 80)


def seen(frames: list[np.ndarray], labels: LabelTrack, every: int | None = 1) -> Agreement:
    agreement = Agreement(SeesWhite(), every)
    agreement.look(np.stack(frames), labels)
    return agreement


# one clip in closed form


def test_labels_that_are_in_the_picture_agree() -> None:
    agreement = seen([picture(A, B)] * 3, track(*[[A, B]] * 3))
    assert agreement.clip() == dict(zip(CLIP_COLUMNS, (1.0, 1.0, 1.0, 3), strict=True))
    boxes = agreement.boxes()
    assert np.allclose(boxes["agreement_iou"], 1) and np.allclose(boxes["agreement_score"], 0.9)


def test_a_missed_box_is_told_from_one_nobody_looked_at() -> None:
    agreement = seen([picture(A)] * 4, track(*[[A, B]] * 4), every=2)
    boxes = agreement.boxes()
    of_b = boxes[boxes["track_id"] == 1]
    assert of_b["agreement_iou"].tolist()[0] == 0 == of_b["agreement_score"].tolist()[2]
    assert of_b["agreement_iou"].isna().tolist() == [False, True, False, True]
    assert agreement.clip() == dict(zip(CLIP_COLUMNS, (1.0, 0.5, pytest.approx(2 / 3), 2), strict=True))


def test_an_invented_vehicle_costs_precision() -> None:
    assert seen([picture(A, B)], track([A])).clip() == dict(zip(CLIP_COLUMNS, (0.5, 1.0, pytest.approx(2 / 3), 1), strict=True))


def test_a_shifted_box_is_told_with_its_overlap_and_counts_as_wrong_below_half() -> None:
    near, far = (28, 40, 68, 80), (48, 40, 88, 80)  # shifted by 8 and by 28 of 40 pixels
    for shifted, overlap, right in ((near, 32 / 48, 1.0), (far, 12 / 68, 0.0)):
        agreement = seen([picture(shifted)], track([A]))
        assert agreement.boxes()["agreement_iou"].tolist() == [pytest.approx(overlap)]
        assert agreement.boxes()["agreement_score"].tolist() == [pytest.approx(0.9)]
        assert agreement.clip()["agreement_precision"] == agreement.clip()["agreement_recall"] == right


def test_a_doubtful_detection_has_a_score_and_does_not_count() -> None:
    agreement = seen([picture(A, value=100)], track([A]))
    assert agreement.boxes()["agreement_score"].tolist() == [pytest.approx(0.1)]
    assert agreement.clip() == dict(zip(CLIP_COLUMNS, (None, 0.0, 0.0, 1), strict=True))


@pytest.mark.parametrize(
    "labels", [track([A], ignore=True), track([(20, 40, 60, 51)]), track([A], category=5)], ids=["ignored", "lower than 12 px", "a person"]
)
def test_boxes_that_do_not_count_have_nulls(labels: LabelTrack) -> None:
    agreement = seen([picture()], labels)
    assert agreement.boxes()[list(BOX_COLUMNS)].isna().all(axis=None)
    assert agreement.clip() == dict(zip(CLIP_COLUMNS, (None, None, 1.0, 1), strict=True))


def test_what_is_found_in_an_ignored_box_is_not_punished_and_a_person_is_no_excuse() -> None:
    assert seen([picture(A)], track([A], ignore=True)).clip()["agreement_precision"] is None
    assert seen([picture(A)], track([A], category=5)).clip()["agreement_precision"] == 0


def test_frames_whose_boxes_nobody_knows_are_not_looked_at() -> None:
    agreement = seen([picture(A)] * 2, LabelTrack.unknown(2, 2.0))
    assert agreement.clip() == dict(zip(CLIP_COLUMNS, (None, None, None, 0), strict=True))
    assert agreement.detector.looks == 0 and agreement.boxes().empty  # type: ignore[union-attr]


def test_larger_frames_are_looked_at_in_128_rows() -> None:
    large = cv2.resize(picture(A), (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_NEAREST)
    assert fitted(large[None], 32).shape == (1, 128, 256, 3)
    assert seen([large], track([A])).boxes()["agreement_iou"].tolist() == [pytest.approx(1)]


# piece by piece


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=6))
def test_pieces_do_not_matter(every: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(3)
    asked = [[A, B][: int(rng.integers(0, 3))] for _ in range(12)]
    frames, labels = np.stack([picture(*[A, B][: int(rng.integers(0, 3))]) for _ in asked]), track(*asked)
    whole, pieces = seen(list(frames), labels, every), Agreement(SeesWhite(), every)
    ends = [*np.minimum(np.cumsum([0, *cuts]), 12).tolist(), 12]
    for first, last in itertools.pairwise(ends):
        pieces.look(frames[first:last], labels.take(range(first, last), labels.fps))
    assert pieces.clip() == whole.clip() and len(pieces.boxes()) == len(whole.boxes())
    assert np.array_equal(pieces.boxes().to_numpy(float), whole.boxes().to_numpy(float), equal_nan=True)
    _, rows = rows_of(labels, "clip", "requested")
    assert whole.boxes()[["frame", "track_id"]].to_numpy(int).tolist() == rows[["frame", "track_id"]].to_numpy(int).tolist()


@pytest.mark.parametrize(("fps", "every"), [(1.0, 1), (1.875, 1), (7.5, 5), (10.0, 5), (25.0, 13), (30.0, 15)])
def test_about_two_looks_a_second_and_never_at_keyframes_only(fps: float, every: int) -> None:
    assert look_every(fps) == every
    assert {every * k % 16 for k in range(16)} == set(range(16))


def test_another_clip_begins_at_nothing() -> None:
    agreement = seen([picture(A)], track([A]))
    other = agreement.another()
    assert other.detector is agreement.detector and other.every == 1
    assert other.clip()["agreement_frames"] == 0 and other.frames == 0 and agreement.frames == 1


# the rules are the judge's


def crowd(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (rng.integers(0, 7), 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, low.shape)], 1).astype(np.float32)
    near = boxes[rng.random(len(boxes)) < 0.8]
    near = near + rng.normal(0, 0.02, near.shape)
    extra = rng.uniform(0, 0.5, (rng.integers(0, 4), 2))
    found = np.concatenate([near, np.concatenate([extra, extra + 0.25], 1)]).astype(np.float32)
    score = np.sort(rng.random(len(found)).astype(np.float32))[::-1]
    return boxes, rng.random(len(boxes)) < 0.2, found[rng.permutation(len(found))], score


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8])
def test_precision_and_recall_are_those_of_pycocotools(threshold: float) -> None:
    frames = [crowd(seed) for seed in range(60)]
    tally = sum((held_against(*frame, threshold)[2] for frame in frames), Tally())
    judged = match([JudgedFrame("a", *frame) for frame in frames])["all"]
    assert tally.right > 20 and tally.wrong > 5 and tally.missed > 5
    assert tally.recall == pytest.approx(recall(judged, threshold)) and tally.precision == pytest.approx(precision(judged, threshold))


def test_no_detection_is_matched_twice() -> None:
    boxes = np.array([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.52, 0.5]], np.float32)
    iou, score, tally = held_against(boxes, np.zeros(2, bool), boxes[:1], np.array([0.7], np.float32), 0.5)
    assert iou.tolist() == [1.0, 0.0] and score[1] == 0 and (tally.right, tally.wrong, tally.missed) == (1, 0, 1)


def test_overlaps_of_a_box_with_its_half() -> None:
    whole, half = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[0.0, 0.0, 0.5, 1.0]])
    assert overlaps(whole, half)[0, 0] == overlaps(half, whole)[0, 0] == 0.5
    assert overlaps(half, whole, of_first=True)[0, 0] == 1 and overlaps(whole, half, of_first=True)[0, 0] == 0.5
    assert overlaps(np.zeros((0, 4)), whole).shape == (0, 1)


# bad input


def test_labels_for_other_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="2 frames have labels for 1"):
        Agreement(SeesWhite()).look(np.stack([picture()] * 2), track([A]))
    with pytest.raises(ValueError, match="at least 1"):
        Agreement(SeesWhite(), 0)


def test_another_network_is_refused(tmp_path: Path) -> None:
    network: nn.Module = Autoencoder(latent_channels=4, widths=(8, 8), blocks=1, stem=2)
    save_network(tmp_path / "detector", network, {})
    with pytest.raises(UsageError, match="not a BoxDetector"):
        Agreement.load(tmp_path / "detector")


def test_the_package_holds_a_detector_of_its_own_with_its_ceiling() -> None:
    agreement, top = Agreement.load(), ceiling()
    weights = FILTER.with_suffix(".safetensors")
    assert file_hash(weights) == top["detector"] != file_hash(JUDGE.with_suffix(".safetensors"))
    assert 0.5 < top["f1"] < 1 and top["chance"]["f1"] < 0.1 and top["command"].startswith("python benchmarks/agreement.py")
    assert len(agreement.look(np.stack([picture(A)] * 3), track(*[[A]] * 3))) == 3
    assert Agreement.load(FILTER.parent).detector.threshold == agreement.detector.threshold


def test_a_ceiling_that_was_never_measured_says_so(tmp_path: Path) -> None:
    with pytest.raises(DrivesimError, match=r"benchmarks/agreement\.py"):
        ceiling(tmp_path / "detector")
