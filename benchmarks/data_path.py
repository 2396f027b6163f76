"""Memory of the data path: the most that `limbeck collect` ever holds, as the number of problems grows.

    python benchmarks/data_path.py           # 1,000, 10,000 and 100,000 problems, two rationales each
    python benchmarks/data_path.py --problems 1000 4000

Each size is a process of its own: coin flips, the offline teacher, collected, graded, kept or dropped. `more`
is what each rationale more takes at the peak, between a size and the one before it; the program itself is not
in it. Seconds are those of the processor, so that only their growth says something. Status 1: a rationale
takes more than `ALLOWED` bytes, or takes longer where there are more of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000, 100_000)
PER_PROBLEM = 2

ALLOWED = 200
"""Bytes a rationale: places in files and hashes, and none of its text."""

SLOWER = 1.25
"""Times as long that a rationale may take among more of them."""

RECIPE = """\
name: data-path
task: {{name: coin-flip, train: {problems}, dev: 20, test: 20, parameters: {{people: 7}}}}
teacher: {{kind: offline, wrong_answer: 0.1, wrong_step: 0.05}}
rationales: {{per_problem: {each}, temperature: 0.7}}
"""


def peak() -> int:
    """Bytes of memory that this process had at its peak: resident, as the system counts them."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` may be the parent's
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def collect(folder: Path) -> None:
    """What a child does."""
    from limbeck.actions import collect

    began, before = time.process_time(), peak()
    done = collect(folder / "recipe.yaml", out=folder / "run")
    kept = json.loads((done / "audit.json").read_text())
    said = {"peak": peak(), "before": before, "seconds": time.process_time() - began}
    print(json.dumps(said | {name: kept[name] for name in ("rationales", "kept")}))


def measured(problems: int, where: Path) -> dict[str, float]:
    """Collect so many problems in a process of its own."""
    with tempfile.TemporaryDirectory(dir=where, ignore_cleanup_errors=True) as folder:
        (Path(folder) / "recipe.yaml").write_text(RECIPE.format(problems=problems, each=PER_PROBLEM))
        child = [sys.executable, __file__, "--child", folder]
        done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True, stderr=subprocess.DEVNULL)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--where", type=Path, help="folder for the runs")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        collect(asked.child)
        return 0
    print("problems  rationales    kept   peak MB   more: bytes a rationale   seconds  ms a rationale")
    wrong, last = False, None
    for problems in asked.problems:
        found = measured(problems, asked.where)
        each = 1000 * found["seconds"] / found["rationales"]
        more = "-"
        if last is not None:
            grown = (found["peak"] - last[0]) / (found["rationales"] - last[1])
            wrong = wrong or grown > ALLOWED or each > SLOWER * last[2]
            more = f"{grown:,.0f}"
        print(
            f"{problems:8,} {found['rationales']:11,.0f} {found['kept']:7,.0f} {found['peak'] / 1e6:9.1f} "
            f"{more:>26s} {found['seconds']:9.1f} {each:15.3f}",
            flush=True,
        )
        last = found["peak"], found["rationales"], each
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
