"""Augmentation of whole batches: what each sample gets, on the processor and on the device alike."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as transforms

from datamodules import BatchAugment, KerasAffine
from datamodules.batches import Batches, Sources
from datamodules.geometry import crop_matrices, keras_matrices, resize_matrix, ten_crops, warp_on_device

KEYS = np.arange(4000)
EVERYTHING = BatchAugment(crop=24, padding=4, flip=0.5, rotation=20, shift=0.1, shear=0.2, zoom=0.2)


def waves(count: int, size: int) -> np.ndarray:
    """Smooth pictures, each of its own."""
    y, x = np.mgrid[:size, :size] / size
    phases = np.arange(count)[:, None, None, None] + np.arange(3)
    values = np.sin(5 * x[:, :, None] + 3 * y[:, :, None] + phases)
    return np.round(127 + 120 * values).astype(np.uint8)


class Stored:
    """Pictures in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, keys: np.ndarray) -> tuple[Sources, np.ndarray]:
        rows = keys % len(self)
        return [(self.images, rows, np.arange(len(keys)))], rows


def on_cpu(
    images: np.ndarray, matrices: np.ndarray, size: int, border: str = "replicate", interpolation: str = "linear"
) -> np.ndarray:
    batches = Batches(Stored(images), size, lambda keys: matrices[keys], border, interpolation)
    return batches.__getitems__(np.arange(len(images)))[0].numpy()


def test_the_crop_moves_over_every_place_alike() -> None:
    matrices = BatchAugment(crop=30, padding=4).matrices(1, KEYS, 32)
    for coordinate in (0, 1):
        counts = np.bincount(matrices[:, coordinate, 2].astype(int) + 4)
        assert len(counts) == 11  # -4 to 6
        assert ((counts - 4000 / 11) ** 2 / (4000 / 11)).sum() < 29.6  # chi squared, 10 degrees, p = 0.001
    assert np.array_equal(matrices[:, :, :2], np.broadcast_to(np.eye(2), (4000, 2, 2)))


def test_an_affine_map_leaves_the_crop_where_it_is() -> None:
    plain = BatchAugment(crop=28, padding=4, flip=0.5)
    turned = BatchAugment(crop=28, padding=4, flip=0.5, rotation=1e-9)
    np.testing.assert_allclose(turned.matrices(1, KEYS, 32), plain.matrices(1, KEYS, 32), atol=1e-6)


