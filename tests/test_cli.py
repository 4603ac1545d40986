"""The commands run, write what they say, and end bad input with a message."""

import functools
import importlib
import inspect
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from reproductions import GALLERY

from lrx import cli, papers
from lrx.benchmarks import available
from lrx.cli import console
from lrx.cli.folders import folder_of_run
from lrx.training import History
from lrx.workloads.datasets import DATASETS
from lrx.workloads.models import MODELS


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Return the command within this process, in an empty folder: arguments to exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, columns=100):
        monkeypatch.setattr(sys, "argv", ["/bin/elsewhere/lrx", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        for shown in (console.out, console.wrapped, console.err):  # they have read it when they were imported
            monkeypatch.setattr(shown, "width", columns)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, shown.out, shown.err)

    return call


def written(done):
    return re.findall(r"^wrote (.*)$", done.stdout, re.MULTILINE)


COMMANDS = ("train", "range-test", "select", "plot", "reproduce", "papers", "names", "bench")


@pytest.mark.slow
def test_the_module_is_the_command_and_its_help_is_as_wide_as_the_terminal(tmp_path):
    environment = os.environ | {"COLUMNS": "50"}
    command = [sys.executable, "-m", "lrx", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Usage: lrx [OPTIONS] COMMAND" in done.stdout
    for command in COMMANDS:
        assert command in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80])
def test_help_and_lists_fit_the_terminal(here, columns):
    benchmarks = [["bench", name, "--help"] for name in available()]
    commands = [[command, "--help"] for command in COMMANDS]
    for arguments in ([], *commands, *benchmarks, ["papers"], ["names"], ["bench"]):
        done = here(*(arguments or ["--help"]), columns=columns)
        assert done.returncode == 0, arguments
        widest = max((line.rstrip() for line in done.stdout.splitlines()), key=len)
        assert len(widest) <= columns, widest
        if not arguments:
            listed = done.stdout.split("Commands:")[1]
            assert all(command in listed for command in COMMANDS)
            assert "..." not in listed


