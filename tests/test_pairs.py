"""Who may be whose mentor: told before the mentor is trained, as far as it can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from limbeck.errors import ModelError, RecipeError
from limbeck.lm.load import load
from limbeck.lm.saving import save
from limbeck.lm.tiny import build_tokenizer
from limbeck.recipe import MentorSettings, StudentSettings
from limbeck.stages.pairs import check_chat, check_pair, tokenizer_of
from limbeck.tasks.asking import Asking

TEXTS = ["The coin is heads up and then it is flipped by Ana."] * 9


def unpadded(folder: Path, template: str | None = None) -> Path:
    """A decoder-only model as GPT-2 is published: its tokenizer has no padding token."""
    made = build_tokenizer(TEXTS)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, eos_token="<eos>")
    tokenizer.chat_template = template
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pair(student: object, mentor: object, form: str = "plain") -> None:
    check_pair(
        StudentSettings.model_validate({"method": "mentor-kd", "model": str(student), "format": form}),
        MentorSettings.model_validate({"model": str(mentor), "format": form}),
        "students.s",
    )


def test_a_published_model_and_one_that_limbeck_saved(tmp_path: Path) -> None:
    """Loading gives GPT-2 a padding token; that makes it no other tokenizer."""
    raw = unpadded(tmp_path / "raw")
    save(load(raw, device="cpu"), tmp_path / "saved")
    pair(raw, tmp_path / "saved")
    pair(tmp_path / "saved", raw)
    pair(raw, raw)


def test_another_chat_template_is_refused_where_the_format_is_chat(tmp_path: Path) -> None:
    one = unpadded(tmp_path / "one", "{{ messages[0]['content'] }}:")
    other = unpadded(tmp_path / "other", "Q: {{ messages[0]['content'] }}")
    pair(one, other)
    with pytest.raises(ModelError, match="one and its mentor have different chat templates"):
        pair(one, other, "chat")


def test_a_saved_students_chat_template_is_its_base_models(tmp_path: Path) -> None:
    """Others find the template of its own prompts in the folder; a training puts prompts together itself."""
    one = unpadded(tmp_path / "one", "{{ messages[0]['content'] }}:")
    save(load(one, device="cpu"), tmp_path / "student", about=Asking("arrow").about())
    pair(one, tmp_path / "student", "chat")
    none = unpadded(tmp_path / "none")
    save(load(none, device="cpu"), tmp_path / "plain", about=Asking().about())
    student = StudentSettings.model_validate(
        {"method": "finetune-cot", "model": str(tmp_path / "plain"), "format": "chat"}
    )
    with pytest.raises(ModelError, match="this model's tokenizer has no chat template"):
        check_chat(student, "students.s")


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    seq2seq = tmp_path / "seq2seq"
    save(load("tiny-seq2seq-xs", tokenizer_texts=TEXTS, device="cpu"), seq2seq)
    causal = unpadded(tmp_path / "causal")
    for student, mentor in (
        (causal, seq2seq),
        (seq2seq, causal),
        ("tiny-causal-xs", seq2seq),
        ("tiny-seq2seq", "tiny-causal-m"),
    ):
        with pytest.raises(RecipeError, match=r"students.s.model: .* two causal or two seq2seq models"):
            pair(student, mentor)
    pair("tiny-seq2seq-xs", seq2seq)
    pair("tiny-causal", "tiny-causal-m")


def test_a_student_from_a_folder_needs_a_mentor_from_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="from scratch; soft labels need one tokenizer"):
        pair(unpadded(tmp_path / "raw"), "tiny-causal")


def test_a_tokenizer_that_could_not_be_read_is_looked_for_again(tmp_path: Path) -> None:
    """A failure that is remembered would skip the check of every later student of the process."""
    folder = tmp_path / "one"
    with pytest.raises(ModelError, match="one: its tokenizer cannot be read"):
        tokenizer_of(str(folder))
    unpadded(folder)
    assert tokenizer_of(str(folder)).get_vocab()


def test_a_broken_tokenizer_is_refused_and_not_skipped(tmp_path: Path) -> None:
    one, other = unpadded(tmp_path / "one"), unpadded(tmp_path / "other")
    whole = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(whole[:-30])
    with pytest.raises(ModelError, match="other: its tokenizer cannot be read"):
        pair(one, other)
    (other / "tokenizer.json").write_text(whole)
    pair(one, other)
