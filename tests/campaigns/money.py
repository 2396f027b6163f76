"""What a teacher behind an API charges, against a server that breaks, lies and drips, and processes that die.

    python -m tests.campaigns.money --size 1        # the size that `make test` runs is 0

The server is a process of its own. It charges for what it wrote before it breaks, keeps exact count of that,
and can be asked for its bill. Every collection is a process too, so that it can be killed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

INPUT, OUTPUT = Fraction(1), Fraction(10)
"""Dollars per million tokens."""

MAX_TOKENS = 50
TIMEOUT_S = 1.0

PAID = ("reset", "cut", "page", "gateway", "silence")
"""Faults after the tokens were written, so that they are charged."""

FREE = ("busy", "overloaded")

LIES: dict[str, Any] = {
    "zero": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "negative": {"prompt_tokens": -5_000_000, "completion_tokens": -5_000_000, "total_tokens": -10_000_000},
    "huge": {"prompt_tokens": 9, "completion_tokens": 10**400, "total_tokens": 10**400},
    "true": {"prompt_tokens": True, "completion_tokens": True, "total_tokens": True},
    "floats": {"prompt_tokens": 0.1, "completion_tokens": 0.1, "total_tokens": 0.2},
    "strings": {"prompt_tokens": "9", "completion_tokens": "1", "total_tokens": "10"},
    "nothing": None,
}
"""Bills that are no bills, by name."""


# The server


class Server(ThreadingHTTPServer):
    """Answers chat completions; every request draws its fault from a seed and its number."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, seed: int, share: float, kinds: Sequence[str], lie: str, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seed, self.share, self.kinds, self.lie, self.seconds = seed, share, kinds, lie, seconds
        self.lock = threading.Lock()
        self.charged = Fraction(0)
        self.kept: Counter[str] = Counter()
        self.asked: Counter[int] = Counter()
        self.whole: Counter[int] = Counter()

    def charge(self, asked: int, body: dict[str, Any]) -> tuple[str, int, int]:
        """The fault of this request, its input and its output tokens; what is written is on the bill."""
        with self.lock:
            self.asked[asked] += 1
            draw = random.Random(f"{self.seed} {self.asked.total()}")
            fault = draw.choice(self.kinds) if draw.random() < self.share else "none"
            self.kept[fault] += 1
            size = len(body["messages"][-1]["content"].encode())
            tokens = draw.randint(1, size), draw.randint(1, body["max_tokens"])
            if fault not in FREE:
                self.charged += (tokens[0] * INPUT + tokens[1] * OUTPUT) / 1_000_000
        return fault, *tokens

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A collector that died is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        served = self.server
        with served.lock:
            bill = {
                "charged": str(served.charged),
                "faults": served.kept,
                "asked": served.asked,
                "whole": served.whole,
            }
            self._send(200, json.dumps(bill))

    def do_POST(self) -> None:
        served, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        seed = body["seed"]
        fault, asked, written = served.charge(seed, body)
        time.sleep(served.seconds)
        usage = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
        usage = LIES[served.lie] if served.lie else usage
        message = {"role": "assistant", "content": f"said {seed}: " + "so " * written}
        answer = json.dumps({"choices": [{"finish_reason": "stop", "message": message}], "usage": usage})
        if fault == "reset":
            self.close_connection = True
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif fault == "cut":
            self._send(200, answer[: len(answer) // 2])
        elif fault == "page":
            self._send(200, "<html><body>Bad gateway</body></html>")
        elif fault == "gateway":
            self._send(502, "<html><body>Bad gateway</body></html>")
        elif fault == "silence":
            self._drip()
        elif fault == "busy":
            self._send(429, json.dumps({"error": {"message": "slow down"}}), {"retry-after": "0.01"})
        elif fault == "overloaded":
            self._send(503, json.dumps({"error": {"message": "overloaded"}}), {"retry-after": "0.01"})
        else:
            self._send(200, answer)
            with served.lock:
                served.whole[seed] += 1

    def _send(self, status: int, text: str, more: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        """A byte now and then, without end: no single read takes long."""
        self.send_response(200)
        self.send_header("content-length", "1000000")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b" ")
                time.sleep(TIMEOUT_S / 5)

    def log_message(self, *arguments: object) -> None:
        """Keep the output clean."""


@dataclass(frozen=True)
class Bill:
    """What the server charged, its faults, how often each completion was asked for and wholly sent."""

    charged: Fraction
    faults: Counter[str]
    asked: Counter[str]
    whole: Counter[str]


@dataclass(frozen=True)
class Served:
    url: str

    @property
    def bill(self) -> Bill:
        with urllib.request.urlopen(f"{self.url}/bill", timeout=30) as answer:
            said = json.load(answer)
        counts = (Counter(said[name]) for name in ("faults", "asked", "whole"))
        return Bill(Fraction(said["charged"]), *counts)


@contextmanager
def serving(
    *, seed: int, share: float, kinds: Sequence[str] = PAID, lie: str = "", seconds: float = 0.005
) -> Iterator[Served]:
    """A server in a process of its own."""
    command = [sys.executable, __file__, "serve", str(seed), str(share), ",".join(kinds), lie, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Served(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.communicate()


def serve(arguments: Sequence[str]) -> None:
    seed, share, kinds, lie, seconds = arguments
    server = Server(int(seed), float(share), kinds.split(","), lie, float(seconds))
    print(server.server_port, flush=True)
    server.serve_forever(0.05)


# A collection


def collect(arguments: Sequence[str]) -> None:
    """Collect completions into a memory; print how it ended."""
    from limbeck.errors import LimbeckError
    from limbeck.lm import Prompt, Sampling
    from limbeck.lm.api import open_teacher
    from limbeck.lm.cost import ApiSettings

    url, path, cap, count = arguments
    settings = ApiSettings.model_validate(
        {
            "base_url": f"{url}/v1",
            "model": "m",
            "timeout_s": TIMEOUT_S,
            "backoff_s": 0.001,
            "retries": 9,
            "prices": {"usd_per_million_input": float(INPUT), "usd_per_million_output": float(OUTPUT)},
            "max_cost_usd": float(cap),
        }
    )
    prompts = [Prompt(f"p{i}", f"p{i}", f"question {i}") for i in range(int(count))]
    got = 0
    try:
        for _ in open_teacher(settings, Path(path))(prompts, Sampling(1, 1.0, max_tokens=MAX_TOKENS)):
            got += 1
    except LimbeckError as error:
        print("ended", got, type(error).__name__, error)
    else:
        print("done", got)


def collecting(server: Served, path: Path, cap: float, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "collect", server.url, str(path), str(cap), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def collected(server: Served, path: Path, cap: float, count: int) -> str:
    """The last line of a collection that was left alone."""
    out, err = collecting(server, path, cap, count).communicate(timeout=600)
    assert out, err
    return out.splitlines()[-1]


# The trials: each prints one line and raises if the promise was broken


def restarts(folder: Path, times: int, count: int, seed: int) -> str:
    """A server that charges and then breaks, and again and again a cap that is a little higher."""
    path, line = folder / "restarts.jsonl", ""
    with serving(seed=seed, share=0.4, kinds=PAID) as server:
        for start in range(1, times + 1):
            before, cap = server.bill.asked.total(), round(0.005 * start, 3)
            end = collected(server, path, cap, count)
            line = _within(f"{start} starts under paid faults, a higher cap each time", server.bill, cap)
            assert "CostCapError" in end and server.bill.asked.total() > before, end
    return line


def lies(folder: Path, lie: str, times: int, count: int, seed: int) -> str:
    """Usage that cannot be: the collection goes on, the cap holds."""
    path, line = folder / f"lie-{lie}.jsonl", ""
    with serving(seed=seed, share=0.1, kinds=PAID, lie=lie) as server:
        for start in range(1, times + 1):
            cap = round(0.01 * start, 2)
            end = collected(server, path, cap, count)
            bill = server.bill
            assert "CostCapError" in end, end
            assert bill.whole.total() >= 10 * start, f"usage {lie}: only {bill.whole.total()} whole answers"
            line = _within(f"usage {lie}, {start} starts, a higher cap each time", bill, cap)
    return line


def kills(folder: Path, times: int, count: int, seed: int) -> str:
    """SIGKILL at random moments; what is whole on disk is never asked again."""
    path, draw, cap = folder / "kills.jsonl", random.Random(seed), round(0.008 * times, 3)
    with serving(seed=seed, share=0.2, kinds=PAID, seconds=0.02) as server:
        safe: dict[str, int] = {}
        done = 0
        for _ in range(times):
            before = server.bill
            process = collecting(server, path, cap, count)
            goal, end = before.asked.total() + draw.randint(1, 15), time.monotonic() + 20
            while (
                server.bill.asked.total() < goal and process.poll() is None and time.monotonic() < end
            ):  # so that it dies while it collects
                time.sleep(draw.random() * 0.02)
            done += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            time.sleep(0.1)  # what was under way reaches the server's book
            bill = server.bill
            assert all(bill.asked[one] == times for one, times in safe.items()), "asked again"
            safe = {one: bill.asked[one] for one in _said(path)}
        end_line = collected(server, path, cap, count)
        bill = server.bill
    return _within(f"{done} kills while collecting (then: {end_line.split()[0]})", bill, cap)


def faults(folder: Path, count: int, seed: int) -> str:
    """Three of ten requests meet a fault: all answers arrive, and none that was whole is asked again."""
    cap, path = 1e6, folder / "faults.jsonl"
    with serving(seed=seed, share=0.3, kinds=(*PAID[:4], *FREE), seconds=0.001) as server:
        clock = time.monotonic()
        ends = [collected(server, path, cap, count)]
        while not ends[-1].startswith("done") and len(ends) < 10:
            ends.append(collected(server, path, cap, count))
        bill, seconds = server.bill, time.monotonic() - clock
    assert ends[-1] == f"done {count}", ends
    assert bill.whole.total() == len(bill.whole) == count, "an answer that was whole was asked again"
    assert len(_said(path)) == count
    broken = bill.faults.total() - bill.faults["none"]
    return (
        f"{count:,} answers, {broken:,} faults in {bill.faults.total():,} requests: {len(ends)} start(s), "
        f"every answer whole once, {seconds:.0f} s"
    )


def _said(path: Path) -> list[str]:
    """The seeds of the answers that a memory holds."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["text"].split()[1].rstrip(":") for line in lines]


def _within(what: str, bill: Bill, cap: float) -> str:
    most = Fraction(repr(cap))
    line = f"{what}: charged ${float(bill.charged):.6f} of ${cap}, {bill.whole.total()} whole answers"
    assert bill.charged <= most, f"{line}: PASSED"
    return line


SMALL = {"restarts": 3, "starts": 1, "kills": 3, "answers": 150}
LARGE = {"restarts": 8, "starts": 3, "kills": 20, "answers": 2_000}


def trials(folder: Path, size: dict[str, int], seed: int) -> Iterator[str]:
    """Run all of them, one after the other."""
    yield restarts(folder, size["restarts"], 400, seed)
    for lie in LIES:
        yield lies(folder, lie, size["starts"], 400, seed)
    yield kills(folder, size["kills"], 400, seed)
    yield faults(folder, size["answers"], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1, help="0: as in the tests; above: so many large rounds")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for number in range(max(chosen.size, 1)):
        with TemporaryDirectory() as folder:
            for line in trials(Path(folder), LARGE if chosen.size else SMALL, chosen.seed + number):
                print(line, flush=True)


if __name__ == "__main__":
    roles = {"serve": serve, "collect": collect}
    if len(sys.argv) > 1 and sys.argv[1] in roles:
        roles[sys.argv[1]](sys.argv[2:])
    else:
        main()
