"""The reference has every public name exactly once, without a list that somebody has to keep."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import zlib
from types import SimpleNamespace

import pytest

import lrx

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("mkdocs_pages", ROOT / "examples/mkdocs_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def missing(pages) -> list[str]:
    """Return the public names that are not on the reference, or are there more than once."""
    public = [(lrx, name) for name in lrx.__all__]
    for package in pages.packages():
        module = importlib.import_module(package)
        public += [(module, name) for name in module.__all__]
    shown = [value for names in pages.reference().values() for value in names.values()]
    found = []
    for module, name in public:
        value = getattr(module, name)
        if sum(value is other for other in shown) != 1:
            found.append(f"{module.__name__}.{name}")
    return found


def test_every_public_name_is_on_the_reference_once(pages):
    assert missing(pages) == []
    texts = [pages.page_text(title, names) for title, names in pages.reference().items()]
    described = re.findall(r"^::: (\S+)$", "\n".join(texts), re.MULTILINE)
    assert len(described) == len(set(described)) == len(pages.definitions())
    assert {f"lrx.{name}" for name in lrx.__all__} <= pages.definitions().keys()


def test_a_package_that_is_on_no_page_is_seen(pages, monkeypatch):
    monkeypatch.setattr(pages, "REFERENCE", {"Reading and editing": ("lrx",)})
    assert "lrx.training.csv_writer" in missing(pages)


def test_what_a_package_and_lrx_export_is_described_where_the_package_is(pages):
    assert "lrx.adam" in pages.reference()["Optimizers"]
    assert pages.definitions()["lrx.adam"] == "lrx.optimizers.adam.adam"


def test_every_guide_is_on_the_site(pages):
    assert sorted(pages.GUIDES) == sorted(page.stem for page in (ROOT / "examples/guides").glob("*.md"))


def test_names_in_code_are_linked_and_parameters_are_not(pages):
    html = "<p>Use <code>lrx.adam(1e-3)</code>.</p><td><code>select</code></td><pre><code>adam</code></pre>"
    linked = pages.on_page_content(html)
    assert linked.count("<autoref") == 1
    assert 'identifier="lrx.optimizers.adam.adam" optional><code>lrx.adam(1e-3)</code></autoref>' in linked


def test_a_modules_examples_and_tables_are_fenced(pages):
    text = pages.fenced("What it is.\n\n    a()    one\n    b()    two\n\nExample:\n  >>> 1 + 1\n  2\n")
    assert "```text\n    a()    one\n    b()    two\n```" in text
    assert "```pycon\n>>> 1 + 1\n2\n```" in text


def test_every_command_has_its_help_on_the_site(pages):
    text = pages.command_line()
    for command in ("train", "range-test", "plot", "reproduce", "papers", "names", "bench"):
        assert re.search(rf"^## lrx {command}\n\n```text\n[Uu]sage: lrx {command} ", text, re.MULTILINE)
    assert "--seeds" in text


def test_a_name_that_is_not_in_the_built_inventory_fails_the_build(pages, tmp_path):
    exceptions = pytest.importorskip("mkdocs.exceptions")
    lines = [f"{name} py:function 1 reference/#$ -" for name in pages.definitions() if name != "lrx.sweep"]
    packed = zlib.compress("\n".join(lines).encode())
    (tmp_path / "objects.inv").write_bytes(b"# The remainder of this file is compressed using zlib.\n" + packed)
    with pytest.raises(exceptions.PluginError, match=r"^not on the site: lrx\.sweep$"):
        pages.on_post_build(SimpleNamespace(site_dir=tmp_path))


def test_the_files_of_the_theme_stay_on_the_site():
    config = pytest.importorskip("mkdocs.config").load_config(str(ROOT / "examples/mkdocs.yml"))
    from mkdocs.structure.files import get_files

    files = get_files(config)
    files.add_files_from_theme(config.theme.get_env(), config)
    places = {file.src_uri for file in config.plugins.on_files(files, config=config)}  # the hook is a plugin
    assert {"assets/images/favicon.png", "README.md", "examples/guides/groups.md", "reference/rates.md"} <= places
    assert any(place.startswith("assets/stylesheets/main.") for place in places)
    assert "groups.md" not in places


@pytest.mark.slow
def test_every_file_that_the_front_page_loads_is_on_the_site(tmp_path):
    pytest.importorskip("mkdocs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        "examples/mkdocs.yml",
        "-d",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    page = (tmp_path / "index.html").read_text()
    loaded = re.findall(r'<(?:link|script|img)\b[^>]*?(?:href|src)="?(?!https?:|//)([^"\s>#?]+)', page)
    assert sum(place.endswith(".css") for place in loaded) >= 2
    assert sum(place.endswith(".js") for place in loaded) >= 1
    worker = re.search(r'"search":\s*"([^"]+)"', page)
    assert worker is not None
    files = [*loaded, worker[1], "search/search_index.json"]
    assert [place for place in files if not (tmp_path / place).exists()] == []
