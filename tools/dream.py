"""DeepDream: a picture with more in it of what layers of a network look for.

python tools/dream.py --config experiments/deepdream.yaml --picture FILE --out FOLDER [--layers '{NAME: 1.0}' ...]
python tools/dream.py --config experiments/deepdream.yaml --picture FILE --out FOLDER --walk 12
python tools/dream.py --config FOLDER/settings.yaml --out AGAIN

tools/inspect_model.py lists the layers of a network. FOLDER gets the picture, losses.json and losses.png, and
settings.yaml, which makes the same picture again, on a CPU to the byte. --walk makes pictures with settings drawn from
`ranges`, and a sheet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from synthesis.command import Steps, pixels_of, profile_of_file, run
from synthesis.dream import Dream, DreamSettings
from synthesis.networks import seeded_backbone
from terminal import plainly


def steps_of(settings: DreamSettings, device: str) -> Steps:
    """The iterations of a dream, none of which has begun, their number, and the profile of their pictures."""
    pixels = pixels_of(settings.picture, settings.size).to(device)
    dream = Dream(seeded_backbone(settings.network, settings.seed_everything, device), pixels, settings)
    return dream, settings.octaves * settings.iterations, profile_of_file(settings.picture)


def main() -> None:
    """Dream."""
    with plainly(memory="give --tile 512, or a smaller one"):
        run(DreamSettings, steps_of, sys.argv[1:], __doc__)


if __name__ == "__main__":
    main()
