"""`python -m lrx.cli`."""

from lrx.cli import main

main()
