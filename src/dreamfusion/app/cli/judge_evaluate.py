"""``dreamfusion judge evaluate``."""

from __future__ import annotations

from pathlib import Path


def judge_evaluate(
    *, judge: Path | None = None, count: int = 1000, seed: int = 555_000, sheet: Path = Path("judge-mistakes.png")
) -> None:
    """Examine the toybox judge on true pictures: how often it reads each attribute right where it can be seen.

    For example:
        dreamfusion judge evaluate --count 200

    Args:
        judge: folder of a judge that judge train has made; the one that ships with the package if not given
        count: pictures, half of them finished ones, half as a prior is trained on
        seed: decides the pictures; the judge's own seed is another
        sheet: picture to write of what it read wrong

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.evaluation.exam import examine, table
    from dreamfusion.evaluation.judge import TOYBOX_JUDGE, ToyboxJudge

    marks = examine(ToyboxJudge(judge or TOYBOX_JUDGE), count, seed)
    save_png(marks.sheet, sheet)
    print(table(marks))
    print(sheet)
