"""Numbers about a loss that explain how large a learning rate may be: pure functions of arrays."""

from lrx.diagnostics.sharpness import sharpness
