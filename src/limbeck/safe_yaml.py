"""YAML as recipes need it: what would be guessed, would hang or would be lost in it is refused with its line.

Refused are a key that is not text (`no:` is false in YAML, `010` is 8), a key given twice, a value that does
not fit its tag (`!!int ''`), aliases that multiply to more than `MOST_VALUES`, and numbers too long to be
meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import DiskError, RecipeError
from limbeck.files import refuse_special

MOST_BYTES = 250_000
"""Of a recipe; reading so many can take three seconds."""

MOST_VALUES = 100_000
"""In a recipe once its aliases are written out; eight lines of them can say 10^8."""

LONGEST_NUMBER = 100
"""Characters; 1:1:1:… in base 60 takes quadratic time."""

TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file.

    Raises:
        RecipeError: no such file, or no recipe; with `file:line` where a line is to blame.
        DiskError: it cannot be read.
    """
    refuse_special(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise RecipeError(f"{path}: no such recipe file; check the path") from None
        raise DiskError(path, error) from error
    if len(content) > MOST_BYTES:
        raise RecipeError(f"{path}: larger than {MOST_BYTES:,} bytes, so it is not a recipe; check the path")
    try:
        raw = parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a UTF-8 text file; a recipe is YAML") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: {error.problem}; fix the YAML there") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not a YAML text file ({type(error).__name__})") from None
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of settings, such as `name: demo`; see recipes/demo.yaml"
        )
    return raw


def parse(text: str) -> Any:
    """The value of a YAML text; every alias is a copy of its own.

    Raises:
        yaml.YAMLError: it is not YAML, or refused (see above).
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise _refused(node, f"more than {MOST_VALUES:,} values with the aliases written out")
        return _apart(loader.construct_document(node))
    except RecursionError:
        raise yaml.YAMLError("values are nested too deeply") from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Safe YAML that gives a line for whatever it cannot read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        is_number = node.tag.endswith((":int", ":float")) and isinstance(node, yaml.ScalarNode)
        if is_number and len(node.value) > LONGEST_NUMBER:
            raise _refused(node, f"a number of {len(node.value)} characters; quote it if it is text")
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # What PyYAML's constructors raise about a value that does not fit its tag.
            shown = str(node.value)[:40] if isinstance(node, yaml.ScalarNode) else "what is there"
            kind = node.tag.rpartition(":")[2]
            raise _refused(node, f"{shown!r} cannot be read as {kind}; put it in quotes") from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(key, "a key must be a plain word")
        if key.tag not in (TEXT, MERGE):
            kind = key.tag.rpartition(":")[2]
            raise _refused(key, f"the key {key.value} is not text in YAML (but {kind}); put it in quotes")
        if key.value in seen:
            raise _refused(key, f"the key {key.value!r} is here twice")
        seen.add(key.value)
    loader.flatten_mapping(node)  # merge keys (<<) bring what the mapping itself may override
    return loader.construct_mapping(node, deep=True)


# Sets have no order, and no setting is of the other kinds that YAML has.
_KNOWN = {
    TEXT,
    None,
    *(f"tag:yaml.org,2002:{kind}" for kind in ["null", "bool", "int", "float", "timestamp", "seq", "map"]),
}
_Loader.yaml_constructors = {k: v for k, v in _Loader.yaml_constructors.items() if k in _KNOWN}
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for with its aliases written out; one inside itself has no size.

    `known` holds the sizes by id, so that every node is counted once.
    """
    size = known.get(id(node))
    if size == 0:
        raise _refused(node, "an alias stands for what it is part of")
    if size is None:
        known[id(node)] = 0  # its size is being found
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        size = known[id(node)] = 1 + sum(_size(one, known) for one in inner)
    return size


def _apart(value: Any) -> Any:
    """A copy in which an anchor's aliases are values of their own: `--set` must change only one of them."""
    if isinstance(value, dict):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value
