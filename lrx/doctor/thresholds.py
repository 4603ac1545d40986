"""The numbers that decide what is a finding, all in one place.

They were found by `lrx bench diagnose` on 32 kinds of workloads and are measured on six others; some follow from a
definition or a source, which stands beside them.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The numbers that decide what is a finding.

    Attributes:
      warmup_share: share of the run above which a warm-up is too long. Usual ones take 1 % to 10 %.
      one_cycle_share: the same for schedules whose rise is half of their idea, such as `one_cycle`.
      early_end_share: share of the run below which the end of a schedule is early.
      ended_rate: rate, relative to the peak, below which a schedule counts as ended.
      late_end_share: length of a schedule, in runs, above which it does not end with the run.
      late_rate: rate at the end of the run, relative to the peak, above which such a schedule has not ended.
      cut_rate: rate at the end of a run, relative to the peak, above which a cycle counts as cut.
      whole_cycle: part of the last cycle above which it counts as complete.
      minibatch_match: relative difference of a schedule's length and the number of minibatches at which they match.
      decay_strong: shrinkages by a factor of e, within the run, above which a weight decay is too strong if each of
        them also takes less than an epoch. Its time scale should lie between an epoch and the run: X. Wang,
        L. Aitchison, 2024, arXiv:2405.13698.
      decay_weak: share by which weights shrink in a run below which a weight decay has no effect.
      summed_ratio: difference from 1 of (the sum of the losses of a minibatch's halves) / (its loss) for a sum.
      label_score: standard errors above 0 that the agreement of the labels' gradients needs to show a relation.
      label_examples: examples that the check of labels needs.
      perturbed: relative change of the loss that shows that it depends on a parameter.
      slow_update: update of a leaf, relative to the largest of all leaves, below which it hardly moves.
      dead_share: share of a layer's units without a gradient above which it is dead.
      vanishing: ratio of the layers' gradients below which they vanish.
      vanishing_hint: the same, for a hint, if a tenth of the parameters has the same loss, as where two layers are too
        small.
      same_loss: relative difference of losses below which they count as the same.
      initial_ratio: initial loss, relative to that at a tenth of the parameters, that shows growing activations.
      spike: norm of a gradient, relative to one of a step before, that shows a spike.
      eps_ratio: eps, relative to the median of the layers' gradients, above which it is too large.
      diverged: rise of the loss, relative to its beginning, that is a divergence.
      learnt: relative fall of the loss that shows that something was learnt.
      high_factor: best rate of the pilot runs, over the given one, below which this is too high.
      high_rise: rise of the loss over its beginning, relative to the larger of it and the possible fall, above which a
        rate is likely too high; below, a run that decays may still end well, and it is a hint.
      high_lost: share of the possible fall of the loss that a rate loses, to be too high.
      low_factor_hint: the same, above which it is a hint that the given rate is too low. It is likely if it is also
        above the steps of the run over those of a pilot run.
      low_lost: share of the possible fall that a rate loses, to be too low.
      horizon: ratio of the best rates of a pilot run and of a whole run.
      warm_lost: share of the possible fall that a rate loses, to need a warm-up.
      warm_near: distance from the best end of any rate, relative to the fall, that the end after lower rates may have.
      warm_rise: rise of the loss over its beginning, relative to the larger of it and the possible fall, which the full
        rate causes at first, and not after lower ones, if a warm-up is missing. If the loss does not come back, the
        rise is relative to the fall.
      warm_lost_hint: the same as `warm_lost`, for the hint.
      warm_near_hint: the same as `warm_near`, for the hint.
      batch_small: noise scale over the batch size above which the batch may be too small.
      batch_small_at_first: the same at the initial parameters, where gradients are largest. A batch is likely too small
        if the noise scale is resolved to be above it both there and after a pilot run.
      batch_large: the same below which the batch is too large.
      edge: sharpness, relative to the limit of the rate, above which a run is at the edge of stability.
      overfit_rise: relative rise of the evaluation loss after its minimum that shows overfitting.
      steady_rate: rate at the end, relative to the peak, above which it counts as not falling.
      floor_fall: fall of the loss in the second half, relative to that in the run, below which it has ended.
      floor_fall_hint: the same, below which a rate that falls would probably end lower.
    """

    warmup_share: float = 0.4
    one_cycle_share: float = 0.6
    early_end_share: float = 0.85
    ended_rate: float = 0.02
    late_end_share: float = 1.15
    late_rate: float = 0.15
    cut_rate: float = 0.2
    whole_cycle: float = 0.85
    minibatch_match: float = 0.1
    decay_strong: float = 8.0
    decay_weak: float = 1e-3
    summed_ratio: float = 0.1
    label_score: float = 2.0
    label_examples: int = 96
    perturbed: float = 1e-4
    slow_update: float = 1e-3
    dead_share: float = 0.8
    vanishing: float = 1e-3
    vanishing_hint: float = 0.1
    same_loss: float = 1e-3
    initial_ratio: float = 15.0
    spike: float = 20.0
    eps_ratio: float = 3.0
    diverged: float = 4.0
    learnt: float = 0.03
    high_factor: float = 0.25
    high_rise: float = 0.3
    high_lost: float = 0.2
    low_factor_hint: float = 10.0
    low_lost: float = 0.3
    horizon: float = 1.5
    warm_lost: float = 0.5
    warm_near: float = 0.0
    warm_rise: float = 1.0
    warm_lost_hint: float = 0.2
    warm_near_hint: float = 0.25
    batch_small: float = 25.0
    batch_small_at_first: float = 10.0
    batch_large: float = 0.25
    edge: float = 0.8
    overfit_rise: float = 0.05
    steady_rate: float = 0.5
    floor_fall: float = 0.02
    floor_fall_hint: float = 0.2


THRESHOLDS = Thresholds()
