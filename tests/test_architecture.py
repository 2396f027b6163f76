"""The house rules a machine can hold: the direction of imports, light start-up, sizes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "limbeck"

# From the ground up; a module imports from its own floor or a lower one.
FLOORS = [
    {
        "errors",
        "places",
        "sequences",
        "settings",
        "safe_yaml",
        "time_limit",
        "files",
        "records",
        "exam_facts",
        "objectives",
        "progress",
        "ranks",
        "statistics",
        "uses",
    },
    {"recipe", "old_runs", "run_folder", "sealed", "tasks", "lm"},
    {
        "agreement",
        "audit",
        "rationales",
        "selection",
        "rationale_files",
        "exam",
        "knowledge",
        "training",
        "soft_labels",
        "published",
        "report",
        "scale",
    },
    {"stages"},
    {"methods"},
    {"opening", "dry_run", "protocol", "actions", "cli", "__main__"},
]
MODULES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    raise AssertionError(f"{name} stands on no floor; add it to FLOORS and to docs/architecture.md")


def imported(tree: ast.AST) -> set[str]:
    """Modules of limbeck named by import statements, at any depth of the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "limbeck":
            found |= {f"limbeck.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("limbeck."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("limbeck.")}
    return {module for module in found if "__" not in module}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    if path == SOURCE / "__init__.py":
        return
    own = floor(room(path))
    for module in imported(ast.parse(path.read_text())):
        name = module.split(".")[1]
        settings = module.endswith(".settings")  # settings hold no code: they are ground for everyone
        assert settings or floor(name) <= own, f"{path.name} imports {module} from a higher floor"


def test_settings_import_their_own_room_and_the_ground_only() -> None:
    for path in SOURCE.rglob("settings.py"):
        for module in imported(ast.parse(path.read_text())):
            name = module.split(".")[1]
            assert name == room(path) or floor(name) == 0, f"{path} imports {module}"


def test_objectives_import_torch_and_nothing_of_ours() -> None:
    for path in (SOURCE / "objectives").glob("*.py"):
        ours = {module for module in imported(ast.parse(path.read_text())) if ".objectives" not in module}
        assert not ours, f"{path.name} imports {ours}"


@pytest.mark.parametrize("path", sorted((SOURCE / "methods").glob("*.py")), ids=lambda path: path.name)
def test_a_story_is_short(path: Path) -> None:
    """Every method can be read in one sitting; the rest has no cap."""
    if path.name != "__init__.py":
        assert path.read_text().count("\n") <= 150


def test_no_file_is_a_drawer() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "common", "helpers", "misc"}


def test_generic_code_asks_no_methods_name() -> None:
    """A method declares what it uses; only its own file and the default of a mentor name it."""
    names = {path.stem.replace("_", "-") for path in (SOURCE / "methods").glob("*.py")} - {"--init--"}
    for path in MODULES:
        if path.parent.name in ("methods", "published"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
                assert not words & names, f"{path}:{node.lineno} compares with a method's name"


def test_shift_and_mask_stand_in_align_only() -> None:
    """The one place of contract 1: nobody else shifts labels or compares with the ignored label."""
    for path in MODULES:
        if path.name == "align.py":
            continue
        text = path.read_text()
        assert "labels[..., 1:]" not in text and "labels[:, 1:]" not in text, path
        assert "!= -100" not in text and "== -100" not in text, path


@pytest.mark.parametrize(
    "module",
    [
        "limbeck",
        "limbeck.recipe",
        "limbeck.exam_facts",
        "limbeck.methods",
        "limbeck.tasks.generated",
        "limbeck.cli",
        "limbeck.report",
    ],
)
def test_light_modules_load_no_torch(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "peft", "openai", "matplotlib", "pyarrow")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
