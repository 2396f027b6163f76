"""A saved student answers others as it answered its exam: by `generate`, by its chat template, by a server.

One run trains students in every format on a base model with a chat template and published-looking
sampling defaults. What their exams wrote is then asked for again, without any code of Limbeck.
"""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import limbeck
from limbeck.lm import Prompt, Sampling
from limbeck.lm.load import load
from limbeck.lm.local import LocalModel
from limbeck.lm.saving import export, save
from limbeck.lm.settings import LoraSettings
from limbeck.lm.tiny import ROLES, build_tokenizer
from limbeck.tasks.asking import Asking

from .families import TEXTS, tiny_model
from .serving import transformers_serve

MAX_TOKENS = 24

CHAT = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}{{ '<|system|>' + messages[0]['content'] }}"
    "{%- else -%}{{ '<|system|>You are a helpful assistant.' }}{%- endif -%}"
    "{{ ' Today is ' + (date_string if date_string is defined else 'unknown') + '.\n' }}"
    "{%- for m in messages if m['role'] != 'system' -%}"
    "{{ '<|' + m['role'] + '|>' + m['content'] | trim + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

PUBLISHED = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.3}
"""What Qwen2.5's instruct models are published with, the penalty stronger."""

PARTS = "{system: Be brief., instruction: 'Flip by flip, {\"so\"}.', examples: 2}"

RECIPE = f"""
name: saved
task: {{name: coin-flip, train: 40, dev: 0, test: 100, parameters: {{people: 2}}}}
student: {{model: BASE, device: cpu, train: {{epochs: 1, learning_rate: 1.0e-4, max_length: 2048}}}}
students:
  plain: {{method: finetune-cot}}
  arrow: {{method: finetune-cot, format: arrow}}
  chat: {{method: finetune-cot, format: chat}}
  plain-parts: {{method: finetune-cot, prompt: {PARTS}}}
  chat-parts: {{method: finetune-cot, format: chat, prompt: {PARTS}}}
exam: {{max_tokens: {MAX_TOKENS}}}
"""
STUDENTS = ["plain", "arrow", "chat", "plain-parts", "chat-parts"]


def base_model(folder: Path, family: str = "llama") -> Path:
    """A random model with a chat template, several stop tokens and defaults that sample."""
    model, tokenizer = tiny_model(family)
    if family == "llama":
        tokenizer = build_tokenizer(TEXTS, bos=True)  # writes <bos> itself, as Llama's does
        model.resize_token_embeddings(len(tokenizer) + 5)
        model.config.max_position_embeddings = 4096
    tokenizer.chat_template = CHAT
    stops = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(ROLES))]
    model.generation_config = GenerationConfig(
        **PUBLISHED, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("students")
    (home / "recipe.yaml").write_text(RECIPE.replace("BASE", str(base_model(home / "base"))))
    limbeck.run(home / "recipe.yaml", out=home / "run")
    yield home / "run"


def exam(run: Path, student: str) -> list[dict[str, Any]]:
    file = run / "students" / student / "seed0" / "exam" / "predictions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def model_of(run: Path, student: str) -> Path:
    return run / "students" / student / "seed0" / "model"


def generated(folder: Path, questions: list[str], kind: Any = AutoModelForCausalLM) -> list[str]:
    """The library's own `generate` on the folder's own chat template, without a single setting."""
    model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    written = []
    for question in questions:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], return_tensors="pt", return_dict=True
        )
        ids = model.generate(**asked)[0]
        new = ids[1:] if model.config.is_encoder_decoder else ids[asked["input_ids"].shape[1] :]
        written.append(tokenizer.decode(new, skip_special_tokens=True))
    return written


@pytest.mark.parametrize("student", STUDENTS)
def test_generate_writes_what_the_exam_saw(run: Path, student: str) -> None:
    sat = exam(run, student)
    found = generated(model_of(run, student), [one["question"] for one in sat])
    equal = sum(one["completion"] == text for one, text in zip(sat, found, strict=True))
    assert len({one["completion"] for one in sat}) > 20, "the model says the same to everybody"
    assert len({one["truncated"] for one in sat}) == 2, "all end alike: the test would miss a stop token"
    assert equal >= 0.99 * len(sat), f"{equal} of {len(sat)}"


def test_a_chat_server_writes_what_the_exams_saw(run: Path, tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}")
    with transformers_serve(None, tmp_path) as url:
        for student in STUDENTS[:3]:
            sat = exam(run, student)
            found = [served(url, str(model_of(run, student)), one["question"]) for one in sat]
            equal = sum(one["completion"] == text for one, text in zip(sat, found, strict=True))
            assert equal >= 0.99 * len(sat), f"{student}: {equal} of {len(sat)}"


def served(url: str, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]["content"] or ""
