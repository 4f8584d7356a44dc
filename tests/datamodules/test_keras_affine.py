"""Keras' rotation, shift, shear and zoom, against scipy's interpolation of independently multiplied matrices."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from datamodules import BatchAugment, KerasAffine
from datamodules.geometry import keras_matrices


def picture(size: int) -> np.ndarray:
    """Smooth, so that interpolation cannot make much of a difference, and without symmetry."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(5 * x + 2 * y), np.cos(3 * x * y + y), np.sin(4 * y - x)]
    return np.round(127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


def reference(
    image: np.ndarray, rotation: float, dx: float, dy: float, shear: float, zx: float, zy: float, order: int = 1
) -> np.ndarray:
    """Keras' product of matrices in (row, column), about the centre, by scipy."""
    size, a = len(image), np.deg2rad(rotation)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    move = np.array([[1, 0, dy * size], [0, 1, dx * size], [0, 0, 1]])
    lean = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    scale = np.diag([zy, zx, 1])
    to_centre, back = np.eye(3), np.eye(3)
    to_centre[:2, 2], back[:2, 2] = (size - 1) / 2, -(size - 1) / 2
    matrix = to_centre @ turn @ move @ lean @ scale @ back
    planes = [
        ndimage.affine_transform(plane, matrix[:2, :2], matrix[:2, 2], order=order, mode="nearest")
        for plane in np.moveaxis(image.astype(float), 2, 0)
    ]
    return np.stack(planes, axis=2)


def fixed(*values: float, interpolation: str = "linear") -> KerasAffine:
    """The transform with its draws replaced by the given parameters."""
    transform = KerasAffine(interpolation=interpolation)
    arrays = [np.array([value]) for value in values]
    transform.get_params_dependent_on_data = lambda params, data: {
        "matrix": keras_matrices(*arrays, size=params["shape"][0])[0]
    }
    return transform


@pytest.mark.parametrize(
    "values",
    [
        (30, 0, 0, 0, 1, 1),
        (0, 0.1, -0.2, 0, 1, 1),
        (0, 0, 0, 0.3, 1, 1),
        (0, 0, 0, 0, 0.8, 1.3),
        (-18, 0.15, 0.2, -0.15, 1.15, 0.85),
    ],
)
@pytest.mark.parametrize("size", [33, 64])
def test_it_is_that_of_keras(values: tuple[float, ...], size: int) -> None:
    image = picture(size)
    difference = np.abs(fixed(*values)(image=image)["image"] - reference(image, *values))
    assert difference.max() < 2  # grey levels; OpenCV rounds positions to 1/32 pixel


@pytest.mark.parametrize("values", [(30, 0, 0, 0, 1, 1), (0, 0.1, -0.2, 0, 1, 1), (-18, 0.15, 0.2, -0.15, 1.15, 0.85)])
def test_nearest_pixels_are_those_of_keras_before_2_1_4(values: tuple[float, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 33, 3), np.uint8)
    found = fixed(*values, interpolation="nearest")(image=image)["image"]
    assert (found == reference(image, *values, order=0)).mean() > 0.97  # OpenCV rounds positions to 1/1024 pixel
    assert (found == fixed(*values)(image=image)["image"]).mean() < 0.7


def test_a_quarter_turn_and_a_shift_by_whole_pixels_are_exact() -> None:
    image = picture(32)
    assert np.array_equal(fixed(90, 0, 0, 0, 1, 1)(image=image)["image"], np.rot90(image, -1))
    shifted = fixed(0, 2 / 32, 0, 0, 1, 1)(image=image)["image"]
    assert np.array_equal(shifted[:, :-2], image[:, 2:])
    assert np.array_equal(shifted[:, -2:], np.repeat(image[:, -1:], 2, axis=1))  # the border's nearest pixel


def by_transform(**ranges: float) -> np.ndarray:
    """Matrices of single pictures of 100 pixels."""
    transform = KerasAffine(**ranges)
    transform.set_random_seed(0)
    params = {"shape": (100, 100, 3)}
    return np.array([transform.get_params_dependent_on_data(params, {})["matrix"] for _ in range(1000)])


def by_batch(**ranges: float) -> np.ndarray:
    """The same of a whole batch."""
    return BatchAugment(**ranges).matrices(0, np.arange(1000), 100)


@pytest.mark.parametrize("draw", [by_transform, by_batch])
@pytest.mark.parametrize(
    ("name", "most", "recovered"),
    [
        ("rotation", 30, lambda m: np.rad2deg(np.arctan2(m[:, :1, 1], m[:, :1, 0]))),
        ("shift", 0.1, lambda m: m[:, :, 2] / 100),
        ("shear", 0.2, lambda m: np.arctan2(-m[:, 1:, 0], m[:, :1, 0])),
        ("zoom", 0.2, lambda m: np.stack([m[:, 0, 0], m[:, 1, 1]], axis=1) - 1),
    ],
)
def test_the_draws_fill_their_ranges(draw: Callable, name: str, most: float, recovered: Callable) -> None:
    """A parameter alone can be recovered from the matrix: shift and zoom for each axis, drawn independently."""
    values = recovered(draw(**{name: most})) / most
    assert np.abs(values).max() <= 1 + 1e-9
    assert (values.min(axis=0) < -0.95).all()
    assert (values.max(axis=0) > 0.95).all()
    assert (np.abs(values.mean(axis=0)) < 0.1).all()
    assert values.shape[1] == 1 or abs(np.corrcoef(values.T)[0, 1]) < 0.2


def test_a_picture_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="8x9"):
        KerasAffine(rotation=5)(image=np.zeros((8, 9, 3), np.uint8))
