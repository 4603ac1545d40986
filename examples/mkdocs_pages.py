"""Which pages make up the site of lrx? A hook of mkdocs: the front page, guides, gallery, and a reference by package.

    pip install -e ".[docs]"
    mkdocs build --strict -f examples/mkdocs.yml    # into build/site

The reference is generated from the packages: `__all__` of each decides what is on its page, so a new public name is on
the site without a line here. Pages have the same paths on the site as in the repository, so a link works in both.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import pkgutil
import re
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [  # in the order of the site
    "getting-started",
    "which-rate",
    "which-method",
    "why-does-it-not-train",
    "schedules",
    "controllers-and-feedback",
    "groups",
    "accumulation-and-batch-size",
    "data",
    "many-devices",
    "federated",
    "equinox-and-linen",
    "language-models",
    "reading-and-logging",
    "numbers-and-types",
    "migration",
    "own-controller",
    "own-optimizer",
    "own-paper",
    "contributing",
    "i-want-to",
]
# Title of a page of the reference, and the packages and names on it. What a page before it has is not repeated.
REFERENCE: dict[str, tuple[str, ...]] = {
    "Rates": ("lrx.Rate", "lrx.Schedule", "lrx.Controller"),
    "Schedules": ("lrx.schedules",),
    "Optimizers": ("lrx.optimizers",),
    "Controllers": ("lrx.controllers",),
    "Guards": ("lrx.guards",),
    "Training": ("lrx.training",),
    "Tuning": ("lrx.tuning",),
    "Federated learning": ("lrx.federated",),
    "Reading and editing": ("lrx", "lrx.run_state.minibatches"),
    "Expressions": ("lrx.expressions",),
    "Workloads": ("lrx.workloads", "lrx.workloads.suite"),
    "Diagnostics": ("lrx.diagnostics",),
    "Doctor": ("lrx.doctor",),
    "Papers": ("lrx.papers",),
    "Figures": ("lrx.figures",),
    "Extending lrx": (
        "lrx.feedback.controller",
        "lrx.arguments.as_rate",
        "lrx.direction.require_descent",
        "lrx.states.shows",
        "lrx.transformations.factory",
        "lrx.transformations.Transformation",
    ),
}
COMMANDS = "Command line"


def public_names(package: str) -> list[str]:
    """Return what a package exports, in its own order: its `__all__`, or else what it defines or imports of its own."""
    module = importlib.import_module(package)
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith(package) and callable(value)
    ]
    return list(getattr(module, "__all__", own))


def is_module(name: str) -> bool:
    """Return whether a dotted name is that of a module, and not of something in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # within something that is not a package
        return False


def packages() -> list[str]:
    """Return the packages of lrx that export names; `lrx.cli` exports commands, which have a page of their own."""
    import lrx

    found = [module.name for module in pkgutil.iter_modules(lrx.__path__, "lrx.") if module.ispkg]
    return [name for name in found if name != "lrx.cli" and hasattr(importlib.import_module(name), "__all__")]


def reference() -> dict[str, dict[str, Any]]:
    """Return the pages of the reference: title to {name by which it is imported: object}, each object once."""
    import lrx

    pages: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for title, entries in REFERENCE.items():
        page = pages.setdefault(title, {})
        for entry in entries:
            where, _, alone = entry.rpartition(".")
            names = [alone]
            if is_module(entry):
                where, names = entry, public_names(entry)
            for name in names:
                value = getattr(importlib.import_module(where), name)
                if id(value) not in seen:
                    seen.add(id(value))
                    page[f"lrx.{name}" if name in lrx.__all__ else f"{where}.{name}"] = value
    return pages


