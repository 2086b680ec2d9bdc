"""Loading: device and dtype, folders, the embedded model, fingerprints."""

from __future__ import annotations

import copy
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import toy
from tamis.errors import ConfigError, MismatchError
from tamis.models.config import ModelConfig
from tamis.models.gguf import EMBEDDED_PACKAGE, cache_folder, embedded_gguf
from tamis.models.load import (
    LanguageModel,
    choose_device,
    choose_dtype,
    load_model,
    load_tokenizer,
    weights_fingerprint,
    with_adapter,
)
from tamis.models.lora import LoraSettings, adapter_parameters, attach_adapters, detach_adapters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tiny_lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in bfloat16, as transformers saves it."""
    path = tmp_path_factory.mktemp("model")
    copy.deepcopy(tiny_lm.model).bfloat16().save_pretrained(path)
    tiny_lm.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LanguageModel:
    """That folder in float32."""
    return load_model(ModelConfig(name=str(folder)), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder whose factors are not zero."""
    path = tmp_path_factory.mktemp("adapter")
    peft_model = attach_adapters(toy.llama(), ["default"], LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for parameter in adapter_parameters(peft_model, "default").values():
            parameter.fill_(0.1)
    peft_model.save_pretrained(path)
    return path


# Device and dtype


@pytest.mark.parametrize("wanted", ["cpu", None, "auto"])
def test_the_cpu_is_taken_where_it_is_asked_for_or_alone(wanted: str | None) -> None:
    """None and "auto" prefer CUDA where torch sees one."""
    alone = "cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda"
    assert choose_device(wanted).type == alone


@pytest.mark.parametrize("wanted", ["gpu", "cpu:x", ""])
def test_an_unknown_device_is_refused(wanted: str) -> None:
    """The message lists what can be set."""
    with pytest.raises(ConfigError, match=rf"device '{wanted}' is unknown\. Set cpu, cuda"):
        choose_device(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_an_absent_cuda_device_is_refused() -> None:
    """Not silently replaced by the CPU."""
    with pytest.raises(ConfigError, match=r"'cuda:0' .* no CUDA device\. Set --device cpu"):
        choose_device("cuda:0")


@pytest.mark.parametrize(
    ("wanted", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_named_dtype_is_taken(wanted: str, dtype: torch.dtype) -> None:
    """Also where the hardware only emulates it."""
    assert choose_dtype(wanted, CPU) == dtype


@pytest.mark.parametrize("wanted", ["float16", "fp32", "bf16"])
def test_an_unknown_dtype_is_refused(wanted: str) -> None:
    """float16 overflows in training; abbreviations are not guessed."""
    with pytest.raises(ConfigError, match=rf"dtype '{wanted}' .* Set auto, bfloat16 or float32"):
        choose_dtype(wanted, CPU)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads the flags of /proc/cpuinfo")
def test_bfloat16_is_chosen_only_where_the_cpu_multiplies_it() -> None:
    """The kernel's own list of the processor's abilities decides."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    if "avx512_bf16" in flags:
        assert choose_dtype(None, CPU) == torch.bfloat16
    elif "amx_bf16" not in flags:
        assert choose_dtype(None, CPU) == torch.float32


# Folders


def test_a_saved_folder_loads_with_its_values(
    loaded: LanguageModel, tiny_lm: LanguageModel
) -> None:
    """Every weight is the saved one, rounded to bfloat16 as it was saved."""
    expected = tiny_lm.model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name].bfloat16().float()), name


def test_a_loaded_model_is_frozen_in_eval_mode(loaded: LanguageModel) -> None:
    """Nothing is trainable until an adapter is attached."""
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_loaded_tokenizer_gives_the_same_ids(
    loaded: LanguageModel, tiny_lm: LanguageModel
) -> None:
    """Template and vocabulary come with the folder."""
    text = "Tell me about the river. Gently."
    assert loaded.tokenizer(text).input_ids == tiny_lm.tokenizer(text).input_ids
    assert loaded.tokenizer.chat_template == toy.CHATML


def test_a_missing_padding_token_becomes_the_end_token(tmp_path: Path) -> None:
    """Padding is masked, so any token does."""
    tokenizer = copy.deepcopy(toy.tokenizer())
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelConfig(name=str(tmp_path))).pad_token == "<|im_end|>"


def test_the_description_is_plain_text(loaded: LanguageModel, folder: Path) -> None:
    """What a manifest says of the model."""
    assert loaded.describe() == {
        "name": str(folder),
        "revision": None,
        "fingerprint": loaded.fingerprint,
        "device": "cpu",
        "dtype": "float32",
        "quantization": None,
    }


@pytest.mark.parametrize(
    "name", ["no/such-model-anywhere", "./no_such_folder", "not a model name at all"]
)
def test_a_model_that_cannot_be_found_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that no such folder is here, and what can be given; no traceback of the hub's."""
    # Read from the environment when the library is imported; online it tries again for 40 s.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"loaded \(no such folder.*Give a hub id, a folder"):
        load_model(ModelConfig(name=name), device="cpu")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """An empty folder is no model."""
    with pytest.raises(ConfigError, match=f"model '{tmp_path}' cannot be loaded"):
        load_model(ModelConfig(name=str(tmp_path)), device="cpu")


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    """Before transformers is asked."""
    with pytest.raises(ConfigError, match=r"model\.gguf' does not exist"):
        load_model(ModelConfig(name=str(tmp_path / "model.gguf")), device="cpu")


def test_a_damaged_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text under the right name: an error, and nothing half-made in the cache."""
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_text("no model in here")
    with pytest.raises(ConfigError, match=r"model\.gguf' cannot be read as GGUF"):
        load_model(ModelConfig(name=str(tmp_path / "model.gguf")), device="cpu")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_cut_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that broke off within its head, as one broken off later."""
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\0\0\0\x01")
    with pytest.raises(ConfigError, match=r"model\.gguf' is not a whole GGUF file"):
        load_model(ModelConfig(name=str(tmp_path / "model.gguf")), device="cpu")


# Fingerprints


def test_a_fingerprint_does_not_depend_on_the_dtype_loaded(
    folder: Path, loaded: LanguageModel
) -> None:
    """The same folder as bfloat16 and as float32 is the same model."""
    half = load_model(ModelConfig(name=str(folder)), device="cpu", dtype="bfloat16")
    assert (half.dtype, loaded.dtype) == (torch.bfloat16, torch.float32)
    assert half.fingerprint == loaded.fingerprint


def changed(name: str, position: Any) -> str:
    """Return the fingerprint of the tiny model with one weight moved by one."""
    model = toy.llama()
    with torch.no_grad():
        model.get_parameter(name)[position] += 1.0
    return weights_fingerprint(model)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (0, 0)),
        ("model.layers.1.self_attn.k_proj.weight", (15, 31)),
        ("model.norm.weight", 31),
    ],
)
def test_one_changed_weight_changes_the_fingerprint(
    name: str, position: Any, tiny_lm: LanguageModel
) -> None:
    """In matrices and vectors of up to 4,096 values, each value counts."""
    assert changed(name, position) != tiny_lm.fingerprint


def test_the_end_of_a_large_matrix_is_sampled_too(tiny_lm: LanguageModel) -> None:
    """The last quarter of the output projection's rows is changed as a whole."""
    rows = len(toy.tokenizer())
    assert changed("lm_head.weight", slice(3 * rows // 4, rows)) != tiny_lm.fingerprint


def test_the_same_weights_have_the_same_fingerprint(tiny_lm: LanguageModel) -> None:
    """A second model from the same seed."""
    assert weights_fingerprint(toy.llama()) == tiny_lm.fingerprint


# Adapters


def test_a_saved_adapter_changes_the_model_and_its_fingerprint(adapter: Path) -> None:
    """The base's fingerprint stays visible in front."""
    base = toy.tiny_lm()
    ids = torch.arange(8)[None]
    before = base.model(input_ids=ids).logits
    adapted = with_adapter(base, adapter)
    assert adapted.fingerprint.startswith(f"{base.fingerprint}+")
    assert not torch.equal(adapted.model(input_ids=ids).logits, before)


def test_a_stage_folder_with_an_adapter_inside_is_taken(adapter: Path, tmp_path: Path) -> None:
    """`adapter/` below the folder that was named."""
    (tmp_path / "adapter").symlink_to(adapter)
    assert with_adapter(toy.tiny_lm(), tmp_path).model.peft_config


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    """The message says which file is missing."""
    with pytest.raises(ConfigError, match=r"holds no adapter \(adapter_config\.json is missing\)"):
        with_adapter(toy.tiny_lm(), tmp_path)


def test_an_adapter_of_another_architecture_is_refused(adapter: Path) -> None:
    """A model twice as wide does not take the factors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, pad_token_id=0,
    )  # fmt: skip
    other = toy.language_model(toy.random_model(LlamaForCausalLM, wide))
    with pytest.raises(ConfigError, match=r"does not fit toy: .* Give the model it was trained on"):
        with_adapter(other, adapter)


# The cache and the embedded model


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TAMIS_CACHE": "/a/b"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/tamis"),
        ({"TAMIS_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"HOME": "/home/me"}, "/home/me/.cache/tamis"),
    ],
)
def test_where_the_cache_is(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, else the desktop's, else the home folder's."""
    for name in ("TAMIS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.slow
def test_the_embedded_model_loads_and_speaks() -> None:
    """SmolLM2-135M from the installed file: 30 layers, ChatML, a confident next word."""
    if embedded_gguf() is None:
        pytest.skip(f"{EMBEDDED_PACKAGE} is not installed (make setup installs it)")
    lm = load_model(device="cpu", dtype="float32")
    assert (lm.name, lm.model.config.num_hidden_layers) == ("SmolLM2-135M-Instruct (embedded)", 30)
    assert "<|im_start|>" in lm.tokenizer.chat_template
    ids = lm.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = lm.model(input_ids=ids).logits[0, -1].argmax().item()
    assert lm.tokenizer.decode([best]) == " Paris"


def test_a_shared_base_is_free_again_after_detaching(tiny_lm: LanguageModel) -> None:
    """Fingerprint and modules are those from before."""
    modules = [type(module) for module in tiny_lm.model.modules()]
    detach_adapters(attach_adapters(tiny_lm.model, ["one", "two"], LoraSettings(rank=2), seed=0))
    assert weights_fingerprint(tiny_lm.model) == tiny_lm.fingerprint
    assert [type(module) for module in tiny_lm.model.modules()] == modules


def test_an_adapter_is_refused_on_another_base_model(tmp_path: Path) -> None:
    """Shapes that fit are not enough: the fine-tuning's manifest knows the base's weights."""
    trained_on, other = toy.tiny_lm(), toy.tiny_lm(seed=1)
    attach_adapters(toy.llama(), ["default"], LoraSettings(rank=2), seed=0).save_pretrained(
        tmp_path / "adapter"
    )
    manifest = {"stage": "finetune", "model": {"fingerprint": trained_on.fingerprint}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match="another base model"):
        with_adapter(other, tmp_path)
    assert with_adapter(trained_on, tmp_path).fingerprint.startswith(trained_on.fingerprint)


@pytest.mark.parametrize(
    ("setting", "value", "same"),
    [("rms_norm_eps", 0.1, False), ("rope_theta", 5e5, False), ("use_cache", False, True)],
)
def test_settings_that_change_the_output_change_the_fingerprint(
    setting: str, value: Any, same: bool
) -> None:
    """Equal weights do not compute the same under another norm or other positions."""
    model = toy.llama()
    before = weights_fingerprint(model)
    setattr(model.config, setting, value)
    assert (weights_fingerprint(model) == before) == same


@pytest.mark.parametrize(("revision", "asked"), [("a" * 40, ["here", "hub"]), ("main", ["hub"])])
def test_a_commit_is_asked_of_the_hub_only_where_it_is_not_whole_here(
    revision: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit never changes; a branch may have moved."""
    found: list[str] = []

    def read(_source: str, **options: Any) -> Any:
        found.append("here" if options.get("local_files_only") else "hub")
        if found[-1] == "here":
            raise ValueError("no tokenizer")
        return toy.tokenizer()

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read)
    load_tokenizer(ModelConfig(name="x/m", revision=revision))
    assert found == asked
