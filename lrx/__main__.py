"""`python -m lrx`, the command where its script is not on the search path."""

from lrx.cli import main

main()
