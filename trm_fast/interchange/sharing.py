"""Uploads models to the Hugging Face hub and copies them from there."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from trm_fast import hub
from trm_fast.errors import UserError, shown
from trm_fast.interchange.card import model_card, weights_of
from trm_fast.interchange.locate import Located, locate
from trm_fast.writing import new_folder, write_bytes


def write_model(located: Located, reference: str, folder: Path, name: str, from_step: int | None = None) -> None:
    """Writes a model folder with a model card. A card that the model's own folder has is kept, and so is a README.md
    in ``folder``. Files of this machine are named without their folders.

    Raises:
        UserError: a file cannot be read or written.
    """
    card_file = Path(reference) / hub.CARD
    if (Path(reference) / hub.CONFIG).is_file() and card_file.is_file():  # that of a run folder is somebody's notes
        card = card_file.read_bytes()
    else:
        card = model_card(name, located.model, located.task, weights_of(reference, from_step)).encode()
    section = located.section
    if isinstance(tokenizer := section.get("tokenizer"), str):  # the folder holds the tokenizer itself
        section = {**section, "tokenizer": PurePath(tokenizer).name}
    located.model.remember_task(located.task, section)
    located.model.save_pretrained(folder)
    if not (folder / hub.CARD).exists():
        write_bytes(folder / hub.CARD, card)


def push(
    reference: str,
    repository: str,
    *,
    from_step: int | None = None,
    private: bool = False,
    branch: str | None = None,
    trust_code: bool = False,
    message: str = "Upload a model of trm_fast",
) -> str:
    """Uploads a model with its card; the repository is created if it does not exist.

    Args:
        reference: a run, a model folder, or a model that ships with the package.
        repository: ``org/name`` on the hub.
        from_step: the step of a run's checkpoint; by default the newest.
        private: whether the repository must be private, which a new one then is.
        branch: the branch to write to, which is created if it does not exist; by default the main one.
        trust_code: that of ``locate``.
        message: the message of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: the model cannot be read, or the hub refuses it.
    """
    name = hub.remote(hub.PREFIX + repository)
    if name is None or name.revision is not None or repository.startswith(hub.PREFIX):
        raise UserError(f"{shown(repository)} is not a repository's name, org/name", usage_error=True)
    package = hub.package("push")
    if hub.is_offline():
        raise UserError("push needs the hub, and HF_HUB_OFFLINE forbids it", usage_error=True)
    located = locate(reference, from_step=from_step, trust_code=trust_code)
    api = package.HfApi(endpoint=hub.endpoint())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        write_model(located, reference, folder, repository, from_step)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if private and not api.repo_info(repository).private:
                raise UserError(f"{repository} exists and is public: nothing was uploaded", usage_error=True)
            if branch is not None:
                api.create_branch(repository, branch=branch, exist_ok=True)
            files = {str(path.relative_to(folder)): path for path in hub.model_files(folder)}
            held = api.repo_info(repository, revision=branch).siblings or []
            earlier = [e.rfilename for e in held if hub.is_model_file(e.rfilename) and e.rfilename not in files]
            changes = [package.CommitOperationAdd(name, str(path)) for name, path in files.items()]
            changes += [package.CommitOperationDelete(name) for name in earlier]  # of a model that was there before
            commit = api.create_commit(repository, changes, commit_message=message, revision=branch)
        except UserError:
            raise
        except Exception as error:  # the package's errors and those of its transport share no base class
            raise hub.explained(error, repository, branch, writing=True) from None
    return str(commit.commit_url)


def pull(repository: str, folder: Path) -> Path:
    """Copies a model of the hub, ``org/name`` or ``org/name@revision``, into a new folder.

    Raises:
        UserError: there is no such model, or the folder exists.
    """
    name = hub.remote(repository if repository.startswith(hub.PREFIX) else hub.PREFIX + repository)
    if name is None:
        raise UserError(f"{shown(repository)} is not a repository's name, org/name", usage_error=True)
    if folder.exists():
        raise UserError(f"{folder} already exists: choose another --out", usage_error=True)
    source = hub.download(name)
    with new_folder(folder, last=hub.CONFIG) as new:
        for file in hub.model_files(source):
            target = new / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder
