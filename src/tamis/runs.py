"""A stage's folder: what was asked, what came out, and enough to do it again.

One stage (rank, select, finetune, evaluate, ...) per folder. `config.yaml` is written when the
stage starts and re-runs it; `manifest.json` is written last, in one atomic step, so its presence
means "finished". A folder with the same request is skipped when finished and resumed when not;
a folder with another request is refused unless the user says `--overwrite`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import yaml

from tamis.errors import ConfigError, DataError, MismatchError
from tamis.files import read_json_object, write_json, write_text_atomic
from tamis.memory import PeakMemory
from tamis.request import differences, identity, without
from tamis.stage_files import (
    CONFIG,
    ELSEWHERE,
    LOCK,
    MANIFEST,
    WORK,
    clear,
    foreign,
    is_quarantine,
    make_folder,
    results,
)
from tamis.versions import git_sha, versions

_NAMED_FILES = 4  # told by name where others' files are in the way


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other tamis processes out of a folder, which is made.

    Raises:
        ConfigError: One is at work there, or it is a file.
    """
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise ConfigError(
            f"{folder} is in use by another tamis process. Wait for it, or give {ELSEWHERE}."
        ) from error
    try:
        yield
    finally:
        lock.release()


class Stage:
    """One stage's folder, locked while it runs.

    Use as a context manager: the block runs whether or not the work is finished; ask `finished`
    first. The manifest is written by `finish`, and only then does the stage count as done.

    Args:
        folder: Where the stage's files go.
        name: The verb ("rank", "select", ...).
        config: The resolved settings; anything JSON can hold.
        inputs: What the stage reads, by role, each with at least its hash; part of the request.
        seed: The user's seed.
        overwrite: Remove what an earlier, different request left, or one that has lost files.
        protected: Further files and folders that overwriting must not delete.
        uncompared: Settings, dotted as in the config (`**` is any depth), that are recorded and are
            no part of the request: they judge what comes out and do not change it.
        patience: Settings likewise, that say how long and how often something is asked. With
            others, a stage that finished with questions left open goes on.

    Raises:
        MismatchError: The folder holds another request, has lost results, or files that the stage
            did not write are in the way.
        ConfigError: Another process is at work in the folder.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], inputs: Mapping[str, Any],
        *, seed: int, overwrite: bool = False, protected: Sequence[Path | None] = (),
        uncompared: Sequence[str] = (), patience: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder = folder
        self.name = name
        self.request = json.loads(
            json.dumps({"stage": name, "seed": seed, "config": config, "inputs": inputs})
        )
        self.seed = seed
        self._overwrite = overwrite
        self._protected = [path for path in protected if path is not None]
        self._uncompared, self._patience = (
            [["config", *name.split(".")] for name in names] for names in (uncompared, patience)
        )
        self._held = contextlib.ExitStack()
        self._started = time.monotonic()
        self._started_at = _now()
        self._resumed = False
        self._memory = PeakMemory()

    @property
    def finished(self) -> bool:
        """Whether an earlier run of the same request left its manifest, and results are there."""
        return (self.folder / MANIFEST).exists() and not self._lost()

    @property
    def differences(self) -> str:
        """What of the work in this folder, which holds a request, was asked otherwise; else ""."""
        earlier = self._earlier()
        # A command that failed before any work must not block its corrected version.
        if self._is_request(earlier) or self._nothing_done():
            return ""
        return differences(self._compared(earlier), self._compared(self.request))

    @property
    def work(self) -> Path:
        """Folder for checkpoints and partial results; removed when the stage finishes."""
        path = self.folder / WORK
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> Stage:
        """Lock the folder and check that it holds this request or nothing."""
        with contextlib.ExitStack() as entering:
            entering.enter_context(locked(self.folder))
            self._check_request()
            self._held = entering.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Release the folder."""
        self._held.close()

    def _check_request(self) -> None:
        if (self.folder / CONFIG).exists():
            earlier = self._earlier()
            same, lost = self._is_request(earlier), self._lost()
            if same and not lost:
                if self._asks_again():
                    (self.folder / MANIFEST).unlink()
                self._resumed = not self.finished
                if earlier != self.request and not self.finished:  # it says how to run this again
                    self._write_config()
                return
            if not self._overwrite and same:
                raise MismatchError(
                    f"{self.folder} is finished and has lost {', '.join(lost)} since. Put "
                    f"{'it' if len(lost) == 1 else 'them'} back, or give --overwrite to do it "
                    "again."
                )
            if not self._overwrite and (differences := self.differences):
                raise MismatchError(
                    f"{self.folder} holds another run ({differences}). "
                    f"Give {ELSEWHERE}, or --overwrite to replace it."
                )
            self._refuse_own_inputs()
            if others := foreign(self.folder):
                named = ", ".join(str(path) for path in others[:_NAMED_FILES])
                more = f" and {len(others) - _NAMED_FILES} more" if others[_NAMED_FILES:] else ""
                raise MismatchError(
                    f"{self.folder} also holds {named}{more}, which this stage did not write: "
                    "--overwrite deletes nothing else than its own files. Move them, or give "
                    f"{ELSEWHERE}."
                )
        elif any(not p.name.startswith((LOCK, f".{CONFIG}.")) for p in self.folder.iterdir()):
            # Never delete what tamis did not write, whatever the flags.
            raise MismatchError(
                f"{self.folder} is not empty and was not written by tamis. Give {ELSEWHERE}."
            )
        clear(self.folder)
        self._write_config()

    def _write_config(self) -> None:
        write_text_atomic(self.folder / CONFIG, yaml.safe_dump(self.request, sort_keys=False))

    def _earlier(self) -> Any:
        """Return the request that the folder holds, None where it holds none that can be read."""
        try:
            return yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
        except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
            return None

    def _is_request(self, earlier: Any) -> bool:
        asked, wanted = self._compared(earlier), self._compared(self.request)
        return bool(identity(asked) == identity(wanted))

    def _lost(self) -> list[str]:
        """Name the results of a finished stage that are gone; none where that cannot be told."""
        with contextlib.suppress(ConfigError, DataError):
            files = self.manifest().get("files", ())
            return [name for name in files if not (self.folder / name).exists()]
        return []

    def _asks_again(self) -> bool:
        """Whether the stage is finished but for open questions, with another patience."""
        if not self.finished or not (manifest := self.manifest()).get("left_open"):
            return False
        earlier, wanted = ({"config": one.get("config")} for one in (manifest, self.request))
        for path in self._uncompared:
            earlier, wanted = without(earlier, path), without(wanted, path)
        return bool(earlier != wanted)

    def _compared(self, request: Any) -> Any:
        for path in (*self._uncompared, *self._patience):
            request = without(request, path)
        return request

    def _nothing_done(self) -> bool:
        """Whether the folder holds a request, perhaps bad records, and no result of any kind."""
        work = self.folder / WORK
        if work.exists() and any(work.iterdir()):
            return False
        names = {path.name for path in self.folder.iterdir()} - {LOCK, CONFIG, WORK}
        return all(map(is_quarantine, names))

    def _refuse_own_inputs(self) -> None:
        folder = self.folder.resolve()
        used = [(role, Path(entry["path"])) for role, entry in self.request["inputs"].items()]
        for role, given in [*used, *(("its own", path) for path in self._protected)]:
            path = given.resolve()
            if path == folder or folder in path.parents:
                raise ConfigError(
                    f"--overwrite would delete {path}, which this run reads as {role}. Give "
                    f"{ELSEWHERE}."
                )

    def finish(self, **entries: Any) -> dict[str, Any]:
        """Write the manifest and remove partial results.

        Args:
            **entries: Further top-level entries (model, rows_by_outcome, details, ...). `left_open`
                counts questions that nobody answered in time: partial results are then kept, for a
                run with more patience.

        Returns:
            The manifest as written.
        """
        timings = {"seconds": round(time.monotonic() - self._started, 3)}
        timings.update(entries.pop("timings", {}))
        manifest = {
            **self.request,
            "status": "finished",
            "versions": versions(),
            "git_sha": git_sha(),
            "started": self._started_at,
            "finished": _now(),
            "resumed": self._resumed,
            "timings": timings,
            "memory": self._memory.found(),
            "files": results(self.folder),
            **entries,
        }
        write_json(self.folder / MANIFEST, manifest)
        if not manifest.get("left_open"):
            shutil.rmtree(self.folder / WORK, ignore_errors=True)
        return manifest

    def manifest(self) -> dict[str, Any]:
        """Read the manifest of a finished stage."""
        return read_manifest(self.folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a finished stage's manifest.

    Raises:
        ConfigError: The folder holds no finished stage.
        DataError: The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ConfigError(
            f"{folder} holds no finished tamis stage ({MANIFEST} is missing). Run the stage to "
            "its end first, or name its folder."
        )
    return read_json_object(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
