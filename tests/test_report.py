"""The report: wording, records on disk, sections, and the page in a real browser."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_nothing_overflows

from reluscape.errors import InputError
from reluscape.report import (
    DataSummary,
    LayerSurvey,
    MinimumSurvey,
    ModelSurvey,
    Survey,
    Verdict,
    build_sections,
    load_survey,
    render,
)
from reluscape.report.charts import Series as ChartSeries
from reluscape.report.charts import activity_bins, bars, curves, dots, histograms, shares
from reluscape.report.page import section_modules
from reluscape.report.wording import listed, number, share, tally, verdict_line, verdict_sentence

HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/x>&\"'{{ 7*7 }}"


def slope(file: str = "", norm: float = 3.2e-3) -> Verdict:
    return Verdict("not_stationary", "certified", "the slope is clear", file, 1e-3, 0.0, norm, 0)


def layer(index: int, units: int, kinks: int, rng: np.random.Generator, **more: Any) -> LayerSurvey:
    activity = rng.uniform(0.05, 0.95, units)
    activity[:2], activity[2:3] = 0.0, 1.0
    lengths = rng.lognormal(-3 + index, 1.0, 200) if kinks else np.full(200, np.inf)
    defaults: dict[str, Any] = {
        "num_params": 272,
        "num_kinks": kinks,
        "verdict": slope(f"certificates/a-{index + 1}.json", 0.003 * 10.0**-index),
        "gradient_norm": 0.003 * 10.0**-index,
        "num_active_kinks": 0,
        "nearest_distance": 1.3e-6 * 10.0**index if kinks else np.inf,
        "nearest_kink": "sample 3, layer 0, unit 4" if kinks else "",
        "activity": activity,
        "chord_lengths": lengths,
        "chord_angles": lengths / 4,
        "num_facets": 210 if kinks else 0,
        "all_facets": not kinks,
        "radius": None if kinks else np.inf,
    }
    return LayerSurvey(f"body.{2 * index}", index, **(defaults | more))


def model(name: str, seed: int, **more: Any) -> ModelSurvey:
    rng = np.random.default_rng(seed)
    layers = (layer(0, 16, 57504, rng), layer(1, 16, 28752, rng), layer(2, 0, 0, rng))
    defaults: dict[str, Any] = {
        "description": "Adam, rate 0.001",
        "options": "--weights weights/a.safetensors",
        "num_params": 1482,
        "loss": 0.0123,
        "gradient_norm": 0.0033,
        "verdict": slope("certificates/a.json"),
        "layers": layers,
        "losses": np.exp(-np.arange(3000) / 600) + 0.01,
        "flips": rng.poisson(30, 20),
        "num_switches": 57504,
        "complete": True,
    }
    return ModelSurvey(name, **(defaults | more))


@pytest.fixture(scope="module")
def record() -> Survey:
    data = DataSummary(
        "digits",
        1797,
        "64 numbers",
        "10 classes",
        tuple("0123456789"),
        False,
        ("3 of 64 input columns are constant.",),
        "--data digits",
    )
    unreadable = ModelSurvey(
        "opaque one",
        num_params=90,
        loss=0.4,
        gradient_norm=0.2,
        unreadable="expected a model that ends in Linear and ReLU layers",
        complete=True,
    )
    models = (model("network A", 1), model("network B", 2), unreadable)
    return Survey(data, "cross_entropy", 1e-4, "float64", 0, models, True, "0.1.0")


@pytest.fixture(scope="module")
def page_text(record: Survey) -> str:
    return render(record)


def same(left: Any, right: Any) -> bool:
    if is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, item.name), getattr(right, item.name)) for item in fields(left)
        )
    if isinstance(left, tuple) and left and is_dataclass(left[0]):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype.kind == right.dtype.kind and np.array_equal(left, right)
    return type(left) is type(right) and left == right


# ---- wording ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.00123456, "0.00123"),
        (1.0, "1.00"),
        (99.96, "100"),
        (1234.5, "1230"),
        (98765.4, "98\u202f800"),
        (1.234e-7, "1.23\u202f×\u202f10⁻⁷"),
        (-2.5e6, "−2.50\u202f×\u202f10⁶"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_shares_are_zero_or_all_only_when_exactly_so() -> None:
    assert [share(x) for x in (0.0, 1.0, 0.125)] == ["0\u202f%", "100\u202f%", "12.5\u202f%"]
    assert share(1e-6).startswith("<")
    assert share(1 - 1e-6).startswith(">")


def test_lists_and_tallies() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([str(i) for i in range(14)]).endswith("11 and 2 more")
    assert tally(["up", "up"]) == "all 2 up"
    assert tally(["up", "down", "up"]) == "2 up and 1 down"


def test_verdicts_say_what_the_certificate_says() -> None:
    assert verdict_sentence(slope()).startswith("Training stopped on a slope: the certificate")
    assert "gradient norm is 0.00320" in verdict_sentence(slope())
    undecided = Verdict("undecided", "certified", "the normals are dependent", moved=2e-9)
    said = verdict_sentence(undecided)
    assert "undecided" in said
    assert "The normals are dependent." in said
    assert "2.00\u202f×\u202f10⁻⁹ from the weights" in said
    assert "minimum" not in said
    assert verdict_line("layer 1", None) == "layer 1: no certificate"


# ---- records on disk -------------------------------------------------------------------------


def test_a_survey_reads_back_as_it_was_saved(record: Survey, tmp_path: Path) -> None:
    record.save(tmp_path / "results.nc")
    assert same(load_survey(tmp_path / "results.nc"), record)
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_a_survey_cut_off_at_once_reads_back(tmp_path: Path) -> None:
    empty = Survey(DataSummary("x", 2), "l1", 0.0, seed=3, models=(ModelSurvey("only"),))
    empty.save(tmp_path / "results.nc")
    assert same(load_survey(tmp_path / "results.nc"), empty)
    assert "incomplete" in empty.summary()


def test_a_full_disk_leaves_what_was_there(record: Survey, tmp_path: Path, full_disk: Any) -> None:
    record.save(tmp_path / "results.nc")
    earlier = (tmp_path / "results.nc").read_bytes()
    with (
        full_disk(len(earlier) // 2),
        pytest.raises(OSError, match=r"File too large: .*results\.nc'"),
    ):
        record.save(tmp_path / "results.nc")
    assert (tmp_path / "results.nc").read_bytes() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_loading_something_else_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the results\.nc of a survey"):
        load_survey(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("not a NetCDF file")
    with pytest.raises(InputError, match=r"text\.nc"):
        load_survey(tmp_path / "text.nc")


def test_verdicts_name_each_part(record: Survey) -> None:
    assert len(record.verdicts) == 2 * 4 + 1
    assert record.verdicts[0].startswith("network A, whole network: on a slope (certified;")
    assert record.verdicts[2].startswith("network A, layer 2 (body.2): on a slope")
    assert record.verdicts[-1] == "opaque one, whole network: no certificate"


def test_steps_in_the_last_cell_are_those_after_the_last_flip() -> None:
    assert ModelSurvey("a", flips=np.array([3, 0, 1, 0, 0])).steps_in_cell == 2
    assert ModelSurvey("a", flips=np.array([0, 0])).steps_in_cell == 2
    assert ModelSurvey("a", flips=np.array([0, 4])).steps_in_cell == 0


# ---- figures and sections --------------------------------------------------------------------


def test_activity_bars_keep_dead_and_always_active_units_apart() -> None:
    activity = np.array([0.0, 0.0, 0.01, 0.5, 0.99, 1.0])
    centres, counts = activity_bins(activity)
    assert counts[0] == 2
    assert counts[-1] == 1
    assert counts.sum() == activity.size
    assert np.all(np.diff(centres) > 0)


@pytest.mark.parametrize(
    ("most", "step", "low"), [(1, 1, 1), (2, 1, 1), (7, 2, 5), (13, 5, 5), (480, 100, 200)]
)
def test_counts_are_marked_at_whole_numbers_each_once(most: int, step: int, low: int) -> None:
    values = np.append(np.full(most, 0.5), 0.9)
    few = histograms([("layer", [ChartSeries("model", values, [])])], "share")
    for figure in (shares(values, "share", "runs"), bars([ChartSeries("", [1], [most])], "x", "y")):
        assert figure.layout.yaxis.dtick == step
    assert few.layout.yaxis.dtick == low


def test_dots_leave_out_what_a_logarithm_cannot_show() -> None:
    figure = dots([ChartSeries("m", [0.1, 0.0, np.inf], ["a", "b", "c"])], "norm")
    assert list(figure.data[0].x) == [0.1]
    assert list(figure.layout.yaxis.ticktext) == ["a", "b", "c"]


def test_long_curves_are_averaged_and_keep_their_mean() -> None:
    values = np.random.default_rng(0).uniform(1, 2, 6000)
    figure = curves([ChartSeries("m", np.arange(6000), values)], "step", "loss")
    assert len(figure.data[0].y) == 600
    assert np.mean(figure.data[0].y) == pytest.approx(values.mean())


def test_sections_come_in_order_with_everything_a_reader_needs(record: Survey) -> None:
    orders = [module.ORDER for module in section_modules()]
    assert orders == sorted(set(orders))
    sections = build_sections(record)
    assert [section.key for section in sections] == ["subject", "stopped", "cell", "reach"]
    for section in sections:
        assert section.verdict
        assert section.method
        assert section.check
        assert section.commands
        for table in section.tables:
            assert {len(row) for row in table.rows} == {len(table.columns)}
    keys = [figure.key for section in sections for figure in section.figures]
    assert len(keys) == len(set(keys)) == 7


def test_figures_show_the_records_numbers(record: Survey) -> None:
    figures = {f.key: f.figure for s in build_sections(record) for f in s.figures}
    norms = [layer.gradient_norm for layer in record.models[0].layers]
    assert list(figures["gradient-norms"].data[0].x) == norms
    assert list(figures["flips"].data[1].y) == list(record.models[1].flips)
    assert list(figures["flips"].data[1].x)[-1] == 0
    lengths = record.models[0].layers[0].chord_lengths
    assert list(figures["chords"].data[0].x)[:200] == list(lengths)


def test_certificates_come_with_the_command_that_checks_them(record: Survey) -> None:
    stopped = build_sections(record)[1]
    assert stopped.commands[0] == (
        "reluscape verify certificates/a.json --weights weights/a.safetensors --data digits "
        "--loss cross_entropy --weight-decay 0.0001"
    )
    assert len(stopped.commands) == 8


def test_an_unreadable_module_is_told_what_is_out_of_reach(record: Survey, page_text: str) -> None:
    reach = build_sections(record)[-1]
    assert "opaque one: no exact statement is possible" in reach.verdict
    page = page_text
    assert "expected a model that ends in Linear and ReLU layers" in page
    assert "record of the training" in page


def test_counted_facets_are_not_called_exact(record: Survey) -> None:
    counted = replace(record.models[0].layers[0], num_facets=459, all_facets=True)
    first = replace(record.models[0], layers=(counted, record.models[0].layers[1]))
    section = build_sections(replace(record, models=(first,)))[2]
    cells = [row[2] for row in section.tables[0].rows]
    assert [(cell.text, cell.tier) for cell in cells] == [
        ("459", ""),
        ("at least\u00a0210", "sampled"),
    ]
    assert "computed, not proved" in section.method[0]


def test_the_whole_network_is_no_further_from_a_kink_than_its_layers(record: Survey) -> None:
    def distance(*distances: float) -> str:
        layers = [replace(record.models[0].layers[0], nearest_distance=at) for at in distances]
        one = replace(record.models[0], layers=tuple(layers))
        return build_sections(replace(record, models=(one,)))[1].tables[0].rows[0][4].text

    assert distance(0.25, 0.5) == "at most\u00a00.250"
    assert distance(0.25, 0.0) == "0"
    assert distance(np.inf) == distance() == "–"


def answered(record: Survey) -> Survey:
    """The first network with answers of every kind about minima of its cells."""
    whole = (
        MinimumSurvey(
            "free", True, "continuous", "closed form", True, "minima/a-free.nc", 0.01, 0.2, 0.004, 0
        ),
        MinimumSurvey(
            "given", False, "continuous", "closed form", False, "minima/a-given.nc", 0.01, 1e-13
        ),
        MinimumSurvey(
            "uniform", None, "continuous", "sign search", None, "", 0.01, float("nan"), None, 3
        ),
    )
    falls = MinimumSurvey(
        "block", False, "unique", "linear program", False, "m.nc", float("nan"), 0.0
    )
    first = record.models[0]
    layers = (replace(first.layers[0], minimum=falls), *first.layers[1:])
    return replace(record, models=(replace(first, minima=whole, layers=layers), *record.models[1:]))


def test_minima_are_told_by_convention_and_layer(record: Survey, tmp_path: Path) -> None:
    changed = answered(record)
    (section,) = [one for one in build_sections(changed) if one.key == "minima"]
    assert (
        "a genuine minimum, but a bad one (a loss of 0.00400 is attained elsewhere), with output weights"
        " of any signs"
    ) in section.verdict
    assert "no genuine minimum with output weights of the signs they have" in section.verdict
    assert "undecided, with output weights of one sign" in section.verdict
    assert "no answer for layer 2 (body.2) and 3 (body.4)" in section.verdict
    (table,) = section.tables
    texts = [[cell.text for cell in row] for row in table.rows]
    assert [row[1] for row in texts] == ["yes", "no", "undecided", "no"]
    assert [row[4] for row in texts] == ["yes", "–", "–", "–"]
    assert [row[5] for row in texts] == ["0.00400", "–", "–", "–"]
    assert texts[3][2] == "falls forever"
    (figure,) = section.figures
    assert list(figure.figure.data[0].x) == [0.0123] * 3
    assert list(figure.figure.data[1].x) == [0.01] * 3
    assert list(figure.figure.data[2].x) == [0.004]
    method = " ".join(section.method)
    for word in ("nothing about other cells", "Falls forever", "Undecided", "count as negative"):
        assert word in method
    verify = "reluscape verify minima/a-free.nc --weights weights/a.safetensors --data digits"
    assert section.commands[0] == verify
    changed.save(tmp_path / "results.nc")
    loaded = load_survey(tmp_path / "results.nc").models[0]
    assert repr(loaded.minima) == repr(changed.models[0].minima)  # NaN equals nothing
    assert repr(loaded.layers[0].minimum) == repr(changed.models[0].layers[0].minimum)


def test_two_sizes_are_no_chart(record: Survey) -> None:
    assert [figure.key for figure in build_sections(record)[-1].figures] == ["cell-sizes"]
    alone = replace(record, models=record.models[:1])
    assert build_sections(alone)[-1].figures == ()


# ---- the page --------------------------------------------------------------------------------


def test_the_page_is_a_function_of_the_survey(record: Survey, page_text: str) -> None:
    page = render(record)
    assert page == page_text
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)


def test_texts_from_others_are_escaped(record: Survey) -> None:
    changed = model(HOSTILE, 1, description=HOSTILE, unreadable=HOSTILE, notes=(HOSTILE,))
    changed = replace(changed, layers=tuple(replace(at, name=HOSTILE) for at in changed.layers))
    data = replace(record.data, name=HOSTILE, notes=(HOSTILE,), classes=(HOSTILE,))
    page = render(replace(record, models=(changed,), data=data))
    assert "<img src=http" not in page
    assert "<script>alert" not in page
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page):
        assert json.loads(block)["layout"]["height"] > 0


def test_an_interrupted_survey_says_so(record: Survey, page_text: str) -> None:
    begun = ModelSurvey("begun")
    page = render(replace(record, complete=False, models=(record.models[0], begun)))
    assert "<strong>Incomplete.</strong>" in page
    assert "interrupted before this model was ready" in page
    assert "<strong>Incomplete.</strong>" not in page_text


@pytest.fixture(scope="module")
def opened(
    browser: Any, record: Survey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Any]]:
    """Loads the report at a width, if it is not there yet; it must ask for nothing else."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    long_name = replace(record.models[2], name="a-name-without-any-break-" * 4)
    models = (*answered(record).models[:2], long_name)
    path.write_text(render(replace(record, models=models)), encoding="utf-8")
    requests: list[str] = []
    troubles: list[str] = []
    loaded: list[int] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))

    def at_width(width: int) -> Any:
        page.set_viewport_size({"width": width, "height": 900})
        if loaded[-1:] != [width]:
            page.goto(path.as_uri())
            loaded.append(width)
        return page

    yield at_width
    assert requests == [path.as_uri()] * len(loaded)
    assert troubles == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_draws_and_every_part_opens(opened: Callable[[int], Any], width: int) -> None:
    page = opened(width)
    plots = page.query_selector_all(".plot")
    assert len(plots) == 8
    for plot in plots:
        box = plot.query_selector("svg.main-svg").bounding_box()
        assert min(box["width"], box["height"]) > 100
        assert plot.query_selector(".trace") is not None
    for part in page.query_selector_all("details"):
        assert not part.query_selector("p").is_visible()
        part.query_selector("summary").click()
        assert part.query_selector("p").is_visible()
    assert_nothing_overflows(page, width)
    for part in page.query_selector_all("details"):
        part.query_selector("summary").click()
        assert not part.query_selector("p").is_visible()
    if width > 390:
        page.set_viewport_size({"width": 390, "height": 900})
        # The page's own policy forbids the evaluation that wait_for_function needs.
        for _ in range(100):
            if plots[0].query_selector("svg.main-svg").bounding_box()["width"] <= 390:
                break
            page.wait_for_timeout(50)
        assert_nothing_overflows(page, 390)


@pytest.mark.browser
def test_the_page_prints_with_everything_open(opened: Callable[[int], Any]) -> None:
    page = opened(1280)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.query_selector("details:not([open])") is None
    widths = page.evaluate("[...document.querySelectorAll('.plot')].map(p => p._fullLayout.width)")
    assert set(widths) == {620}
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.query_selector("details[open]") is None
    assert page.pdf(format="A4").startswith(b"%PDF")
