"""Models by name, by folder, or from scratch.

Weights are safetensors only, code from a model repository is never run, and
every parameter must come from the weights: a model with a part missing (and so
drawn at random) is refused.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as library_log

from limbeck import ranks, sealed
from limbeck.errors import DamagedError, ModelError, RecipeError, first_line, is_explainable
from limbeck.lm import bases, cache, four_bits, names, sharding
from limbeck.lm.configs import checked_config, checked_tokenizer
from limbeck.lm.layers import with_layers
from limbeck.lm.pickles import CONVERT, refuse_pickles
from limbeck.lm.settings import Layers, LoraSettings
from limbeck.lm.tiny import build_model, build_tokenizer, is_tiny, read_tokenizer, seeded
from limbeck.tasks.asking import ABOUT, BASE_IDENTITY, about_model
from limbeck.tasks.chat_template import own_template

Dtype = Literal["float32", "bfloat16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

NEW_PAD = "<pad>"

ADAPTER = "adapter_config.json"

BASE = "base"
"""In an adapter's folder: its base model, where that is in no folder of its own."""

SHARED = "whose weight another layer shares (an embedding and the head), so folding it in would change both"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer, ready to train or to generate.

    `model` is a transformers model, or peft's wrapper around one when `lora`;
    `name` is what records call it; `base` is where its weights (without the adapter)
    come from: a name on the hub or of a base, an absolute folder or GGUF file, or "" for a
    model that is in none.
    """

    model: Any
    tokenizer: Any
    encoder_decoder: bool
    name: str
    lora: bool = False
    base: str = ""

    @property
    def bare(self) -> Any:
        """The transformers model itself; an adapter's layers are inside it and stay active."""
        return self.model.get_base_model() if self.lora else self.model


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What is known of a model without its weights: enough to make its prompts, and to ask a server for
    its texts.

    Attributes:
        tokenizer: as `Loaded` has it, with the base model's chat template.
        template: the chat template of its own folder, which a server applies; None: it has none.
        config: of the model, or of an adapter's base.
        name: what records call it.
        saved: Limbeck saved it, so its own chat template is that of its training.
    """

    tokenizer: Any
    template: Any
    config: Any
    name: str
    saved: bool

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.config.is_encoder_decoder)


def unloaded(name_or_path: str | Path, *, name: str | None = None) -> Unloaded:
    """A model's tokenizer and configuration, by name or by folder; no weights are read.

    Raises:
        ModelError: no such model, a broken folder, or one that writes no text.
    """
    place = own = _place(str(name_or_path))
    config = read_config(place)
    architecture_of(place, config)
    if isinstance(place, Path) and (place / ADAPTER).exists():
        base = _place(_base_of(place, _adapter_config(place)))
        own = place if (place / "tokenizer_config.json").exists() else base
    with quiet(isinstance(own, Path)), explained(own, "the tokenizer"):
        tokenizer = checked_tokenizer(own)
    template = tokenizer.chat_template
    if isinstance(own, Path):
        tokenizer.chat_template = own_template(about_model(own), template)
    complete_tokenizer(tokenizer)
    saved = isinstance(own, Path) and (own / ABOUT).is_file()
    return Unloaded(tokenizer, template, config, name or str(name_or_path), saved)


def load(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    tokenizer_texts: Iterable[str] | None = None,
    tokenizer_of: Path | None = None,
    lora: LoraSettings | None = None,
    dtype: Dtype = "float32",
    device: str = "auto",
    trainable: bool = False,
    layers: Layers | None = None,
    name: str | None = None,
    sharded: bool = False,
    compressed: str | None = None,
    whole: bool = False,
) -> Loaded:
    """A model with its tokenizer, by name, by folder, or from scratch.

    The padding token is always one of its own. Where the tokenizer has none, or
    pads with its end-of-sequence token, the unknown token takes the place, else a
    new `<pad>` (a row of embeddings is added if there is no spare one). Labels
    here never depend on it, but trainers elsewhere mask every padding token, and
    a saved model that pads with end-of-sequence would forget there how to stop.

    The generation config keeps its tokens alone, so that `generate` is greedy as exams are. The chat
    template of a saved student is its base model's again (see `tasks.chat_template`).

    Args:
        name_or_path: a model's name on the hub, a model folder, the folder of a
            saved LoRA adapter, a GGUF file, a base such as `smollm2-135m` (see `lm.bases`),
            or `tiny-causal` / `tiny-seq2seq` (see `lm.tiny`).
        seed: of the weights of a model from scratch and of a new adapter.
        tokenizer_texts: texts that a model from scratch makes its tokenizer from.
        tokenizer_of: model folder whose tokenizer a model from scratch takes instead.
        lora: put a new adapter on the model and freeze the rest; a saved adapter is first folded
            into its base model, unless `trainable`.
        dtype: of the weights; adapters on bfloat16 weights are kept in float32.
        device: "auto" (the first CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        trainable: keep a saved adapter apart, to go on training it; `lora`, if given, must be what it
            was made with. Without a saved adapter nothing changes.
        layers: of the model as it is loaded, keep only some (see `lm.layers`).
        name: what records call the model; None: `name_or_path`.
        sharded: under several ranks, which must all call this, each holds a part of the weights alone (see
            `lm.sharding`).
        compressed: keep the weights in 4 bits, and compute in this precision (see `lm.four_bits`). The base
            of a saved adapter is as it was trained: in 4 bits if it was, and then the adapter stays apart.
        whole: read such a base in full nevertheless, and fold the adapter in, to train it further.

    Raises:
        DamagedError: the folder, or that of an adapter's base, is of a run and changed since it was written.
        ModelError: no such model, a broken folder, a missing end-of-sequence token; a saved
            adapter of other settings.
        RecipeError: a device or dtype that this machine does not have.
    """
    target, number = device_of(device), _dtype(dtype)
    text, adapter, base = str(name_or_path), False, ""
    shards = sharded and ranks.world() > 1
    how: dict[str, Any] = {}
    if is_tiny(text) and not Path(text).exists():
        if compressed:
            raise ModelError(f"{text}: made from scratch, it has no weights to keep in 4 bits; name a model")
        model, tokenizer = _from_scratch(text, tokenizer_of, tokenizer_texts, seed, number)
    else:
        place = _place(text)
        _refuse_damaged(place)
        with quiet(isinstance(place, Path)):
            if isinstance(place, Path) and (place / ADAPTER).exists():
                if compressed and not trainable:
                    raise ModelError(f"{text}: an adapter does not fold into 4 bits; limbeck export it first")
                folded = whole or (lora is not None and not trainable)
                compressed = None if folded else about_model(place).get(four_bits.ABOUT_KEY)
                how = four_bits.reading(compressed, target) if compressed else {}
                adapter = trainable or bool(how)
                model, tokenizer, base = _with_adapter(place, number, trainable, lora, shards, how)
            else:
                how = four_bits.reading(compressed, target) if compressed else {}
                model, tokenizer = _plain(place, number, shards=shards and layers is None, how=how)
                base = names.kept_name(text) or str(place)
    if layers is not None:
        model, base = with_layers(model, layers, text), ""
    if shards and not adapter:
        model = sharding.shard(model, text)
    if lora is not None and not adapter:
        model = _add_lora(model, lora, seed, text)
        adapter = True
    if shards:
        sharding.refuse_elsewhere(model, target)
    elif not how:  # it is there already
        model = model.to(target)
    return Loaded(model, tokenizer, bool(model.config.is_encoder_decoder), name or text, adapter, base)


def read_config(name_or_path: str | Path) -> Any:
    """The configuration of a model, or of the base model of a saved adapter, without its weights.

    Raises:
        ModelError: no such model, or a broken folder.
    """
    place = _place(str(name_or_path))
    if isinstance(place, Path) and (place / ADAPTER).exists():
        place = _place(_base_of(place, _adapter_config(place)))
    with quiet(isinstance(place, Path)), explained(place, "config.json"):
        return checked_config(place)


def parameters_of(
    name_or_path: str | Path,
    lora: LoraSettings | None = None,
    layers: Layers | None = None,
    *,
    weights: bool = True,
) -> int:
    """How many parameters a model has, with those of an adapter's base.

    Of a folder's weights it reads which tensors there are, of what size; of a name on the hub none. A
    tiny one is counted without the tokens of its texts.

    Args:
        lora: an adapter that the model is to get; looked at, not counted.
        layers: those it is to keep; only they are counted.
        weights: False where config.json is enough, and weights need not be there.

    Raises:
        DamagedError: as `load`.
        ModelError: no such model, a broken folder, not a model that writes text, weights that are pickles
            or incomplete; an adapter that does not fit.
    """
    model = empty(name_or_path, layers, weights=weights)
    count: int = sum(parameter.numel() for parameter in model.parameters())
    if lora is not None:
        adapted(model, lora, str(name_or_path))
    return count


def empty(
    name_or_path: str | Path,
    layers: Layers | None = None,
    *,
    texts: Iterable[str] = ("",),
    weights: bool = True,
) -> Any:
    """A model as `load` would give it, without its weights: on the meta device, as its config and the sizes
    of its tensors say. A saved adapter is folded in.

    Args:
        texts: what a model from scratch makes its tokenizer from. It is made whole.
        weights: False where config.json is enough, and weights need not be there.

    Raises:
        DamagedError, ModelError: as `parameters_of`.
    """
    name = str(name_or_path)
    if is_tiny(name) and not Path(name).exists():
        model, _ = _from_scratch(name, None, texts, 0, torch.float32)
    else:
        model = _empty(_place(name), weights=weights)
    return model if layers is None else with_layers(model, layers, name)


def _empty(place: Path | str, *, weights: bool) -> Any:
    _refuse_damaged(place)
    if isinstance(place, Path) and (place / ADAPTER).exists():
        refuse_pickles(place)
        place = _place(_base_of(place, _adapter_config(place)))
        _refuse_damaged(place)
    config = read_config(place)
    kind = architecture_of(place, config)
    if isinstance(place, Path) and weights:
        refuse_pickles(place)
        if not any(place.glob("*.safetensors")):
            raise ModelError(f"{place}: there are no weights (*.safetensors); give a complete model folder")
        with quiet():
            return weights_of(place, kind, config, device_map="meta")
    with quiet(), explained(place, "config.json"), torch.device("meta"):
        model = kind.from_config(config)
        if vars(config).get("scale_decoder_outputs") is False:  # T5 1.1 and FLAN-T5: a head of its own
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        return model


def adapted(model: Any, lora: LoraSettings, name: str) -> Any:
    """peft's wrapper with a new adapter around a model of `empty`.

    Raises:
        ModelError: it does not fit.
    """
    with torch.device(model.device):
        return _add_lora(model, lora, 0, name)


def fit_embeddings(model: Any, tokenizer: Any, name: str) -> None:
    """Give a model of `empty` the row that `load` adds for a padding token of its own.

    Raises:
        ModelError: the tokenizer has other tokens without a row.
    """
    _fit_embeddings(name, model, tokenizer)


def _refuse_damaged(place: Path | str) -> None:
    """Refuse, on every rank, a model of a finished stage, or of the cache, that is not as it was written."""
    if not isinstance(place, Path):
        return
    if wrong := ranks.share(sealed.found_damage(place) if ranks.main() else None):
        raise DamagedError(*wrong)
    if file := ranks.share(cache.damage(place) if ranks.main() else ""):
        again = next(
            (
                f"limbeck bases get {one.name}"
                for one in bases.BASES.values()
                if bases.folder_of(one).name == place.name
            ),
            "",
        )
        fix = f"{again} makes it again" if again else "delete the folder, and it is made again"
        raise ModelError(f"{place}: {file} changed since it was made; {fix}")


def device_of(name: str) -> torch.device:
    """The device of this name. Under several ranks "auto" and "cuda" are each rank's own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world() > 1:
        name = f"cuda:{ranks.local()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device: {name!r} is not a device; write auto, cpu, cuda, cuda:1 or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise RecipeError(f"device: {name} is not supported; write auto, cpu, cuda or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("device: mps is not there, it needs macOS on Apple silicon; write auto or cpu")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise RecipeError(f"device: {name} is not there, this machine shows {count} GPUs; write auto or cpu")
    return device


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise RecipeError(f"dtype: {name!r} is not supported; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _from_scratch(
    name: str, other: Path | None, texts: Iterable[str] | None, seed: int, dtype: torch.dtype
) -> tuple[Any, Any]:
    if other is None and texts is None:
        raise ModelError(f"{name}: made from scratch, it needs training texts; give a model folder instead")
    tokenizer = read_tokenizer(other) if other else build_tokenizer(texts or ())
    model = build_model(name, tokenizer, seed)
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay as loading makes them
        parameter.data = parameter.data.to(dtype)
    return model, tokenizer


def _place(text: str) -> Path | str:
    """The folder, or the name of a model on the hub."""
    return names.folder_or_hub(text, names.located(text), holds=("config.json", ADAPTER))


def _plain(
    place: Path | str,
    dtype: torch.dtype,
    tokenizer_folder: Path | None = None,
    *,
    shards: bool = False,
    how: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """An ordinary model and its tokenizer, on the CPU; or this process's part of the model.

    Args:
        how: of one in 4 bits, how its weights are read (see `lm.four_bits`).
    """
    with explained(place, "config.json"):
        config = checked_config(place)
    kind = architecture_of(place, config)
    if isinstance(place, Path):
        refuse_pickles(place)
    tokenizer_place = tokenizer_folder or place
    parts = _read_in_parts(place, kind, config, tokenizer_place) if shards else {}
    model = weights_of(place, kind, config, dtype=dtype, **parts, **(how or {}))
    if how:
        four_bits.as_in_training(model)
    with explained(tokenizer_place, "the tokenizer"):
        tokenizer = checked_tokenizer(tokenizer_place)
    if isinstance(tokenizer_place, Path):
        tokenizer.chat_template = own_template(about_model(tokenizer_place), tokenizer.chat_template)
    _complete_tokens(place, model, tokenizer)
    return sharding.shard(model, place) if shards else model, tokenizer


def _read_in_parts(place: Path | str, kind: Any, config: Any, tokenizer_place: Path | str) -> dict[str, Any]:
    """How each process reads its part of the weights; {} where the embeddings must first get a new row."""
    with explained(tokenizer_place, "the tokenizer"):
        tokenizer = checked_tokenizer(tokenizer_place)
    complete_tokenizer(tokenizer)
    rows = config.get_text_config(decoder=True).vocab_size
    if max(tokenizer.get_vocab().values()) >= rows:
        return {}
    return sharding.reading(place, kind, config)


def weights_of(place: Path | str, kind: Any, config: Any, *, said: Path | None = None, **how: Any) -> Any:
    """A model with its weights, all of them; `said` is what errors name in place of the folder."""
    safe = {"use_safetensors": True, "trust_remote_code": False}
    with explained(said or place, "the weights"):
        model, report = kind.from_pretrained(place, config=config, output_loading_info=True, **how, **safe)
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{said or place}: the weights lack {len(missing)} tensors, such as {missing[0]}; "
            "give a complete language model"
        )
    return model


def architecture_of(place: Path | str, config: Any) -> Any:
    """The class that makes a model of a config.

    Raises:
        ModelError: it writes no text.
    """
    if config.is_encoder_decoder:
        known, kind = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM
    else:
        known, kind = MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
        if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
            known = {}  # BERT and its like have a causal class too, but were never trained to write
    if type(config) not in known:
        raise ModelError(
            f"{place}: {config.model_type} is not a model that writes text; "
            "give a causal or an encoder-decoder language model"
        )
    return kind


def _complete_tokens(place: Path | str, model: Any, tokenizer: Any) -> None:
    """Set up end-of-sequence, padding and start tokens; check that every token has an embedding."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{place}: the tokenizer has no end-of-sequence token; "
            "set eos_token in tokenizer_config.json to the token that ends a text"
        )
    defaults = model.generation_config
    if model.config.is_encoder_decoder:
        start = model.config.to_dict().get("decoder_start_token_id", defaults.decoder_start_token_id)
        if start is None:
            raise ModelError(f"{place}: no decoder_start_token_id; set it in config.json (T5: pad_token_id)")
        model.config.decoder_start_token_id = start
    complete_tokenizer(tokenizer)
    _fit_embeddings(place, model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    # Of published defaults only the tokens stay: sampling, penalties and forced tokens would make
    # `generate` write what no exam saw.
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=defaults.bos_token_id,
        eos_token_id=defaults.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=model.config.decoder_start_token_id
        if model.config.is_encoder_decoder
        else None,
    )


def complete_tokenizer(tokenizer: Any) -> None:
    """Give a tokenizer a padding token of its own (see `load`)."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": NEW_PAD})


