"""METEOR and SPICE where Java is missing, old, new, or dies; SPICE's command with a Java that only pretends."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from idvl.metrics import java
from idvl.metrics.caption import score
from idvl.metrics.java import CORENLP, SPICE_DIR, Unavailable, meteor, spice

pytestmark = pytest.mark.java

GIVEN, WANTED = {0: ["a dog"], 1: ["a cat"]}, {0: ["a dog runs", "dogs"], 1: ["the cat"]}
# writes down how it was called, and scores of 0.25 and 0.75
PRETENDER = """\
import json, sys
from pathlib import Path

arguments = sys.argv[1:]
if arguments == ["-version"]:
    sys.stderr.write('openjdk version "VERSION"\\n')
else:
    captions, found = Path(arguments[4]), Path(arguments[6])
    items = json.loads(captions.read_text())
    Path("CALLED").write_text(json.dumps([arguments, items]))
    print("SPICE evaluation took: 1 s")
    scores = [{"image_id": item["image_id"], "scores": {"All": {"f": 0.25 + item["image_id"] / 2}}} for item in items]
    found.write_text(json.dumps(scores[::-1]))
"""


def pretend(folder: Path, monkeypatch, source: str, version: str = "1.8.0_402") -> Path:
    """Put a java on the PATH that runs this Python source; returns where it says how it was called."""
    called = folder / "called.json"
    script = folder / "java"
    script.write_text(f"#!{sys.executable}\n{source.replace('VERSION', version).replace('CALLED', str(called))}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return called


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    folder = tmp_path / "corenlp"
    folder.mkdir()
    for name in CORENLP:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_spice_takes_the_jars_from_the_folder_given(by: str, jars: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    called = pretend(tmp_path, monkeypatch, PRETENDER)
    if by == "environment":
        monkeypatch.setenv(SPICE_DIR, str(jars))
    assert spice(GIVEN, WANTED, jars if by == "argument" else None) == [0.25, 0.75]
    arguments, items = json.loads(called.read_text())
    classes = arguments[2].split(os.pathsep)
    assert Path(classes[0]).is_file() and Path(classes[0]).name == "spice-1.0.jar"
    assert classes[1:] == [str(jars / name) for name in CORENLP]
    assert (arguments[0], arguments[1], arguments[3]) == ("-Xmx8G", "-cp", "edu.anu.spice.SpiceScorer")
    assert arguments[5] == "-out" and arguments[7:] == ["-subset", "-silent"]
    assert items == [
        {"image_id": 0, "test": "a dog", "refs": ["a dog runs", "dogs"]},
        {"image_id": 1, "test": "a cat", "refs": ["the cat"]},
    ]
    assert capfd.readouterr().out == ""
    assert not Path(arguments[4]).exists()


def test_without_the_jars_spice_says_what_to_do(tmp_path: Path, jars: Path) -> None:
    (jars / CORENLP[1]).unlink()
    with pytest.raises(Unavailable, match="CoreNLP 3.6.0 jars are not there") as refused:
        spice(GIVEN, WANTED, jars)
    assert SPICE_DIR in refused.value.hint and CORENLP[1] in refused.value.hint


@pytest.mark.parametrize("version", ["17.0.15", "15"])
def test_spice_is_not_tried_on_a_java_without_its_script_engine(version, jars, tmp_path: Path, monkeypatch) -> None:
    called = pretend(tmp_path, monkeypatch, PRETENDER, version)
    with pytest.raises(Unavailable, match=f"Java 8 to 14, and java is {version[:2]}"):
        spice(GIVEN, WANTED, jars)
    assert not called.exists()


def test_a_spice_that_dies_is_told_in_one_line(jars: Path, tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, "import sys\nsys.stderr.write('out of\\nmemory\\n')\nsys.exit(1)\n")
    with pytest.raises(Unavailable, match="SPICE failed: out of memory"):
        spice(GIVEN, WANTED, jars)


@pytest.mark.parametrize(
    "source",
    [
        "sys.stderr.write('no\\nroom ')\nsys.exit(1)\n",
        # dies in the middle, with more on stderr than a pipe holds
        "sys.stderr.write('no room ' * 100_000)\nprint('1.0', flush=True)\nsys.stdin.readline()\nsys.exit(1)\n",
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_meteor_that_dies_does_not_hang(source: str, tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, f"import sys\n{source}")
    with pytest.raises(Unavailable, match="METEOR failed: no room") as refused:
        meteor(GIVEN, WANTED)
    assert len(str(refused.value)) < 300 and "2 GB" in refused.value.hint


def test_a_meteor_that_died_is_collected_by_any_thread(tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, "import sys\nsys.exit(1)\n")
    gc.disable()
    with pytest.raises(Unavailable) as refused:
        meteor(GIVEN, WANTED)
    del refused
    collector = threading.Thread(target=gc.collect, daemon=True)
    collector.start()
    collector.join(20)
    gc.enable()
    assert not collector.is_alive()


def test_a_java_that_dies_costs_only_its_metrics(tmp_path: Path, monkeypatch) -> None:
    pretend(tmp_path, monkeypatch, "import sys\nsys.exit(1)\n")
    found = score(["a dog", "a cat"], [["a dog runs"], ["a cat"]])
    assert found.tokenizer == "plain"
    assert set(found.skipped) == {"METEOR", "SPICE"}
    assert "CIDEr" in found.measures


def test_the_separator_of_meteors_protocol_is_taken_out(tmp_path: Path, monkeypatch) -> None:
    """A Java that answers with what it was asked shows the lines."""
    log = tmp_path / "asked"
    source = f"""\
import sys
import threading
for line in sys.stdin:
    with open({str(log)!r}, "a", encoding="utf-8") as file:
        file.write(line)
    answers = line.count("|||") + 1 if line.startswith("EVAL") else 1
    print("\\n".join(["0.5"] * answers), flush=True)
"""
    pretend(tmp_path, monkeypatch, source)
    monkeypatch.setenv("PYTHONUTF8", "1")
    assert java.meteor({0: ["a ||| b é"]}, {0: ["c ||| d", "e"]}) == (0.5, [0.5])
    assert log.read_text(encoding="utf-8").splitlines()[0].split("|||")[1:] == [" c  d ", " e ", " a b é"]
