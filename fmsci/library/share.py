"""Models to and from a hub: the Hugging Face Hub (extra ``fmsci[hub]``), or a folder that all of a lab can read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmsci.errors import ArgumentError, UserError
from fmsci.files import as_path, publish_folder, read_json, taken, write_json
from fmsci.model_folder.documents import FILES
from fmsci.model_folder.reading import check_plain
from fmsci.model_folder.weights import load_operator

if TYPE_CHECKING:
    from fmsci.library.model import Model

COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
COMMITS = "commits.json"
"""Beside the folders of a model's commits: which commit each revision was when it was fetched."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def push(model: str | Path, name: str, hub: str | Path | None = None, private: bool = True) -> str:
    """Publish a model folder under ``OWNER/NAME``, and return where it is.

    Only the four files of a model folder travel; it is loaded first, so that nothing damaged is published. ``hub`` is a
    folder that serves as one; without it the Hugging Face Hub, to which one must have logged in with its own program.

    Raises UserError where the folder is no whole model, the name is none, the hub's folder of that name holds anything
    else, or the hub refuses.
    """
    folder = as_path(model, "the model folder")
    _check_name(name)
    for file in FILES:
        check_plain(folder / file)
    load_operator(folder)
    if not (folder / FILES[-1]).is_file():
        raise UserError(f"{folder} has no card {FILES[-1]}: say there what the model is before it is published")
    if hub is not None:
        target = _standing(hub) / name
        held = taken(target, but=FILES, replaced=True)
        if held is not None:
            raise UserError(f"{held}; give another name")
        with publish_folder(target) as place:
            for file in FILES:
                shutil.copyfile(folder / file, place / file)
        return str(target)
    client = _client()
    with _refusals(name):
        client.create_repo(repo_id=name, private=private, exist_ok=True)
        client.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(FILES))
    return f"https://huggingface.co/{name}"


def from_hub(name: str, hub: str | Path | None = None, device: str = "auto", revision: str | None = None) -> Model:
    """Return the model ``OWNER/NAME`` of a hub; see :func:`push`, and :func:`fmsci.load` for ``device``.

    ``revision`` is a branch, tag or commit of the Hugging Face Hub, its branch main where none is given. Only a model
    folder's four files are fetched, and they are checked as any stranger's: loading runs no code. Each commit has a
    folder of its own in ``HF_HOME/fmsci``; where the hub cannot be reached, the revision is what it was when it was
    fetched last.

    Raises UserError where the hub has no such model, or cannot be reached and the revision was never fetched.
    """
    from fmsci.library.model import load

    _check_name(name)
    if hub is not None:
        if revision is not None:
            raise ArgumentError("a folder that serves as hub has no revisions; leave revision out")
        return load(_standing(hub) / name, device)
    return load(_fetched(name, revision or "main"), device)


def _fetched(name: str, revision: str) -> Path:
    """Return the folder of the commit that a revision of the Hugging Face Hub is, after fetching it."""
    client = _client()
    from huggingface_hub.constants import HF_HOME

    place = Path(HF_HOME) / "fmsci" / name  # as files, not as the links of the hub's own cache
    known = _commits(place)
    try:
        with _refusals(name):
            commit = client.model_info(repo_id=name, revision=revision).sha
    except UserError as refused:
        if _has_answered(refused.__cause__):
            raise
        if revision not in known:
            raise UserError(f"{refused}; its revision {revision} was not fetched before") from refused.__cause__
        return place / known[revision]
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise UserError(f"the hub names no commit for the revision {revision} of {name}; give another one")
    with _refusals(name):
        client.snapshot_download(repo_id=name, revision=commit, local_dir=place / commit, allow_patterns=list(FILES))
    found = {**known, revision: commit, commit: commit}
    if found != known:
        write_json(place / COMMITS, found)
    return place / commit


def _commits(place: Path) -> dict[str, str]:
    """Return what each revision was when it was last fetched; none where that is not known, or written by others."""
    try:
        told = read_json(place / COMMITS)
    except UserError:
        return {}
    items = told.items() if isinstance(told, dict) else ()
    return {revision: commit for revision, commit in items if isinstance(commit, str) and COMMIT.fullmatch(commit)}


def _has_answered(error: BaseException | None) -> bool:
    """Tell whether the hub itself has refused; else the network failed, or the server of an outage."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and status < 500


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name:
        raise ArgumentError(f"'{name}' is no name on a hub; write OWNER/NAME, of letters, digits, '.', '_' and '-'")


def _standing(hub: str | Path) -> Path:
    folder = as_path(hub, "hub")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to serve as hub; make it, or leave it out for Hugging Face's")
    return folder


def _client() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("the Hugging Face Hub needs one more package: pip install 'fmsci[hub]'") from None
    return HfApi()


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn whatever the hub or the network refuses into one sentence."""
    try:
        yield
    except Exception as error:  # its client has many kinds, and other ones in each version
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the hub gives no access to {name}: {reason}") from error
