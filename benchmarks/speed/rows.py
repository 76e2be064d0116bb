"""Rows of the table: measure, our figure, the reference's, their ratio, target, and limit; as JSON and Markdown."""
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEADER = ("measure", "ours", "reference", "ratio", "target", "met", "limit")


@dataclass
class Row:
    """One measure. `ratio` is what the target is about, and None where it could not be measured; `failed` says why.

    `ours` and `reference` are figures with their units, as they are printed. `at_least`: larger ratios are better.
    """

    measure: str
    ours: str = "–"
    reference: str = "–"
    ratio: float | None = None
    target: float | None = None
    at_least: bool = True
    limit: str = "–"
    failed: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met. None: there is none, or nothing was measured."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def cells(self) -> list[str]:
        if self.failed is not None:
            return [self.measure, f"failed: {self.failed}", "–", "–", self._target(), "–", self.limit]
        ratio = "not measured" if self.ratio is None else f"{self.ratio:.2f}"
        met = {True: "yes", False: "no", None: "–"}[self.met]
        return [self.measure, self.ours, self.reference, ratio, self._target(), met, self.limit]

    def _target(self) -> str:
        return "–" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.target:g}"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def markdown(rows: Sequence[Row]) -> str:
    table = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |" for cells in table)


def write(path: Path, facts: dict, rows: Sequence[Row], details: dict) -> None:
    """The results of a run as JSON. `facts`: of the machine. `details`: what each process measured, by its name."""
    found = {"facts": facts, "rows": [asdict(row) for row in rows], "details": details}
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[dict, list[Row]]:
    """Facts and rows. Raises FileNotFoundError where no run has written them."""
    found = json.loads(path.read_text())
    return found["facts"], [Row(**row) for row in found["rows"]]
