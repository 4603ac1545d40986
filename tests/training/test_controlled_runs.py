"""What a run does with controllers that stop it or take it back, and where it evaluates."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import Batches, DivergenceError, Workload, recompute_batch_stats, train


def _line(evaluate=None):
    x = jnp.linspace(-1.0, 1.0, 64)
    return Workload.from_functions(
        lambda params, batch, key: jnp.mean((params["slope"] * batch[0] - 3.0 * batch[1]) ** 2),
        lambda key: {"slope": jnp.zeros([]) + jax.random.uniform(key)},
        Batches((x, x), batch_size=16),
        name="line",
        **({"evaluate": evaluate} if evaluate else {}),
    )


def test_early_stopping_ends_a_run_by_what_was_evaluated():
    seen = iter([9.0, 3.0, 2.0, 2.5, 2.5, *[9.0] * 50])
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, feedback="observed"))
    history = train(_line(lambda params: {"loss": next(seen)}), tx, epochs=20, feedback_metric="loss")
    # Evaluated for its names at first, then after epochs 1 to 4; the fourth is one too many without improvement.
    assert len(history.loss) == 4 * 4
    assert bool(lrx.stopped(history.opt_state))
    assert np.all(history.rate > 0)


def _distance(params):
    return {"loss": (params["slope"] - 3.0) ** 2}


def test_the_best_parameters_are_kept_where_a_controller_judges():
    evaluated = []

    def evaluate(params):
        evaluated.append(float(params["slope"]))
        return {"loss": next(seen)}

    seen = iter([9.0, 3.0, 2.0, 2.5, 2.5, *[9.0] * 50])
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, feedback="observed"))
    best = train(_line(evaluate), tx, epochs=20, feedback_metric="loss").best
    assert best is not None
    assert best.step == 8  # after epoch 2
    np.testing.assert_array_equal(best.params["slope"], evaluated[2])  # the first was for the names
    assert best.model_state == ()


def test_the_last_evaluation_can_be_the_best():
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, feedback="observed"))
    history = train(_line(_distance), tx, epochs=3, feedback_metric="loss")
    assert history.best is not None
    assert history.best.step == 12
    np.testing.assert_array_equal(history.best.params["slope"], history.params["slope"])


def test_the_best_of_the_training_loss_is_where_it_was_measured():
    rate = lrx.interpolate({0: 0.1, 10: 0.1, 11: 20.0}) * lrx.early_stopping(accumulation_size=1)
    history = train(_line(), lrx.sgd(rate), epochs=10)
    assert history.best is not None
    step = int(np.argmin(history.loss))
    assert history.best.step == step
    assert 5 < step < 12  # before it diverges
    shorter = train(_line(), lrx.sgd(0.1), steps=step)
    np.testing.assert_array_equal(history.best.params["slope"], shorter.params["slope"])
    assert train(_line(), lrx.sgd(0.1), steps=1).best is None


@pytest.mark.slow
def test_the_best_survives_an_interruption(tmp_path):
    def make():
        return lrx.sgd(lrx.interpolate({0: 0.1, 10: 0.1, 11: 3.0}) * lrx.early_stopping(patience=50))

    train(_line(), make(), epochs=5, checkpoint=tmp_path / "run")
    resumed = train(_line(), make(), epochs=8, checkpoint=tmp_path / "run").best
    at_once = train(_line(), make(), epochs=8).best
    assert resumed is not None
    assert at_once is not None
    jax.tree.map(np.testing.assert_array_equal, resumed, at_once)


@pytest.mark.slow
def test_a_rollback_is_no_improvement():
    rate = lrx.interpolate({0: 0.1, 20: 0.1, 21: 1e4}) * lrx.early_stopping(patience=1000)
    history = train(_line(), lrx.rollback_on_divergence(lrx.sgd(rate), max_rollbacks=100), epochs=10)
    assert int(history.opt_state.rollbacks) > 0
    assert history.best is not None
    assert history.loss[history.best.step] < 0.2  # what was taken back is forgotten, the bad end included


# -------------------------------------------------------------------------------------- where the evaluation point is


def test_evaluations_are_at_the_evaluation_point():
    tx = lrx.schedule_free_sgd(0.5)
    history = train(_line(_distance), tx, epochs=2)
    averaged = lrx.eval_params(history.opt_state, history.params)
    assert averaged["slope"] != history.params["slope"]
    np.testing.assert_allclose(history.evaluations["loss"][-1], (averaged["slope"] - 3.0) ** 2, rtol=1e-6)


@pytest.mark.slow
def test_the_best_is_at_the_evaluation_point_of_its_step():
    tx = lrx.schedule_free_sgd(lrx.constant(0.3) * lrx.early_stopping(patience=1000))
    best = train(_line(), tx, steps=12).best
    assert best is not None
    before = train(_line(), tx, steps=int(best.step))
    averaged = lrx.eval_params(before.opt_state, before.params)
    np.testing.assert_allclose(best.params["slope"], averaged["slope"], rtol=1e-6)


def _centred(evaluate=None):
    """A model with the running mean of its inputs' product with a weight, as a batch norm keeps it."""
    x = jnp.linspace(0.0, 2.0, 64)

    def loss_fn(params, mean, batch, key):
        del key
        product = params * batch
        return jnp.mean((product - 3.0 * batch) ** 2), 0.9 * mean + 0.1 * jnp.mean(product)

    def init(key):
        return jax.random.uniform(key), jnp.zeros([])

    return Workload("centred", init, loss_fn, Batches(x, batch_size=16), evaluate)


