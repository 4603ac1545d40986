"""What is called between two segments: it sees the run, may change it on demand, and changes nothing by itself."""

from __future__ import annotations

import csv
import os
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx
from lrx.training import Batches, TrainingInterrupted, Workload, csv_writer, tensorboard_writer, train, wandb_writer


def _init(key):
    return {"w": jax.random.normal(key, (3,))}


def _loss(params, batch, key):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def _evaluate(params):
    return {"loss": jnp.sum(params["w"] ** 2)}


_X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
LINE = Workload.from_functions(_loss, _init, Batches((_X, _X.sum(axis=1)), 8), name="line", evaluate=_evaluate)
ADAM = lrx.adam(lrx.linear_decay(0.1, 40))


def assert_same(one, other):
    for name in ("loss", "rate", "params", "opt_state", "evaluations", "metrics"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("every", first_tier_has([5], [None, 1, 5, 100]))
def test_a_run_that_is_watched_has_the_numbers_of_one_that_is_not(every):
    moments = []

    def watch(moment):
        moments.append((moment.step, moment.params, moment.opt_state, moment.model_state))

    history = train(LINE, ADAM, steps=20, callback=watch, callback_every=every)
    assert_same(history, train(LINE, ADAM, steps=20))
    assert history.changes == {}
    assert [step for step, *_ in moments][-1] == 20
    np.testing.assert_array_equal(moments[-1][1]["w"], history.params["w"])


def test_calls_come_at_multiples_at_evaluations_and_at_the_end():
    moments = []
    history = train(LINE, ADAM, steps=22, callback=moments.append, callback_every=5)
    assert [moment.step for moment in moments] == [5, 8, 10, 15, 16, 20, 22]
    assert [bool(moment.evaluations) for moment in moments] == [
        step in (8, 16, 22) for step in (5, 8, 10, 15, 16, 20, 22)
    ]
    assert all(moment.total == 22 for moment in moments)
    np.testing.assert_array_equal(np.concatenate([moment.losses for moment in moments]), history.loss)
    np.testing.assert_array_equal(np.concatenate([moment.rates for moment in moments]), history.rate)
    assert moments[1].loss == pytest.approx(history.loss[5:8].mean())
    assert moments[1].rate == history.rate[7]
    assert moments[1].evaluations["loss"] == history.evaluations["loss"][0]
    assert moments[0].metrics["adam/b1"] == pytest.approx(0.9)
    assert moments[1].scalars()["evaluation/loss"] == moments[1].evaluations["loss"]
    assert all(type(value) is float for value in moments[1].scalars().values())
    assert repr(moments[1]).startswith("Moment(step 8 of 22, loss ")


def test_the_state_cannot_be_read_after_the_call():
    moments = []
    train(LINE, ADAM, steps=2, callback=moments.append)
    with pytest.raises(RuntimeError, match=r"moment\.params must be read while the callback runs"):
        _ = moments[-1].params


@pytest.mark.slow
def test_a_callback_changes_the_rate_of_a_running_job():
    def lower(moment):
        if moment.step == 6:
            return lrx.set_learning_rate(moment.opt_state, 0.01)
        return None

    history = train(LINE, lrx.adam(0.1), steps=12, callback=lower, callback_every=2)
    np.testing.assert_allclose(history.rate, [0.1] * 6 + [0.01] * 6, rtol=1e-6)
    assert history.changes == {6: ["a callback changed opt_state"]}


def test_a_changed_state_may_share_buffers():
    one = jnp.float32(0.5)

    def change(moment):
        return jax.tree.map(lambda x: one if x.shape == () and x.dtype == one.dtype else x, moment.opt_state)

    train(LINE, lrx.adam(0.1), steps=6, callback=change, callback_every=2)
    assert float(one) == 0.5


def test_a_callback_observes_for_a_controller():
    tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed"))
    history = train(
        LINE, tx, steps=8, callback=lambda moment: lrx.observe(moment.opt_state, value=1.0), callback_every=2
    )
    assert history.rate[-1] < history.rate[0]


def test_stop_ends_a_run_as_its_last_step_would(tmp_path):
    calls = []

    def stop(moment):
        calls.append(moment.step)
        return lrx.STOP if moment.step == 6 else None

    history = train(LINE, ADAM, steps=20, callback=stop, callback_every=2, checkpoint=tmp_path)
    assert len(history.loss) == 6
    assert calls == [2, 4, 6]
    assert history.evaluation_steps.tolist() == [6]
    whole = train(LINE, ADAM, steps=20, checkpoint=tmp_path)
    assert whole.resumed_at == 6
    assert_same(whole, train(LINE, ADAM, steps=20))
    assert repr(lrx.STOP) == "lrx.STOP"


@pytest.mark.parametrize(
    "answer",
    [True, 3.0, "stop", {"w": 1}, lrx.sgd(0.1).init({"w": jnp.zeros(3)})],
    ids=["flag", "number", "text", "dict", "another state"],
)
def test_other_answers_are_refused(answer):
    with pytest.raises(TypeError, match=r"callback must return None, lrx\.STOP or the optimizer's state"):
        train(LINE, ADAM, steps=2, callback=lambda moment: answer)


def test_a_state_of_another_type_is_named():
    def narrow(moment):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.shape == (3,) else x, moment.opt_state)

    with pytest.raises(TypeError, match=r"first_moment\['w'\] is bfloat16\[3\] and must be float32\[3\]"):
        train(LINE, ADAM, steps=2, callback=narrow)


