"""SIGKILL all over a Mentor-KD run: it must end with the weights, predictions and files of a calm one.

    python -m tests.campaigns.kills --size 60

Each kill is aimed at a stage, in the order of the stages, at a random moment of the time that the stage
takes; so stages of milliseconds are hit as often as trainings. The moments follow from --seed, where they
fall does not.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaigns.small_run import RECIPE, forked, log_lines, results

BEGUN = re.compile(r"(\S+): (started|going on where it stopped)")
DONE = re.compile(r"(\S+): done in ([\d.]+) s")


def campaign(folder: Path, size: int, seed: int) -> list[str]:
    """Kill `size` times, in as many runs as that takes; return what went wrong."""
    recipe, chance, wrong = folder / "recipe.yaml", random.Random(seed), []
    recipe.write_text(RECIPE)
    calm = forked("run", recipe, "--out", folder / "calm")
    if calm.status:
        return [calm.text]
    seconds = {m[1]: float(m[2]) for line in log_lines(folder / "calm") if (m := DONE.fullmatch(line))}
    expected, hit, number = results(folder / "calm"), Counter[str](), 0
    while sum(hit.values()) < size:
        out = folder / f"killed-{number}"
        per_stage = max(1, round((size - sum(hit.values())) / len(seconds)))
        for stage in seconds:
            for _ in range(per_stage):
                if sum(hit.values()) < size and (place := kill(recipe, out, stage, seconds[stage], chance)):
                    hit[place] += 1
        last = forked("run", recipe, "--out", out)
        found = results(out)
        if last.status or "unexpected" in last.text:
            wrong.append(f"{out.name}: ended with {last.status}: {last.text.strip().splitlines()[-1]}")
        differ = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        wrong += [f"{out.name}: {name} differs from the undisturbed run" for name in differ]
        number += 1
    print(f"{sum(hit.values())} kills in {number} runs, {len(hit)} of {len(seconds)} stages hit:")
    print("\n".join(f"  {times:4}  {stage}" for stage, times in hit.items()))
    return wrong


def kill(recipe: Path, out: Path, stage: str, seconds: float, chance: random.Random) -> str:
    """Run until a random moment of a stage, or until it is over; return the stage that was killed, if any."""
    before = log_lines(out)
    if any(line.startswith(f"{stage}: done in") for line in before):
        return ""  # an earlier kill came too late for it
    wait, begun = chance.uniform(0, max(seconds, 0.02)), 0.0

    def due() -> bool:
        nonlocal begun
        mine = [line for line in log_lines(out)[len(before) :] if line.startswith(f"{stage}: ")]
        begun = begun or (time.monotonic() if mine else 0.0)
        return any(": done in" in line for line in mine) or (begun > 0 and time.monotonic() >= begun + wait)

    ended = forked("run", recipe, "--out", out, until=due)
    if ended.status >= 0:
        return ""
    last = next((m for line in reversed(log_lines(out)) if (m := BEGUN.match(line))), None)
    return last[1] if last else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=60, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = campaign(Path(folder), given.size, given.seed)
    print("\n".join(wrong) or "every run ended with the weights, predictions and files of an undisturbed one")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
