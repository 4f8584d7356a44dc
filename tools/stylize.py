"""Style transfer: the content of one picture in the style of another.

python tools/stylize.py --config experiments/style_transfer.yaml --content FILE --style FILE --out FOLDER
python tools/stylize.py --config experiments/style_transfer.yaml --content FILE --style FILE --out FOLDER --walk 12
python tools/stylize.py --config FOLDER/settings.yaml --out AGAIN

tools/inspect_model.py lists the layers of a network. FOLDER gets the picture, losses.json and losses.png, and
settings.yaml, which makes the same picture again, on a CPU to the byte. --walk makes pictures with settings drawn from
`ranges`, and a sheet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from synthesis.command import Steps, pixels_of, profile_of_file, run
from synthesis.networks import seeded_backbone
from synthesis.style import StyleSettings, StyleTransfer
from terminal import plainly


def steps_of(settings: StyleSettings, device: str) -> Steps:
    """The iterations of a transfer, none of which has begun, their number, and the profile of their pictures."""
    content = pixels_of(settings.content, settings.size).to(device)
    style = pixels_of(settings.style, settings.style_size or max(content.shape[2:])).to(device)
    backbone = seeded_backbone(settings.network, settings.seed_everything, device)
    transfer = StyleTransfer(backbone, content, style, settings)
    return transfer, settings.iterations, profile_of_file(settings.content)


def main() -> None:
    """Restyle."""
    with plainly(memory="take a smaller --size (and --style_size)"):
        run(StyleSettings, steps_of, sys.argv[1:], __doc__)


if __name__ == "__main__":
    main()
