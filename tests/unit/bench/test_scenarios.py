from __future__ import annotations

import pytest

from bench.labnet import payload_bytes_per_s
from bench.run import Row, main, median_row, misses
from bench.scenarios import BALANCE, FAULTS, PARTS, SPEEDUP, least_time_s

MODEL_BYTES = 512 << 20


def test_the_least_time_is_set_by_all_links_to_the_hub_together() -> None:
    links = {
        "home": 200,
        "lab": 400,
        "mixed": 375,
        "speedup-1": 25,
        "speedup-2": 50,
        "speedup-4": 100,
        "speedup-8": 200,
    }
    for scenario in (*BALANCE, *SPEEDUP):
        expected = MODEL_BYTES / payload_bytes_per_s(links[scenario.name])
        assert least_time_s(scenario, MODEL_BYTES) == pytest.approx(expected)


def test_parts_of_a_model_cost_the_links_to_the_hub_as_much_as_all_of_it_once() -> None:
    (layers,) = PARTS
    assert layers.placement[:4] == ("--place", "layers", "--memory", "n1=8GiB")
    wants = {plan.name: MODEL_BYTES * gib // 120 for plan, gib in zip(layers.nodes, layers.memory_gib, strict=True)}
    expected = MODEL_BYTES / payload_bytes_per_s(400)
    assert least_time_s(layers, MODEL_BYTES, wants) == pytest.approx(expected)


def test_a_link_of_100_mbit_carries_headers_too() -> None:
    assert payload_bytes_per_s(100) == pytest.approx(11.956e6, rel=1e-4)


def test_an_unknown_scenario_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["hoem"])
    assert "hoem" in capsys.readouterr().err


def row(scenario: str, *, wall_s: float, hub_ratio: float = 1.0) -> Row:
    return Row(
        program="exo-dl",
        scenario=scenario,
        nodes=4,
        model_bytes=8,
        wall_s=wall_s,
        least_s=2.0,
        ratio=wall_s / 2.0,
        hub_ratio=hub_ratio,
        cpu_s_per_gb=3.0,
        peak_rss_bytes=7,
    )


def test_goals_that_are_missed_are_told() -> None:
    scenarios = {scenario.name: scenario for scenario in (*BALANCE, *FAULTS)}
    for name, wall_s, hub_ratio, told in (
        ("lab", 2.09, 1.009, []),
        ("lab", 2.11, 1.0, ["1.055 of the least time"]),
        ("mixed", 2.11, 1.011, ["1.0110 of the model"]),
        ("killed", 2.4, 1.013, ["1.200 of the least time"]),
    ):
        missed = misses(row(name, wall_s=wall_s, hub_ratio=hub_ratio), scenarios[name])
        assert len(missed) == len(told) and all(part in text for part, text in zip(told, missed, strict=True))


def test_a_median_row_keeps_what_does_not_vary() -> None:
    rows = [row("lab", wall_s=wall_s) for wall_s in (9.0, 3.0, 4.0)]
    middle = median_row(rows)
    assert (middle.wall_s, middle.ratio, middle.scenario, middle.peak_rss_bytes) == (4.0, 2.0, "lab", 7)
