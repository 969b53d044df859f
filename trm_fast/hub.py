"""Downloads models from the Hugging Face hub, with the optional ``huggingface_hub`` package.

Only ``.json`` and ``.safetensors`` files, the model card and a SentencePiece tokenizer are downloaded; nothing of them
is executed. A download is pinned to one commit. ``HF_ENDPOINT`` names another hub, ``HF_TOKEN`` holds a token, and with
``HF_HUB_OFFLINE=1`` only what is cached is used.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from trm_fast.errors import UserError, shown

PREFIX = "hf:"
SMALL, LARGE = 64 << 20, 16 << 30
"""The largest number of bytes of a file other than weights, and of all files of a model."""
MAX_FILES = 64
CONFIG, CARD = "config.json", "README.md"
SUFFIXES = (".json", ".safetensors", ".model")
"""The files of a model: configuration and tables, weights, and a SentencePiece tokenizer."""
_NAME = re.compile(r"(?:hf:)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,200}))?", re.ASCII)


class Remote(NamedTuple):
    """A repository on the hub, ``org/name``, and the branch, tag or commit to read; None: its main branch."""

    repository: str
    revision: str | None


def remote(reference: str) -> Remote | None:
    """The repository that a reference names: ``org/name``, ``org/name@revision`` or either behind ``hf:``.

    None if it is no such name, or if ``org`` is a folder here, so that a mistyped path is not looked up on the hub.

    Examples:
        >>> remote("someone/sudoku@v1")
        Remote(repository='someone/sudoku', revision='v1')
    """
    match = _NAME.fullmatch(reference)
    if match is None or "--" in match[1] or ".." in reference or match[1].endswith((".git", ".", "-")):
        return None
    if not reference.startswith(PREFIX) and os.path.isdir(match[1].split("/")[0]):
        return None
    return Remote(match[1], match[2])


def package(reason: str) -> Any:
    """The package ``huggingface_hub``.

    Raises:
        UserError: it is not installed; the message starts with the reason why it is needed.
    """
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise UserError(f"{reason} needs the huggingface_hub package: pip install trm-fast[hub]") from None


def endpoint() -> str:
    """The address of the hub: ``HF_ENDPOINT``, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def download(name: Remote) -> Path:
    """The folder of a model, downloaded into the cache of ``huggingface_hub``. All files are of the same commit.

    Raises:
        UserError: the package is missing, the hub can't be reached or has no such model, or the model has a file that
            is too large or of an unknown size.
    """
    hub = package(f"the model {name.repository} is not a folder here; loading it from the hub")
    if is_offline():
        return _cached(hub, name)
    api = hub.HfApi(endpoint=endpoint())
    try:
        info = api.model_info(name.repository, revision=name.revision, files_metadata=True, timeout=30)
    except Exception as error:  # the package's errors and those of its transport share no base class
        raise explained(error, name.repository, name.revision) from None
    sizes = {entry.rfilename: entry.size for entry in info.siblings or []}
    names = _chosen(sizes, name.repository)
    paths = []
    try:
        # The configuration comes last, by the revision's name: the cache then knows the name offline, and a download
        # that was interrupted does not look complete.
        for file in (names := sorted(names, key=CONFIG.__eq__)):
            revision = name.revision if file == CONFIG else info.sha
            paths.append(Path(hub.hf_hub_download(name.repository, file, revision=revision, endpoint=endpoint())))
    except Exception as error:
        raise explained(error, name.repository, name.revision) from None
    folder = paths[names.index(CONFIG)].parent
    if folder.name != info.sha:
        raise UserError(f"{name.repository} changed during the download: try again")
    for path, file in zip(paths, names, strict=True):
        if path.stat().st_size != sizes[file]:
            raise UserError(f"{name.repository}: {file} has {path.stat().st_size} bytes, the hub lists {sizes[file]}")
    return folder


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids requests."""
    true = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return true or bool(import_module("huggingface_hub.constants").HF_HUB_OFFLINE)


def is_model_file(name: str) -> bool:
    """Whether a file of a repository or a folder, by its path there, belongs to a model: its card, and what is
    downloaded."""
    path = PurePosixPath(name)
    return (path.suffix in SUFFIXES or name == CARD) and not any(part.startswith(".") for part in path.parts)


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that a repository holds, the model card included."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and is_model_file(p.relative_to(folder).as_posix()))


def _chosen(sizes: dict[str, int | None], repository: str) -> list[str]:
    """The files to download.

    Raises:
        UserError: the repository is no model of trm_fast, or a file is too large.
    """
    if CONFIG not in sizes or "model.safetensors" not in sizes:
        some = ", ".join(map(shown, sorted(sizes)[:5])) or "no files"
        raise UserError(
            f"{repository} is not a model of trm_fast, which has {CONFIG} and model.safetensors; it has {some}. "
            "trm-fast import reads checkpoints of the published code"
        )
    names = []
    for file in sorted(sizes):
        path = PurePosixPath(file)
        if not is_model_file(file):
            continue
        if path.is_absolute() or "\\" in file:
            raise UserError(f"{repository}: the file name {shown(file)} leads out of the folder")
        size, limit = sizes[file], LARGE if path.suffix == ".safetensors" else SMALL
        if size is None or size > limit:
            stated = "an unknown size" if size is None else f"{size:,} bytes"
            raise UserError(f"{repository}: {file} has {stated}; the limit is {limit:,}")
        names.append(file)
    total = sum(sizes[file] or 0 for file in names)
    if total > LARGE or len(names) > MAX_FILES:
        raise UserError(f"{repository} has {len(names)} files of {total:,} bytes; limits: {MAX_FILES} and {LARGE:,}")
    return names


def _cached(hub: Any, name: Remote) -> Path:
    """The folder of a model that was downloaded before."""
    try:
        file = hub.hf_hub_download(name.repository, CONFIG, revision=name.revision, local_files_only=True)
    except Exception:
        file = None
    if file is None or not Path(file).with_name("model.safetensors").exists():
        revision = f" at {name.revision}" if name.revision else ""
        raise UserError(f"{name.repository}{revision} is not in the cache, and HF_HUB_OFFLINE forbids a download")
    return Path(file).parent


def explained(error: Exception, repository: str, revision: str | None = None, *, writing: bool = False) -> UserError:
    """A message for an exception of ``huggingface_hub``, while reading from or ``writing`` to a repository."""
    where = _without_password(endpoint())
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return UserError(f"{error.filename}: {error.strerror}")  # the disk, not the network
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "RevisionNotFoundError" in kinds:
        return UserError(f"{repository} has no revision {shown(str(revision))} on {where}")
    if writing and (status in (401, 403) or "RepositoryNotFoundError" in kinds):
        return UserError(
            f"{where} lets you not write to {repository}: that needs a token with write access (HF_TOKEN, or hf auth "
            "login), and an organization that you belong to"
        )
    if "GatedRepoError" in kinds or status in (401, 403) or "RepositoryNotFoundError" in kinds or status == 404:
        return UserError(
            f"{where} has no repository {repository}, or gives no access to it; a private one needs a token "
            "(HF_TOKEN, or hf auth login)"
        )
    reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
    if status is not None:
        return UserError(f"{repository}: {where} answers with status {status}: {shown(reason)}")
    hint = "" if writing else "; HF_HUB_OFFLINE=1 uses a copy downloaded before"
    return UserError(f"{repository}: {where} can't be reached ({_without_password(reason)}){hint}")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
