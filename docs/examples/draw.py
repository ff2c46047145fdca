"""Draws shoe.png, the picture that the README asks about: `python docs/examples/draw.py` (needs Pillow).

It is bright on a dark ground, as the classifier expects, ten times as large as what the classifier sees, and smoothed
by being drawn four times larger still.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

SIZE, FINER = 280, 4


def draw_shoe() -> Image.Image:
    """Draw an ankle boot, toe to the left: (280, 280), grey."""
    picture = Image.new("L", (SIZE * FINER, SIZE * FINER), 0)
    pen = ImageDraw.Draw(picture)

    def shape(points: list[tuple[float, float]], brightness: int) -> None:
        pen.polygon([(x * FINER, y * FINER) for x, y in points], fill=brightness)

    shape([(150, 42), (236, 36), (244, 110), (256, 196), (252, 222), (26, 222), (22, 192), (60, 168), (118, 146)], 178)
    shape([(150, 42), (236, 36), (238, 56), (149, 62)], 120)
    shape([(18, 218), (254, 218), (254, 234), (176, 236), (168, 232), (18, 234)], 84)
    shape([(196, 232), (254, 232), (252, 250), (200, 250)], 84)
    shape([(206, 58), (228, 57), (240, 200), (214, 204)], 150)
    for step in range(5):
        x, y = 138 - 3 * step, 78 + 17 * step
        pen.line([(x * FINER, y * FINER), ((x + 44) * FINER, (y + 6) * FINER)], fill=226, width=5 * FINER)
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw_shoe().save(Path(__file__).with_name("shoe.png"), optimize=True)
