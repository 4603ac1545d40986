"""Findings follow from the numbers that the probes of a diagnosis have measured; nothing is trained here."""

import dataclasses

import numpy as np

from lrx.doctor.batch_checks import BatchEvidence
from lrx.doctor.device_checks import DeviceEvidence
from lrx.doctor.diagnose import find
from lrx.doctor.heart_checks import HeartEvidence
from lrx.doctor.measure_run import factor_by_heart
from lrx.doctor.rate_checks import Branch, RateEvidence


def rates(warm, *, own=8.0, low=3.0, highest=40.0, highest_warm=10.0):
    """Pilot runs from a loss of 10: at an eighth of the rate, after such steps, at 8 times the rate, and at it.

    At the rate itself the loss first rises to `highest`, and after lower ones to `highest_warm`.
    """
    ends = {(0.125, "scaled"): low, (8.0, "scaled"): 20.0}
    branches = [Branch(factor, kind, [10.0, end, end, end]) for (factor, kind), end in ends.items()]
    branches.append(Branch(1.0, "warm", [10.0, highest_warm, warm, warm]))
    branches.append(Branch(1.0, "scaled", [10.0, highest, own, own]))
    return RateEvidence(branches, 10.0, 4, updates=200, run_steps=200)


def level_of_warm_up(*, warm, **losses):
    found = [each for each in find({"rates": rates(warm, **losses)}) if each.code == "warmup-missing"]
    return found[0].level if found else None


def test_a_rate_at_which_the_loss_rises_unless_lower_ones_come_first_needs_a_warm_up():
    found = find({"rates": rates(warm=2.0)})
    assert [(each.code, each.level) for each in found] == [("warmup-missing", "likely"), ("rate-too-high", "hint")]
    assert found[0].remedy.change.warmup_steps == 20
    assert found[1].because == "warmup-missing"
    assert "goes up to 40 and ends at 8. After" in found[0].summary
    # Near the best end, and not below it.
    assert level_of_warm_up(warm=4.0) == "hint"
    assert level_of_warm_up(warm=4.0, highest=19.0) is None
    assert level_of_warm_up(warm=4.0, highest_warm=21.0) is None
    # The loss does not rise far, but stays up for good, by more than the possible fall of 7.
    assert level_of_warm_up(warm=2.0, highest=18.0, own=18.0) == "likely"


def test_a_run_that_ends_lower_after_twice_the_steps_may_lack_a_warm_up():
    assert level_of_warm_up(warm=2.0, highest=19.0) == "hint"
    assert level_of_warm_up(warm=2.0, highest_warm=21.0) == "hint"
    assert level_of_warm_up(warm=2.0, highest=10.0, own=5.0) is None  # a rate that loses little


def test_a_missing_warm_up_explains_a_run_that_diverges():
    diverges = find({"rates": rates(warm=2.0, own=float("inf"))})
    assert [(each.code, each.because) for each in diverges[:2]] == [
        ("warmup-missing", None),
        ("diverges", "warmup-missing"),
    ]


def low_rate(*ends, run_steps):
    """Pilot runs of 10 steps from a loss of 10, which end lower and lower at 1, 8, 64 ... times the rate."""
    branches = [Branch(8.0**place, "scaled", [10.0] * 5 + [end] * 5) for place, end in enumerate(ends)]
    return find({"rates": RateEvidence(branches, 10.0, 10, updates=run_steps, run_steps=run_steps)})


def test_a_rate_is_likely_too_low_only_if_the_length_of_the_run_does_not_make_up_for_it():
    levels = {"likely": 600, "hint": 660}  # 60 and 66 pilot runs, and the best is at 64 times the rate
    for level, run_steps in levels.items():
        found = low_rate(9.8, 9.5, 3.0, 9.5, run_steps=run_steps)
        assert [(each.code, each.level) for each in found] == [("rate-too-low", level)]


