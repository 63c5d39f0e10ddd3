"""METEOR and SPICE: pycocoevalcap's jars, run so that a missing or dying Java costs nothing but the metric.

It knows nothing of intervals.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO

from idvl.metrics.measured import Measured, Skipped

METEOR = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
# seconds that Java is given to load
PATIENCE = 180.0
SPICE_DIR = "IDVL_SPICE_DIR"
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
# SPICE writes its scores through the JavaScript engine that Java 15 dropped
SPICE_JAVA = 14
JAVA_HINT = "install a Java runtime, so that java is on the PATH"
METEOR_HINT = f"it needs 2 GB of memory and a Java that works: {JAVA_HINT}"
SPICE_HINT = f"set {SPICE_DIR} to a folder with {' and '.join(CORENLP)}; it needs Java 8 to {SPICE_JAVA}"

# image number -> its tokenized texts, as pycocoevalcap takes them
Texts = dict[int, list[str]]


class Unavailable(Exception):
    """A metric that cannot be computed here: why, and what to do."""

    def __init__(self, reason: str, hint: str):
        super().__init__(reason)
        self.reason, self.hint = reason, hint


def attempt(name: str, measure: Callable[[], Measured]) -> Measured | Skipped:
    """What `measure` gives, or why it cannot."""
    try:
        if shutil.which("java") is None:
            raise Unavailable("Java was not found", JAVA_HINT)
        return measure()
    except Unavailable as error:
        return Skipped(name, error.reason, error.hint)


def meteor(captions: Texts, targets: Texts) -> tuple[float, list[float]]:
    """METEOR 1.5 of the corpus and of each image, in the order of the images. Raises Unavailable."""
    from pycocoevalcap.meteor.meteor import Meteor

    class Jar(Meteor):
        """pycocoevalcap's protocol over a process whose stderr cannot fill up and whose text is always UTF-8."""

        def __init__(self, errors: IO[bytes]):
            self.lock = threading.Lock()
            self.meteor_p = subprocess.Popen(
                METEOR,
                cwd=str(files("pycocoevalcap") / "meteor"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

        def close(self) -> None:
            self.meteor_p.kill()
            self.meteor_p.wait()
            self.meteor_p.stdout.close()
            with contextlib.suppress(OSError):
                self.meteor_p.stdin.close()

        def __del__(self) -> None:
            """Nothing: Meteor's takes the lock that a failed call has left taken, in whichever thread collects it."""

    # the protocol's separator, which pycocoevalcap takes out of predictions only
    targets = {number: [text.replace("|||", "") for text in texts] for number, texts in targets.items()}
    with tempfile.TemporaryFile() as errors:
        try:
            with contextlib.closing(Jar(errors)) as jar, _patience(jar.meteor_p, len(captions)):
                return jar.compute_score(targets, captions)
        except (OSError, ValueError) as error:
            errors.seek(0)
            raise _failed("METEOR", errors.read(), METEOR_HINT) from error


def spice(captions: Texts, targets: Texts, folder: Path | str | None = None) -> list[float]:
    """SPICE of each image, in the order of the images. Raises Unavailable.

    The command is that of pycocoevalcap/spice/spice.py, with the CoreNLP jars wherever they are, and without its cache
    of parses beside the package.
    """
    home = files("pycocoevalcap") / "spice"
    jars = _corenlp(Path(folder or os.environ.get(SPICE_DIR) or str(home / "lib")))
    if (version := _version()) > SPICE_JAVA:
        raise Unavailable(f"SPICE runs on Java 8 to {SPICE_JAVA}, and java is {version}", SPICE_HINT)
    classes = os.pathsep.join(str(jar) for jar in (home / "spice-1.0.jar", *jars))
    items = [{"image_id": number, "test": captions[number][0], "refs": texts} for number, texts in targets.items()]
    with tempfile.TemporaryDirectory() as room:
        texts, results = Path(room) / "captions.json", Path(room) / "scores.json"
        texts.write_text(json.dumps(items), encoding="ascii")
        command = ["java", "-Xmx8G", "-cp", classes, "edu.anu.spice.SpiceScorer", str(texts), "-out", str(results)]
        process = subprocess.run([*command, "-subset", "-silent"], capture_output=True)
        if process.returncode or not results.exists():
            raise _failed("SPICE", process.stderr, "it needs 8 GB of memory")
        scores = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(results.read_text())}
    return [scores[number] for number in captions]


@contextlib.contextmanager
def _patience(process: subprocess.Popen, captions: int) -> Iterator[None]:
    """Kill a process that does not come to an end; it loads for 30 s and takes 5 s for 5,000 captions."""
    timer = threading.Timer(PATIENCE + captions / 10, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _corenlp(folder: Path) -> list[Path]:
    jars = [folder / name for name in CORENLP]
    if not all(jar.exists() for jar in jars):
        raise Unavailable("the CoreNLP 3.6.0 jars are not there", SPICE_HINT)
    return jars


def _version() -> int:
    """The major version of java; 0 where it does not say."""
    try:
        output = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=PATIENCE).stderr
    except subprocess.TimeoutExpired as error:
        raise Unavailable("java does not answer", JAVA_HINT) from error
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(version[1]) if version else 0


def _failed(name: str, errors: bytes, hint: str) -> Unavailable:
    text = " ".join(errors.decode("utf-8", "replace").split())[:200]
    return Unavailable(f"the Java program of {name} failed{': ' if text else ''}{text}", hint)
