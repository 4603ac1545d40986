"""A diagnosis names what is wrong with a run, and nothing if nothing is; all share the programs of one workload."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.doctor.diagnose import find
from lrx.doctor.evidence import as_evidence
from lrx.doctor.measure_run import plan_probes

STEPS = 300
RNG = np.random.default_rng(0)
X = RNG.normal(size=(512, 8)).astype(np.float32)
Y = (np.maximum(X @ RNG.normal(size=(8, 4)), 0) @ RNG.normal(size=4) + 0.3 * RNG.normal(size=512)).astype(np.float32)


def forward(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"][None, :]) @ params["output"]


def mean_loss(params, batch, key):
    return jnp.mean((forward(params, batch[0]) - batch[1]) ** 2)


def summed_loss(params, batch, key):
    return jnp.sum((forward(params, batch[0]) - batch[1]) ** 2)


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (8, 16)) * 0.5,
        "bias": jnp.zeros(16),
        "output": jax.random.normal(second, (16,)) * 0.3,
    }


def silent_init(key):
    return init(key) | {"bias": jnp.full(16, -1e3)}


def workload(loss=mean_loss, init=init, arrays=(X, Y)):
    return lrx.Workload.from_functions(loss, init, lrx.Batches(arrays, batch_size=32), name="small")


HEALTHY = lrx.adam(lrx.warmup_cosine_decay(0.03, 15, STEPS))


def diagnosed(*arguments, **options):
    return lrx.diagnose(*arguments, steps=STEPS, **options)


def test_nothing_is_found_in_a_healthy_run_within_the_budget():
    found = diagnosed(workload(), HEALTHY)
    assert [each.code for each in found.findings if each.level != "hint"] == []
    assert 0 < found.steps_used <= 0.3 * STEPS
    assert {"rate-too-high", "dead-layer", "loss-is-summed", "labels-are-noise"} <= set(found.checked)


@pytest.mark.parametrize(
    ("tx", "code"),
    [
        (lrx.adam(lrx.cosine_decay(3e-5, STEPS)), "rate-too-low"),
        (lrx.adam(lrx.cosine_decay(0.03, STEPS), eps=100.0), "eps-too-large"),
        (lrx.adam(lrx.cosine_decay(100.0, STEPS)), "diverges"),
        (lrx.adam(lrx.cosine_decay(0.03, 60)), "schedule-ends-early"),
    ],
    ids=["low", "eps", "high", "short"],
)
def test_a_fault_of_the_optimizer_is_named_first(tx, code):
    found = diagnosed(workload(), tx)
    assert found.codes[0] == code, found
    remedy = found.findings[0].remedy
    assert remedy.tx is not None
    assert remedy.code.startswith("lrx.adam(lrx.cosine_decay(")


def test_a_summed_loss_is_named():
    assert diagnosed(workload(summed_loss), HEALTHY).codes[0] == "loss-is-summed"


def test_labels_of_other_examples_are_named():
    found = diagnosed(workload(arrays=(X, np.random.default_rng(1).permutation(Y))), HEALTHY)
    assert "labels-are-noise" in found.codes


def test_data_that_are_not_finite_are_named_and_explain_the_rest():
    bad = X.copy()
    bad[7, 3] = np.nan
    found = diagnosed(workload(arrays=(bad, Y)), HEALTHY)
    assert found.codes[0] == "not-finite-input"
    assert found.findings[0].evidence == {"numbers": 1, "examples": 1}
    assert {each.because for each in found.findings[1:]} <= {"not-finite-input"}


@pytest.mark.slow
def test_a_layer_whose_units_are_silent_is_dead_and_one_behind_stop_gradient_is_frozen():
    assert diagnosed(workload(init=silent_init), HEALTHY).codes[0] == "dead-layer"

    def stopped(params, batch, key):
        return mean_loss(params | {"hidden": jax.lax.stop_gradient(params["hidden"])}, batch, key)

    found = diagnosed(workload(stopped), HEALTHY)
    assert "frozen-by-mistake" in found.codes
    assert "dead-layer" not in found.codes


def test_two_layers_that_begin_far_too_small_are_a_hint_at_vanishing_gradients():
    def small(scale):
        def small_init(key):
            first, second = jax.random.split(key)
            hidden, output = jax.random.normal(first, (8, 16)) * 0.5, jax.random.normal(second, (16, 1)) * 0.3
            return {"hidden": scale * hidden, "output": scale * output, "bias": jnp.zeros(1)}

        def loss(params, batch, key):
            hidden = jax.nn.relu(batch[0] @ params["hidden"])
            return jnp.mean(((hidden @ params["output"] + params["bias"][None])[:, 0] - batch[1]) ** 2)

        return {each.code: each for each in diagnosed(workload(loss, small_init), HEALTHY).findings}

    found = small(0.01)["vanishing-gradients"]
    assert found.level == "hint"
    assert "and a tenth of the parameters has the same loss" in found.summary
    assert "vanishing-gradients" not in small(1.0)


def test_a_group_with_the_factor_0_is_frozen():
    labels = {"hidden": "frozen", "bias": "rest", "output": "rest"}
    tx = lrx.group_rates(HEALTHY, labels, {"frozen": 0.0, "rest": 1.0})
    finding = next(each for each in diagnosed(workload(), tx).findings if each.code == "frozen-by-mistake")
    assert finding.evidence == {"frozen": 1, "parameters": 3}
    assert "hidden" in finding.summary


def test_the_same_arguments_give_the_same_findings_and_a_transformation_of_optax_is_taken_too():
    one, two = (diagnosed(workload(), lrx.adam(lrx.cosine_decay(3e-5, STEPS))) for _ in range(2))
    assert one.to_json().split('"seconds"')[0] == two.to_json().split('"seconds"')[0]
    import optax

    tx = optax.chain(optax.clip_by_global_norm(10.0), lrx.adam(lrx.cosine_decay(3e-5, STEPS)))
    found = diagnosed(workload(), tx)
    assert found.codes[0] == "rate-too-low"
    assert found.findings[0].remedy.code.startswith("optax.chain(tx, optax.scale(")


def history(loss, **fields):
    steps = len(loss)
    known = {
        "rate": np.full(steps, 0.1, np.float32),
        "metrics": {},
        "evaluations": {},
        "evaluation_steps": np.zeros(0, np.int32),
        "params": (),
        "model_state": (),
        "opt_state": (),
    }
    return lrx.History(loss=np.asarray(loss, np.float32), **known | fields)


def test_a_history_that_overfits_that_is_at_its_noise_floor_or_that_diverges_is_named():
    steps = np.arange(400)
    falling = np.exp(-steps / 60) + 0.1 - steps / 8000
    rising = np.concatenate([np.linspace(1, 0.5, 8), np.linspace(0.55, 0.9, 8)])
    linear = np.linspace(0.1, 0, 400, dtype=np.float32)
    fields = {"evaluations": {"loss": rising}, "evaluation_steps": np.arange(25, 401, 25)}
    found = lrx.diagnose(history(falling, rate=linear, **fields))
    assert found.codes == ["overfits"]
    assert found.findings[0].remedy.change.steps == 200
    flat = np.maximum(1 - steps / 100, 0.2) + 0.02 * np.random.default_rng(0).normal(size=400)
    assert lrx.diagnose(history(flat)).codes == ["noise-floor"]
    assert lrx.diagnose(history(flat)).findings[0].level == "likely"
    still_falling = np.exp(-steps / 150)
    (hint,) = lrx.diagnose(history(still_falling)).findings
    assert (hint.code, hint.level) == ("noise-floor", "hint")
    assert "one that falls would probably end lower" in hint.summary
    assert lrx.diagnose(history(np.linspace(1, 0.5, 400))).codes == []  # a half of the fall is in the second half
    assert lrx.diagnose(history(flat, rate=linear)).codes == []
    assert lrx.diagnose(history([1.0, 5.0, np.nan], ended="diverged")).codes == ["diverges"]


def test_a_history_with_its_optimizer_has_its_schedule_checked():
    found = lrx.diagnose(history(np.linspace(1, 0.5, 400)), workload(), lrx.sgd(lrx.cosine_decay(0.1, 100)))
    assert found.codes == ["schedule-ends-early"]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((workload(), HEALTHY), {}, ValueError, "steps must be given, got steps=None"),
        ((workload(), HEALTHY), {"steps": 0}, ValueError, "steps must be"),
        (
            (workload(), HEALTHY),
            {"steps": 50},
            ValueError,
            r"budget must allow 42 steps, got budget=0.3, .*give budget=0.84",
        ),
        ((workload(), HEALTHY), {"steps": 500, "budget": 1.5}, ValueError, "budget must be in"),
        ((workload(), "adam"), {"steps": 500}, TypeError, "transformation"),
        ((workload(),), {"steps": 500}, TypeError, "tx must be given after the workload"),
        ((mean_loss, HEALTHY), {"steps": 500}, TypeError, "workload must be an lrx.Workload"),
        ((history([1.0]),), {"steps": 5}, ValueError, "steps must be left out for a History"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(arguments, options, error, match):
    with pytest.raises(error, match=match):
        lrx.diagnose(*arguments, **options)


def test_a_budget_is_divided_into_branches_and_further_probes_if_it_is_large_enough():
    plan = plan_probes(STEPS, 0.3)
    assert (plan.rounds, plan.curvature_minibatches) == (2, 0)
    assert 3 * 2 * plan.steps <= 0.3 * STEPS
    assert plan_probes(140, 0.3).rounds == 1
    assert plan_probes(400, 0.3).curvature_minibatches == 1
    assert plan_probes(10_000, 0.3).curvature_minibatches == 8


def test_a_diagnosis_draws_what_it_has_measured():
    figure = diagnosed(workload(), HEALTHY).plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Schedule", "Pilot runs", "Gradients and updates", "Batch and gradient noise"]


def test_the_data_set_is_not_changed():
    before = dataclasses.astuple(lrx.Batches((X, Y), 32))
    diagnosed(workload(), HEALTHY)
    for kept, now in zip(jax.tree.leaves(before[0]), (X, Y), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_a_run_that_ends_at_the_limit_of_its_rate_is_at_the_edge_of_stability():
    curvatures = np.array([1.0, 10.0], np.float32)
    bowl = lrx.Workload.from_functions(
        lambda w, batch, key: 0.5 * jnp.mean(jnp.sum(batch * w[None, :] ** 2, axis=1)),
        lambda key: jnp.ones(2),
        lrx.Batches(np.tile(curvatures, (4, 1)), batch_size=4),
    )
    for rate, codes in ((0.19, ["edge-of-stability"]), (0.1, [])):
        tx = lrx.sgd(rate)
        state = tx.init(jnp.ones(2))
        run = history(np.linspace(1, 0.5, 40), rate=np.full(40, rate), params=jnp.ones(2), opt_state=state)
        found = lrx.diagnose(run, bowl)
        assert found.codes == codes
        if codes:
            assert found.findings[0].level == "hint"
            np.testing.assert_allclose(found.findings[0].evidence["sharpness"], 10, rtol=0.02)
            np.testing.assert_allclose(found.findings[0].evidence["limit"], 2 / rate, rtol=1e-5)


@pytest.mark.slow
def test_a_warm_up_that_is_missing_is_named_first_and_its_remedy_repairs_the_run():
    # Curvature is high where the run begins. A step at the full rate goes to where there is no gradient any more.
    def loss(w, batch, key):
        return 20 + jnp.minimum(jnp.mean(batch) * 0.25 * jnp.sum(w**4), 50.0)

    steep = lrx.Workload.from_functions(loss, lambda key: jnp.full(1, 3.0), lrx.Batches(np.ones(64, np.float32), 32))
    tx = lrx.sgd(lrx.cosine_decay(0.25, 400))
    found = lrx.diagnose(steep, tx, steps=400)
    assert found.codes[0] == "warmup-missing", found
    remedy = found.findings[0].remedy
    assert remedy.change.warmup_steps == 40
    ends = [float(lrx.train(steep, each, steps=400).loss[-1]) for each in (tx, remedy.tx)]
    assert ends[1] < 20.1 < 60 < ends[0]


@pytest.mark.slow
def test_the_sharpness_of_a_run_with_a_frozen_group_is_that_of_what_moves():
    labels = {"hidden": "frozen", "bias": "rest", "output": "rest"}
    tx = lrx.group_rates(lrx.adamw(lrx.cosine_decay(0.03, 400)), labels, {"frozen": 0.0, "rest": 1.0})
    found = lrx.diagnose(workload(), tx, steps=400)  # long enough for a measurement of the sharpness
    assert found.evidence["stability"]["products"] > 1
    assert np.isfinite(found.evidence["stability"]["sharpness"])
    history = lrx.train(workload(), tx, steps=40)
    after = lrx.diagnose(history, workload(), tx).evidence["stability"]
    moving = {name: leaf for name, leaf in history.params.items() if name != "hidden"}
    loss = workload().loss_at((jnp.asarray(X), jnp.asarray(Y)))
    over = {name: leaf for name, leaf in lrx.preconditioner_of(history.opt_state).items() if name != "hidden"}
    alone = lrx.sharpness(
        lambda params: loss(history.params | params), moving, preconditioner=over, tol=1e-4, max_products=2000
    )
    np.testing.assert_allclose(after["sharpness"], float(alone), rtol=1e-2)


def test_a_layer_whose_updates_are_tiny_beside_those_of_others_is_frozen():
    labels = {"hidden": "slow", "bias": "rest", "output": "rest"}
    tx = lrx.group_rates(HEALTHY, labels, {"slow": 1e-5, "rest": 1.0})
    finding = next(each for each in diagnosed(workload(), tx).findings if each.code == "frozen-by-mistake")
    assert finding.evidence["frozen"] == 1
    assert "hidden" in finding.summary
    ratios = finding.evidence["update_ratio"], finding.evidence["largest_update_ratio"]
    assert 0 < ratios[0] < 1e-3 * ratios[1]


def test_the_update_ratio_of_each_layer_is_measured():
    seen = diagnosed(workload(), lrx.adam(0.01)).evidence["gradients"]
    assert seen["update_rms"] == pytest.approx([0.01] * 3, rel=0.5)  # the first updates of Adam are the rate
    ratios = dict(zip(seen["paths"], seen["update_ratios"], strict=True))
    assert ratios["hidden"] == pytest.approx(0.01 / 0.5, rel=0.5)
    assert ratios["bias"] > 2 * ratios["hidden"]  # it begins at 0


@pytest.mark.slow
def test_updates_that_ascend_do_not_learn_one_batch_by_heart():
    def ascending(params, batch, key):
        loss = mean_loss(params, batch, key)
        return 2 * jax.lax.stop_gradient(loss) - loss

    found = lrx.diagnose(workload(ascending), lrx.adam(lrx.cosine_decay(0.03, 400)), steps=400)
    assert found.codes[0] == "batch-not-learnt", found
    assert found.steps_used <= 0.3 * 400
    assert "batch-not-learnt" in diagnosed(workload(ascending), HEALTHY).skipped


def test_the_sharpness_after_a_pilot_run_is_compared_with_the_limit_of_the_peak():
    curvatures = np.tile(np.array([1.0, 10.0], np.float32), (64, 1))
    bowl = lrx.Workload.from_functions(
        lambda w, batch, key: 0.5 * jnp.mean(jnp.sum(batch * w[None, :] ** 2, axis=1)),
        lambda key: jnp.ones(2),
        lrx.Batches(curvatures, batch_size=4),
    )
    for rate, near in ((0.19, True), (0.1, False)):
        found = lrx.diagnose(bowl, lrx.sgd(lrx.cosine_decay(rate, 400)), steps=400)
        assert ("edge-of-stability" in found.codes) == near
        np.testing.assert_allclose(found.evidence["stability"]["sharpness"], 10, rtol=0.02)
        np.testing.assert_allclose(found.evidence["stability"]["limit"], 2 / rate, rtol=0.01)
    assert all(each.level == "hint" for each in found.findings if each.code == "edge-of-stability")


def test_a_loss_without_curvature_has_the_sharpness_0():
    flat = lrx.Workload.from_functions(
        lambda w, batch, key: jnp.mean(batch @ w), lambda key: jnp.ones(8), lrx.Batches(X, batch_size=32)
    )
    found = lrx.diagnose(flat, lrx.sgd(lrx.cosine_decay(1e-3, 400)), steps=400)
    assert found.evidence["stability"]["sharpness"] == 0


DISAGREE = """
import jax, numpy as np, lrx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
mesh = Mesh(np.array(jax.devices()), ("d",))
def placed(*copies):
    copies = [jax.device_put(np.float32(x), device) for x, device in zip(copies, jax.devices())]
    return jax.make_array_from_single_device_arrays((), NamedSharding(mesh, PartitionSpec()), copies)
def codes(*bias):
    n = 40
    run = lrx.History(loss=np.linspace(1, 0.5, n, dtype=np.float32), rate=np.linspace(0.1, 0, n, dtype=np.float32),
        metrics={}, evaluations={}, evaluation_steps=np.zeros(0, np.int32),
        params={"bias": placed(*bias), "kernel": placed(2.0, 2.0)}, model_state=(), opt_state=())
    return [(each.code, each.level, each.summary) for each in lrx.diagnose(run).findings]
assert codes(1.0, 1.0) == [], codes(1.0, 1.0)
((code, level, summary),) = codes(1.0, 1.5)
assert (code, level) == ("devices-disagree", "certain")
assert "1 of 2 arrays: params/bias: 1.0 on cpu:0, 1.5 on cpu:1" in summary, summary
"""


@pytest.mark.slow
def test_a_history_whose_devices_hold_different_copies_is_named():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", DISAGREE], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_findings_follow_from_saved_evidence_alone():
    found = diagnosed(workload(), lrx.adam(lrx.cosine_decay(3e-5, STEPS)))
    again = find(as_evidence(found.evidence))
    assert [(each.code, each.level, each.summary) for each in again] == [
        (each.code, each.level, each.summary) for each in found.findings
    ]