def test_a_minibatch_whose_loss_does_not_fall_is_not_learnt():
    still = HeartEvidence(0.125, [2.0, 2.1, 2.05, None], fall=0.01, run_steps=400)
    assert [(each.code, each.level) for each in find({"heart": still})] == [("batch-not-learnt", "likely")]
    assert find({"heart": dataclasses.replace(still, losses=[2.0, 1.9, 1.8, 1.7])}) == ()
    assert find({"heart": dataclasses.replace(still, losses=[float("nan")] * 4)}) == ()


def test_a_minibatch_that_is_learnt_slowly_or_while_others_are_learnt_is_no_finding():
    slow = HeartEvidence(1.0, [2.0, 1.999, 1.998, 1.997], fall=0.01, run_steps=400)
    assert find({"heart": slow}) == ()  # it falls by 0.0015 of itself in a hundredth of the run
    assert [each.code for each in find({"heart": dataclasses.replace(slow, run_steps=40)})] == ["batch-not-learnt"]
    assert find({"heart": dataclasses.replace(slow, run_steps=40, fall=0.5)}) == ()


def test_one_minibatch_is_learnt_at_the_best_rate_or_if_none_learns_at_the_highest_safe_one():
    assert factor_by_heart(rates(warm=2.0), learns=True) == 0.125
    branches = [Branch(factor, "scaled", [1.0, end, end]) for factor, end in ((0.1, 0.99), (1.0, 1.02), (8.0, 1.1))]
    flat = RateEvidence(branches, 1.0, 3, updates=200, run_steps=200)
    assert factor_by_heart(flat, learns=False) == 1.0


def gradient_products(signal, noise, minibatches, seed):
    """Inner products of gradients of 20 entries; their squared mean and their variance are given."""
    rng = np.random.default_rng(seed)
    gradients = (signal / 20) ** 0.5 + (noise / 20) ** 0.5 * rng.normal(size=(minibatches, 20))
    return gradients @ gradients.T


def test_the_noise_scale_is_that_of_the_gradients_and_not_resolved_above_the_number_of_minibatches():
    options = {"batch_size": 8, "examples": 1000, "every": 1, "fall": 0.5}
    many = gradient_products(1.0, 3.0, 400, seed=0)
    seen = BatchEvidence.of([many, many], [many], **options)
    np.testing.assert_allclose([seen.first, seen.later], 24, rtol=0.05)  # 8 examples, 3 times the signal
    assert 20 < seen.first_least < seen.first
    few = [gradient_products(1.0, 100.0, 4, seed) for seed in range(20)]
    assert max(BatchEvidence.of([each], [each], **options).first_least for each in few) < 8 * 100


def test_a_batch_is_likely_too_small_only_if_its_noise_is_resolved_at_first_and_after_something_is_learnt():
    seen = BatchEvidence(1, 1000, 1, first=40.0, later=60.0, first_least=20.0, later_least=20.0, fall=0.5)
    # Without a fall, the second noise scale is that of the beginning, too.
    for level, fields in [
        ("likely", {}),
        *(("hint", each) for each in ({"first_least": 5.0}, {"later_least": 5.0}, {"fall": 0.01})),
    ]:
        (finding,) = find({"batch": dataclasses.replace(seen, **fields)})
        assert (finding.code, finding.level) == ("batch-too-small", level)
    assert find({"batch": dataclasses.replace(seen, first=4.0, later=4.0, first_least=1.0, later_least=1.0)}) == ()


def test_copies_that_differ_between_devices_are_named():
    evidence = DeviceEvidence(replicated=3, paths=["lin/bias"], example="lin/bias: 0.0 on CPU 0, 1.0 on CPU 1")
    (finding,) = find({"devices": evidence})
    assert (finding.code, finding.level) == ("devices-disagree", "certain")
    assert "1 of 3 arrays: lin/bias" in finding.summary
    assert find({"devices": dataclasses.replace(evidence, paths=[], example="")}) == ()
