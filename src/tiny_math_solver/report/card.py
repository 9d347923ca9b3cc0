"""A run's verdict and its curve on dev as a picture for a README or a chat; drawn from the records, with Pillow."""

from pathlib import Path
from typing import Any

from tiny_math_solver.evaluation.statistics import Paired
from tiny_math_solver.report.records import RunRecords
from tiny_math_solver.support.errors import UserError

SIZE = 1200, 630  # pixels, which chats and social networks expect
WIDTH = 520  # of a text
LEFT, RIGHT, TOP, BOTTOM = 660, 1140, 120, 510  # of the curve
BACK, TEXT, SOFT, LINE, LENIENT, STRICT = "#ffffff", "#1b1f27", "#5b6472", "#d9dce2", "#1f77b4", "#d9730d"


def write_card(folder: Path, out: Path) -> None:
    """Write the card of a finished run as PNG. Raises UserError where the run has no verdict or Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UserError("a card is drawn with Pillow, which is not installed: pip install pillow") from None
    records = RunRecords(folder)
    if records.summary is None:
        raise UserError(f"{folder}: this run is not finished, so there is no verdict for a card")
    image = Image.new("RGB", SIZE, BACK)
    draw = ImageDraw.Draw(image)

    def write(at: tuple[float, float], text: str, size: int, colour: str = TEXT, anchor: str = "ls") -> None:
        font = ImageFont.load_default(size)
        while draw.textlength(text, font=font) > WIDTH:
            text = text.removesuffix("...")[:-1] + "..."
        draw.text(at, text, fill=colour, font=font, anchor=anchor)

    summary = records.summary
    for at, size, colour, text in verdict_of(summary, records.subject, records.folder.absolute().name):
        write((60, at), text, size, colour)
    before, after = (f"{summary[when]['accuracy']:.1%}" for when in ("before", "after"))
    write((60, 250), before, 76, SOFT)
    start = 60 + draw.textlength(before, font=ImageFont.load_default(76))
    draw.line([(start + 24, 222), (start + 84, 222)], fill=TEXT, width=5)
    draw.line([(start + 66, 206), (start + 84, 222), (start + 66, 238)], fill=TEXT, width=5, joint="curve")
    write((start + 108, 250), after, 76)
    _draw_curve(draw, records.dev, write)
    image.save(out, format="PNG")


def verdict_of(summary: dict[str, Any], model: str, name: str) -> list[tuple[int, int, str, str]]:
    """The lines of the left half: height, size, colour and text."""
    after, paired = summary["after"], summary["paired"]
    p = paired["p_value"]
    lines = [
        (100, 34, TEXT, name),
        (140, 24, SOFT, model),
        (300, 24, SOFT, f"greedy accuracy on {after['n']:,} test problems"),
        (334, 24, SOFT, f"95 % interval {after['ci95'][0]:.1%} to {after['ci95'][1]:.1%}"),
        (390, 26, TEXT, f"{paired['fixed']:,} fixed, {paired['broken']:,} broken; p = {p:.2g}"),
        (424, 24, SOFT, "a significant gain" if Paired(**paired).has_gained else "no significant gain"),
        (474, 24, SOFT, f"strict, {summary.get('place', 'after ####')}: {after['strict_accuracy']:.1%}"),
        (570, 24, SOFT, f"GRPO, {summary['steps']:,} steps, {summary['completions']:,} completions, "
                        f"{summary['train_seconds']:,.0f} s"),
    ]  # fmt: skip
    if unseen := summary.get("unseen"):
        text = f"kinds not trained on: {unseen['before']['accuracy']:.1%} to {unseen['after']['accuracy']:.1%}"
        lines.append((508, 24, SOFT, text))
    return lines


def _draw_curve(draw: Any, dev: list[dict[str, Any]], write: Any) -> None:
    """Lenient and strict accuracy on dev by step, with the 95 % interval of the former."""
    if not dev:
        return
    last = max(point["step"] for point in dev) or 1

    def place(point: dict[str, Any], name: str) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * point["step"] / last, BOTTOM - (BOTTOM - TOP) * point[name]

    band = [place(point, "high") for point in dev] + [place(point, "low") for point in reversed(dev)]
    if len(dev) > 1:
        draw.polygon(band, fill="#d6e5f2")
    for share in (0, 0.25, 0.5, 0.75, 1):
        height = BOTTOM - (BOTTOM - TOP) * share
        draw.line([(LEFT, height), (RIGHT, height)], fill=LINE, width=1)
        write((LEFT - 14, height), f"{share:.0%}", 20, SOFT, "rm")
    for index, (name, colour) in enumerate((("strict", STRICT), ("accuracy", LENIENT))):
        points = [place(point, name) for point in dev]
        draw.line(points, fill=colour, width=4, joint="curve")
        for x, y in points:
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour)
        write((LEFT + 330 - 130 * index, TOP - 36), "strict" if name == "strict" else "lenient", 22, colour)
    write((LEFT, TOP - 36), "accuracy on dev", 22, TEXT)
    write(((LEFT + RIGHT) / 2, BOTTOM + 34), f"step 0 to {last:,}", 20, SOFT, "mt")