@pytest.mark.slow
def test_what_needs_no_jax_does_not_load_it(tmp_path):
    # Each in turn, in one process: the first that loads something is at fault.
    calls = [["--version"], ["--help"], ["train", "--help"], ["train", "--steps", "-5"], ["bench"]]
    code = (
        "import sys\n"
        "from lrx.cli import main\n"
        "watched = {'jax', 'flax', 'matplotlib', 'sklearn', 'lrx.benchmarks.select'}\n"
        "print('loaded', sorted(watched & sys.modules.keys()))\n"
        f"for arguments in {calls!r}:\n"
        "    sys.argv = ['lrx', *arguments]\n"
        "    try: main()\n"
        "    except SystemExit: print('loaded', sorted(watched & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert re.findall("^loaded (.*)$", done.stdout, re.MULTILINE) == ["[]"] * (1 + len(calls)), done.stderr


def test_names_lists_what_expressions_may_call(here):
    done = here("names")
    for name in ("chain", "scale_by_lion", "cosine_decay", "adamw", "reduce_on_plateau"):
        assert re.search(rf"^ +{name}\b", done.stdout, re.MULTILINE), name


def test_names_lists_each_data_set_and_model(here):
    done = here("names")
    texts = {}
    for name in (*DATASETS, *MODELS):
        found = re.search(rf"^ +{name} +(\w.*(?:\n {{4,}}.*)*)", done.stdout, re.MULTILINE)
        assert found, name
        texts[name] = found[1]
    assert len(set(texts.values())) == len(texts)


@pytest.mark.parametrize("command", ["train", "range-test", "select"])
def test_help_refers_to_the_list_of_data_sets_and_models(here, command):
    text = re.sub(r"\s+", " ", here(command, "--help").stdout)
    for option in ("data", "model"):
        assert re.search(rf"--{option} \S+ [^-]*`lrx names`", text), text
    assert "resnet44" not in text  # no list to keep by hand


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--help"]])
def test_bench_lists_the_benchmarks_and_the_questions_that_they_answer(here, arguments):
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Usage: lrx bench [OPTIONS] [NAME" in done.stdout
    assert re.search(r"^ +select +Does `lrx.select` choose as well", done.stdout, re.MULTILINE)
    assert "timing" not in done.stdout


def test_the_help_of_a_benchmark_has_its_options_and_examples(here):
    done = here("bench", "select", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: lrx bench select [OPTIONS]" in done.stdout
    assert "--task" in done.stdout
    assert "\n      lrx bench select --suite unseen\n" in done.stdout  # not wrapped


@pytest.mark.parametrize("name", available())
def test_every_benchmark_is_called_with_the_values_of_its_options(here, name, monkeypatch):
    module = importlib.import_module(f"lrx.benchmarks.{name}")
    usual = {key: each.default for key, each in inspect.signature(module.main).parameters.items()}
    called = {}

    @functools.wraps(module.main)
    def main(**options):
        called.update(options)

    monkeypatch.setattr(module, "main", main)
    assert here("bench", name).returncode == 0
    assert called == usual
    whole = next((key for key, value in usual.items() if type(value) is int), None)
    if whole is not None:
        assert here("bench", name, f"--{whole.replace('_', '-')}", "17").returncode == 0
        assert called == usual | {whole: 17}
    else:
        assert here("bench", name, "--out", "elsewhere").returncode == 0
        assert called == usual | {"folder": pathlib.Path("elsewhere")}


def test_an_interrupted_benchmark_ends_with_the_message_of_the_interrupt(here, monkeypatch):
    def main() -> None:
        raise KeyboardInterrupt("kept in runs.json")

    monkeypatch.setattr("lrx.benchmarks.select.main", main)
    done = here("bench", "select")
    assert done.returncode == 130
    assert done.stderr == "kept in runs.json\n"


def test_plot_writes_the_png_it_names(here, tmp_path):
    done = here("plot", "warmup(cosine_decay(0.1, 200), 20)", "0.05", "--steps", "300", "--out", "a/b.png")
    assert done.returncode == 0, done.stderr
    (path,) = written(done)
    assert (tmp_path / path).read_bytes()[:4] == b"\x89PNG"
    assert os.listdir(tmp_path / "a") == ["b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plot", "cosin_decay(0.1, 3)"], "did you mean cosine_decay"),
        (["train", "--tx", "sgd(0.1, momentun=0.9)"], "did you mean momentum"),
        (["train", "--model", "resnet21"], "did you mean 'resnet"),
        (["train", "--tx", "chain(scale_by_adam())"], "no rate turns its direction downhill"),
        (["range-test", "--tx", "sgd(0.1)"], "the word rate must stand where the rate belongs"),
        (["range-test", "--tx", "sgd(rat)"], "did you mean rate?"),
        (["range-test", "--steps", "2"], "Invalid value for '--steps'"),
        (["select", "--epochs", "1", "--steps", "1"], "--epochs and --steps must not both be given, got 1 and 1"),
        (["select", "--budget", "-1"], "budget must be a finite number > 0"),
        (["select", "--metric", "f1"], "metric must say whether the least or the greatest is best, got metric='f1'"),
        (["train", "--tx", "amsgrad(1e-3)"], "amsgrad is no name: give the direction a rate, chain(scale_by_amsgrad()"),
        (["train", "--tx", "qwxz(1e-3)"], "qwxz is no name: `lrx names` lists all"),
        (["train", "--epochs", "1", "--steps", "1"], "--epochs and --steps must not both be given, got 1 and 1"),
        (["train", "--out", "/proc/nope"], "--out must lie where can be written, got '/proc/nope'"),
        (["reproduce", "smith_2017", "--out", "/proc/nope"], "--out must lie where can be written, got '/proc/nope'"),
        (["range-test", "--out", "/proc/nope/a.png"], "--out must lie where can be written, got '/proc/nope'"),
        (["plot", "0.1", "--out", "/proc/nope/a.png"], "--out must lie where can be written, got '/proc/nope'"),
        (["reproduce", "smith_2017", "--from-results", "gone.json"], "got 'gone.json', which is not there"),
        (["reproduce", "--all", "--from-results", "gone"], "--from-results must be a folder of results, got 'gone'"),
        (["range-test", "--out", "found.jpg"], "must be a file whose name ends in .png, .pdf or .svg"),
        (["plot", "0.1", "--out", "schedule.jpg"], "must be a file whose name ends in .png, .pdf or .svg"),
        (["reproduce", "smith_2017x"], "got PAPER='smith_2017x': did you mean 'smith_2017'?"),
        (["reproduce", "smith_2017", "--scale", "big"], "--scale must be one of demo, cpu, paper"),
        (["bench", "selct"], "NAME must be one of"),
        (["bench", "selct"], "did you mean 'select'?"),
        (["bench", "select", "--task", "pendulun"], "did you mean 'pendulum'?"),
        (["bench", "select", "--task", "tones"], "--task must be one of "),  # one of another suite
        (["bench", "robustness", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["bench", "robustness", "--method", "sdg"], "did you mean 'sgd'?"),
        (["bench", "robustness", "--workload", "minst"], "did you mean 'mnist'?"),
        (["bench", "optimizer_step", "--tree", "resnet21"], "did you mean 'resnet"),
        (["bench", "optimizer_step", "--chain", "adm"], "did you mean 'adam'?"),
    ],
)
def test_bad_input_ends_with_a_message_and_no_traceback(here, arguments, message):
    done = here(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_caret_stands_under_its_place(here):
    text = "sgd(cosin_decay(0.1, 3))"
    lines = here("train", "--tx", text, columns=30).stderr.splitlines()
    place = lines.index(text) + 1
    assert lines[place].index("^") == text.index("cosin")


@pytest.mark.slow
def test_train_writes_its_history_and_goes_on_when_extended(here, tmp_path):
    first = here("train", "--epochs", "2", "--batch-size", "64")
    assert first.returncode == 0, first.stderr
    names = sorted(os.path.basename(path) for path in written(first))
    assert names == ["history.npz", "history.png", "run.json"]
    longer = here("train", "--epochs", "3", "--batch-size", "64")
    assert longer.returncode == 0, longer.stderr
    assert "resumed at step 44" in longer.stderr
    folder = tmp_path / "lrx-results" / "digits-mlp-adam-1e-3-batch-64"
    history = np.load(folder / "history.npz")
    assert history["loss"].shape == (66,)
    np.testing.assert_allclose(history["rate"], 1e-3)
    run = json.loads((folder / "run.json").read_text())
    assert run["final"]["accuracy"] == pytest.approx(history["evaluations/accuracy"][-1])
    assert "jax" in run["versions"]
    assert (run["epochs"], run["steps"], run["resumed_at_step"]) == (3, 66, 44)
    assert run["date"].endswith("+00:00")
    arguments = ["train", "--epochs", "3", "--batch-size", "64"]
    assert shlex.split(run["command"]) == ["lrx", *arguments]  # however it was started
    assert len(History.load(folder / "history.npz").loss) == 66


@pytest.mark.slow
def test_another_expression_is_another_run_and_is_never_given_the_old_result(here, tmp_path):
    def run(tx, *more):
        done = here("train", "--steps", "4", "--tx", tx, *more)
        return done, [tmp_path / path for path in written(done)]

    _, slow = run("sgd(1e-3)")
    _, fast = run("sgd(0.1)")
    for paths, rate in ((slow, 1e-3), (fast, 0.1)):
        np.testing.assert_allclose(np.load(paths[0])["rate"], rate)
        assert json.loads(paths[1].read_text())["tx"] == f"sgd({rate:g})"
    # In one folder: refused, with what differs and the options to give.
    assert run("sgd(1e-3)", "--out", "one")[0].returncode == 0
    before = (tmp_path / "one" / "run.json").read_bytes()
    for more in (["--tx", "sgd(0.1)"], ["--seed", "1"]):
        done = here("train", "--steps", "4", "--tx", "sgd(1e-3)", "--out", "one", *more)
        assert done.returncode == 2
        assert "holds another run" in done.stderr
        assert "Set that run aside with --fresh, or give this one a folder of its own with --out." in done.stderr
        assert (tmp_path / "one" / "run.json").read_bytes() == before


def test_a_long_expression_has_a_folder_of_a_short_name_and_of_its_own():
    clips = ", ".join(["clip(1.0)"] * 30)
    one, other = (folder_of_run("digits", "mlp", f"chain({clips}, sgd({rate}))") for rate in (0.1, 0.2))
    assert len(one.name) < 100
    assert one != other


def test_options_that_change_what_is_run_change_its_folder():
    usual = folder_of_run("digits", "mlp", "select", budget=(3.0, 3.0), metric=(None, None))
    assert usual.name == "digits-mlp-select"
    other = folder_of_run("digits", "mlp", "select", budget=(0.5, 3.0), metric=("accuracy", None))
    assert other.name == "digits-mlp-select-budget-0.5-metric-accuracy"


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_history(here, tmp_path):
    done = here("train", "--tx", "sgd(1e9)", "--out", "run")
    assert done.returncode == 1
    assert "the loss is" in done.stderr
    assert sorted(os.path.basename(path) for path in written(done)) == ["history.npz", "history.png", "run.json"]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["diverged_at_step"] == run["steps"] == len(np.load(tmp_path / "run" / "history.npz")["loss"])


@pytest.mark.slow
def test_a_range_test_that_finds_nothing_draws_it_and_says_so(here):
    done = here("range-test", "--tx", "sgd(rate)", "--steps", "20", "--min-rate", "1e-30", "--max-rate", "1e-25")
    assert done.returncode == 2
    assert len(written(done)) == 1
    assert "changed the loss: give more num_steps or a larger max_rate" in done.stderr
    assert "start with" not in done.stdout


@pytest.mark.slow
def test_fresh_sets_the_earlier_run_aside_and_begins_anew(here, tmp_path):
    arguments = ("--steps", "4", "--checkpoint-every", "2", "--out", "run")
    assert here("train", *arguments).returncode == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["2", "4"]
    anew = here("train", *arguments, "--tx", "sgd(0.1)", "--fresh")
    assert anew.returncode == 0, anew.stderr
    assert "moved the earlier run to run/checkpoints-1" in anew.stdout
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints-1").iterdir()) == kept
    np.testing.assert_allclose(np.load(tmp_path / "run" / "history.npz")["rate"], 0.1)


@pytest.mark.slow
def test_the_range_test_says_where_to_start_in_a_narrow_terminal_too(here):
    done = here("range-test", "--batch-size", "16", "--seeds", "2", columns=40)
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(path) for path in written(done)] == ["range_test.png"]
    for rule in ("steepest", "valley", "minimum / 10", "slide", "divergence / 10"):
        assert rule in done.stdout
    assert 1e-4 < float(done.stdout.split("start with ")[1].split()[0]) < 1


@pytest.mark.slow
def test_select_prints_the_command_that_trains_what_it_has_chosen(here, tmp_path):
    arguments = ("select", "--steps", "60", "--budget", "0.9", "--metric", "accuracy", "--batch-size", "32")
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(path) for path in written(done)] == ["select.png", "select.txt"]
    assert "the rest of the way was not seen" in " ".join(done.stdout.split())
    command = done.stdout.split("train with it: lrx ")[1].strip()
    assert command.startswith("train --data digits --model mlp --batch-size 32 --steps 60 --tx ")
    assert here(*shlex.split(command), "--out", str(tmp_path / "trained")).returncode == 0
    again = here(*arguments)
    assert "resumed after" in again.stderr
    assert again.stdout.split("cost:")[0].split("method")[1] == done.stdout.split("cost:")[0].split("method")[1]


