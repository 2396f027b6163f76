"""Write a recipe, get a small model that reasons.

    import limbeck
    folder = limbeck.run("recipes/demo.yaml")

Names are loaded when they are first used; importing limbeck loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.actions import (
        claims,
        collect,
        compare,
        convert,
        evaluate,
        export,
        extract,
        grade,
        index,
        run,
    )
    from limbeck.recipe import load_recipe

__all__ = [
    "__version__",
    "claims",
    "collect",
    "compare",
    "convert",
    "evaluate",
    "export",
    "extract",
    "grade",
    "index",
    "load_recipe",
    "run",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    module = "limbeck.recipe" if name == "load_recipe" else "limbeck.actions"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
