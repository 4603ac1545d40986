"""A diagnosis as files: JSON, the picture, and a page that holds both."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path

from lrx.doctor.diagnosis import Diagnosis
from lrx.figures import save
from lrx.records import write_atomically

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #20262b }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .5em .7em;
border-bottom: 1px solid #d5dbe0 } pre { background: #f3f5f7; padding: .5em; white-space: pre-wrap } img { width: 100% }
"""


def write_page(diagnosis: Diagnosis, folder: str | os.PathLike[str]) -> list[Path]:
    """Write `diagnosis.json`, `diagnosis.png` and `diagnosis.html` in a folder, and return their paths.

    The page holds the picture, so that it can be sent as one file.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    folder = Path(folder)
    figure = diagnosis.plot()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    picture = base64.b64encode(drawn.getvalue()).decode()
    title = html.escape(diagnosis.subject)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Diagnosis</h1>{diagnosis._repr_html_()}\n"
        f'<img alt="What was measured" src="data:image/png;base64,{picture}"></body></html>\n'
    )
    return [
        write_atomically(folder / "diagnosis.json", diagnosis.to_json() + "\n"),
        save(figure, folder / "diagnosis.png"),
        write_atomically(folder / "diagnosis.html", page),
    ]