@pytest.mark.slow
def test_the_doctor_prints_a_report_and_writes_json_a_picture_and_a_page(here, tmp_path):
    arguments = ("doctor", "--tx", "adam(cosine_decay(1e-3, 40))", "--steps", "200", "--out", "found")
    done = here(*arguments)
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(path) for path in written(done)] == ["diagnosis.json", "diagnosis.png", "diagnosis.html"]
    assert "schedule-ends-early (certain" in done.stdout
    assert "lrx.adam(lrx.cosine_decay(0.001, 200))" in done.stdout
    saved = json.loads((tmp_path / "found" / "diagnosis.json").read_text())
    assert saved["findings"][0]["code"] == "schedule-ends-early"
    assert saved["steps_used"] <= 0.3 * 200
    page = (tmp_path / "found" / "diagnosis.html").read_text()
    assert "data:image/png;base64," in page
    assert "schedule-ends-early" in page
    assert json.loads(here(*arguments, "--json").stdout)["findings"] == saved["findings"]


def test_the_doctor_refuses_a_budget_that_is_too_small_before_anything_is_trained(here):
    done = here("doctor", "--steps", "20")
    assert done.returncode == 2
    assert "budget must allow 42 steps, got budget=0.3, which is 6 of 20 steps" in done.stderr


