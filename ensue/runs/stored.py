"""What every run directory has: run.json, the log of its training, and the dataset it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from ensue.errors import RunError, UsageError
from ensue.training.checkpoints import load_tensors
from ensue.training.log import read_log

FORMAT = 1
ModelT = TypeVar("ModelT", bound=nn.Module)


class StoredRun:
    """A finished run, opened.

    kind: what run.json says that it is.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        if (found := kind_of(self.info)) != self.kind:
            raise UsageError(
                f"a {self.kind} is needed; {self.path} holds a {found}. Use {_DOORS[found]}."
            )

    def fill_(self, model: ModelT) -> ModelT:
        """Give a new model the weights of the run, and return it, in evaluation mode.

        Raises:
            RunError: they are those of another model.
        """
        file = self.path / "model.safetensors"
        weights, _ = load_tensors(file)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise RunError(
                f"{file} must hold the weights of the model that run.json describes; it does not: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from None
        model.eval().requires_grad_(requires_grad=False)
        return model

    def check_split(self, split: str) -> None:
        """Check that the run was not trained on a part.

        Raises:
            UsageError: it was.
        """
        if split == "validation" and self.info["fit"] == "train+validation":
            raise UsageError(
                f"a run is evaluated on data it was not trained on; {self.path} was trained on "
                "train+validation. Use split test."
            )

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of log.jsonl; none for models that are not trained in epochs."""
        return read_log(self.path)

    def find_dataset(self, data: str | Path | None) -> Path:
        """Return where the dataset is; None is where it was at training time.

        Raises:
            UsageError: it is not there now.
        """
        if data is not None:
            return Path(data)
        path = Path(self.info["dataset"]["path"])
        if not (path / "dataset.json").is_file():
            raise UsageError(
                f"the dataset of {self.path} was at {path} and is not there now; "
                "pass its place with --data (data=...)."
            )
        return path

    def check_dataset(self, path: Path, found: str) -> None:
        """Check that a dataset is the one that the run was trained on.

        Args:
            found: its hash.

        Raises:
            UsageError: it is another one.
        """
        stored = self.info["dataset"]
        if found != stored["hash"]:
            raise UsageError(
                f"a run is evaluated on the dataset it was trained on ({stored['name']}, hash "
                f"{stored['hash'][:12]}); {path} has hash {found[:12]}."
            )


_DOORS = {
    "run": "ensue recommend (ensue.load)",
    "ranking run": "ensue predict (ensue.load_ranker)",
}


def kind_of(info: dict[str, Any]) -> str:
    """Return "run", of a model that ranks the catalogue, or "ranking run", of one of rows."""
    return str(info.get("kind", "run"))


def read_info(path: Path) -> dict[str, Any]:
    """Return what run.json says.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    file = path / "run.json"
    if not file.is_file():
        hint = "Make one with ensue train."
        if (path / "checkpoints").is_dir():
            hint = "Its training did not finish: run ensue train with --resume."
        raise RunError(f"a run is a folder with a run.json; {path} has none. {hint}")
    try:
        info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        stored = info["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{file} must be what ensue train wrote; it is not: {error}") from None
    if stored != FORMAT:
        raise RunError(f"{file} has format {stored!r}, this version reads {FORMAT}. Train again.")
    return info