def _fit_embeddings(place: Path | str, model: Any, tokenizer: Any) -> None:
    """Give a new padding token its row: the mean of all rows, so that it is never the likeliest token."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows]
    if not beyond:
        return
    if beyond != [tokenizer.pad_token]:
        raise ModelError(
            f"{place}: the tokenizer has {len(beyond)} tokens beyond the model's {rows} embeddings; "
            "give the tokenizer that belongs to the model"
        )
    with seeded(0), torch.no_grad():
        model.resize_token_embeddings(rows + 1, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[rows] = layer.weight[:rows].mean(dim=0)


def _with_adapter(
    folder: Path,
    dtype: torch.dtype,
    trainable: bool,
    lora: LoraSettings | None,
    shards: bool,
    how: Mapping[str, Any],
) -> tuple[Any, Any, str]:
    """A saved adapter on its base model, or folded into it; the third value is `Loaded.base`.

    It is folded in where it is not to be trained, unless the base is in 4 bits, which would round it.

    Args:
        shards: the base is shared out among the processes, if the adapter stays apart.
        how: of a base in 4 bits, how its weights are read; {} of another.
    """
    from peft import PeftModel  # seconds of import, needed only here

    config, merge = _adapter_config(folder), not (trainable or how)
    if not merge and lora is not None:
        _same_adapter(folder, config, lora)
    base = _base_of(folder, config)
    refuse_pickles(folder)
    own = (folder / "tokenizer_config.json").exists()
    _refuse_damaged(_place(base))
    split = shards and not merge
    model, tokenizer = _plain(_place(base), dtype, folder if own else None, shards=split, how=how)
    with seeded(0), explained(folder, "the adapter"), warnings.catch_warnings():
        warnings.filterwarnings(
            "error", "Found missing adapter keys"
        )  # they would stay at their random start
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    if name := _on_a_shared_weight(model):
        raise ModelError(f"{folder}: its adapter is on {name}, {SHARED}; train one without that layer")
    if merge:  # peft had frozen the base model
        return model.merge_and_unload().requires_grad_(True), tokenizer, ""
    return model, tokenizer, "" if Path(base) == folder / BASE else base


def _adapter_config(folder: Path) -> Any:
    from peft import PeftConfig  # seconds of import, needed only here

    with explained(folder, ADAPTER):
        config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != "LORA":
        raise ModelError(f"{folder}: an adapter of type {config.peft_type.value}; only LORA is supported")
    return config


def _base_of(folder: Path, config: Any) -> str:
    """Where the base model of an adapter is: in the adapter's own folder, or where its config says."""
    base = config.base_model_name_or_path
    if not base:
        raise ModelError(
            f"{folder}: no base model is named; set base_model_name_or_path in adapter_config.json"
        )
    inside = base == BASE and (folder / BASE).is_dir()
    if not inside and Path(base).is_absolute() and not names.is_here(base):
        raise ModelError(
            f"{folder}: its base model is no longer at {base}; "
            "put it back, or set base_model_name_or_path in adapter_config.json"
        )
    known = about_model(folder).get(BASE_IDENTITY)
    if not inside and known and names.identity(base) != known:
        raise ModelError(
            f"{folder}: its adapter was not trained on what {base} is now; put the former model there, "
            "or train again"
        )
    return str(folder / BASE) if inside else str(base)


