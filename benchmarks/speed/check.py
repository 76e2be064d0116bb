"""Hold the ratios of the last run of `make bench` or `make bench-gpu` against the recorded ones.

    python -m benchmarks.speed.check             # exits with status 1 where a ratio is worse by more than a tenth
    python -m benchmarks.speed.check --record    # from now on, these are the recorded ones

A run's results are in data/bench-cpu.json and data/bench-gpu.json, the recorded ones in benchmarks/recorded.json. Rows
are compared by their measure. A row that failed, or is missing, fails as well, unless it was not measured when the
others were recorded.
"""
import argparse
import json
import sys
from pathlib import Path

from benchmarks.speed.rows import Row, read

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "benchmarks" / "recorded.json"
RESULTS = {machine: ROOT / "data" / f"bench-{machine}.json" for machine in ("cpu", "gpu")}


def worse(recorded: dict[str, float], rows: list[Row], tolerance: float) -> list[str]:
    """What got worse: a line for each recorded ratio that the rows miss by more than `tolerance`, a fraction of it."""
    lines, now = [], {row.measure: row for row in rows}
    for measure, before in recorded.items():
        row = now.get(measure)
        if row is None or row.ratio is None:
            lines.append(f"{measure}: was {before:.2f}, and is {(row and row.failed) or 'not measured'}")
        elif row.ratio < before * (1 - tolerance) if row.at_least else row.ratio > before * (1 + tolerance):
            lines.append(f"{measure}: was {before:.2f}, and is {row.ratio:.2f}")
    return lines


def ratios(rows: list[Row]) -> dict[str, float]:
    return {row.measure: round(row.ratio, 3) for row in rows if row.ratio is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tolerance", type=float, default=0.1, help="by which a ratio may be worse (default: 0.1)")
    parser.add_argument("--record", action="store_true", help="make the ratios of the last runs the recorded ones")
    args = parser.parse_args()
    results = {machine: read(path) for machine, path in RESULTS.items() if path.exists()}
    if not results:
        sys.exit("data/bench-cpu.json and data/bench-gpu.json are not there; run make bench or make bench-gpu")
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if args.record:
        for machine, (facts, rows) in results.items():
            recorded[machine] = {"facts": facts, "ratios": ratios(rows)}
        RECORDED.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
        return
    found = []
    for machine, (facts, rows) in results.items():
        if machine not in recorded:
            sys.exit(f"benchmarks/recorded.json has no ratios of make bench{'-gpu' * (machine == 'gpu')}; record these "
                     "with python -m benchmarks.speed.check --record")
        if recorded[machine]["facts"] != facts:
            print(f"recorded on another machine or version: {recorded[machine]['facts']}, and now {facts}")
        found += worse(recorded[machine]["ratios"], rows, args.tolerance)
    print("\n".join(found) or f"all ratios are within {args.tolerance:.0%} of the recorded ones, or better")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