def test_results_of_another_paper_are_refused(here, tmp_path):
    papers.Result("other_2000", "demo", "digits", [0], {}, {}, 0.0).save(tmp_path / "result.json")
    done = here("reproduce", "smith_2017", "--from-results", "result.json")
    assert done.returncode == 2
    assert "must hold a result of smith_2017, got one of other_2000" in done.stderr


@pytest.mark.slow
def test_ctrl_c_says_how_the_run_goes_on(tmp_path):
    # A shell's background job ignores SIGINT and hands that on, hence the reset.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lrx.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "--epochs", "100000", "--out", "run"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "step 1 of" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "run/checkpoints" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_a_figure_is_drawn_again_from_results(here, tmp_path):
    measured = papers.load_result(GALLERY / "smith_2017" / "cpu" / "result.json")
    measured.save(tmp_path / "result.json")
    done = here("reproduce", "smith_2017", "--from-results", "result.json")
    assert done.returncode == 0, done.stderr
    assert sorted(written(done)) == ["accuracy.png", "range_test.png"]
    assert "holds" in done.stdout
    assert papers.load_result(tmp_path / "result.json") == measured


def test_papers_lists_every_paper_and_scale(here):
    done = here("papers")
    assert done.returncode == 0, done.stderr
    for word in ("smith_2017", "demo", "cpu", "paper"):
        assert word in done.stdout
