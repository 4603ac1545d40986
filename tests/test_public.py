"""The public names of the package, which load when they are used."""

import ast
import inspect
import os
import pathlib
import shutil
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


IMPORTS = (
    "import lrx; print(lrx.adam.__name__)",
    "import lrx; lrx.tuning.uniform; print(lrx.adam.__name__)",
    "from lrx import adam; print(adam.__name__)",
    "from lrx import *; print(adam.__name__)",
    "from lrx import tuning, expressions; from lrx.training import train; import lrx; print(lrx.adam.__name__)",
    "import lrx.training.loop; import lrx; print(lrx.adam.__name__)",
    "import lrx; assert 'adam' in dir(lrx); lrx.sgd; print(eval('adam', vars(lrx)).__name__)",
    "import lrx; assert 'adam' in lrx.__all__; lrx.workloads; print(lrx.adam.__name__)",
)


@pytest.mark.slow
def test_public_names_are_there_whatever_is_imported_first() -> None:
    # In one process, which loads JAX once and forgets lrx before each.
    code = (
        "import sys\n"
        f"for code in {IMPORTS!r}:\n"
        "    for name in [name for name in sys.modules if name.split('.')[0] == 'lrx']:\n"
        "        del sys.modules[name]\n"
        "    print(code)\n"
        "    exec(code, {})\n"
    )
    assert run(code).splitlines() == [line for code in IMPORTS for line in (code, "adam")]


def test_every_public_name_is_listed_once_and_there() -> None:
    assert len(lrx.__all__) == len(set(lrx.__all__))
    for name in lrx.__all__:
        assert not isinstance(getattr(lrx, name), types.ModuleType), name


def test_the_default_of_every_argument_is_short_to_read() -> None:
    long = []
    for name in lrx.__all__:
        value = getattr(lrx, name)
        parameters = inspect.signature(value).parameters if inspect.isfunction(value) else {}
        long += [f"{name}({each})" for each, par in parameters.items() if len(repr(par.default)) > 80]
    assert long == []


def test_packages_define_nothing_of_their_own() -> None:
    """What a package has is in its files; its `__init__` imports it. `lrx` itself also loads on demand.

    The package of a paper is the paper, whose experiments are its files.
    """
    root = pathlib.Path(lrx.__file__).parent
    defining = []
    for path in set(root.glob("*/**/__init__.py")) - set(root.glob("papers/*/__init__.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                defining.append(f"{path.relative_to(root)}:{node.lineno}")
    assert defining == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'lrx' has no attribute 'adm'$"):
        _ = lrx.adm


@pytest.mark.slow
def test_a_schedule_is_exported_by_one_line(tmp_path) -> None:
    shutil.copytree(pathlib.Path(lrx.__file__).parent, tmp_path / "lrx", ignore=shutil.ignore_patterns("__pycache__"))
    schedules = tmp_path / "lrx/schedules"
    (schedules / "halves.py").write_text("from lrx.rates import constant\n\n\ndef half():\n    return constant(0.5)\n")
    before = (schedules / "__init__.py").read_text()
    line = "from lrx.schedules.cyclic import cyclical as cyclical\n"
    (schedules / "__init__.py").write_text(
        before.replace(line, line + "from lrx.schedules.halves import half as half\n")
    )
    code = (
        "import lrx, lrx.expressions\n"
        "from lrx import *\n"
        "assert 'half' in lrx.schedules.__all__ and 'half' in lrx.__all__\n"
        "print(lrx.half() == half() == lrx.expressions.parse_schedule('half()'))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow
def test_a_strict_type_checker_knows_the_public_names_and_no_others(tmp_path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "import lrx\nfrom lrx import cosine_decay\nlrx.train(3)\nlrx.adm\ncosine_decay()\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "use.py"]
    environment = os.environ | {"MYPYPATH": str(pathlib.Path(lrx.__file__).parents[1])}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300).stdout
    assert [line for line in found.splitlines() if "use.py" not in line and not line.startswith("Found")] == []
    for message in (
        '3: error: Missing positional argument "tx"',
        "4: error: Module has no attribute",
        "5: error: Missing",
    ):
        assert f"use.py:{message}" in found
