"""Where a run begins: at a checkpoint that was kept, at another run's, or at what an earlier run has left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import Batches, Best, History, Workload, train


def _init(key):
    return {"w": jax.random.normal(key, (3,))}


def _loss(params, batch, key):
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


def line(init=_init, loss=_loss):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    return Workload.from_functions(
        loss,
        init,
        Batches((x, x.sum(axis=1)), 8),
        name="line",
        evaluate=lambda params: {"loss": jnp.sum(params["w"] ** 2)},
    )


STABLE = lrx.adam(0.05)
COOLED = lrx.adam(lrx.join([0.05, lrx.linear_decay(0.05, 10)], [20]))


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_steps_that_are_kept_stay_for_good(tmp_path):
    train(line(), STABLE, steps=20, checkpoint=tmp_path, checkpoint_every=4, keep=[3, 10])
    assert kept(tmp_path) == [3, 10, 12, 16, 20]
    train(
        line(), STABLE, steps=40, checkpoint=tmp_path, checkpoint_every=4, keep=1
    )  # another call forgets none of them
    assert kept(tmp_path) == [3, 10, 40]


@pytest.mark.parametrize("keep", [0, -1, 1.5, [0], [2.5], "all"])
def test_keep_is_a_number_or_steps(tmp_path, keep):
    with pytest.raises((ValueError, TypeError), match="keep"):
        train(line(), STABLE, steps=2, checkpoint=tmp_path, keep=keep)


def test_several_cooldowns_branch_from_one_stable_run(tmp_path):
    stable = train(line(), STABLE, steps=40, checkpoint=tmp_path / "stable", keep=[20])
    branch = {"resume_from": tmp_path / "stable" / "20", "on_mismatch": "continue"}
    cooled = train(line(), COOLED, steps=30, checkpoint=tmp_path / "cooled", **branch)
    assert cooled.resumed_at == 20
    assert list(cooled.changes) == [20]
    at_once = train(line(), COOLED, steps=30)
    np.testing.assert_allclose(cooled.loss, at_once.loss, rtol=1e-6)  # a rate and a join are two programs
    np.testing.assert_allclose(cooled.params["w"], at_once.params["w"], rtol=1e-6)
    np.testing.assert_array_equal(cooled.loss[:20], stable.loss[:20])
    assert kept(tmp_path / "stable") == [20, 40]
    # The same call goes on with the branch.
    assert train(line(), COOLED, steps=34, checkpoint=tmp_path / "cooled", **branch).resumed_at == 30
    # Without a folder of its own, and from the newest.
    assert train(line(), STABLE, steps=44, resume_from=str(tmp_path / "stable")).resumed_at == 40


def test_a_folder_goes_on_only_from_where_it_began(tmp_path, caplog):
    train(line(), STABLE, steps=4, checkpoint=tmp_path / "stable")
    train(line(), STABLE, steps=8, checkpoint=tmp_path / "stable")
    train(line(), STABLE, steps=8, checkpoint=tmp_path / "alone")
    train(line(), STABLE, steps=10, checkpoint=tmp_path / "branch", resume_from=tmp_path / "stable" / "4")

    def go_on(folder, resume_from):
        return train(line(), STABLE, steps=10, checkpoint=tmp_path / folder, resume_from=tmp_path / resume_from)

    for source in ("nowhere/7", "stable/5"):
        with pytest.raises(ValueError, match="where there is none"):
            go_on("alone", source)
    with pytest.raises(ValueError, match=r"began at step 0 and has made 8 steps: leave resume_from out"):
        go_on("alone", "stable/8")
    with pytest.raises(ValueError, match=r"began from '.*stable/4' and has made 10 steps: leave resume_from out"):
        go_on("branch", "stable/8")
    assert go_on("branch", "stable").resumed_at == go_on("branch", "stable/4").resumed_at == 10
    # A step of its own by its path.
    assert go_on("alone", "alone/8").resumed_at == 8
    with pytest.raises(ValueError, match="holds a checkpoint, 8, 10, got resume_from=3"):
        go_on("alone", "alone/3")
    assert not [record for record in caplog.records if "read_only" in record.getMessage()]


def test_a_run_goes_back_to_a_step_of_its_own(tmp_path):
    train(line(), STABLE, steps=16, checkpoint=tmp_path, checkpoint_every=4)
    with pytest.raises(ValueError, match="holds another run, at step 8"):
        train(line(), lrx.adam(0.01), steps=16, checkpoint=tmp_path, resume_from=8)
    assert kept(tmp_path) == [8, 12, 16]
    history = train(line(), lrx.adam(0.01), steps=16, checkpoint=tmp_path, resume_from=8, on_mismatch="continue")
    assert history.resumed_at == 8
    np.testing.assert_allclose(history.rate, [0.05] * 8 + [0.01] * 8, rtol=1e-6)
    assert kept(tmp_path) == [8, 16]


def test_checkpoints_that_are_not_there_are_named(tmp_path):
    train(line(), STABLE, steps=8, checkpoint=tmp_path / "run")
    for arguments, message in (
        ({"resume_from": 3, "checkpoint": tmp_path / "run"}, "holds a checkpoint, 8, got resume_from=3"),
        ({"resume_from": 3}, "resume_from=3 needs a folder"),
        ({"resume_from": tmp_path / "run" / "3"}, "where there is none, but of 8"),
        ({"resume_from": tmp_path / "nowhere"}, "where there is none"),
        ({"resume_from": tmp_path / "run", "resume": False}, "resume_from needs resume=True"),
    ):
        with pytest.raises(ValueError, match=message):
            train(line(), STABLE, steps=10, **arguments)
    with pytest.raises(TypeError, match="resume_from must be a step or the path"):
        train(line(), STABLE, steps=10, resume_from=True)
    assert not (tmp_path / "nowhere").exists()


# --- init


@pytest.mark.slow
def test_a_run_begins_from_a_history_with_clipping_and_a_controller(capsys):
    first = train(line(), lrx.adam(lrx.linear_decay(0.1, 40)), steps=20)
    assert capsys.readouterr().err == ""
    rate = lrx.linear_decay(0.1, 40) * lrx.reduce_on_plateau()
    second = train(line(), optax.chain(optax.clip_by_global_norm(1.0), lrx.adam(rate)), steps=5, init=first)
    assert int(lrx.update_count(second.opt_state)) == 25
    np.testing.assert_allclose(second.rate[0], 0.05, rtol=1e-6)  # the schedule goes on
    np.testing.assert_allclose(second.loss[0], _loss(first.params, _batch(0), None), rtol=1e-5)
    assert second.resumed_at is None
    assert "begins anew" in second.changes[0][0]
    assert "ReduceOnPlateauState" in capsys.readouterr().err
    # What was given is there still, and begins another run as well.
    assert float(first.params["w"][0]) == float(first.params["w"][0])
    third = train(line(), lrx.adamw(lrx.linear_decay(0.1, 40)), steps=1, init=first)
    np.testing.assert_allclose(third.loss[0], second.loss[0], rtol=1e-6)


def _batch(seed):
    workload = line()
    _, key = jax.random.split(jax.random.key(seed))
    shuffle_key, _ = jax.random.split(key)
    order = jax.random.permutation(jax.random.fold_in(shuffle_key, 0), 64)[:8]
    return jax.tree.map(lambda x: x[order], workload.batches.arrays)


def test_a_run_begins_from_parts_or_parameters():
    first = train(line(), STABLE, steps=10)
    whole = train(line(), STABLE, steps=4, init=(first.params, first.model_state, first.opt_state))
    assert int(lrx.update_count(whole.opt_state)) == 14
    assert whole.changes == {}
    alone = train(line(), STABLE, steps=4, init=first.params)
    assert int(lrx.update_count(alone.opt_state)) == 4
    assert alone.loss[0] == whole.loss[0]
    best = Best(jnp.int32(3), first.params, ())
    np.testing.assert_array_equal(train(line(), STABLE, steps=4, init=best).loss, alone.loss)


@pytest.mark.slow
def test_what_an_early_stopping_keeps_begins_at_what_was_given():
    first = train(line(), STABLE, steps=10)
    tx = lrx.adam(0.05 * lrx.early_stopping(patience=100))
    second = train(line(), tx, steps=1, init=first)
    np.testing.assert_array_equal(second.best.params["w"], first.params["w"])


def test_a_run_begins_from_a_history_that_was_saved(tmp_path):
    first = train(line(), STABLE, steps=10)
    first.save(tmp_path / "run.npz")
    live, read = (train(line(), STABLE, steps=4, init=given) for given in (first, History.load(tmp_path / "run.npz")))
    np.testing.assert_array_equal(live.loss, read.loss)
    assert int(lrx.update_count(read.opt_state)) == 14
    assert read.changes == {}


def test_a_model_of_which_a_part_is_new_says_so():
    def init(key):
        return {"w": jnp.ones(3), "head": jnp.ones(2)}

    first = train(line(), STABLE, steps=4)
    wider = line(init, lambda params, batch, key: _loss(params, batch, key) + jnp.sum(params["head"] ** 2))
    second = train(wider, STABLE, steps=1, init=first)
    assert any(note.startswith("params: begins anew") and "head" in note for note in second.changes[0])
    with pytest.raises(ValueError, match="init must fit the model"):
        train(line(lambda key: {"w": jnp.ones(3)}), STABLE, steps=1, init={"v": jnp.ones(3)})


def test_a_beginning_is_part_of_what_a_run_is(tmp_path):
    first = train(line(), STABLE, steps=4)
    train(line(), STABLE, steps=2, init=first, checkpoint=tmp_path)
    again = train(line(), STABLE, steps=4, init=first, checkpoint=tmp_path)
    assert again.resumed_at == 2
    np.testing.assert_array_equal(again.loss, train(line(), STABLE, steps=4, init=first).loss)
    with pytest.raises(ValueError, match="begun"):
        train(line(), STABLE, steps=4, checkpoint=tmp_path)