def test_batch_statistics_are_computed_anew_at_other_parameters():
    mean = recompute_batch_stats(_centred(), jnp.float32(2.0), jnp.float32(100.0))
    np.testing.assert_allclose(mean, 2.0, rtol=0.05)  # 2 times the mean of x, which is 1
    few = recompute_batch_stats(_centred(), jnp.float32(2.0), jnp.float32(100.0), num_batches=1)
    assert 90 < few < 91
    assert recompute_batch_stats(_line(), {"slope": 1.0}, ()) == ()


def test_an_evaluation_elsewhere_sees_its_own_batch_statistics():
    seen = []

    def evaluate(params, mean):
        seen.append((float(params), float(mean)))
        return {"loss": params}

    history = train(_centred(evaluate), lrx.schedule_free_sgd(lrx.constant(0.3)), steps=6)
    for params, mean in seen:
        np.testing.assert_allclose(mean, params, rtol=0.05)
    assert abs(float(history.model_state) - seen[-1][1]) > 0.1  # the run's own are those of the parameters it trains
    kept = train(_centred(evaluate), lrx.sgd(0.3), steps=6)
    assert seen[-1] == (float(kept.params), float(kept.model_state))


def test_recomputing_batch_statistics_takes_a_workload():
    with pytest.raises(TypeError, match=r"^workload must be an lrx.Workload, got workload=1"):
        recompute_batch_stats(1, {}, jnp.zeros(1))
    with pytest.raises(ValueError, match="num_batches must be a whole number"):
        recompute_batch_stats(_centred(), jnp.zeros([]), jnp.zeros([]), num_batches=0)


def test_observe_names_what_is_evaluated():
    tx = lrx.sgd(0.1 * lrx.early_stopping(feedback="observed"))
    message = r"^feedback_metric must name results of evaluate, \['loss'\], got 'los'"
    with pytest.raises(ValueError, match=message):
        train(_line(lambda params: {"loss": 1.0}), tx, epochs=2, feedback_metric="los")


@pytest.mark.slow
def test_a_run_that_is_extended_has_observed_what_the_longer_one_observes(tmp_path):
    def evaluate(params):
        return {"loss": (params["slope"] - 3.0) ** 2}

    def make():
        return lrx.sgd(0.05 * lrx.reduce_on_plateau(factor=0.5, patience=0, rtol=0.5, feedback="observed"))

    arguments = {"evaluate_every": 2, "feedback_metric": "loss"}
    train(_line(evaluate), make(), epochs=3, checkpoint=tmp_path / "run", **arguments)
    extended = train(_line(evaluate), make(), epochs=8, checkpoint=tmp_path / "run", **arguments)
    at_once = train(_line(evaluate), make(), epochs=8, **arguments)
    np.testing.assert_array_equal(extended.rate, at_once.rate)
    np.testing.assert_array_equal(extended.loss, at_once.loss)
    assert at_once.rate[-1] < at_once.rate[0]


def test_observe_is_refused_where_nothing_evaluates_or_listens():
    with pytest.raises(
        ValueError, match=r"^feedback_metric needs a workload that evaluates, got feedback_metric='loss'"
    ):
        train(_line(), lrx.sgd(0.1 * lrx.early_stopping(feedback="observed")), epochs=2, feedback_metric="loss")
    with pytest.raises(ValueError, match="feedback_metric needs a controller that takes observations"):
        train(_line(lambda params: {"loss": 1.0}), lrx.sgd(0.1), epochs=2, feedback_metric="loss")


def test_a_diverging_run_is_rolled_back_within_the_loop():
    history = train(_line(), lrx.rollback_on_divergence(lrx.sgd(1000.0)), epochs=50)
    assert int(history.opt_state.rollbacks) >= 5
    np.testing.assert_allclose(history.params["slope"], 3.0, rtol=1e-2)