def assert_even_and_apart(most: float, *drawn: np.ndarray) -> None:
    """Evenly from -most to most, and independently."""
    for values in drawn:
        assert stats.kstest(values, stats.uniform(-most, 2 * most).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.06


def test_each_value_of_the_affine_map_is_drawn_from_its_own_range() -> None:
    """Of a crop of 24 pixels from 32; the map is about its centre, and a shift is a fraction of it."""

    def drawn(**arguments: float) -> np.ndarray:
        matrices = BatchAugment(crop=24, **arguments).matrices(1, KEYS, 32)
        matrices[:, :, 2] -= places
        if "shift" not in arguments:
            np.testing.assert_allclose(matrices @ [11.5, 11.5, 1], 11.5)
        return matrices

    places = BatchAugment(crop=24).matrices(1, KEYS, 32)[:, :, 2]
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.06
    turned, leaned, zoomed = drawn(rotation=20), drawn(shear=0.3), drawn(zoom=0.4)
    angle, lean = np.arctan2(turned[:, 0, 1], turned[:, 0, 0]), np.arctan2(-leaned[:, 1, 0], leaned[:, 0, 0])
    assert_even_and_apart(1, np.rad2deg(angle) / 20, lean / 0.3)
    assert_even_and_apart(0.4, zoomed[:, 0, 0] - 1, zoomed[:, 1, 1] - 1)
    assert_even_and_apart(6, *drawn(shift=0.25)[:, :, 2].T)
    assert_even_and_apart(1, angle / np.deg2rad(20), (zoomed[:, 0, 0] - 1) / 0.4, drawn(shift=0.25)[:, 0, 2] / 6)


def test_flips_happen_as_often_as_asked() -> None:
    flipped = BatchAugment(flip=0.3).matrices(1, KEYS, 32)[:, 0, 0] < 0
    assert abs(flipped.mean() - 0.3) < 0.03


def test_a_flip_is_a_flip() -> None:
    images = waves(2, 16)
    assert np.array_equal(on_cpu(images, BatchAugment(flip=1.0).matrices(1, np.arange(2), 16), 16), images[:, :, ::-1])


def test_samples_differ_and_sightings_differ_but_nothing_else_matters() -> None:
    matrices = EVERYTHING.matrices(5, KEYS, 32)
    assert len(np.unique(matrices.reshape(len(KEYS), -1), axis=0)) == len(KEYS)
    assert np.array_equal(matrices[100:110], EVERYTHING.matrices(5, KEYS[100:110], 32))
    assert not np.array_equal(matrices, EVERYTHING.matrices(6, KEYS, 32))


@pytest.mark.parametrize("border", ["replicate", "zeros"])
@pytest.mark.parametrize("augment", [BatchAugment(crop=28, padding=3, flip=0.5), EVERYTHING])
def test_processor_and_device_agree(augment: BatchAugment, border: str) -> None:
    images, keys = waves(40, 32), np.arange(40)
    matrices, size = augment.matrices(3, keys, 32), augment.output_size(32)
    found = on_cpu(images, matrices, size, border).astype(int)
    seen = warp_on_device(torch.from_numpy(images), matrices, size, border).numpy()
    if augment is EVERYTHING:  # OpenCV rounds positions to 1/32 pixel, and cuts a black border off differently
        inner = np.abs(found - seen) <= 4
        assert inner.mean() > (0.99 if border == "replicate" else 0.95)
    else:
        assert np.array_equal(found, seen)


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_shifts_by_parts_of_pixels_agree_too(interpolation: str) -> None:
    """They move neither rows nor columns into one another's place, as a crop does, but are no crops."""
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    matrices = BatchAugment(shift=0.1, flip=0.5, interpolation=interpolation).matrices(3, np.arange(40), 32)
    found = on_cpu(images, matrices, 32, interpolation=interpolation).astype(int)
    seen = warp_on_device(torch.from_numpy(images), matrices, 32, "replicate", interpolation).numpy()
    if interpolation == "linear":
        assert np.abs(found - seen).max() <= 13  # OpenCV rounds positions to 1/32 pixel: 2 x 255 / 64, and the rest
        assert np.abs(found - seen).mean() < 3
    else:
        assert np.array_equal(found, seen)
        colours = [set(map(tuple, picture.reshape(-1, 3))) for picture in images]
        assert all(set(map(tuple, p.reshape(-1, 3))) <= own for p, own in zip(found, colours, strict=True))


@pytest.mark.parametrize("augment", [BatchAugment(crop=7, flip=0.5), BatchAugment(crop=7, rotation=10)])
@pytest.mark.parametrize("normalized", [False, True])
def test_pictures_of_several_shards_get_each_its_own_matrix(augment: BatchAugment, normalized: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)

    class Shards(Stored):
        def gather(self, keys: np.ndarray) -> tuple[Sources, np.ndarray]:
            odd = keys % 2 == 1  # two shards, of which a batch takes rows by turns
            return [
                (images[part::2], keys[mine] // 2, np.flatnonzero(mine)) for part, mine in ((0, ~odd), (1, odd))
            ], keys

    normalization = SimpleNamespace(lines=lambda size: (np.zeros((1, 3 * size), np.float32), np.ones(3 * size, "f4")))
    keys, matrices = np.array([3, 0, 5, 2, 1, 4]), augment.matrices(1, np.arange(6), 9)
    batches = Batches(
        Shards(images), 7, lambda keys: matrices[keys], normalization=normalization if normalized else None
    )
    found = batches.__getitems__(keys)[0]
    found = found.permute(0, 2, 3, 1).numpy() if normalized else found.numpy()
    for key, picture in zip(keys, found, strict=True):
        assert np.array_equal(picture, on_cpu(images[key : key + 1], matrices[key : key + 1], 7)[0])


def test_nearest_shifts_are_the_rounded_ones() -> None:
    """As many of each as of the others, but for the outermost two, which are rounded to from one side only."""
    drawn = {
        i: BatchAugment(shift=0.125, interpolation=i).matrices(1, KEYS, 32)[:, :, 2] for i in ("linear", "nearest")
    }
    assert np.abs(drawn["linear"]).max() < 4
    assert np.array_equal(drawn["nearest"], np.round(drawn["linear"]))
    counts = np.bincount(drawn["nearest"][:, 0].astype(int) + 4) / np.array([0.5, 1, 1, 1, 1, 1, 1, 1, 0.5])
    assert ((counts - 500) ** 2 / 500).sum() < 40


def test_nearest_pixels_of_turned_pictures_agree() -> None:
    images, keys = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40)
    augment = BatchAugment(crop=24, padding=4, flip=0.5, rotation=20, shift=0.1, zoom=0.2, interpolation="nearest")
    matrices = augment.matrices(3, keys, 32)
    found = on_cpu(images, matrices, 24, interpolation="nearest")
    seen = warp_on_device(torch.from_numpy(images), matrices, 24, "replicate", "nearest").numpy()
    assert (found == seen).mean() > 0.98  # between two pixels, rounding decides


def test_single_pictures_get_the_same_from_the_transform() -> None:
    """For the same parameters, KerasAffine and the whole batch see the same pixels."""
    images = waves(6, 32)
    rng = np.random.default_rng(2)
    drawn = [rng.uniform(-r, r, 6) for r in (30, 0.1, 0.1, 0.2)]
    matrices = keras_matrices(*drawn, *(rng.uniform(0.8, 1.2, 6) for _ in range(2)), size=32)
    transform = KerasAffine()
    single = np.stack([transform.apply(image, matrix) for image, matrix in zip(images, matrices, strict=True)])
    assert np.array_equal(on_cpu(images, matrices, 32), single)
    device = warp_on_device(torch.from_numpy(images), matrices, 32, "replicate").numpy()
    assert np.abs(device.astype(int) - single).max() <= 3


def test_a_crop_of_pictures_that_are_not_square() -> None:
    images = torch.from_numpy(waves(2, 32))[:, :, :20]
    seen = warp_on_device(images, crop_matrices(np.array([3]), np.array([9])), 16, "zeros")
    assert torch.equal(seen, images[:, 9:25, 3:19])


def test_resizing_keeps_edges_on_edges() -> None:
    image = waves(1, 64)
    matrices = np.broadcast_to(resize_matrix(64, 48), (1, 2, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(0, 3, 1, 2).float(), (48, 48), mode="bilinear", align_corners=False
    )
    found = on_cpu(image, matrices, 48).transpose(0, 3, 1, 2)
    assert np.abs(found - expected.numpy()).max() <= 2


JITTER: list[tuple[str, Callable]] = [
    ("brightness", transforms.adjust_brightness),
    ("contrast", transforms.adjust_contrast),
    ("saturation", transforms.adjust_saturation),
]


@pytest.mark.parametrize(("name", "reference"), JITTER)
def test_colours_are_those_of_torchvision(name: str, reference: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample by its own factor."""
    images = torch.randint(60, 190, (8, 6, 5, 3), dtype=torch.uint8)  # nothing to clip
    drawn = np.random.default_rng(0).uniform(size=(8, 64))
    monkeypatch.setattr("datamodules.batch_augment.uniforms", lambda seed, keys, count: drawn[:, :count])
    found = BatchAugment(**{name: 0.3}).colours(images, 1, np.arange(8))
    column = {"brightness": 9, "contrast": 10, "saturation": 11}[name]
    for image, result, u in zip(images, found, drawn[:, column], strict=True):
        expected = reference(image.permute(2, 0, 1), 1 + 0.3 * (2 * u - 1)).permute(1, 2, 0)
        assert (result - expected).abs().max() < 2  # torchvision rounds greys and results down


def test_hue_turns_colours_about_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of a turn takes red to green; grey stays."""
    monkeypatch.setattr("datamodules.batch_augment.uniforms", lambda seed, keys, count: np.full((1, count), 5 / 6))
    images = torch.tensor([[[[200, 0, 0], [90, 90, 90]]]], dtype=torch.uint8)
    found = BatchAugment(hue=0.5).colours(images, 1, np.arange(1))
    assert found[0, 0].tolist() == [pytest.approx([0, 200, 0], abs=1e-3), pytest.approx([90, 90, 90], abs=1e-3)]


def test_colours_are_changed_in_the_order_of_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness, contrast, saturation, and hue by a third of a turn, one after the other."""
    drawn = np.full((1, 64), 5 / 6)  # of the range from -1 to 1, two thirds
    monkeypatch.setattr("datamodules.batch_augment.uniforms", lambda seed, keys, count: drawn[:, :count])
    image = np.random.default_rng(0).integers(90, 130, (6, 5, 3)).astype(np.uint8)  # nothing to clip
    augment = BatchAugment(brightness=0.15, contrast=0.3, saturation=0.6, hue=0.5)
    found = augment.colours(torch.from_numpy(image)[None], 1, np.arange(1))[0].numpy()
    luma = np.array([0.299, 0.587, 0.114])
    brighter = 1.1 * image
    grey = (brighter @ luma).mean()
    contrasted = grey + 1.2 * (brighter - grey)
    greys = (contrasted @ luma)[..., None]
    saturated = greys + 1.4 * (contrasted - greys)
    np.testing.assert_allclose(found, saturated[..., [2, 0, 1]], atol=1e-3)  # red goes to green, green to blue


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_setting_alone_changes_colours(name: str) -> None:
    assert BatchAugment(**{name: 0.1}).changes_colours
    assert not BatchAugment(rotation=10, erasing=0.5, mixup=0.2).changes_colours


def test_colours_are_clipped() -> None:
    images = torch.randint(0, 256, (8, 6, 5, 3), dtype=torch.uint8)
    found = BatchAugment(brightness=1, contrast=1, saturation=1, hue=0.5).colours(images, 1, np.arange(8))
    assert found.min() >= 0
    assert found.max() <= 255


def test_erased_rectangles() -> None:
    images = torch.ones(600, 3, 40, 40)
    found, labels = BatchAugment(erasing=0.5).erase_and_mix(images, torch.zeros(600), 1, np.arange(600), 10)
    erased = (found == 0).all(dim=1)
    assert torch.equal(erased, (found == 0).any(dim=1))
    some = erased.flatten(1).any(dim=1)
    assert abs(some.float().mean() - 0.5) < 0.08
    share = erased[some].float().mean(dim=(1, 2))
    assert share.min() > 0.01
    assert share.max() < 0.36
    height, width = (erased[some].any(dim=across).sum(dim=1) for across in (2, 1))
    aspect = (height / width).clamp(0.2, 5)  # of whole pixels, and cut by the edge
    assert aspect.min() < 0.5
    assert aspect.max() > 2
    for mask in erased[some]:  # a rectangle is the product of its rows and columns
        assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0)[None, :])
    assert torch.equal(images, torch.ones_like(images))
    assert labels.ndim == 1


def test_erased_rectangles_have_every_size_aspect_and_place_alike() -> None:
    found, _ = BatchAugment(erasing=1.0).erase_and_mix(torch.ones(800, 1, 99, 99), torch.zeros(800), 1, KEYS[:800], 10)
    erased = (found == 0).squeeze(1).numpy()
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    height, width, top, left = rows.sum(1) / 99, columns.sum(1) / 99, rows.argmax(1) / 99, columns.argmax(1) / 99
    assert stats.kstest(height * width, stats.uniform(0.02, 0.31).cdf).pvalue > 1e-3
    whole = (height < 1) & (width < 1)  # else the edge has cut them
    log_aspect = np.log(height / width)[whole]
    assert stats.kstest(log_aspect, stats.uniform(np.log(0.3), np.log(11)).cdf).pvalue > 1e-3
    free_y, free_x = top[whole] / (1 - height[whole]), left[whole] / (1 - width[whole])
    for place in (free_y, free_x):
        assert stats.kstest(place, "uniform").pvalue > 1e-3
    for one, other in ((free_y, free_x), (free_y, log_aspect), (height[whole], free_x)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.12


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_pictures_and_labels_are_mixed_in_the_same_shares(settings: dict[str, float]) -> None:
    """A picture of class c is filled with c, so the mixed picture's mean tells what its label must be."""
    labels = torch.arange(200) % 10
    images = labels.float().view(-1, 1, 1, 1).expand(200, 3, 32, 32)
    found, mixed = BatchAugment(**settings).erase_and_mix(images, labels, 1, np.arange(200), 10)
    assert mixed.shape == (200, 10)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(200))
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), mixed @ torch.arange(10.0), rtol=1e-4, atol=1e-3)
    assert len({round(share, 4) for share in mixed.amax(dim=1).tolist()}) > 50  # each its own share


