"""Kalra and Barkeshli (2024): GI-Adam begins as it is said to, and verdicts can fail."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from reproductions import Tiny, failing

import lrx
from lrx.papers import kalra_2024 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 64, 32, 2, (8,)), 8, (0.1,), (0.01,), (1, 4), 2.0, 32), "digits")
Places = tuple[int, int]


def made_up(
    *, sharp: Places = (1, 4), usual: Places = (4, 4), gi: int = 3, low: float = 0.0, best: float = 0.0
) -> Result:
    """A result whose highest stable rates have these places: without and with warm-up, and of GI-Adam without."""
    rates, seeds = [2.0**power for power in range(6)], np.array([-0.1, 0.0, 0.1])

    def errors(places: Places) -> np.ndarray:
        above = np.arange(6)[:, None] > np.array(places)[None, :]
        return np.where(above, 60.0, 3.0)[..., None] + seeds

    maps = {
        start: {name: {"rates": rates, "error": errors(places)} for name in ("SGD", "Adam", "GI-Adam")}
        for start, places in (("usual start", usual), ("sharp start", sharp))
    }
    other = errors((gi, 4))
    other[0, 0] += low
    warmed = errors(sharp)
    warmed[:, 1] += best
    maps["sharp start"]["GI-Adam"] = {"rates": rates, "error": other}
    maps["sharp start"]["Adam"] = {"rates": rates, "error": warmed}
    found = {
        start: {name: {**each, "error": each["error"].tolist()} for name, each in m.items()}
        for start, m in maps.items()
    }
    return Result("kalra_2024", "cpu", "digits", [0, 1, 2], {}, {"warmups": [1, 100], "maps": found}, 1.0)


def test_stable_rates_that_rise_from_a_sharp_start_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(sharp=(3, 4))) == [1, 4]
    assert failing(made_up(sharp=(4, 4))) == [0, 1, 2, 3, 4, 5]
    assert failing(made_up(usual=(1, 4))) == [2, 3]
    assert failing(made_up(gi=1)) == [4]
    assert failing(made_up(low=1.0)) == [5]
    assert failing(made_up(best=1.0)) == [6]


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


def test_figures_have_a_map_for_each_method_and_start() -> None:
    figure = paper.plot(made_up())["warmups"]
    titles = [axes.get_title(loc="left") for axes in figure.axes[:5]]
    assert titles[:2] == ["SGD, usual start", "Adam, usual start"]
    assert titles[3:] == ["SGD, sharp start", "Adam, sharp start"]
    assert len(figure.axes[5].get_lines()) == 2 + 1
