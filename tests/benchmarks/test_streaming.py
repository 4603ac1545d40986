"""The benchmark of streams, at its smallest."""

from __future__ import annotations

import re

import pytest

from lrx.benchmarks import streaming


@pytest.mark.slow
def test_each_way_to_read_is_compared_with_data_on_the_device(capsys):
    streaming.main(batch_size=4, width=2, steps=20, wait=0.8, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("perceptron of width 2, batch 4, 20 steps")
    assert re.match(r"on the device +[\d.]+ ms/step  1.000 \(1.000 to 1.000\)", lines[1])
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "read while training",
        "read, with a wait of 0.8 steps",
        "read by Grain",
    ]
