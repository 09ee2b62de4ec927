"""What a notebook shows: tables and pictures, of which this looks at words, well-formed XML and where points lie."""
import re
import xml.etree.ElementTree as ElementTree

import pytest

import dsvk
from dsvk import chart

SVG = "{http://www.w3.org/2000/svg}"


def words_of(picture):
    """The words of an SVG, which has to be well-formed and to keep them inside."""
    root = ElementTree.fromstring(picture)
    texts = [element for element in root.iter(f"{SVG}text")]
    assert all(0 <= float(text.get("x", 0)) < float(root.get("width")) for text in texts)
    assert all(0 <= float(text.get("y", 0)) <= float(root.get("height")) for text in texts)
    return [text.text for text in texts]


def test_plan():
    plan = dsvk.plan(dsvk.locate("nano"), context=4096)
    words = words_of(plan.plot_context())
    assert "tokens" in words and any(word.startswith("one session of 4,096 tokens: ") for word in words)
    html = plan._repr_html_()
    assert html.count("<table>") == 2 and "<svg" in html and "A token reads" in html
    assert plan["purposes"]["weights"] > 0 and "4096 tokens" in repr(plan)


def test_roofline(nano):
    with nano.session() as session:
        report = dsvk.Profile(ops=[{"name": "matmul", "part": None, "calls": 1, "us": 10.0, "bytes": 1e6, "flops": 4e6},
                                   {"name": "copy", "part": None, "calls": 1, "us": 30.0, "bytes": 1e6, "flops": 0}])
        with pytest.raises(dsvk.StateError, match="call device.measure"):
            report.plot_roofline()
        report.peaks = {"copy_bytes_per_s": 1e12, "f32_flops_per_s": 1e12, "matrix_flops_per_s": 4e12}
        picture = report.plot_roofline()
        assert "float32: 1 T/s" in words_of(picture) and "matmul 100 %" in words_of(picture)
        assert "copy" not in " ".join(words_of(picture))            # it computes nothing, so it has no place here
        circle, = ElementTree.fromstring(picture).iter(f"{SVG}circle")
        level = float(re.search(r"points=\"[\d.,]+ ([\d.]+),([\d.]+) ", picture)[2])
        assert float(circle.get("cy")) > level                       # 0.4 T operations a second, below the level of 1 T
        assert "<svg" in report._repr_html_() and session.position == 0


def test_heat_map_shows_the_largest_of_neighbours():
    rows = [[0.0] * 1000 for _ in range(900)]
    rows[899][999] = 5.0
    picture = chart.heat_map("T", rows, "x", "y", "z")
    assert chart.shade(1.0) in picture.split("</text>")[1] or picture.count(chart.shade(1.0)) == 2   # the cell and the scale
    assert len(picture) < 20e6 and {"5", "z"} <= set(words_of(picture))
    assert words_of(chart.heat_map("none", [], "x", "y", "z"))[0] == "none"
    assert "z" not in words_of(chart.heat_map("nothing but 0", [[0.0, None]], "x", "y", "z"))
    left, right = (chart.heat_map("gap", [row], "x", "y", "z") for row in ([None, 1.0], [1.0, None]))
    assert left.count("<rect") == right.count("<rect")


def test_labels_lie_near_what_they_name_and_apart():
    assert chart.spread([10, 50, 90], 10, 0, 100) == [10, 50, 90]
    assert chart.spread([10, 12, 13], 10, 0, 100) == [10, 20, 30]
    assert chart.spread([95, 98, 99], 10, 0, 100) == [80, 90, 100]
    assert chart.spread([-5, 0, 97], 10, 0, 100) == [0, 10, 97] and chart.spread([], 10, 0, 100) == []


def test_everything_has_a_face(nano, session, tmp_path):
    for thing in (nano, nano.device, session, dsvk.plan("nano")):
        html = thing._repr_html_()
        assert html.startswith("<table>") and html.count("<tr>") == html.count("</tr>")
    picture = dsvk.plan("nano").plot_context()
    picture.save(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_text(encoding="utf-8") == picture == picture._repr_html_()