def _same_adapter(folder: Path, config: Any, lora: LoraSettings) -> None:
    """Refuse to go on with an adapter of other settings."""
    found: dict[str, Any] = {"r": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}
    asked: dict[str, Any] = {"r": lora.r, "alpha": lora.alpha, "dropout": lora.dropout}
    if lora.target_modules != "all-linear":
        found["target_modules"] = sorted(config.target_modules)
        asked["target_modules"] = sorted(lora.target_modules)
    for name, value in asked.items():
        if found[name] != value:
            raise ModelError(
                f"{folder}: its adapter has {name} = {found[name]}, lora.{name} asks for {value}; "
                "give it the same settings, or merge it first"
            )


def _add_lora(model: Any, lora: LoraSettings, seed: int, name: str) -> Any:
    from peft import LoraConfig, get_peft_model  # seconds of import, needed only here

    targets = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        # GPT-2 stores its weights transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    with seeded(seed), quiet():
        try:
            adapted = get_peft_model(model, settings)
        except ValueError as error:
            raise ModelError(f"{name}: lora.target_modules: {first_line(error)}; name its layers") from None
    if layer := _on_a_shared_weight(adapted):
        raise ModelError(f"{name}: lora.target_modules: {layer} is a layer {SHARED}; leave it out")
    return adapted


