"""A saved student answers others as it answered its exam: by `generate`, by its chat template, by a server.

One run trains students in every format on a base model with a chat template and published-looking
sampling defaults. What their exams wrote is then asked for again, without any code of Limbeck.
"""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import limbeck
from limbeck.lm import Sampling
from limbeck.lm.load import load
from limbeck.lm.local import LocalModel
from limbeck.lm.saving import export, save
from limbeck.lm.settings import LoraSettings
from limbeck.lm.tiny import ROLES, build_tokenizer
from limbeck.records import Problem
from limbeck.tasks.asking import Asking

from .families import TEXTS, tiny_model
from .serving import transformers_serve

MAX_TOKENS = 24

SERVED = int(os.environ.get("LIMBECK_SERVED", "40"))
"""Questions that the server is asked of each student's exam of 100."""

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


def base_model(folder: Path, family: str = "llama-2", template: str = CHAT) -> Path:
    """A random model with a chat template, several stop tokens and defaults that sample."""
    model, tokenizer = tiny_model(family)
    if family == "llama-2":
        tokenizer = build_tokenizer(TEXTS, bos=True)  # writes <bos> itself, as Llama's does
        model.resize_token_embeddings(len(tokenizer) + 5)
        model.config.max_position_embeddings = 4096
    tokenizer.chat_template = template
    stops = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(ROLES))]
    model.generation_config = GenerationConfig(
        **PUBLISHED,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=tokenizer.eos_token_id,  # BART's: the last token allowed is replaced by it
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
            sat = exam(run, student)[:SERVED]
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


def test_the_template_writes_a_whole_row_and_nothing_it_was_not_trained_on(run: Path) -> None:
    folder = model_of(run, "arrow")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked, answered = {"role": "user", "content": " Why? "}, {"role": "assistant", "content": "So --> no"}
    assert tokenizer.apply_chat_template([asked], tokenize=False) == "<bos> Why? \n###\n"
    whole = tokenizer.apply_chat_template([asked, answered], tokenize=False)
    assert whole == "<bos> Why? \n###\nSo --> no<eos>"
    for turns in ([answered], [{"role": "system", "content": "Be kind."}, asked], [asked, answered, asked]):
        with pytest.raises(TemplateError, match="one question at a time: send one message, with role user"):
            tokenizer.apply_chat_template(turns, tokenize=False)


def test_limbeck_goes_on_with_the_template_of_the_base_model(run: Path, tmp_path: Path) -> None:
    """A student of a student in format chat is asked by the base's template once, not by two."""
    again = load(model_of(run, "chat-parts"))
    assert again.tokenizer.chat_template == CHAT
    save(
        again, tmp_path / "copy", about=json.loads((model_of(run, "chat-parts") / "limbeck.json").read_text())
    )
    for name in ("chat_template.jinja", "limbeck.json", "generation_config.json"):
        assert (tmp_path / "copy" / name).read_text() == (model_of(run, "chat-parts") / name).read_text(), (
            name
        )


def test_a_run_says_that_a_chat_model_is_trained_without_its_template(run: Path) -> None:
    said = [line for line in (run / "run.log").read_text().splitlines() if "chat template" in line]
    base = run.parent / "base"
    expected = [
        f"{name} (seed 0): {base} has a chat template, and format {form} trains it without; "
        "set format: chat, unless that is meant"
        for name, form in (("plain", "plain"), ("arrow", "arrow"), ("plain-parts", "plain"))
    ]
    assert [line.partition(" ")[2].lstrip() for line in said] == expected


def test_a_run_says_where_the_saved_template_cannot_follow(tmp_path: Path) -> None:
    """The base model's template looks into the question, so what is around it cannot be written out."""
    usual = "'<|system|>You are a helpful assistant.'"
    assert usual in CHAT
    looks = f"({usual} if 'not. Is' in messages[0]['content'] else '<|system|>Look!')"
    base = base_model(tmp_path / "base", template=CHAT.replace(usual, looks))
    recipe = RECIPE.replace("BASE", str(base)).replace("train: 40", "train: 8")
    others = ("  plain", "  arrow", "  chat-")
    kept = [line for line in recipe.splitlines() if not line.startswith(others)]
    (tmp_path / "recipe.yaml").write_text("\n".join(kept))
    limbeck.run(tmp_path / "recipe.yaml", out=tmp_path / "run")
    log = (tmp_path / "run" / "run.log").read_text().splitlines()
    (said,) = [line for line in log if "template" in line]
    assert "the chat template in its folder makes another prompt than the training's for" in said
    examples = (tmp_path / "run" / "students" / "chat" / "seed0" / "examples.jsonl").read_text().splitlines()
    count = sum("not. Is" in line for line in examples)
    assert 0 < count < len(examples) and f"for {count} of {len(examples)} examples; ask it by" in said


@pytest.mark.parametrize("form", ["plain", "arrow", "chat"])
@pytest.mark.parametrize("family", ["llama-2", "gpt2", "qwen2", "bart", "t5"])
def test_every_family_writes_by_generate_what_its_exam_would_see(
    family: str, form: str, tmp_path: Path
) -> None:
    loaded = load(base_model(tmp_path / "base", family), device="cpu")
    asking = Asking(form, system="Be brief.", instruction="Step by step.")
    save(loaded, tmp_path / "student", about={**asking.about(), "max_tokens": MAX_TOKENS})
    problems = [Problem(id=str(n), question=f"How many apples are {n} + {n}?", answer="1") for n in range(25)]
    prompts = asking.prompts(problems, loaded.tokenizer)
    done = {one.prompt_id: one.text for one in LocalModel(loaded)(prompts, Sampling(max_tokens=MAX_TOKENS))}
    kind = AutoModelForSeq2SeqLM if loaded.encoder_decoder else AutoModelForCausalLM
    found = generated(tmp_path / "student", [one.question for one in problems], kind)
    assert [done[one.id] for one in problems] == found
    assert len(set(found)) > 5


def test_an_exported_adapter_writes_by_generate_what_its_exam_would_see(tmp_path: Path) -> None:
    lora = LoraSettings(r=4, alpha=8, dropout=0)
    loaded = load(base_model(tmp_path / "base"), lora=lora, device="cpu")
    about = {**Asking("arrow").about(), "max_tokens": MAX_TOKENS}
    save(loaded, tmp_path / "adapter", about=about)
    export(tmp_path / "adapter", tmp_path / "whole")
    questions = [f"Is {n} even?" for n in range(10)]
    problems = [Problem(id=str(n), question=text, answer="no") for n, text in enumerate(questions)]
    prompts = Asking("arrow").prompts(problems, loaded.tokenizer)
    done = {one.prompt_id: one.text for one in LocalModel(loaded)(prompts, Sampling(max_tokens=MAX_TOKENS))}
    assert generated(tmp_path / "whole", questions) == [done[str(n)] for n in range(10)]
    for name in ("generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "adapter" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
