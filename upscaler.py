"""A super-resolution network as its users meet it: pictures of any size in, larger ones out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.image import structural_similarity_index_measure

from datamodules.pair_windows import cropped, enlarged, planes, shrunk
from datamodules.picture_files import rgb
from lightning_modules import SRCNN
from lightning_modules.saved import Preprocessing, saved_network
from pictures import opened, profile_of

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B: BT.601
LITERATURES = np.array([65.481, 128.553, 24.966]) / 255  # the same on the scale 16 .. 235, above 16
SSIM_WINDOW = 11  # pixels


class Upscaler:
    """Enlarges pictures by the factor that its network was trained for.

    The network sees the bicubic enlargement, continued by reflection over the edges, in tiles that overlap by as much
    as it needs, so that neither tiles nor edges show. A network of luminance changes that alone: the colours are those
    of the bicubic enlargement.

    Args:
        network: in evaluation mode.
        preprocessing: what ``PhotographPairs`` says of its inputs.
        tile: height and width of what is computed at a time, in pixels of the enlarged picture; it bounds the memory.
    """

    def __init__(self, network: SRCNN, preprocessing: Preprocessing, tile: int = 256) -> None:
        self.network, self.tile = network, tile
        self.factor: int = preprocessing["upscale_factor"]
        self.luminance: bool = preprocessing["colour"] == "luminance"
        self.packed_set: str = preprocessing["packed_set"]

    @classmethod
    def load(cls, place: str | Path, device: str = "cpu", tile: int = 256) -> "Upscaler":
        """That of a run's folder or a checkpoint; see ``saved_network``."""
        network, preprocessing = saved_network(place, SRCNN)
        return cls(network.to(device), preprocessing, tile)

    def enlarge(
        self, image: Image.Image, progress: Callable[[float], None] = lambda share: None
    ) -> tuple[Image.Image, Image.Image]:
        """The picture, of mode L, LA, RGB or RGBA, enlarged by the network and by bicubic interpolation.

        Alpha is interpolated, and weighs the colours, so that what it hides does not show. Both have the picture's ICC
        profile, and nothing else that came with it.

        Args:
            progress: told the share of the work that each tile was.
        """
        alpha = enlarged(image.getchannel("A"), self.factor) if image.mode.endswith("A") else None
        interpolated = weighted(image, self.factor) if alpha else enlarged(image, self.factor)
        sharper = self.sharpened(interpolated, progress)
        if alpha:
            for picture in (sharper, interpolated):
                picture.putalpha(alpha)
        for picture in (sharper, interpolated):
            picture.info = profile_of(image, image.mode)
        return sharper, interpolated

    def sharpened(
        self, interpolated: Image.Image, progress: Callable[[float], None] = lambda share: None
    ) -> Image.Image:
        """What the network makes of an enlargement of mode L or RGB: the same size and mode."""
        values = planes(interpolated)
        around = self.network.border
        padded = np.pad(values, ((around, around), (around, around), (0, 0)), mode="reflect")
        sharper = np.empty_like(values)
        tiles = list(self._tiles(*values.shape[:2]))
        for rows, columns in tiles:
            seen = padded[rows.start : rows.stop + 2 * around, columns.start : columns.stop + 2 * around]
            sharper[rows, columns] = self._of_tile(seen.astype(np.float32)).round().clip(0, 255)
            progress(1 / len(tiles))
        return Image.fromarray(sharper.squeeze(2) if interpolated.mode == "L" else sharper)

    def _tiles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                yield slice(top, min(top + self.tile, height)), slice(left, min(left + self.tile, width))

    def _of_tile(self, seen: np.ndarray) -> np.ndarray:
        """Values on the scale 0 .. 255, ``(h, w, C)`` of a part with the network's border around it; C is 1 or 3."""
        channels = seen.shape[2]
        if not self.luminance:
            made = self._network(np.broadcast_to(seen, (*seen.shape[:2], 3)))
            return made if channels == 3 else made @ LUMA[:, None]
        luma = seen @ LUMA[:, None] if channels == 3 else seen
        around = self.network.border
        middle = slice(around, -around), slice(around, -around)
        return seen[middle] + (self._network(luma) - luma[middle])

    @torch.inference_mode()
    def _network(self, values: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(values / np.float32(255)).permute(2, 0, 1)[None]
        outputs = self.network(inputs.to(self.network.device))
        return 255 * outputs[0].permute(1, 2, 0).float().cpu().numpy()


def weighted(image: Image.Image, factor: int) -> Image.Image:
    """The colours of a picture of mode LA or RGBA, enlarged in L or RGB: weighted by alpha, as far as it shows any.

    Where it hides all, they are the nearest that it shows: the network would sharpen an edge to hidden colours, and
    change those beside it. Pillow weighs them too, but in 8 bits, where bicubic interpolation overshoots: it cuts off
    alpha above 255, and colours not, so that what is opaque gets a rim of other colours.
    """
    if image.getchannel("A").getextrema()[0] == 255:  # in 8 bits, as without alpha and in training
        return enlarged(image.convert(image.mode[:-1]), factor)
    *bands, weights = (np.asarray(band, np.float32) for band in image.split())
    total = np.asarray(enlarged(Image.fromarray(weights), factor))
    hidden = total < 0.5  # which is rounded to 0
    divisor = np.where(hidden, 1, total)
    means = (np.asarray(enlarged(Image.fromarray(band * weights), factor)) / divisor for band in bands)
    colours = np.stack([mean.round().clip(0, 255).astype(np.uint8) for mean in means], axis=2)
    if hidden.any() and not hidden.all():
        rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
        colours = colours[rows, columns]
    return Image.fromarray(colours.squeeze(2) if len(bands) == 1 else colours)


@dataclass(frozen=True)
class Comparison:
    """PSNR in dB and SSIM of a picture, enlarged by bicubic interpolation and by the network."""

    picture: str
    psnr_bicubic: float
    psnr: float
    ssim_bicubic: float
    ssim: float


def compare(upscaler: Upscaler, picture: str, progress: Callable[[float], None]) -> Comparison:
    """Shrink a picture, enlarge it again, and measure how near that comes.

    Raises:
        ValueError: it cannot be read, or is too small.
    """
    factor = upscaler.factor
    original = cropped(rgb(opened(Path(picture))), factor)  # on white, as in training
    if min(original.size) < SSIM_WINDOW + 2 * factor:
        width, height = original.size
        raise ValueError(f"it has {width}x{height} pixels, too few to compare; {SSIM_WINDOW + 2 * factor} are needed")
    sharper, interpolated = upscaler.enlarge(shrunk(original, factor), progress)
    expected = luminance(original, factor)
    (psnr, ssim), (psnr_bicubic, ssim_bicubic) = (
        quality(luminance(image, factor), expected) for image in (sharper, interpolated)
    )
    return Comparison(picture, psnr_bicubic, psnr, ssim_bicubic, ssim)


def luminance(image: Image.Image, border: int) -> np.ndarray:
    """Y of BT.601, 16 .. 235, float64 ``(H, W)``, without a border."""
    return (16 + np.asarray(image) @ LITERATURES)[border:-border, border:-border]


def quality(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, infinite where both are the same, and mean SSIM (Wang et al. 2004); on the scale 0 .. 255."""
    error = np.mean((found - expected) ** 2)
    psnr = float(10 * np.log10(255**2 / error)) if error else float("inf")
    both = (torch.from_numpy(values).float()[None, None] for values in (found, expected))  # float64 is slow there
    _, similarities = structural_similarity_index_measure(*both, data_range=255.0, return_full_image=True)
    inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))  # where the Gaussian window is whole
    return psnr, float(similarities[..., inside, inside].mean())
