"""Kalra and Barkeshli (2024): GI-Adam begins as it is said to, and verdicts can fail."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from reproductions import Tiny, failing

import lrx
from lrx.papers import kalra_2024 as paper
from lrx.records import Result

TINY = Tiny(paper.Size("mlp", {"widths": (8,)}, 64, 10, (0.002, 0.004), (1, 4), 32), "digits")


def made_up(*, adam: tuple[int, ...] = (2, 4, 6), gi: int = 5, best: float = 0.0, low: float = 0.0) -> Result:
    """A result in which a rate is stable up to a place: of Adam for each warm-up, of GI-Adam without."""
    rates, seeds = [2.0**power for power in range(8)], np.array([-0.1, 0.0, 0.1])

    def ladder(places: tuple[int, ...], floor: float = 3.0) -> np.ndarray:
        steps = np.arange(8)[:, None] > np.array(places)[None, :]
        return np.where(steps, 60.0, floor)[..., None] + seeds

    errors = ladder(adam)
    errors[..., -1, :] += best
    other = ladder((gi, 6, 6))
    other[0, 0] += low
    maps = {"Adam": {"error": errors.tolist()}, "GI-Adam": {"error": other.tolist()}}
    return Result(
        "kalra_2024", "cpu", "digits", [0, 1, 2], {}, {"rates": rates, "warmups": [1, 16, 256], "maps": maps}, 1.0
    )


def test_stable_rates_that_grow_with_the_warmup_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(adam=(3, 4, 4))) == [0, 4]
    assert failing(made_up(adam=(2, 5, 4))) == [1]
    assert failing(made_up(gi=2)) == [2, 4]
    assert failing(made_up(low=1.0)) == [3]
    assert failing(made_up(best=1.0)) == [5]


def test_the_first_step_of_gi_adam_is_shorter_by_the_root_of_the_weight() -> None:
    params, gradient = jnp.ones(3), jnp.array([0.5, -2.0, 1e-3])
    for direction, length in ((lrx.scale_by_adam(), 1.0), (paper.scale_by_gi_adam(), np.sqrt(1e-3))):
        update, state = direction.update(gradient, direction.init(params), params)
        np.testing.assert_allclose(update, length * np.sign(gradient), rtol=1e-3)
    for _ in range(50):  # under a constant gradient the step grows as sqrt(1 - b2^t)
        update, state = direction.update(gradient, state, params)
    np.testing.assert_allclose(update, np.sqrt(1 - 0.999**51) * np.sign(gradient), rtol=1e-3)


def test_the_schedule_peaks_after_its_warmup_and_ends_at_a_tenth() -> None:
    rates = paper.schedule(2.0, 10.0, 100)(jnp.arange(101))
    assert int(jnp.argmax(rates)) == 10
    np.testing.assert_allclose(rates[jnp.array([10, 100])], [2.0, 0.2], rtol=1e-5)


def test_figures_have_a_map_a_method() -> None:
    figure = paper.plot(made_up())["warmups"]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["Adam", "GI-Adam"]
    assert len(figure.axes[2].get_lines()) == 3 + 1
