"""How a run is resumed: the checkpoint to continue from, and the check that it belongs to the same run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from lrx.training.checkpoints import CheckpointFolder, OtherRunError, list_differences, open_checkpoint, split_path
from lrx.training.identity import Identity, differences


def find_source(
    folder: CheckpointFolder | None, resume: bool, resume_from: int | str | os.PathLike[str] | None
) -> tuple[CheckpointFolder, int] | None:
    """Return the folder and the step to continue from; None to start from scratch.

    Args:
      folder: the folder of the run, if it has one.
      resume: as for `train`.
      resume_from: as for `train`.

    Raises:
      ValueError: if there is no such checkpoint, or one that must not be overwritten.
    """
    latest = None if folder is None else folder.latest()
    if folder is not None and latest is not None:
        if not resume:
            raise ValueError(
                f"checkpoint={str(folder.path)!r} holds a run that has made {latest:,} steps, which "
                "resume=False would overwrite: give another folder, delete this one, or go on with resume=True."
            )
        if resume_from is not None and not isinstance(resume_from, int):
            resume_from = _own_step(folder, latest, resume_from)
        if resume_from is None:
            return folder, latest
        if resume_from not in folder.steps():
            raise ValueError(
                f"resume_from must be a step of which checkpoint={str(folder.path)!r} holds a checkpoint, "
                f"{', '.join(map(str, folder.steps()))}, got resume_from={resume_from}."
            )
        return folder, resume_from
    if isinstance(resume_from, int):
        raise ValueError(
            f"resume_from={resume_from} needs a folder with a checkpoint of that step: give checkpoint=FOLDER, or "
            'the checkpoint of another run, resume_from="FOLDER/STEP".'
        )
    return None if resume_from is None else open_checkpoint(resume_from)


def _own_step(folder: CheckpointFolder, latest: int, resume_from: str | os.PathLike[str]) -> int | None:
    """Return which of the folder's own steps a path means, None for its newest: it has begun from there, or is it.

    Raises:
      ValueError: if it is the checkpoint of a run from which this one did not begin.
    """
    path, step = split_path(resume_from)
    if path.resolve() == folder.path.resolve():
        return step
    branch = folder.identity(latest).get("about", {}).get("branch")
    if branch is not None and branch[0] == str(path.resolve()) and step in (None, branch[1]):
        return None
    open_checkpoint(resume_from)[0].close()
    begun = "began at step 0" if branch is None else f"began from {str(Path(branch[0]) / str(branch[1]))!r}"
    raise ValueError(
        f"resume_from={str(resume_from)!r} begins a run in a folder that is empty, but "
        f"checkpoint={str(folder.path)!r} holds one that {begun} and has made {latest:,} steps: leave resume_from "
        "out to go on with that one, or give another folder."
    )


class Resumed(NamedTuple):
    """What a checkpoint notes for the run that continues from it."""

    about: dict[str, Any]  # what the run noted beside its identity
    changes: dict[str, list[str]]  # step to what was different from then on
    mixed: dict[str, list[str]]  # of these, what makes it another run
    note: str  # a line for stderr; empty for the same run


def compare(source: CheckpointFolder, step: int, identity: Identity, on_mismatch: str) -> Resumed:
    """Compare a checkpoint with the requested run, and note what differs from here on.

    Raises:
      OtherRunError: if it is another run and `on_mismatch` is "error".
      ValueError: if its state has another structure.
    """
    found = source.identity(step)
    about: dict[str, Any] = found.pop("about", {})
    changes, mixed = about.get("changes", {}), about.get("mixed", {})
    unlike = differences(found, identity)
    if not unlike:
        if mixed and on_mismatch == "error":
            raise _mixed_run(source, mixed)
        return Resumed(about, changes, mixed, "")
    where = f"checkpoint={str(source.path)!r} holds another run, at step {step:,}: {list_differences(unlike)}."
    if on_mismatch == "error":
        raise OtherRunError(
            f"{where} Give another folder, delete this one if that run is not wanted any more, or go on from it "
            'with what is given, on_mismatch="continue".',
            source.path,
            unlike,
        )
    for name in ("params", "model_state", "opt_state"):
        if found.get(name) != identity[name]:
            raise ValueError(
                f"{where} Its state has another structure, from which this run cannot go on: begin another, with "
                "init=History of that one, which takes over what fits."
            )
    mixed[str(step)] = unlike
    changes[str(step)] = [*changes.get(str(step), ()), *unlike]
    return Resumed(about, changes, mixed, f"goes on with something else from step {step:,}: {list_differences(unlike)}")


def _mixed_run(source: CheckpointFolder, mixed: dict[str, list[str]]) -> OtherRunError:
    unlike = [text for texts in mixed.values() for text in texts]
    changes = "; ".join(f"at step {int(step):,}: {list_differences(texts)}" for step, texts in mixed.items())
    return OtherRunError(
        f"checkpoint={str(source.path)!r} holds a run that was changed on the way, {changes}. What is given made "
        'only the steps after that: take the run as it is, on_mismatch="continue", or give another folder.',
        source.path,
        unlike,
    )


def compare_interval(before: int | None, every: int, step: int, total: int) -> tuple[str, str]:
    """Return what to note and what to say if a resumed run is evaluated at another interval; empty if it is not.

    Args:
      before: the interval there, in steps; None if it is not known.
      every: the interval here.
      step: completed steps.
      total: steps of the whole run.
    """
    if before in (None, every):
        return "", ""
    if step == total:
        return "", f"was evaluated every {before:,} steps; evaluate_every={every:,} comes too late"
    said = f"was evaluated every {before:,} steps until step {step:,}, and from there every {every:,}"
    return f"evaluate_every is {before} steps there and {every} here", said


def require_length(source: CheckpointFolder, step: int, total: int, unit: str = "steps") -> None:
    """Check that a run is at least as long as the checkpoint from which it continues.

    Raises:
      OtherRunError: if it is shorter.
    """
    if step > total:
        raise OtherRunError(
            f"checkpoint={str(source.path)!r} holds a run that has made {step:,} {unit}, got a length of {total:,}: "
            "give at least that, or another folder.",
            source.path,
            [f"its length is {step:,} {unit} there and {total:,} here"],
        )


def require_best(source: CheckpointFolder, step: int, found: list[str] | None, wanted: list[str]) -> None:
    """Check that a run was begun with the `keep_best` that is wanted.

    Raises:
      ValueError: if it was not.
    """
    if found != wanted:
        raise ValueError(
            f"keep_best must be what the run in {str(source.path)!r} was begun with, {found}, got "
            f"keep_best={tuple(wanted)}: the best parameters until step {step:,} were not kept. Begin the run in "
            "another folder."
        )
