"""Damage in every file of a finished Mentor-KD run: noticed or harmless, never used without a word.

    python -m tests.campaigns.damage --size 3

Each trial copies the run, flips one bit of one file or cuts the file off, and then

1. reads the run as `limbeck compare` and `limbeck ask` do: they refuse it by name, or show what they show of
   the whole run;
2. runs the recipe again, with the stage that reads the file if all else is kept: a line names what is damaged
   or runs again, and the run ends with the files of the undisturbed one.

`--size` is the number of different places per file and kind of damage.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns.small_run import RECIPE, Ended, forked, results

NOTICED = re.compile(r"damaged|missing|another size|changed since|runs again, because|not valid JSON|not a ")
UNREAD = ("run.log", "run.lock", "run.pid", "report.html")
QUESTION = "A coin is heads up. Is the coin still heads up?"


Whole = Callable[[str], Ended]


def copy(calm: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(calm, out)


def harms(size: int) -> Iterator[tuple[str, int]]:
    for number in range(size):
        yield "flip", number
        yield "cut", number


def hurt(path: Path, harm: str, chance: random.Random) -> bool:
    """Damage a file; False when that leaves it as it was."""
    before = path.read_bytes()
    data = bytearray(before)
    if harm == "cut":
        data = data[: chance.randrange(len(data))] if data else data
    elif data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return bytes(data) != before


def reader(name: str) -> tuple[str, ...]:
    """What makes a finished run read a file again that it would otherwise leave alone."""
    if name.startswith("memory/"):
        return "--again", "collected"
    if "/soft-labels/" in name:
        return "--again", "students/both/seed0"
    if name.endswith(".safetensors"):
        return "--again", f"{name.partition('/model/')[0]}/exam"
    return ()


def trial(
    calm: Path, out: Path, recipe: Path, whole: Whole, name: str, harm: str, chance: random.Random
) -> str:
    """Damage one file of a copy; return "noticed" or "harmless", or else what went wrong.

    Args:
        whole: by a file's name, what is shown of a copy at the same place that is not damaged.
    """
    copy(calm, out)
    if not hurt(out / name, harm, chance):
        return "harmless"
    now = shown(out, name)
    noticed = now.status == 2 and bool(NOTICED.search(now.text))
    if "unexpected" in now.text or not (noticed or now.text == whole(name).text):
        return f"shown without a word: {now.text}"
    again = forked("run", recipe, "--out", out, *reader(name))
    if again.status:
        return f"the run ended with {again.status}: {again.text.strip().splitlines()[-1]}"
    expected, found = results(calm), results(out)
    if name.startswith("memory/"):  # all that follows has other fingerprints, and so other folders
        one = "collected/completions.jsonl"
        expected, found = {one: expected[one]}, {one: found[one]}
    differ = sorted(one for one in found.keys() | expected.keys() if found.get(one) != expected.get(one))
    if differ:
        return f"the run ended with other files: {differ}"
    said = any(NOTICED.search(line) for line in again.text.splitlines() if "as asked" not in line)
    return "noticed" if said or noticed else "harmless"


def shown(out: Path, name: str) -> Ended:
    """What is said of a run by who reads this file: a student, or else the report's table."""
    for student in ("both", "cot"):
        if name.startswith(f"students/{student}/seed0/model/"):
            return forked("ask", out / "students" / student / "seed0", QUESTION, "--max-tokens", 8)
    return forked("compare", out, "--json")


def campaign(folder: Path, size: int, seed: int, only: int | None = None) -> list[str]:
    """All trials, or `only` so many drawn ones; return what went wrong."""
    recipe, calm = folder / "recipe.yaml", folder / "calm"
    recipe.write_text(RECIPE)
    first = forked("run", recipe, "--out", calm)
    if first.status:
        return [first.text]
    there = [path for path in sorted(calm.rglob("*")) if path.is_file() and path.name[0] != "."]
    names = [path.relative_to(calm).as_posix() for path in there]
    trials = [(name, *how) for name in names if name not in UNREAD for how in harms(size)]
    if only is not None:
        trials = drawn(trials, only, seed)
    copy(calm, folder / "trial")
    parts = ("students/both/seed0/model/", "students/cot/seed0/model/", "")
    known = {part: shown(folder / "trial", part) for part in parts}

    def whole(name: str) -> Ended:
        return known[next(part for part in parts if name.startswith(part))]

    counts, wrong = Counter[str](), []
    for number, (name, harm, place) in enumerate(trials, start=1):
        chance = random.Random(f"{seed} {name} {harm} {place}")
        verdict = trial(calm, folder / "trial", recipe, whole, name, harm, chance)
        counts[verdict if verdict in ("noticed", "harmless") else "wrong"] += 1
        if verdict not in ("noticed", "harmless"):
            wrong.append(f"{name}, {harm} {place}: {verdict}")
        if sys.stderr.isatty() or number % 25 == 0:
            print(f"{number} of {len(trials)}: {dict(counts)}", file=sys.stderr)
    print(f"{len(trials)} trials on {len(names)} files: {dict(counts)}")
    return wrong


def drawn(trials: list[tuple[str, str, int]], count: int, seed: int) -> list[tuple[str, str, int]]:
    """Some trials, of different kinds of files: weights, soft labels and the memory first."""
    chance = random.Random(seed)
    kinds: dict[object, tuple[str, str, int]] = {}
    for one in sorted(trials, key=lambda _: chance.random()):
        path = Path(one[0])
        kinds.setdefault((path.suffix, path.parts[0], "soft-labels" in path.parts), one)
    large = (".safetensors", ".bin", "teacher.jsonl")
    return sorted(kinds.values(), key=lambda one: not one[0].endswith(large))[:count]


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--size", type=int, default=1, help="places per file and kind of damage")
    parser.add_argument("--only", type=int, help="so many trials, one of each kind of file first")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = campaign(Path(folder), given.size, given.seed, given.only)
    print("\n".join(wrong) or "noticed or harmless, every one")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
