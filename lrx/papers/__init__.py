"""Papers whose convergence plots are reproduced and whose claims are checked, one paper a file."""

from lrx.papers.registry import available, names, paper
from lrx.papers.reproduction import Claim, Paper, Scale
from lrx.records import Result, load

__all__ = ["Claim", "Paper", "Result", "Scale", "available", "load", "names", "paper"]
