"""JPEG bytes of single RGB pictures, by OpenCV."""

from typing import Literal

import cv2
import numpy as np

Encoding = Literal["raw", "jpeg"]

SAMPLING = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420  # docs/data_format.md says why
RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.11


def encode(image: np.ndarray, quality: int, sampling: int = SAMPLING) -> np.ndarray:
    """JPEG bytes, uint8 ``(n,)``, of a picture uint8 RGB ``(H, W, 3)``; quality 1 to 100."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        raise ValueError(f"a picture of {image.shape[1]}x{image.shape[0]} pixels cannot be stored as JPEG")
    return data.ravel()


def decode(data: np.ndarray) -> np.ndarray:
    """The picture uint8 RGB ``(H, W, 3)`` of JPEG bytes, uint8 ``(n,)``.

    Raises:
        ValueError: they are no picture. One that is merely damaged may decode, to other pixels: checksums find that.
    """
    try:
        image = cv2.imdecode(data, RGB or cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:  # an absurd size, say
        raise ValueError(f"OpenCV refuses it: {error.err}") from error
    if image is None:
        raise ValueError("its bytes are no picture")
    return image if RGB else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
