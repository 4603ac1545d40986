"""Find the files of a data set: in the folder that the user names, or in a cache that a download fills once."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_TIMEOUT = 20  # seconds without an answer


class Files(NamedTuple):
    """The files of a data set, and where they come from.

    Attributes:
      data: name of the data set.
      folder: name of the folder that holds the files.
      names: the files.
      shown: the files in a few words, for a message.
      source: the address from which a person can get them.
      download: gets the files into a folder; it raises OSError or ValueError.
    """

    data: str
    folder: str
    names: tuple[str, ...]
    shown: str
    source: str
    download: Callable[[Path], None]


def find(files: Files, data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder that holds all of `files`: in the folder that the user names, else in the cache.

    Args:
      files: the names of the files.
      data_dir: the folder with the files, or the folder that holds it. None stands for LRX_DATA_DIR; without that
        the cache is taken, which a download fills.

    Raises:
      FileNotFoundError: if a file is missing and cannot be downloaded; says what was tried and where to put it.
    """
    origin = "data_dir" if data_dir is not None else "LRX_DATA_DIR"
    named = data_dir if data_dir is not None else os.environ.get("LRX_DATA_DIR")
    if named:
        root = Path(named).expanduser()
        for folder in (root / files.folder, root):
            missing = [name for name in files.names if not (folder / name).is_file()]
            if not missing:
                return folder
            if len(missing) < len(files.names):
                tried = f"{origin}, where {folder} lacks {', '.join(missing)}"
                raise FileNotFoundError(_absent(files, tried, folder))
        raise FileNotFoundError(_absent(files, f"{origin}={str(named)!r}", root / files.folder))
    folder = cache_folder() / files.folder
    if not all((folder / name).is_file() for name in files.names):
        try:
            files.download(folder)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            reason = reason if len(reason) < 160 else type(error).__name__
            tried = f"the cache {folder} and a download ({reason})"
            raise FileNotFoundError(_absent(files, tried, folder)) from error
    return folder


def _absent(files: Files, tried: str, folder: Path) -> str:
    return (
        f"{files.data} was not found: tried {tried}.\n"
        f"Put {files.shown} from {files.source} into {folder}, or name their folder with --data-dir or LRX_DATA_DIR.\n"
        "Without any files, `--data digits` works."
    )


def cache_folder() -> Path:
    """Return the folder that keeps downloaded data."""
    return Path(_pooch().os_cache("lrx"))


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise ImportError('downloads need pooch: pip install "lrx[papers]".') from error
    return pooch


def retrieve(url: str, md5: str, folder: Path) -> Path:
    """Download a file into `folder`, with a progress bar: afterwards it is there whole and checked, or not at all."""
    pooch = _pooch()
    downloader = pooch.HTTPDownloader(progressbar=_Bar(url.rsplit("/", 1)[-1]), timeout=_TIMEOUT)
    name = url.rsplit("/", 1)[-1]
    pooch.get_logger().setLevel("WARNING")
    return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, downloader=downloader))


def extract(archive: Path, target: Path, members: set[str]) -> None:
    """Extract the named regular files of a tar archive and nothing else.

    Raises:
      ValueError: if a member is not in the archive.
    """
    with tarfile.open(archive) as tar:
        found = [member for member in tar.getmembers() if member.name in members and member.isfile()]
        lacking = members - {member.name for member in found}
        if lacking:
            raise ValueError(f"{archive.name} must hold {sorted(lacking)[0]}, which is not in it.")
        if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(target, members=found)


class _Bar:
    """The progress of a download, as pooch reports it, shown by rich."""

    def __init__(self, name: str) -> None:
        self.total, self._name = 0, name
        self._progress: Any = None
        self._task: Any = None

    def update(self, size: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=self.total)
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        if self._progress is not None:
            self._progress.reset(self._task)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
