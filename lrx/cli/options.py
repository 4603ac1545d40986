"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")]
Data = Annotated[str, typer.Option(help="digits (bundled), mnist or cifar10.")]
Model = Annotated[str, typer.Option(help="mlp, resnet8, resnet20, ... resnet110, or caffe.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples in a minibatch.")]
Picture = Annotated[Path | None, typer.Option("--out", help="The picture to write: .png, .pdf or .svg.")]
