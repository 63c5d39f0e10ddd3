"""A dataset of the catalogue beside what the Hub has under its ids: repository, revision, splits, columns, first rows.

Everything is read the way a run reads it. Of a split, that is its first rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from idvl import tasks
from idvl.data.catalog import CatalogEntry
from idvl.data.columns import Columns
from idvl.data.image_spool import ImageSpool
from idvl.data.repository import find, list_files, open_splits, resolved
from idvl.data.sample import Sample
from idvl.data.sources import Location, external_candidates
from idvl.data.splits import EVALUATION
from idvl.errors import RunError, UsageError

ROWS = 3
# characters of a text that are recorded
SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the Hub has in place of what was expected. `differs`: False for a remark, as that nothing is pinned."""

    entry: str
    what: str
    expected: str
    found: str
    differs: bool = True

    def line(self) -> str:
        """The finding in words."""
        return f"{self.entry}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass
class Report:
    """What was seen of one entry, JSON-ready, and the findings. `reason`: why it could not be looked at.

    `pins`, `commits`: repository -> commit, the expected ones and those that were found.
    """

    entry: str
    pins: Mapping[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    reason: str | None = None

    def note(self, what: str, expected: Any, found: Any, *, differs: bool = True) -> None:
        """Note a finding."""
        values = {"expected": str(expected), "found": str(found), "differs": differs}
        self.findings.append(Finding(entry=self.entry, what=what, **values))

    def compare_revision(self, name: str, revision: str) -> None:
        """Note whether a repository is at its pinned commit."""
        self.commits[name] = revision
        pinned = self.pins.get(name)
        if pinned != revision:
            self.note(f"revision of {name}", pinned or "not pinned", revision, differs=pinned is not None)

    @property
    def result(self) -> str:
        """ "differs", "skipped" or "same"."""
        return "differs" if any(each.differs for each in self.findings) else "skipped" if self.reason else "same"


def check(report: Report, entry: CatalogEntry) -> None:
    """Compare an entry that is on the Hub."""
    used = [getattr(entry, f"{use}_column") for use in Columns().by_use]
    columns = [name for name in used if name] + [join.key for join in entry.joins.values()]
    splits = {name: size for name, size in entry.splits.items() if name not in entry.joins}
    report.facts = _repository(report, entry.ids, splits, columns, gated=entry.gated)
    for name, join in entry.joins.items():
        lists = {join.split: entry.splits[name]}
        report.facts[f"list of {name}"] = _repository(report, join.ids, lists, [join.list_key, join.texts])
    if "columns" in report.facts:
        report.facts["first_rows"] = _first_rows(report, entry)


def _repository(
    report: Report,
    ids: Sequence[str],
    splits: Mapping[str, int | None],
    columns: Sequence[str],
    *,
    gated: bool = False,
) -> dict[str, Any]:
    """What the first of `ids` that there is holds; what is not as expected is noted."""
    try:
        name, info = find(ids)
    except UsageError as error:
        report.note("repository", ids[0], error)
        return {}
    facts: dict[str, Any] = {"id": info.id, "revision": info.sha, "gated": bool(info.gated)}
    if info.id != ids[0]:
        report.note("repository", ids[0], info.id)
    if bool(info.gated) != gated:
        report.note("access", "gated" if gated else "open", "gated" if info.gated else "open")
    report.compare_revision(info.id, info.sha)
    try:
        _, commit, streams, _ = open_splits((name,), None)
    except UsageError as error:
        if not info.gated:
            raise
        report.reason = str(error)
        report.note("access", "a token in HF_TOKEN that may read it", error, differs=not gated)
        return facts
    facts["splits"] = {split: _size(stream, name, commit) for split, stream in streams.items()}
    for split, size in splits.items():
        if split not in streams:
            report.note(f"split {split}", "there", f"only {', '.join(streams)}")
        elif size is not None and facts["splits"][split] != size:
            found = facts["splits"][split]
            report.note(f"split {split}", f"{size:,} rows", "an unknown number" if found is None else f"{found:,}")
    facts["columns"] = {}
    for split in [split for split in splits if split in streams]:
        features = resolved(streams[split], name).features
        facts["columns"][split] = {column: _kind(feature) for column, feature in features.items()}
        for column in columns:
            if column not in features:
                report.note(f"column {column} of {split}", "there", f"only {', '.join(features)}")
    return facts


def _size(stream: Any, name: str, commit: str) -> int | None:
    """The rows of a split as its card states them, else as its parquet files do; None where neither does."""
    stated = (stream.info.splits or {}).get(str(stream.split))
    if stated:
        return stated.num_examples
    import pyarrow.parquet
    from huggingface_hub import HfFileSystem

    files = list_files(name, commit, None)[0][str(stream.split)]
    if not all(file.endswith(".parquet") for file in files):
        return None
    system = HfFileSystem()
    rows = 0
    for file in files:
        with system.open(f"datasets/{name}@{commit}/{file}", cache_type="none") as opened:
            rows += pyarrow.parquet.read_metadata(opened).num_rows
    return rows


def _kind(feature: Any) -> str:
    """The type of a column, in words."""
    from datasets import Image

    if isinstance(feature, Image):
        return "image"
    names = getattr(feature, "names", None)
    if names:
        return f"{len(names)} classes"
    inner = getattr(feature, "feature", None)
    return f"list of {_kind(inner)}" if inner else str(getattr(feature, "dtype", feature))


def _first_rows(report: Report, entry: CatalogEntry) -> list[dict[str, Any]]:
    """The first rows of the split that evaluations read, as samples; those that its tasks cannot use are noted."""
    try:
        candidates = external_candidates(
            Location(entry.name, entry), Columns(), split=EVALUATION, n=ROWS, seed=None, store=ImageSpool(None)
        )
        samples = list(islice(candidates.samples, ROWS))
    except (UsageError, RunError) as error:
        report.note("first rows", "samples", error)
        return []
    if len(samples) < ROWS:
        report.note("first rows", f"{ROWS} samples", len(samples))
    rows = []
    for number, sample in enumerate(samples):
        if isinstance(sample, dict):
            report.note(f"row {number}", "a sample", sample["reason"])
            continue
        rows.append(_row(report, number, sample))
        for task in entry.tasks:
            if reason := tasks.load(task).unusable_reason(sample):
                report.note(f"row {number}", f"a sample for {task}", reason)
    return rows


def _row(report: Report, number: int, sample: Sample) -> dict[str, Any]:
    """What is recorded of a sample: its sizes are those of the decoded images."""
    try:
        sizes = [list(image.size) for image in sample.images]
    except OSError as error:
        report.note(f"row {number}", "images", error)
        sizes = []
    text = sample.texts[0][:SHOWN] if sample.texts else None
    counts = {"texts": len(sample.texts), "answers": len(sample.answers)}
    return {"id": sample.id, "images": sizes, "text": text, "label": sample.label, **counts}
