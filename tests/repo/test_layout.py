"""The house in order: names, sizes, light imports, and code that is never allowed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tamis
from tamis.cli.compare_config import CompareConfig
from tamis.cli.config import RunConfig
from tamis.cli.experiment_config import ExperimentConfig
from tamis.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tamis"
SOURCES = sorted(PACKAGE.rglob("*.py"))
METHOD_FILES = sorted(
    path.stem
    for path in (PACKAGE / "methods").glob("*.py")
    if path.stem not in ("__init__", "base", "scores")  # the contract, no methods
)
LONGEST = 300  # lines: more, and a file does two things
LONGER: dict[str, str] = {
    "methods/seal.py": "one paper: its formulas, both algorithms and all settings on one page",
}
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "sklearn",
    "scipy",
    "pyarrow",
    "jinja2",
)
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "numpy.load", "np.load", "joblib.load"}


def relative(path: Path) -> str:
    """Name a source file from the package on."""
    return path.relative_to(PACKAGE).as_posix()


def dotted(node: ast.AST) -> str:
    """Spell a name or a chain of attributes."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The project file."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_method_file_is_a_method() -> None:
    """A file in methods/ has its line in METHODS, and the other way round, but for the fusion."""
    assert sorted(set(METHODS) - {"auto"}) == METHOD_FILES


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_methods_key_is_its_files_stem(name: str) -> None:
    """`tamis rank seal` is found in methods/seal.py; the fusion of others is on the floor above."""
    floor = "selection" if name == "auto" else "methods"
    assert METHODS[name].partition(":")[0] == f"tamis.{floor}.{name}"


def test_every_method_is_kept_apart_from_the_others(pyproject: dict[str, Any]) -> None:
    """The independence contract lists each method file."""
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (apart,) = [contract for contract in contracts if contract["type"] == "independence"]
    assert sorted(apart["modules"]) == [f"tamis.methods.{stem}" for stem in METHOD_FILES]


def test_every_floor_is_in_the_layers(pyproject: dict[str, Any]) -> None:
    """A new package or top-level module needs a place on the stairs."""
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (stairs,) = [contract for contract in contracts if contract["type"] == "layers"]
    listed = {name.strip() for layer in stairs["layers"] for name in layer.split("|")}
    floors = {f"tamis.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    modules = {f"tamis.{path.stem}" for path in PACKAGE.glob("[!_]*.py")}
    assert floors | modules == listed


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    """Up to 300 lines, but for the few that say why."""
    n = len(path.read_text(encoding="utf-8").splitlines())
    if relative(path) in LONGER:
        assert n > LONGEST, f"{relative(path)} is short again: take it off LONGER"
    else:
        assert n <= LONGEST


def test_long_files_exist() -> None:
    """The list of exceptions names no file that is gone."""
    assert set(LONGER) <= {relative(path) for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_runs_no_foreign_code(path: Path) -> None:
    """No pickle, no eval, no exec, no torch.load: data and checkpoints are untrusted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.Call):
            names = {dotted(node.func)} & FORBIDDEN_CALLS
        else:
            continue
        assert not names & (FORBIDDEN_IMPORTS | FORBIDDEN_CALLS), f"line {node.lineno}"


@pytest.mark.parametrize(
    "module",
    [
        "tamis", "tamis.methods", "tamis.methods.base", "tamis.data", "tamis.data.template",
        "tamis.models.config", "tamis.selection.select", "tamis.evaluation.ranking",
        "tamis.evaluation.judge_settings",
        "tamis.report", "tamis.cli.main", "tamis.cli.config",
    ],
)  # fmt: skip
def test_an_import_is_light(module: str) -> None:
    """In a process of its own, it brings in none of the slow libraries."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", sorted(tamis.__all__))
def test_a_public_name_can_be_imported(name: str) -> None:
    """Lazily, from where it is defined."""
    assert getattr(tamis, name).__name__ == name


def test_dir_lists_the_public_names() -> None:
    """What completion shows is what there is."""
    assert dir(tamis) == sorted(tamis.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy module behaves like any other."""
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        tamis.no_such_name  # noqa: B018


CONFIGS = sorted((ROOT / "configs").glob("*.y*ml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_is_understood(path: Path) -> None:
    """Every key is known, every value is allowed, and the files it names exist."""
    kinds = {"compare": CompareConfig, "experiment": ExperimentConfig}
    config: Any = kinds.get(path.stem, RunConfig).read(path)
    for named in (config.finetuning_set, config.safe_set, config.labels):
        assert named is None or Path(named).is_file(), named