def definition(name: str, value: Any) -> str:
    """Return where an object is defined: a package may hold a file and a function of one name."""
    if inspect.isfunction(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return name


def fenced(docstring: str) -> str:
    """Return a module's docstring as Markdown, with fences around examples and tables."""
    text = re.sub(r"^Example:\n", "", docstring, flags=re.MULTILINE)
    example = re.compile(r"(?:^ *(?:>>>|\.\.\.) .*\n?(?:^ *(?!>>>|\.\.\. )\S.*\n?)*)+", re.MULTILINE)
    text = example.sub(lambda found: f"```pycon\n{inspect.cleandoc(found.group())}\n```\n", text + "\n")
    return re.sub(
        r"(?:^    \S.*\n)(?:^ {4,}\S.*\n)+", lambda found: f"```text\n{found.group()}```\n", text, flags=re.MULTILINE
    )


def page_text(title: str, names: dict[str, Any]) -> str:
    """Return the Markdown of a page of the reference."""
    parts = [f"# {title}"]
    packages = [entry for entry in REFERENCE[title] if is_module(entry) and entry != "lrx"]
    if title == "Extending lrx":
        packages = ["lrx.states"]
    parts += [fenced(inspect.getdoc(importlib.import_module(package)) or "") for package in packages]
    for name, value in names.items():
        heading = f"heading: {name}\n      toc_label: {name.rpartition('.')[-1]}"
        parts.append(f"::: {definition(name, value)}\n    options:\n      {heading}")
    return "\n\n".join(parts) + "\n"


def command_line() -> str:
    """Return the Markdown of the page of commands: what `lrx COMMAND --help` prints of each."""
    import typer
    from typer.testing import CliRunner

    from lrx.cli import app

    def help_of(*command: str) -> str:
        printed = CliRunner().invoke(app, [*command, "--help"], prog_name="lrx", env={"COLUMNS": "100"}).output
        return "\n".join(["```text", *map(str.rstrip, printed.strip().splitlines()), "```"])

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return (
        "\n\n".join(["# Command line", help_of(), *(f"## lrx {name}\n\n{help_of(name)}" for name in commands)]) + "\n"
    )


def linked_files(page: Path) -> set[Path]:
    """Return the files of the repository to which a page links."""
    targets = re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())
    return {path for target in targets if (path := (page.parent / target).resolve()).is_file()}


def on_config(config: Any) -> Any:
    """List the pages of the navigation."""
    config.nav = [
        {"lrx": "README.md"},
        {"Guides": [f"examples/guides/{name}.md" for name in GUIDES]},
        {"Reference": [f"reference/{slug(title)}.md" for title in [*REFERENCE, COMMANDS]]},
        {"Results": ["examples/gallery/README.md", *other_results()]},
        {"Changes": "CHANGELOG.md"},
    ]
    return config


def other_results() -> list[str]:
    """Return the pages of measured results beside the papers'."""
    return sorted(os.fspath(path.relative_to(ROOT)) for path in (ROOT / "examples/gallery").glob("*/README.md"))


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def on_files(files: Any, config: Any) -> Any:
    """Replace what mkdocs has found among the guides by the pages of the repository, and what they link to.

    The files of the theme, its styles and scripts, stay.
    """
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / f"examples/guides/{name}.md" for name in GUIDES)]
    pages += [ROOT / "examples/gallery/README.md", *(ROOT / path for path in other_results())]
    linked = set().union(*map(linked_files, pages))
    for path in dict.fromkeys([*pages, *sorted(linked)]):
        place = os.fspath(path.relative_to(ROOT))
        files.append(File(place, os.fspath(ROOT), config.site_dir, config.use_directory_urls))
    for title, names in reference().items():
        files.append(File.generated(config, f"reference/{slug(title)}.md", content=page_text(title, names)))
    files.append(File.generated(config, f"reference/{slug(COMMANDS)}.md", content=command_line()))
    return files


def on_page_content(html: str, **kwargs: Any) -> str:
    """Link each public name that stands in code to where it is described."""
    del kwargs
    import lrx

    named = {name.removeprefix("lrx."): place for name, place in definitions().items()}
    short = {name: place for name, place in named.items() if name in lrx.__all__ or "." in name}

    def link(found: re.Match[str]) -> str:
        place = short.get(found["name"] or "")
        if place is None:
            return found.group()
        return f'<autoref identifier="{place}" optional>{found.group()}</autoref>'

    return re.sub(
        r"<(pre|a|h\d|autoref)\b.*?</\1>|<td>\s*<code>[^<]*</code>\s*</td>"
        r"|<code>(?:lrx\.)?(?P<name>[\w.]+)(?:\([^<]*\))?</code>",
        link,
        html,
        flags=re.DOTALL,
    )


@functools.cache
def definitions() -> dict[str, str]:
    """Return where each name of the reference is defined."""
    return {name: definition(name, value) for names in reference().values() for name, value in names.items()}


def on_post_build(config: Any) -> None:
    """Require every public name in the inventory of the site, through which it is searched and linked to."""
    from mkdocs.exceptions import PluginError

    inventory = Path(config.site_dir, "objects.inv").read_bytes().partition(b"using zlib.\n")[2]
    listed = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    if missing := sorted(name for name, place in definitions().items() if not {name, place} & listed):
        raise PluginError(f"not on the site: {', '.join(missing)}")
