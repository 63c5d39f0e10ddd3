"""Captions -> tokens as the COCO evaluation makes them: the Penn Treebank's rules, lower case, no punctuation.

With Java it is the Stanford tokenizer that published numbers come from; without, a plain tokenizer of the same rules.
"""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

log = logging.getLogger(__name__)

Tokenizer = Literal["ptb", "plain"]

# dropped by the COCO evaluation (pycocoevalcap/tokenizer/ptbtokenizer.py)
PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."})
# what a word is made of: anything but spaces and ASCII's punctuation
LETTER = r"[^\s!-/:-@\[-^`{-~]"
ABBREVIATION = r"(?:mr|mrs|ms|dr|st|jr|sr|vs|etc|no|mt|ft|ave|blvd|jan|feb|aug|sept|oct|nov|dec|inc|ltd|co|corp)\."
TOKEN = re.compile(
    rf"""
    [a-z](?:\.[a-z])+\.?(?!{LETTER})            # u.s., p.m.
    | {ABBREVIATION}
    | \d+(?:[.,:]\d+)+                          # 3.5, 1,000, 10:30
    | '\d0s                                     # '90s
    | [#@][a-z]{LETTER}*
    | </?[a-z][a-z0-9_:.-]*/?>             # <image>, </s>
    | {LETTER}+(?:(?:[-/&]|'(?=[^\s\d])){LETTER}+)*
    | --+ | \.\.+ | [!?]+ | \S
    """,
    re.VERBOSE,
)
# seconds that Java is given before the first caption
PATIENCE = 60.0
CLITIC = re.compile(r"(.+?)(n't|'(?:s|re|ve|ll|d|m))((?:'\w+)?)")
PAIRS = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "y'all": "y' all"}
# the tokenizer loses what lies beyond the basic plane
ASTRAL = re.compile(r"[\U00010000-\U0010ffff]")


def tokenize(texts: Sequence[str]) -> tuple[list[str], Tokenizer]:
    """Texts -> their tokens joined by spaces, and the tokenizer that made them. Any text is one line, even if empty."""
    lines = [cleaned(text) for text in texts]
    try:
        return _ptb(lines), "ptb"
    except FileNotFoundError:
        log.info("no Java: captions are split by the plain tokenizer")
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.decode("utf-8", "replace").split())[:200] or f"exit status {error.returncode}"
        log.warning("the PTB tokenizer failed (%s): captions are split by the plain tokenizer", message)
    except subprocess.TimeoutExpired as error:
        log.warning("Java said nothing for %d s: captions are split by the plain tokenizer", error.timeout)
    except (OSError, UnicodeDecodeError) as error:
        log.warning("the PTB tokenizer failed (%s): captions are split by the plain tokenizer", error)
    return [plain(line) for line in lines], "plain"


def cleaned(text: str) -> str:
    """One line of words: no line separators of any kind, which would shift all later captions, nor lone surrogates."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def plain(text: str) -> str:
    """The Penn Treebank's rules as far as captions need them, without Java."""
    words = []
    for token in TOKEN.findall(ASTRAL.sub("", text.lower()).translate(TYPOGRAPHIC)):
        words += _parts(token)
    return " ".join(word for word in words if word not in PUNCTUATION and word != '"' and not word.startswith(".."))


def _parts(token: str) -> list[str]:
    """A token with its clitics apart: do n't, man 's."""
    if token in PAIRS:
        return PAIRS[token].split()
    match = CLITIC.fullmatch(token)
    if match is None:
        return [BRACKETS.get(token, token)]
    return [match[1], match[2], *([match[3]] if match[3] else [])]


def _ptb(lines: Sequence[str]) -> list[str]:
    jar = files("pycocoevalcap") / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    # stdin instead of pycocoevalcap's temporary file, which lies beside the package
    text = "".join(f"{line}\n" for line in lines)
    # it takes a second for 20,000 captions
    patience = PATIENCE + len(lines) / 100
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=patience)
    split = done.stdout.decode().removesuffix("\n").split("\n")
    if len(split) != len(lines):
        raise OSError(f"{len(lines)} captions went in, {len(split)} came out")
    return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in split]
