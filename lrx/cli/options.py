"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BATCH_SIZE = 128  # if none is given

DataDir = Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")]
Data = Annotated[str, typer.Option(help="A data set that `lrx names` lists; digits needs no files.")]
Model = Annotated[str, typer.Option(help="A model that `lrx names` lists.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples in a minibatch.")]
Picture = Annotated[Path | None, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")]
