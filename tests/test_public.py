"""The package's front door: public names that load when they are used."""

import inspect
import subprocess
import sys
import types

import pytest

import lrx


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_or_the_command_does_not_load_jax() -> None:
    assert run("import sys, lrx, lrx.cli; print([m for m in ('jax', 'optax', 'numpy') if m in sys.modules])") == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import lrx; print(lrx.adam.__name__)",
        "import lrx; lrx.tuning.uniform; print(lrx.adam.__name__)",
        "from lrx import adam; print(adam.__name__)",
        "from lrx import *; print(adam.__name__)",
        "from lrx import tuning, expressions; from lrx.training import train; import lrx; print(lrx.adam.__name__)",
        "import lrx.training.loop; import lrx; print(lrx.adam.__name__)",
        "import lrx; assert 'adam' in dir(lrx); lrx.sgd; print(eval('adam', vars(lrx)).__name__)",
    ],
)
def test_public_names_are_there_whatever_is_imported_first(code: str) -> None:
    assert run(code) == "adam"


def test_every_public_name_is_listed_once_and_there() -> None:
    assert len(lrx.__all__) == len(set(lrx.__all__))  # in the order of the linter, constants first
    for name in lrx.__all__:
        assert not isinstance(getattr(lrx, name), types.ModuleType), name


def test_the_default_of_every_argument_is_short_to_read() -> None:
    long = []
    for name in lrx.__all__:
        value = getattr(lrx, name)
        parameters = inspect.signature(value).parameters if inspect.isfunction(value) else {}
        long += [f"{name}({each})" for each, par in parameters.items() if len(repr(par.default)) > 80]
    assert long == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'lrx' has no attribute 'adm'$"):
        _ = lrx.adm
