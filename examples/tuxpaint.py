"""Makes a dataset of the stamps of Tux Paint: about 780 pictures with a written English caption each.

    apt install tuxpaint-stamps-default
    python examples/tuxpaint.py runs/tuxpaint
    idvl estimate-id MODEL --dataset runs/tuxpaint

The stamps are cut-out photographs and drawings with transparent backgrounds, which become white here; mirrored copies
are left out. They are licensed under the GPL, version 2, which is why they are not part of this repository.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

STAMPS = Path("/usr/share/tuxpaint/stamps")


def captioned(stamps: Path) -> list[tuple[Path, str]]:
    """Each stamp with the first line of the text beside it, which is English; the others are translations."""
    pairs = []
    for file in sorted(stamps.rglob("*.png")):
        text = file.with_suffix(".txt")
        if text.is_file() and not file.stem.endswith(("_mirror", "_flip")):
            lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines and lines[0].strip():
                pairs.append((file, lines[0].strip()))
    return pairs


def on_white(file: Path) -> Image.Image:
    """A stamp, its transparent background white."""
    stamp = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", stamp.size, "white")
    return Image.alpha_composite(white, stamp).convert("RGB")


def main(folder: Path, stamps: Path = STAMPS) -> int:
    """Write the images and metadata.jsonl into a folder that does not exist yet; return the number of stamps."""
    pairs = captioned(stamps)
    if not pairs:
        sys.exit(f"{stamps} has no captioned stamps: apt install tuxpaint-stamps-default, or name their folder")
    folder.mkdir(parents=True)
    rows = []
    for file, caption in pairs:
        name = "-".join(file.relative_to(stamps).parts)
        on_white(file).save(folder / name)
        rows.append({"file_name": name, "text": caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/tuxpaint.py FOLDER [STAMPS]")
    print(f"{main(*map(Path, sys.argv[1:]))} stamps")
