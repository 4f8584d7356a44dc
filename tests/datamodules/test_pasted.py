"""Made pictures: what is said to be in them is there, and windows are labelled by their overlap."""

from pathlib import Path

import numpy as np
import pytest

import datamodules
from datamodules import PastedCIFAR10, PastedDigits, pasted_objects
from datamodules.pasted import SIZE, Scene, background, scene, windows
from datamodules.samples import Samples

SOLID = Samples(np.full((3, 32, 32, 3), [[[[255, 0, 0]]], [[[0, 255, 0]]], [[[0, 0, 255]]]], np.uint8), np.arange(3))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pixels(box: list[int]) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def scenes(count: int, most: int = 6) -> list[Scene]:
    return [scene(SOLID, rng(seed), (32, 96), most, opaque=True) for seed in range(count)]


def test_objects_fill_their_boxes_and_nothing_else_is_changed():
    for seed, made in enumerate(scenes(20)):
        left = background(rng(seed))  # the first that is drawn
        for box, label in zip(made.corners.tolist(), made.labels, strict=True):
            assert (made.picture[pixels(box)] == SOLID.images[label, 0, 0]).all()
            left[pixels(box)] = SOLID.images[label, 0, 0]
        np.testing.assert_array_equal(made.picture, left)


def test_objects_are_square_of_the_wanted_sizes_and_apart():
    made = scenes(60)
    sides = np.concatenate([each.corners[:, 2:] - each.corners[:, :2] for each in made])
    assert (sides[:, 0] == sides[:, 1]).all()
    assert sides.min() >= 32
    assert sides.max() <= 96
    assert sides.min() < 36
    assert sides.max() > 90
    for each in made:
        assert sum(pixels(box).astype(int) for box in each.corners.tolist()).max() == 1
    counts = {len(each.labels) for each in made}
    assert counts == {1, 2, 3, 4, 5, 6}


def test_objects_may_touch_every_edge():
    made = [scene(SOLID, rng(seed), (239, 239), 1, opaque=True) for seed in range(400)]
    left, top, right, bottom = np.concatenate([each.corners for each in made]).T
    assert (left.min(), top.min(), right.max(), bottom.max()) == (0, 0, 320, 240)


def test_a_seed_gives_the_same_picture_and_another_another():
    first, again, other = (scene(SOLID, rng(seed), (32, 96), 4, opaque=False) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.corners, again.corners)
    assert (first.picture != other.picture).any()


def test_ink_covers_as_much_as_the_scan_is_bright():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :16] = 255
    made = scene(Samples(image, np.zeros(1, np.int64)), rng(0), (32, 32), 1, opaque=False)
    (left, top, right, bottom) = made.corners[0]
    ground = background(rng(0))
    np.testing.assert_array_equal(made.picture[top + 16 : bottom, left:right], ground[top + 16 : bottom, left:right])
    ink = made.picture[top : top + 16, left:right].reshape(-1, 3)
    assert (ink == ink[0]).all()
    assert abs(int(ink[0].mean()) - ground[top:bottom, left:right].mean()) > 30


def test_windows_are_labelled_by_their_overlap():
    """A picture with two squares, the place of each pixel in its colour, tells where a window was cut."""
    across, down = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    picture = np.stack([across // 2, down, np.zeros(SIZE)], axis=2).astype(np.uint8)
    made = Scene(picture, np.array([[40, 60, 90, 110], [200, 100, 264, 164]]), np.array([5, 7]))
    found = windows(made, rng(0), size=32, on=300, beside=100, away=20)
    counts = {label: int((found.labels == label).sum()) for label in (5, 7, -1)}
    assert counts == {5: 300, 7: 300, -1: 220}
    for image, label in zip(found.images.astype(float), found.labels, strict=True):
        width, height = (
            2 * (image[16, 31, 0] - image[16, 0, 0]) * 32 / 31,
            (image[31, 16, 1] - image[0, 16, 1]) * 32 / 31,
        )
        centre = 2 * image[:, :, 0].mean(), image[:, :, 1].mean()
        box = [centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2]
        overlaps = {
            number: overlap(box, corners) for number, corners in zip((5, 7), made.corners.tolist(), strict=True)
        }
        if label < 0:
            assert max(overlaps.values()) < 0.45 + 0.05  # what rounding of pixels and colours leaves unknown
        else:
            assert overlaps[label] > 0.6 - 0.05
    beside = found.images[(found.labels < 0)][:200, :, :, 0]
    assert len(np.unique(beside.reshape(200, -1), axis=0)) > 150


def overlap(a: list[float], b: list[float]) -> float:
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return wide * high / (sum(areas) - wide * high)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasted_objects, "SCENES", {"train": 12, "val": 6, "test": 6})


def test_no_scan_of_another_split_is_used(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[int, set[bytes]] = {}

    def recorded(objects: Samples, *arguments: object) -> Scene:
        used[len(objects)] = {image.tobytes() for image in objects.images}
        return scene(objects, *arguments)

    monkeypatch.setattr(pasted_objects, "scene", recorded)
    PastedDigits().read(None)
    assert sorted(used) == [135, 450, 1212]  # as the digits are split: a quarter tests, a tenth of the rest validates
    scans = datamodules.Digits().read(None)["train"].images
    assert sum(len(each) for each in used.values()) == len({image.tobytes() for image in scans})


def test_no_background_is_used_twice(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []

    def recorded(generator: np.random.Generator) -> np.ndarray:
        picture = background(generator)
        made.append(picture.tobytes())
        return picture

    monkeypatch.setattr("datamodules.pasted.background", recorded)
    PastedDigits().read(None)
    assert len(made) == len(set(made)) == 24


def test_pictures_of_cifar10_come_from_their_own_split(few: None, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, bool]] = []

    def recorded(objects: Samples, *arguments: object) -> Scene:
        used.append((len(objects), arguments[-1]))
        return scene(objects, *arguments)

    monkeypatch.setattr(pasted_objects, "scene", recorded)
    found = PastedCIFAR10(source=str(raw)).read(raw / "cifar-10-batches-py")
    assert used == [(270, True)] * 12 + [(30, True)] * 6 + [(60, True)] * 6
    assert max(samples.labels.max() for samples in found.values()) == 10
    assert PastedCIFAR10.classes[10] == "background"


def test_windows_of_one_picture_are_not_divided_into_folds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pasted_digits cannot be divided into folds"):
        PastedDigits(root=str(tmp_path), folds=5, fold=1).prepare_data()


def test_every_class_and_background_in_every_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasted_objects, "SCENES", {"train": 40, "val": 40, "test": 40})
    found = PastedDigits().read(None)
    for samples in found.values():
        assert set(samples.labels.tolist()) == set(range(11))
        assert samples.images.shape[1:] == (32, 32, 3)
        assert 0.5 < (samples.labels == 10).mean() < 0.9
