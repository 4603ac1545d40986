"""Check a wheel, installed with its core dependencies alone: `python - README.md < .ci/installed.py`, elsewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import lrx

home = Path(lrx.__file__).parent
assert home.parent.name == "site-packages", f"lrx must be the installed one, got {home}"
for file in ("py.typed", "lrx.mplstyle"):
    assert (home / file).is_file(), f"the wheel lacks {file}"
for extra in ("flax", "matplotlib", "orbax", "typer", "rich", "optuna", "sklearn"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is no dependency of the core, and is here"

# The front page's example.
example = re.search(r"```python\n(.*?)```", Path(sys.argv[1]).read_text(), re.DOTALL)
assert example is not None
assert "lrx.learning_rate(state)" in example[1]
exec(example[1], {})

# A part whose extra is missing names it.
command = subprocess.run([Path(sys.executable).with_name("lrx"), "--version"], capture_output=True, text=True)
assert command.returncode != 0, "lrx --version works without its extra: nothing is left to check here"
message = command.stderr.strip()
assert message.count("\n") == 0, message  # no traceback
assert "lrx[papers]" in message, message
message_of_plot = None
try:
    lrx.cosine_decay(0.1, 10).plot(10)
except ImportError as error:
    message_of_plot = str(error)
assert message_of_plot is not None, "a plot was drawn without matplotlib"
assert "lrx[papers]" in message_of_plot, message_of_plot
print(f"lrx works with its core dependencies alone; lrx --version: {message}")
