"""The page in a browser, where there is one: what its script draws, and that a reader sees all of it at every width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.reporting.test_page import data, made
from tests.support import folders

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=4000",
)  # fmt: skip
PROBE = Path(__file__).with_name("probe.js").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def dom(tmp_path: Path, text: str, *flags: str, address: str = "") -> str:
    """What a browser makes of a page: its document after the scripts have run."""
    file = tmp_path / "page" / "report.html"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    place = f"--user-data-dir={tmp_path / 'browser'}"
    command = [BROWSER, *FLAGS, place, *flags, "--dump-dom", f"{file.as_uri()}{address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_browser_draws_the_figures_and_runs_nothing_of_a_run(evil: Path, tmp_path: Path) -> None:
    study = made(evil)
    found = dom(tmp_path, study, "--window-size=400,800", address="#dark")
    assert "<title>broken</title>" not in found and '<img src="x"' not in found
    assert 'data-theme="dark"' in found and "</button>" in found
    figures = data(study)["figures"]
    drawn = [figure for figure in figures if not figure["panels"][0]["few"]]
    assert len(drawn) == found.count('role="img"') == 3 and len(figures) == 4
    assert found.count('class="unsound"') == 1 and "<span>unreliable estimate</span>" in found
    assert "NaN" not in re.sub(r"<script.*?</script>", "", found, flags=re.S)
    # a layer's name is drawn as it is
    assert "&lt;/script&gt;&lt;script&gt;" in found.replace("<wbr>", "")


def test_a_point_tells_its_layer_by_mouse_and_by_keys(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "runs" / "a", id_weight="multiply")
    # until both are told: a page whose layout changes draws its figures again
    script = """<script>setInterval(() => {
        const plots = [...document.querySelectorAll(".plot")].slice(0, 2);
        const [first, second] = plots.map((plot) => plot.querySelector("svg"));
        const told = plots.map((plot) => plot.querySelector(".tip b"));
        if (first && !told[0]) first.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        if (second && !told[1]) {
            const dot = second.querySelector("circle").getBoundingClientRect();
            second.dispatchEvent(new PointerEvent("pointermove", { clientX: dot.x + 3, clientY: dot.y + 3 }));
        }
    }, 50)</script>"""
    found = dom(tmp_path, made(tmp_path / "runs").replace("</body>", f"{script}</body>"), "--window-size=900,900")
    tips = [
        re.sub("<[^>]+>", "|", tip.replace("<wbr>", ""))
        for tip in re.findall(r'<div class="tip"[^>]*>(.*?)</div></div>', found)
    ]
    assert tips[0] == "|vision.0.qkv||vision||intrinsic dimension: 12.0 (11.0 to 13.0)||weights: 100||sparsity: 80.0 %"
    assert tips[1].startswith("|vision.0.qkv||PLATON × ID, vision||sparsity, %: 80.0") and "ID: 12.0 ± 0.5" in tips[1]


def probed(tmp_path: Path, text: str, *widths: int) -> list[dict]:
    """What probe.js finds in a page at each width, in frames: a window of a browser is never as narrow as a phone."""
    file = tmp_path / "page" / "framed.html"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    listener = (
        "const told = {}; addEventListener('message', (event) => "
        "{ told[event.data.width] = event.data; document.title = JSON.stringify(told); })"
    )
    frames = [f'<iframe src="framed.html" style="width:{width}px;height:900px;border:0"></iframe>' for width in widths]
    page = f"<title></title><script>{listener}</script>{'<br>'.join(frames)}"
    found = dom(tmp_path, page, f"--window-size=1400,{950 * len(widths)}")
    told = json.loads(unescape(re.search("<title>(.*?)</title>", found, re.S)[1]))
    return [told[str(width)] for width in widths]


def test_nothing_is_cut_off_and_names_break_at_their_separators_alone(long_names: Path, tmp_path: Path) -> None:
    widths = (400, 1100, 1300)
    for width, found in zip(widths, probed(tmp_path, made(long_names), *widths), strict=True):
        assert found == {"width": width, "across": width, "beyond": [], "cut": [], "broken": []}


def test_a_word_that_no_line_holds_is_not_cut_off(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "runs" / ("n" * 200), id_weight="multiply", model="m" * 150)
    (found,) = probed(tmp_path, made(tmp_path / "runs"), 400)
    assert (found["across"], found["beyond"], found["cut"]) == (400, [], [])


def test_a_figure_of_fewer_than_three_points_is_a_table(tmp_path: Path) -> None:
    for sparsity in (0.5, 0.8):
        folders.pruned(tmp_path / "runs" / str(sparsity), 100 * sparsity, sparsity=sparsity)
    found = dom(tmp_path, made(tmp_path / "runs"))
    quality = found.partition("Quality against sparsity")[2].partition("</figure>")[0]
    assert 'role="img"' not in quality and 'class="few"' in quality and "Download" not in quality
    assert re.findall("<td>([^<]*)</td>", quality.partition("<tbody>")[2])[3::6] == ["50.0", "80.0"]
    folders.pruned(tmp_path / "runs" / "third", sparsity=0.9)
    found = dom(tmp_path, made(tmp_path / "runs"))
    quality = found.partition("Quality against sparsity")[2].partition("</figure>")[0]
    assert 'role="img"' in quality and 'class="few"' not in quality


def test_points_of_two_methods_at_one_place_are_both_seen(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "runs" / "dense")
    for weight in ("none", "multiply"):
        folders.pruned(tmp_path / "runs" / weight, 50.0, id_weight=weight)
    found = dom(tmp_path, made(tmp_path / "runs"))
    plot = found.partition("Quality against sparsity")[2].partition("</figure>")[0].partition('role="img"')[2]
    places = re.findall('<circle cx="([^"]+)" cy="([^"]+)"', plot)
    assert len(places) == len(set(places)) == 3
