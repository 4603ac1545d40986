"""What a run leaves can be printed, drawn, saved and read again."""

from __future__ import annotations

import io
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import Batches, Best, History, Workload


def history(steps=400, evaluated=8, best=True):
    t = np.arange(steps, dtype=np.float32)
    every = max(1, steps // max(evaluated, 1))
    at = np.arange(every, steps + 1, every)[:evaluated].astype(np.int32)
    params = {f"layer_{i}": {"kernel": jnp.zeros((20, 30)), "bias": jnp.zeros(30, jnp.bfloat16)} for i in range(9)}
    tx = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), lrx.adam(0.1))
    return History(
        2.0 * np.exp(-t / 100),
        (0.1 * (1 - t / max(steps, 1))).astype(np.float32),
        {"adam/b1": np.full(steps, 0.9, np.float32)},
        {"loss": np.linspace(2, 1, len(at)).astype(np.float32), "accuracy": np.linspace(0, 1, len(at)).astype("f4")},
        at,
        params,
        (),
        tx.init(params),
        Best(jnp.int32(100), params, ()) if best else None,
        resumed_at=200,
        changes={200: ["tx is sgd(0.1) there and adam(0.1) here"]},
    )


def workload():
    return Workload.from_functions(
        lambda params, batch, key: jnp.mean(params["w"] @ batch[0].T),
        lambda key: {"w": jnp.zeros((1000, 3))},
        Batches((jnp.zeros((640, 3)), jnp.zeros(640, jnp.int32)), batch_size=64),
        name="net",
        evaluate=lambda params: {"loss": jnp.mean(params["w"])},
    )


def test_a_history_says_how_the_run_ended(tmp_path):
    def steep(w, x, key):
        return jnp.mean(x) * w**2

    workload = Workload.from_functions(steep, lambda key: jnp.ones(()), Batches(jnp.ones(4), 2))
    assert lrx.train(workload, lrx.sgd(0.1), steps=3).ended == "complete"
    stopped = lrx.train(workload, lrx.sgd(0.1), steps=9, callback=lambda moment: lrx.STOP, callback_every=2)
    assert (stopped.ended, len(stopped.loss)) == ("stopped", 2)
    assert lrx.train(workload, lrx.sgd(0.0 * lrx.early_stopping(patience=0)), steps=9).ended == "stopped"
    with pytest.raises(lrx.DivergenceError) as raised:
        lrx.train(workload, lrx.sgd(1e30), steps=9)
    assert raised.value.history.ended == "diverged"
    stopped.save(tmp_path / "run.npz")
    assert lrx.History.load(tmp_path / "run.npz").ended == "stopped"
    assert stopped.summary().startswith("steps       2, stopped")


def test_reprs_are_a_line():
    for value in (history(), history(0, 0, best=False), history().best, workload(), workload().batches):
        text = repr(value)
        assert "\n" not in text
        assert len(text) < 250
        assert "0x" not in text
    assert repr(history()) == (
        "History(400 steps, train loss 2 to 0.04527, rate 0.00025, evaluation loss 1, accuracy 1, best at step 100; "
        "params <18 arrays, 5,670 numbers>)"
    )
    assert repr(workload()) == (
        "Workload('net', loss_fn=<lambda>, Batches((float32[640,3], int32[640]), batch_size=64), evaluate=<lambda>)"
    )


def test_a_summary_says_how_it_went():
    lines = history().summary().splitlines()
    assert lines[0] == "steps       400, resumed at 200"
    assert "2 at first" in lines[1]
    assert any(line.startswith("evaluation  accuracy 1 at step 400, least 0 at 50") for line in lines)
    assert lines[-1] == "from 200    tx is sgd(0.1) there and adam(0.1) here"
    assert history(0, 0, best=False).summary().startswith("steps       0")


@pytest.mark.parametrize(("steps", "evaluated"), [(400, 8), (20, 2), (1, 0), (0, 0)])
def test_a_plot_has_a_panel_for_losses_each_other_result_and_the_rate(steps, evaluated):
    figure = history(steps, evaluated).plot()
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy"] + ["learning rate"] * (steps > 0)
    figure.savefig(io.BytesIO(), format="png")


def test_a_plot_wraps_a_long_title_so_that_it_fits():
    assert history().plot().axes[0].get_title(loc="left") == ""
    title = history().plot(title="digits, mlp: chain(" + "clip(1.0), " * 20 + "sgd(0.1))").axes[0].get_title(loc="left")
    assert title.startswith("digits, mlp: chain(clip(1.0), ")
    assert max(map(len, title.splitlines())) <= 90 < len(title)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "lrx\[papers\]"'):
        history().plot()


def assert_same(one, other):
    for name in ("loss", "rate", "evaluation_steps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("metrics", "evaluations"):
        assert getattr(one, name).keys() == getattr(other, name).keys()
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))
    assert (one.resumed_at, one.changes) == (other.resumed_at, other.changes)


def plain(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.mark.parametrize("best", [True, False])
def test_what_is_saved_is_read_bit_for_bit(tmp_path, best):
    before = history(best=best)
    before.save(tmp_path / "deep" / "run.npz")
    after = History.load(tmp_path / "deep" / "run.npz", like=before)
    assert_same(before, after)
    for part in ("params", "model_state", "opt_state", "best"):
        one, other = getattr(before, part), getattr(after, part)
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(plain(left), plain(right))
    assert os.listdir(tmp_path / "deep") == ["run.npz"]


def test_without_a_structure_trees_are_dicts_that_can_be_gone_on_from(tmp_path):
    before = history()
    before.save(tmp_path / "run.npz")
    after = History.load(tmp_path / "run.npz")
    assert_same(before, after)
    assert after.params["layer_0"]["bias"].dtype == jnp.bfloat16
    assert after.best is not None
    assert int(after.best.step) == 100
    carried = lrx.carry_over(after.opt_state, before.opt_state)
    assert carried.fresh == ()


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    before = history()
    before.save(tmp_path / "run.npz")

    def full(*arguments, **arrays):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        history(20).save(tmp_path / "run.npz")
    assert os.listdir(tmp_path) == ["run.npz"]
    assert len(History.load(tmp_path / "run.npz").loss) == 400


def test_files_and_structures_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match=r"path must be a file that History.save has written"):
            History.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "nothing.npz")
    before = history()
    before.save(tmp_path / "run.npz")
    with pytest.raises(ValueError, match="like must be a History or"):
        History.load(tmp_path / "run.npz", like=before.params)
    with pytest.raises(ValueError, match="opt_state differs at"):
        History.load(tmp_path / "run.npz", like=(before.params, (), lrx.sgd(0.1).init(before.params)))
