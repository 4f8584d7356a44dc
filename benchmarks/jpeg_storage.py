"""What JPEG shards save, cost and lose, on photographs of 256 pixels.

    python benchmarks/jpeg_storage.py FOLDER > benchmarks/JPEG_STORAGE.md

FOLDER holds photographs of any size, at any depth, as *.jpg. They are scaled as packing scales them, stored in each
way, and read in shuffled batches by the reader that training uses, in one thread. Windows take turns. Speed is that of
a core: pictures in a second of the thread's processor time, which other programs on the machine hardly change.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.provenance import abbreviated, commit, hardware
from datamodules.jpeg import encode
from datamodules.picture_files import fit, loaded
from datamodules.shards import ShardDataset, write_shard
from terminal import as_typed, command_line

ROUNDS, BATCH, SIZE = 7, 128, 256
SAMPLINGS = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}
QUALITIES = (80, 90, 95)


def shards(pictures: np.ndarray, folder: Path) -> dict[str, ShardDataset]:
    """The same pictures stored in each way."""
    labels = np.zeros(len(pictures), "<i8")
    write_shard(folder / "raw.h5", images=pictures, labels=labels)
    stored = {"raw": ShardDataset([folder / "raw.h5"])}
    for sampling, factor in SAMPLINGS.items():
        for quality in QUALITIES:
            rows = [encode(picture, quality, factor) for picture in pictures]
            path = folder / f"{sampling.replace(':', '')}-{quality}.h5"
            offsets = np.cumsum([0, *map(len, rows)], dtype="<i8")
            write_shard(path, pictures.shape[1:], images=np.concatenate(rows), offsets=offsets, labels=labels)
            stored[f"JPEG {quality}, {sampling}"] = ShardDataset([path])
    return stored


def noise_ratio(pictures: np.ndarray, dataset: ShardDataset) -> float:
    """Mean over the pictures of the peak signal-to-noise ratio in dB."""
    decoded = dataset.__getitems__(range(len(pictures)))[0].numpy()
    errors = [np.square(a.astype(float) - b).mean() for a, b in zip(pictures, decoded, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def pictures_a_second(dataset: ShardDataset, batches: list[np.ndarray]) -> float:
    """Of one core, reading these rows."""
    began = time.thread_time()
    for rows in batches:
        dataset.__getitems__(rows)
    return sum(map(len, batches)) / (time.thread_time() - began)


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--pictures", type=int, default=1024, help="how many to take (default: 1024)")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*.jpg"))
    if len(files) < BATCH:
        sys.exit(f"error: {arguments.folder} has {len(files)} files *.jpg; {BATCH} are the least")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(files), min(arguments.pictures, len(files)), replace=False)
    pictures = np.stack([fit(loaded(files[number]), SIZE) for number in sorted(chosen)])
    batches = np.array_split(rng.permutation(len(pictures)), max(1, len(pictures) // BATCH))
    with tempfile.TemporaryDirectory() as folder:
        stored = shards(pictures, Path(folder))
        speeds: dict[str, list[float]] = {name: [] for name in stored}
        for number in range(ROUNDS + 1):  # the first warms up
            for name, dataset in stored.items():
                speed = pictures_a_second(dataset, batches)
                if number:
                    speeds[name].append(speed)
        print("# What JPEG shards save, cost and lose\n")
        print(f"`{as_typed(__file__)}`, commit {abbreviated(commit(Path(__file__).parent))}.")
        print(f"{hardware(torch.device('cpu'))}, Python {platform.python_version()}, OpenCV {cv2.__version__}.")
        print(f"{len(pictures)} photographs of {SIZE}x{SIZE} pixels in shuffled batches of {BATCH}, one thread.")
        print(f"Pictures in a second of a core: median (range) of {ROUNDS} windows each, taken in turns.\n")
        print("| stored as | bytes a picture | of raw | pictures a second of a core | PSNR, dB |")
        print("| --- | --- | --- | --- | --- |")
        raw = stored["raw"].bytes
        for name, dataset in stored.items():
            speed = f"{statistics.median(speeds[name]):,.0f} ({min(speeds[name]):,.0f} to {max(speeds[name]):,.0f})"
            loss = "exact" if name == "raw" else f"{noise_ratio(pictures, dataset):.1f}"
            size = dataset.bytes / len(pictures)
            print(f"| {name} | {size:,.0f} | 1 / {raw / dataset.bytes:.1f} | {speed} | {loss} |")


if __name__ == "__main__":
    main()
