"""What a dry run prints: the stages, the models, the price, the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from limbeck.lm.cost import dollars
from limbeck.report.console import show

Facts = Mapping[str, Any]


def print_plan(found: Facts) -> None:
    """All tables; `~` marks what is an estimate from the recipe's limits."""
    show(_stages(found))
    for one in found["learners"]:
        show(_learner(one))
    for line in lines(found):
        print(line)


def _stages(found: Facts) -> Table:
    table = Table("stage", "", "", title=f"{found['folder']}: stages")
    for one in found["stages"]:
        table.add_row(one["stage"], one["state"], one["why"])
    return table


def _learner(one: Facts) -> Table:
    table = Table("", "", title=f"{one['place']}: {one['model']}")
    for name, text in _rows(one):
        table.add_row(name, text)
    return table


def _rows(one: Facts) -> Iterator[tuple[str, str]]:
    about = "~" if one["estimates"] else ""
    yield "parameters", f"{one['parameters']:,}, trained {one['trained']:,}"
    yield "weights", size(one["weights"])
    if "peak" in one:
        batch = one["batch"]
        lengths = " + ".join(map(str, batch["lengths"]))
        yield "gradients, optimiser", f"{size(one['gradients'])}, {size(one['optimiser'])}"
        yield "largest micro-batch", f"{about}{batch['rows']} × {lengths} tokens, {batch['scored']:,} scored"
        yield "activations", f"{about}{size(one['activations'])}"
        each = f" on each of {one['devices']} devices" if one["devices"] > 1 else ""
        yield (
            "training at its peak",
            f"{about}{size(one['peak'])}{each} of {_free(one)}: {_fits(one['fits'])}",
        )
        if one["sharding"] != "none" and not each:
            yield "sharding", "by one process alone; --devices N says what each of N devices would hold"
        yield (
            "training",
            f"{about}{one['examples']:,} examples, {one['steps']:,} steps, {one['tokens']:,} tokens",
        )
        yield "time of a training", f"{about}{_time(one)}"
        copies = f", {one['copies']} of them copied from an earlier student" if one["copies"] else ""
        yield "trainings to do", f"{one['left']}{copies} ({size(one['saved'])} of disk each)"
    if writing := one["writing"]:
        shape = f"{writing['rows']} rows of {writing['prompt']} + {writing['new']} tokens"
        yield "writing", f"{shape}, keys and values {size(writing['cache'])}"
        yield "writing at its peak", f"{size(writing['peak'])} of {_free(one)}: {_fits(writing['fits'])}"
    else:
        yield "writing", "by a server"
    if "soft_labels" in one:
        labels = one["soft_labels"]
        yield "soft labels", f"{about}{labels['tokens']:,} tokens, {size(labels['bytes'])}"
    for why in one["estimates"]:
        yield "estimate", why


def lines(found: Facts) -> Iterator[str]:
    """The teacher's price, and the disk."""
    for one in found["teacher"]:
        yield f"{one['stage']}: {one['says']}"
    if len(found["teacher"]) > 1 and all(one["usd_at_most"] is not None for one in found["teacher"]):
        yield f"the teacher in all: at most {dollars(sum(one['usd_at_most'] for one in found['teacher']))}"
    disk = found["disk"]
    yield (
        f"disk: {size(disk['needed'])} (models {size(disk['models'])}, checkpoints "
        f"{size(disk['checkpoints'])}, soft labels {size(disk['soft_labels'])}, rows of tokens "
        f"{size(disk['rows'])}; texts are not counted) of "
        f"{size(disk['free'])} free: {_fits(disk['fits'])}"
    )


def _free(one: Facts) -> str:
    return f"{size(one['free'])} free on {one['device']}"


def _fits(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _time(one: Facts) -> str:
    if "seconds" not in one:
        return f"not timed{': ' + one['not_timed'] if 'not_timed' in one else ''}"
    seconds = one["seconds"]
    whole = f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
    whole = f"{seconds / 3600:,.1f} h" if seconds >= 3600 else whole
    return f"{whole} ({one['seconds_per_step']:.3g} s a step, from three steps here)"


def size(count: float) -> str:
    """Bytes in words.

    Example:
        >>> size(1_234), size(5_600_000), size(7_800_000_000)
        ('0.00 MB', '5.60 MB', '7.80 GB')
    """
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"