def _on_a_shared_weight(model: Any) -> str:
    """The name of a layer that has an adapter and shares its weight with another, or ""."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # seconds of import, needed only here

    owners = Counter(id(own) for module in model.modules() for own in module.parameters(recurse=False))
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            own = module.get_base_layer().parameters(recurse=False)
            if any(owners[id(parameter)] > 1 for parameter in own):
                return str(name).rpartition(".")[2]
    return ""


@contextmanager
def explained(place: Path | str, what: str) -> Iterator[None]:
    """Turn whatever the libraries raise about a model into one sentence."""
    try:
        yield
    # Not a list of classes: the readers of configs, weights and tokenizers raise anything
    # from OSError to their own classes. But a bug of ours and a lack of memory say nothing of the model.
    except Exception as error:
        if not is_explainable(error):
            raise
        reason = first_line(error)
        if isinstance(place, str) and "connect" in reason:
            here = "no folder of this name, and the model hub cannot be reached; give a model folder"
            raise ModelError(f"{place}: {here}{bases.hint(place)}") from error
        if isinstance(place, str) and "safetensors" in reason and what == "the weights":
            raise ModelError(f"{place}: has no safetensors weights; {CONVERT.format(place)}") from error
        fix = "give a complete model folder" if isinstance(place, Path) else "check the model's name"
        if isinstance(place, Path) and place.suffix.lower() == names.GGUF:
            fix = "get the file again, or give the model's Hugging Face folder"
        raise ModelError(f"{place}: {what} cannot be read ({reason}); {fix}") from error


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Without the libraries' progress bars and warnings about folders (a download keeps its bar)."""
    bars, level = library_log.is_progress_bar_enabled(), library_log.get_verbosity()
    if wanted:
        library_log.disable_progress_bar()
        library_log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for an old name, and overlooks that the patterns it
            # sets itself for Mixtral's experts do match (they name parameters, not modules).
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", ".*_pattern keys did not match", RuntimeWarning)
            # They never were tied (FLAN-T5), although the library's config says so.
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
            # We refuse what it warns of.
            warnings.filterwarnings("ignore", ".*a tied layer is part of the adapter", UserWarning)
            yield
    finally:
        library_log.set_verbosity(level)
        if bars:
            library_log.enable_progress_bar()
