"""A real `transformers serve` process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def transformers_serve(model: Path | None, home: Path) -> Iterator[str]:
    """The base URL of a running server on the processor, without a network.

    Args:
        model: the one it serves; None: any that a request names.
        home: folder of its log and cache.
    """
    (home / "cache").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # the folder of this Python, so that it is the console script of the same environment
    command = [str(Path(sys.executable).parent / "transformers"), "serve", *([str(model)] if model else [])]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "cache"), "HF_HOME": str(home)}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | offline)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, home / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise AssertionError(f"no server within 90 s: {log.read_text()[-2000:]}")
