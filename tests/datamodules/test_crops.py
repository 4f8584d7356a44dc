"""Crops, flips and normalisation, compiled and plain, against numpy's padding and slicing."""

import runpy
import sys

import numpy as np
import pytest

from datamodules import crops

MODES = {"replicate": "edge", "zeros": "constant"}
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (20, 13, 17, 3), np.uint8)
ROWS, PLACES = np.array([3, 19, 0, 7, 7]), np.array([4, 2, 0, 1, 3])
LEFT, TOP = np.array([-5, 0, 9, 3, 12]), np.array([-2, 4, 5, -6, 9])
FLIPPED = np.array([True, False, True, False, True])
HEIGHT, WIDTH = 8, 10


@pytest.fixture(params=["compiled", "compiled, large", "plain"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numba, with numba for pictures that it leaves to OpenCV, and without."""
    if request.param == "plain":
        monkeypatch.setattr(crops, "compiled", None)
    elif crops.compiled is None:
        pytest.skip("numba is not installed")
    elif request.param == "compiled, large":
        monkeypatch.setattr(crops, "LARGE", WIDTH)


def expected(border: str) -> np.ndarray:
    batch = np.zeros((5, HEIGHT, WIDTH, 3), np.uint8)
    for row, place, left, top, flipped in zip(ROWS, PLACES, LEFT, TOP, FLIPPED, strict=True):
        padded = np.pad(PICTURES[row], ((20, 20), (20, 20), (0, 0)), mode=MODES[border])
        part = padded[20 + top : 20 + top + HEIGHT, 20 + left : 20 + left + WIDTH]
        batch[place] = part[:, ::-1] if flipped else part
    return batch


@pytest.mark.parametrize("border", ["replicate", "zeros"])
def test_crops_and_flips(border: str) -> None:
    out = np.full((5, HEIGHT, WIDTH, 3), 77, np.uint8)
    crops.crop(PICTURES, ROWS, PLACES, LEFT, TOP, FLIPPED, border, out)
    assert np.array_equal(out, expected(border))


@pytest.mark.parametrize("border", ["replicate", "zeros"])
@pytest.mark.parametrize("rows", [1, HEIGHT])  # the same shift for all rows, or a mean image
def test_crops_are_normalised_in_the_same_pass(border: str, rows: int) -> None:
    shift = RNG.uniform(0, 255, (rows, WIDTH * 3)).astype(np.float32)
    scale = RNG.uniform(0.01, 2, WIDTH * 3).astype(np.float32)
    out = np.full((5, HEIGHT, WIDTH, 3), np.nan, np.float32)
    crops.crop_normalized(PICTURES, ROWS, PLACES, LEFT, TOP, FLIPPED, border, shift, scale, out)
    lines = expected(border).reshape(5, HEIGHT, -1).astype(np.float64)
    np.testing.assert_allclose(out.reshape(lines.shape), (lines - shift) * scale, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("border", ["replicate", "zeros"])
@pytest.mark.parametrize("left", [-15, -10, 3, 17, 25])
@pytest.mark.parametrize("top", [-12, -8, 2, 13, 20])
def test_crops_may_lie_wholly_outside(border: str, left: int, top: int) -> None:
    """A shift and a padding together can lead there."""
    out = np.full((1, HEIGHT, WIDTH, 3), 77, np.uint8)
    crops.crop(PICTURES, *(np.array([n]) for n in (5, 0, left, top, True)), border, out)
    padded = np.pad(PICTURES[5], ((30, 30), (30, 30), (0, 0)), mode=MODES[border])
    assert np.array_equal(out[0], padded[30 + top : 38 + top, 30 + left : 40 + left][:, ::-1])


@pytest.mark.parametrize("channels", [2, 6])  # those of pairs
def test_other_channels_than_three(channels: int) -> None:
    pictures = RNG.integers(0, 256, (1, 13, 17, channels), np.uint8)
    out = np.empty((1, HEIGHT, WIDTH, channels), np.uint8)
    for flipped in (False, True):
        crops.crop(pictures, *(np.array([n]) for n in (0, 0, -3, 7, flipped)), "replicate", out)
        part = np.pad(pictures[0], ((0, 2), (3, 0), (0, 0)), mode="edge")[7:15, :10]
        assert np.array_equal(out[0], part[:, ::-1] if flipped else part)


def test_normalisation_alone() -> None:
    images = expected("zeros")
    shift, scale = np.full((1, WIDTH * 3), 3, np.float32), np.full(WIDTH * 3, 0.5, np.float32)
    out = np.empty(images.shape, np.float32)
    crops.normalize(images, shift, scale, out)
    assert np.array_equal(out, (images - 3.0) * 0.5)


def test_a_read_only_map_will_do() -> None:
    locked = PICTURES.copy()
    locked.flags.writeable = False
    out = np.empty((5, HEIGHT, WIDTH, 3), np.uint8)
    crops.crop(locked, ROWS, PLACES, LEFT, TOP, FLIPPED, "zeros", out)
    assert np.array_equal(out, expected("zeros"))


def test_numba_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "datamodules.compiled", raising=False)
    spec = importlib.util.find_spec("datamodules.crops")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.delattr("datamodules.compiled", raising=False)
    spec.loader.exec_module(module)
    assert module.compiled is None


def test_nothing_need_be_writable_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # as if no folder for its cache could be written
    compiled = runpy.run_module("datamodules.compiled")
    images, out = np.arange(12, dtype=np.uint8).reshape(1, 2, 6), np.empty((1, 2, 6), np.float32)
    compiled["normalize"](images, np.ones((1, 6), np.float32), np.full(6, 0.5, np.float32), out)
    assert np.array_equal(out, (images - 1.0) * 0.5)