def test_a_run_that_is_given_up_says_so_and_keeps_its_parameters():
    tx = lrx.rollback_on_divergence(lrx.sgd(1e6), max_rollbacks=2)
    with pytest.raises(DivergenceError, match=r"diverged again at step .* after the last of its rollbacks") as caught:
        train(_line(), tx, epochs=50)
    assert 0 <= float(caught.value.history.params["slope"]) <= 1


# ---------------------------------------------------------------------------------------- what a run follows, and keeps


def _observed(**arguments):
    return lrx.reduce_on_plateau(feedback="observed", **arguments), lrx.early_stopping(patience=50, feedback="observed")


@pytest.mark.slow
def test_an_early_stop_within_a_rollback_is_not_a_divergence():
    tx = lrx.rollback_on_divergence(lrx.sgd(0.1 * lrx.early_stopping(patience=2, min_delta=1e9)))
    history = train(_line(), tx, epochs=50)
    assert history.ended == "stopped"


@pytest.mark.slow
def test_a_product_of_controllers_trains_within_a_rollback():
    plateau, stopping = _observed(factor=0.5, patience=0, rtol=0.9)
    tx = lrx.rollback_on_divergence(lrx.sgd(0.1 * plateau * stopping))
    history = train(_line(_distance), tx, epochs=4, feedback_metric="loss")
    assert history.rate[-1] < history.rate[0]
    assert history.best is not None


@pytest.mark.slow
def test_all_controllers_at_once_observe_within_a_rollback_that_observes_too():
    observed = [
        make(feedback="observed")
        for make in (lrx.reduce_on_plateau, lrx.greedy, lrx.pid, lrx.relative_adaptation, lrx.early_stopping)
    ]
    rate = functools.reduce(operator.mul, observed, lrx.constant(0.05))
    tx = lrx.rollback_on_divergence(lrx.adam(rate * lrx.reduce_on_plateau()), feedback="observed")
    history = train(_line(_distance), tx, epochs=3, feedback_metric="loss")
    seen = [values[-1] for name, values in history.metrics.items() if name.endswith("observations")]
    assert seen == [2] * 6  # those that an update has taken
    assert np.isfinite(history.loss).all()


def test_each_controller_follows_a_result_of_its_own():
    plateau, stopping = _observed(factor=0.5, patience=0)
    tx = lrx.sgd(0.1 * plateau * stopping)

    def evaluate(params):
        return {"loss": (params["slope"] - 3.0) ** 2, "worse": -((params["slope"] - 3.0) ** 2)}

    def rates(plateau, stopping):
        feedback_metric = {"reduce_on_plateau": plateau, "early_stopping": stopping}
        return train(_line(evaluate), tx, epochs=4, feedback_metric=feedback_metric).rate

    assert rates("loss", "worse")[-1] == rates("loss", "loss")[-1] == np.float32(0.1)
    assert rates("worse", "loss")[-1] < 0.1
    assert rates(None, "loss")[-1] == np.float32(0.1)


def test_a_controller_that_would_wait_for_ever_is_refused():
    plateau, stopping = _observed()
    with pytest.raises(
        ValueError, match=r"^feedback_metric must say what reduce_on_plateau and early_stopping observe"
    ):
        train(_line(_distance), lrx.sgd(0.1 * plateau * stopping), epochs=2)
    tx = lrx.sgd(0.1 * plateau * stopping)
    with pytest.raises(ValueError, match=r"^feedback_metric must say what early_stopping observes"):
        train(_line(_distance), tx, epochs=2, feedback_metric={"reduce_on_plateau": "loss"})
    with pytest.raises(
        ValueError, match=r"^feedback_metric must name controllers .*, reduce_on_plateau, got 'plateau'"
    ):
        train(_line(_distance), lrx.sgd(0.1 * plateau), epochs=2, feedback_metric={"plateau": "loss"})
    with pytest.raises(TypeError, match=r"^feedback_metric must be the name of a result"):
        train(_line(_distance), lrx.sgd(0.1 * plateau), epochs=2, feedback_metric=["loss"])


def test_feedback_that_comes_too_late_is_said(capsys):
    plateau, _ = _observed()
    train(_line(_distance), lrx.sgd(0.1 * plateau), epochs=1, feedback_metric="loss")
    assert "line: reduce_on_plateau will observe nothing before the end" in capsys.readouterr().err


def _turning():
    return lrx.sgd(lrx.interpolate({0: 0.5, 12: 0.5, 13: 4.0}))  # from epoch 4 on it runs away