def test_what_is_no_function_is_refused():
    for wrong in (3, [print, 3]):
        with pytest.raises(TypeError, match="callback must be a function"):
            train(LINE, ADAM, steps=2, callback=wrong)
    with pytest.raises(ValueError, match="callback_every must be"):
        train(LINE, ADAM, steps=2, callback=print, callback_every=0)


def test_a_resumed_run_is_not_called_again_for_what_was_before(tmp_path):
    calls = []
    for steps in (4, 8):
        train(LINE, ADAM, steps=steps, callback=lambda m: calls.append(m.step), callback_every=2, checkpoint=tmp_path)
    assert calls == [2, 4, 6, 8]


def test_ctrl_c_keeps_what_was_best_and_the_rate_that_a_callback_set(tmp_path):
    def lower(moment):
        return lrx.set_learning_rate(moment.opt_state, 0.02) if moment.step == 6 else None

    def press(moment):
        if moment.step == 14:
            os.kill(os.getpid(), signal.SIGINT)

    arguments = {"steps": 24, "callback_every": 2, "keep_best": "loss"}
    with pytest.raises(TrainingInterrupted, match="after 14 of 24 steps") as caught:
        train(LINE, lrx.adam(0.1), callback=[lower, press], checkpoint=tmp_path, **arguments)
    assert len(caught.value.history.loss) == 14
    resumed = train(LINE, lrx.adam(0.1), callback=lower, checkpoint=tmp_path, **arguments)
    assert resumed.resumed_at == 14
    at_once = train(LINE, lrx.adam(0.1), callback=lower, **arguments)
    assert_same(resumed, at_once)
    assert resumed.changes == at_once.changes == {6: ["a callback changed opt_state"]}
    jax.tree.map(np.testing.assert_array_equal, resumed.best, at_once.best)


# --- writers


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_for_each_call(tmp_path):
    path = tmp_path / "logs" / "run.csv"
    history = train(LINE, ADAM, steps=12, callback=csv_writer(path), callback_every=3)
    found = rows(path)
    assert [int(row["step"]) for row in found] == [3, 6, 8, 9, 12]
    np.testing.assert_allclose([float(row["rate"]) for row in found], history.rate[[2, 5, 7, 8, 11]], rtol=1e-6)
    assert [row["evaluation/loss"] != "" for row in found] == [False, False, True, False, True]
    assert float(found[0]["adam/b1"]) == pytest.approx(0.9)


def test_a_csv_goes_on_where_a_resumed_run_does(tmp_path):
    path = tmp_path / "run.csv"
    for steps in (3, 6, 12):  # after one row, after two
        train(LINE, ADAM, steps=steps, callback=csv_writer(path), callback_every=3, checkpoint=tmp_path / "run")
    assert [int(row["step"]) for row in rows(path)] == [3, 6, 8, 9, 12]
    train(LINE, ADAM, steps=3, callback=csv_writer(path), callback_every=3)  # a new run replaces the rows
    assert [int(row["step"]) for row in rows(path)] == [3]


def test_rows_of_steps_that_a_resumed_run_repeats_are_replaced_at_once(tmp_path):
    path = tmp_path / "run.csv"
    train(LINE, ADAM, steps=12, callback=csv_writer(path), callback_every=3)
    with open(path, "a") as file:
        file.write("1")  # of a row that was interrupted
    resumed = csv_writer(path)
    for step in (5, 8):
        resumed(types.SimpleNamespace(step=step, scalars=lambda: {"loss": 1.0, "rate": 0.5}))
        assert [int(row["step"]) for row in rows(path)] == [3, 5, 8][: 2 if step == 5 else 3]


class Scalars:
    def __init__(self, folder=None):
        self.folder, self.written, self.flushed = folder, [], 0

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def flush(self):
        self.flushed += 1


def test_tensorboard_gets_scalars(tmp_path, monkeypatch):
    made = []

    def summary_writer(folder):
        made.append(Scalars(folder))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=summary_writer))
    train(LINE, ADAM, steps=8, callback=tensorboard_writer(tmp_path), callback_every=4)
    assert made[0].folder == str(tmp_path)
    assert {name for name, _, step in made[0].written if step == 8} >= {"loss", "rate", "adam/b1", "evaluation/loss"}
    assert made[0].flushed == 2
    own = Scalars()  # another package's
    train(LINE, ADAM, steps=8, callback=tensorboard_writer(own))
    assert own.written


def test_wandb_gets_a_dict_for_each_step(monkeypatch):
    logged = []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    arguments = {}

    def init(**given):
        arguments.update(given)
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    train(LINE, ADAM, steps=8, callback=wandb_writer(project="lines"), callback_every=4)
    assert arguments == {"project": "lines"}
    assert [step for step, _ in logged] == [4, 8]
    assert logged[1][1].keys() >= {"loss", "rate", "evaluation/loss"}
    train(LINE, ADAM, steps=8, callback=[wandb_writer(run), lambda moment: None])


@pytest.mark.parametrize(("make", "package"), [(tensorboard_writer, "tensorboardX"), (wandb_writer, "wandb")])
def test_without_the_package_it_is_named_before_the_run(monkeypatch, tmp_path, make, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        make(**({"to": tmp_path} if package == "tensorboardX" else {}))
