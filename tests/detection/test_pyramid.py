"""Image pyramid: sizes by hand, and boxes in pixels of the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from detection.pyramid import Level, pyramid
from detection.windows import logits_of_windows, places, windows


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "resize", "factor", "window", "expected"),
    [
        ((700, 1050), 350, 1.5, 100, [(350, 525), (233, 350), (156, 233), (104, 156)]),
        ((350, 350), 350, 1.5, 224, [(350, 350), (233, 233)]),
        ((1080, 1920), 350, 1.5, 224, [(350, 622), (233, 415)]),
        ((640, 480), 350, 1.5, 224, [(467, 350), (311, 233)]),
        ((90, 3000), 350, 1.5, 224, [(350, 11667), (233, 7778)]),
        ((64, 40), None, 2.0, 20, [(64, 40), (32, 20)]),
        ((20, 30), 40, 1.5, 32, [(40, 60)]),
    ],
)
def test_sizes(size, resize, factor, window, expected):
    levels = list(pyramid(picture(*size), resize, factor, window))
    assert [level.pixels.shape[:2] for level in levels] == expected
    assert {(level.height, level.width) for level in levels} == {size}


def test_each_level_is_scaled_from_the_picture_itself():
    original = picture(90, 120)
    *_, last = pyramid(original, None, 1.5, 32)
    expected = Image.fromarray(original).resize((53, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(last.pixels, np.asarray(expected))


def test_the_first_level_is_the_picture():
    original = picture(33, 40)
    np.testing.assert_array_equal(next(pyramid(original, None, 1.5, 32)).pixels, original)


def test_boxes_are_in_pixels_of_the_file():
    level = Level(picture(40, 60), width=300, height=100)  # 5 and 2.5 times as large
    boxes = level.boxes(torch.tensor([[0, 0], [8, 4], [28, 8]]), window=32)
    assert boxes.tolist() == [[0, 0, 160, 80], [40, 10, 200, 90], [140, 20, 300, 100]]


def test_a_picture_smaller_than_the_window_says_what_size_is_large_enough():
    with pytest.raises(ValueError, match=r"48x20 pixels are fewer than the window's 32x32; --resize 32 or more"):
        next(pyramid(picture(20, 48), None, 1.5, 32))
    assert len(list(pyramid(picture(20, 48), 32, 1.5, 32))) == 1


@pytest.mark.parametrize(("size", "resize"), [((1, 800), 350), ((1, 1), 32), ((1, 1), None)])
def test_a_line_is_not_enlarged_to_hundreds_of_thousands_of_windows(size: tuple[int, int], resize: int | None) -> None:
    with pytest.raises(ValueError, match=r"x1 pixels are too few: it would be enlarged more than 16 times"):
        next(pyramid(picture(*size), resize, 1.5, 32))
    assert next(pyramid(picture(2, 3), 32, 1.5, 32)).pixels.shape == (32, 48, 3)


def test_windows_share_the_memory_of_the_picture():
    pixels = torch.from_numpy(picture(50, 70))
    view = windows(pixels, window=32, step=8)
    assert view.shape == (3, 5, 32, 32, 3)
    assert view.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()
    for row, column in [(0, 0), (2, 4), (1, 3)]:
        assert torch.equal(view[row, column], pixels[8 * row : 8 * row + 32, 8 * column : 8 * column + 32])
    pixels[16, 32] = 7
    assert (view[2, 4][0, 0] == 7).all()


def test_places_follow_the_rows_of_the_windows():
    pixels = torch.from_numpy(picture(50, 70))
    view = windows(pixels, window=32, step=8).flatten(0, 1)
    for number, (left, top) in enumerate(places(3, 5, 8).tolist()):
        assert torch.equal(view[number], pixels[top : top + 32, left : left + 32])


@pytest.mark.parametrize(
    ("columns", "size", "expected"),
    [
        ([0, 0, 0, 240, 0, 0, 0, 0], 4, [0, 90, 30, 0]),  # triangles of 1, 3, 3 and 1 eighths: no pixel is passed over
        ([0, 80], 4, [0, 20, 60, 80]),  # between the middles of pixels
        ([0, 80], 2, [0, 80]),
    ],
)
def test_windows_are_scaled_to_what_the_network_takes(columns: list[int], size: int, expected: list[int]) -> None:
    side = len(columns)
    pixels = torch.tensor(columns, dtype=torch.uint8)[None, :, None].expand(side, side, 3)
    found = logits_of_windows(lambda planes: planes.mean(dim=(1, 2)), pixels, side, size, step=1, batch_size=1)
    torch.testing.assert_close(found, torch.tensor(expected).float()[None, None])