def _accuracy(params):
    return {"loss": (params["slope"] - 3.0) ** 2, "accuracy": -((params["slope"] - 3.0) ** 2), "bleu": params["slope"]}


@pytest.mark.parametrize("keep_best", ["loss", "accuracy", ("accuracy", "max"), ("loss", "min")])
def test_the_best_is_kept_without_a_controller(keep_best):
    history = train(_line(_accuracy), _turning(), epochs=6, keep_best=keep_best)
    name = keep_best if isinstance(keep_best, str) else keep_best[0]
    values = history.evaluations[name]
    step = history.evaluation_steps[np.argmin(values) if name == "loss" else np.argmax(values)]
    assert history.best is not None
    assert int(history.best.step) == step < 24
    there = train(_line(_accuracy), _turning(), steps=int(step))
    np.testing.assert_array_equal(history.best.params["slope"], there.params["slope"])


def test_the_best_that_was_kept_survives_an_interruption(tmp_path):
    whole = train(_line(_accuracy), _turning(), epochs=6, keep_best="loss").best
    train(_line(_accuracy), _turning(), epochs=4, keep_best="loss", checkpoint=tmp_path)
    resumed = train(_line(_accuracy), _turning(), epochs=6, keep_best="loss", checkpoint=tmp_path).best
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    with pytest.raises(ValueError, match=r"keep_best must be what the run in .* was begun with, \['loss', 'min'\]"):
        train(_line(_accuracy), _turning(), epochs=7, keep_best="accuracy", checkpoint=tmp_path)


def test_the_best_is_at_the_evaluation_point():
    history = train(_line(_distance), lrx.schedule_free_sgd(0.5), epochs=3, keep_best="loss")
    assert history.best is not None
    values = history.evaluations["loss"]
    np.testing.assert_allclose(_distance(history.best.params)["loss"], values.min(), rtol=1e-6)


def test_nothing_is_best_where_all_is_nan():
    history = train(_line(lambda params: {"loss": jnp.nan}), lrx.sgd(0.1), epochs=2, keep_best="loss")
    assert history.best is None


@pytest.mark.parametrize(
    ("keep_best", "error", "message"),
    [
        ("bleu", ValueError, r"whether the least or the greatest is best.*\('bleu', \"max\"\)"),
        (("loss", "lowest"), ValueError, "the mode of keep_best must be"),
        (3, TypeError, "keep_best must be the name of a result"),
        ("los error", ValueError, "keep_best must name results of evaluate"),
    ],
)
def test_a_best_that_cannot_be_told_is_refused(keep_best, error, message):
    with pytest.raises(error, match=message):
        train(_line(_accuracy), lrx.sgd(0.1), epochs=1, keep_best=keep_best)
    with pytest.raises(ValueError, match="keep_best needs a workload that evaluates"):
        train(_line(), lrx.sgd(0.1), epochs=1, keep_best="loss")


# ------------------------------------------------------------------------------ runs that end within a round of batches


def _constant_gradient():
    batches = Batches(jnp.ones(8), 2, shuffle=False)
    return Workload.from_functions(lambda w, x, key: w * jnp.mean(x), lambda key: jnp.zeros(()), batches, name="slope")


@pytest.mark.parametrize("steps", [1, 8, 9, 10, 11])
def test_a_run_that_ends_within_a_round_applies_the_rest(steps, capsys):
    history = train(_constant_gradient(), lrx.accumulate(lrx.sgd(1.0), 4), steps=steps)
    assert float(history.params) == -np.ceil(steps / 4)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_longer_run_goes_on_within_the_round_bit_for_bit(tmp_path):
    def make():
        return lrx.accumulate(lrx.adam(lrx.linear_decay(0.1, 20)), 4)

    for steps in (6, 7, 7, 12, 18):
        history = train(_line(_distance), make(), steps=steps, checkpoint=tmp_path)
        at_once = train(_line(_distance), make(), steps=steps)
        for name in ("loss", "rate", "params", "opt_state", "evaluations", "evaluation_steps"):
            jax.tree.map(np.testing.assert_array_equal, getattr(history, name), getattr(at_once, name))


def test_gradients_that_cannot_be_applied_at_the_end_are_said(capsys):
    train(_constant_gradient(), optax.MultiSteps(lrx.sgd(1.0), 4), steps=6)
    assert "slope: the gradients of the last 2 of 6 steps are gathered and not applied: go on from here" in (
        capsys.readouterr().err
    )
    stop = {"callback": lambda moment: lrx.STOP, "callback_every": 2}
    train(_constant_gradient(), lrx.accumulate(lrx.sgd(1.0), 4), steps=9, **stop)
    assert "slope: the gradients of the last 2 of 2 steps" in capsys.readouterr().err
