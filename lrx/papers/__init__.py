"""Papers whose convergence plots are reproduced and whose claims are checked, one paper a file, or a folder."""

from lrx.papers.changes import settings_of
from lrx.papers.registry import available, load, names
from lrx.papers.reproduction import Claim, Paper, Scale, Verdicts
from lrx.records import Result
from lrx.records import load as load_result

__all__ = ["Claim", "Paper", "Result", "Scale", "Verdicts", "available", "load", "load_result", "names", "settings_of"]