@pytest.mark.parametrize(
    ("settings", "alpha"), [({"mixup": 0.2}, 0.2), ({"mixup": 1.0}, 1), ({"mixup": 4.0, "cutmix": 0.3}, 4)]
)
def test_shares_are_drawn_from_the_beta_distribution(settings: dict[str, float], alpha: float) -> None:
    labels = torch.arange(4000) % 10
    images = labels.float().view(-1, 1, 1, 1).expand(4000, 1, 4, 4)
    found, mixed = BatchAugment(**settings).erase_and_mix(images, labels, 1, np.arange(4000), 10)
    shares = mixed[torch.arange(4000), labels]
    blended = (found == found[:, :, :1, :1]).flatten(1).all(dim=1) & (shares > 0) & (shares < 1)
    assert stats.kstest(shares[blended].numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert blended.float().mean() > 0.4


@pytest.mark.parametrize(
    ("settings", "alpha"), [({"cutmix": 1.0}, 1), ({"cutmix": 4.0}, 4), ({"mixup": 0.3, "cutmix": 4.0}, 4)]
)
def test_areas_of_pasted_squares_are_drawn_from_the_beta_distribution(settings: dict[str, float], alpha: float) -> None:
    """Of those that touch no edge: ``(1 - side)**2`` of the squares of a side, as their centres are drawn evenly."""
    labels = torch.arange(4000) % 10
    images = labels.float().view(-1, 1, 1, 1).expand(4000, 1, 64, 64)
    found, _ = BatchAugment(**settings).erase_and_mix(images, labels, 1, np.arange(4000), 10)
    pasted = (found != images).squeeze(1)
    edges = pasted[:, [0, -1]].any(dim=(1, 2)) | pasted[:, :, [0, -1]].any(dim=(1, 2))
    squares = pasted[~edges & pasted.any(dim=(1, 2))].float()
    areas = squares.mean(dim=(1, 2))
    assert len(areas) > 100
    centres = [squares.any(dim=along).float().multiply(torch.arange(64.0)).sum(1) for along in (1, 2)]
    sides = squares.any(dim=1).sum(1)
    assert abs(torch.corrcoef(torch.stack([centre / sides for centre in centres]))[0, 1]) < 0.2
    grid = np.linspace(0, 1, 10_001)
    free = np.clip(1 - 1 / 64 - np.sqrt(grid), 0, 1)  # within half a pixel of an edge, it is touched
    density = stats.beta(alpha, alpha).pdf(grid) * free**2
    cumulative = np.cumsum(density) / density.sum()
    assert stats.kstest(areas.numpy(), lambda area: np.interp(area, grid, cumulative)).pvalue > 1e-3


def test_a_mixed_sample_is_made_of_itself_and_the_next() -> None:
    labels = torch.arange(6)
    images = torch.randn(6, 3, 8, 8)
    found, mixed = BatchAugment(mixup=1.0).erase_and_mix(images, labels, 1, np.arange(6), 6)
    for i in range(6):
        share = mixed[i, i]
        torch.testing.assert_close(found[i], share * images[i] + (1 - share) * images[i - 1])
        torch.testing.assert_close(mixed[i, (i - 1) % 6], 1 - share)


def test_ten_crops_are_corners_centre_and_mirror_images() -> None:
    images = torch.arange(2 * 7 * 7 * 3.0).view(2, 7, 7, 3)
    crops = ten_crops(images, 4).unflatten(0, (2, 10))
    assert crops.shape == (2, 10, 4, 4, 3)
    assert torch.equal(crops[:, 0], images[:, :4, :4])
    assert torch.equal(crops[:, 1], images[:, :4, 3:])
    assert torch.equal(crops[:, 2], images[:, 3:, :4])
    assert torch.equal(crops[:, 3], images[:, 3:, 3:])
    assert torch.equal(crops[:, 4], images[:, 2:6, 2:6])  # the middle is between two pixels
    assert torch.equal(crops[:, 5:], crops[:, :5].flip(3))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"flip": 1.5}, "flip is 1.5"),
        ({"mixup": -1}, "mixup is -1"),
        ({"crop": 40}, "allow 1 to 32"),
        ({"crop": 4, "padding": 4}, "less than the crop"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        BatchAugment(**settings).output_size(32)
