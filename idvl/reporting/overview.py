"""How the runs of a study were made: settings, versions, time and memory, and what is wrong with some of them."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from idvl.reporting.collect import CONTINUE, Study, label_of
from idvl.reporting.lineage import dense_models, pruned_by
from idvl.reporting.run_record import Kind, RunRecord
from idvl.runs import MATRIX

COLUMNS = ("run", "what", "model", "data", "seed", "state", "time", "memory", "started", "differs in")
# a time or memory that a resumed run could not find out
UNKNOWN = "not known"
# the folders of the two runs of prune --recover
IN_A_ROW = ("pruned", "recovered")
TITLES: dict[Kind, str] = {
    **{"estimate-id": "dimensions", "prune": "pruning", "eval": "evaluation", "sensitivity": "sensitivity"},
    "allocations": "allocation",
}


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Words for a page. `settings`: (title, key -> value) for what runs of one kind share; rows say what differs."""

    title: str
    summary: str
    versions: str
    models: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    settings: tuple[tuple[str, Mapping[str, str]], ...]
    troubles: tuple[tuple[str, str], ...]


def overview_of(study: Study) -> Overview:
    dense = [run for run in study.runs if run.kind == "prune" or not pruned_by(run, study)]
    models = tuple(dense_models(dense or study.runs))
    few = models if len(models) <= 3 else (*models[:2], f"{len(models) - 2} more models")
    counts = {kind: sum(run.kind == kind for run in study.runs) for kind in TITLES}
    kinds = [f"{count:,} of {TITLES[kind]}" for kind, count in counts.items() if count]
    unfinished = sum(not run.finished and not run.damaged for run in study.runs)
    shared = {kind: _shared([run for run in study.runs if run.kind == kind]) for kind in TITLES}
    settings = [(f"settings of all runs of {TITLES[kind]}", values) for kind, values in shared.items() if values]
    versions, same = _versions(study.runs)
    return Overview(
        title=f"Intrinsic dimension and pruning of {_listed(few)}",
        summary=f"{_runs(len(study.runs))}: {', '.join(kinds)}"
        + (f"; {unfinished:,} not finished" if unfinished else ""),
        versions=f"versions: {versions}" if same else f"versions differ between runs; the first has {versions}",
        models=few,
        columns=COLUMNS,
        rows=tuple(_row(run, shared[run.kind]) for run in study.runs),
        settings=tuple(settings),
        troubles=(*study.refused, *study.matrices, *((run.label, why) for run in study.runs for why in _troubles(run))),
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n:,} runs"


def _troubles(run: RunRecord) -> Iterator[str]:
    if not run.finished and not run.damaged:
        again = "--overwrite" if run.kind == "allocations" else "--resume"
        yield f"not finished{_reached(run)}: {CONTINUE.format(shlex.quote(label_of(_output(run))))} {again}"
    yield from run.troubles


def _output(run: RunRecord) -> Path:
    """The folder of the command that made a run: its own, or that of a matrix or of prune --recover, which holds it."""
    if matrix := next((above for above in list(run.folder.parents)[:2] if os.path.lexists(above / MATRIX)), None):
        return matrix
    try:
        words = shlex.split(str(run.record.get("command", "")))
    except ValueError:  # the folders of others may hold anything
        words = []
    output = [after for word, after in itertools.pairwise(words) if word == "--output"]
    output += [word.removeprefix("--output=") for word in words if word.startswith("--output=")]
    inside = run.folder.name in IN_A_ROW and "prune" in words and Path(*output[:1]).name != run.folder.name
    return run.folder.parent if inside else run.folder


def _reached(run: RunRecord) -> str:
    """How far the metrics of an unfinished run go."""
    if "step" in run.last:
        return f", it came to step {run.last['step']:,}"
    return f", its last layer is {run.last['layer']}" if "layer" in run.last else ""


def _row(run: RunRecord, shared: Mapping[str, str]) -> tuple[str, ...]:
    own = {key: value for key, value in _settings(run).items() if key not in shared}
    differs = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in own.items() if key != "model.name")
    return (
        run.label, TITLES[run.kind], run.model, run.dataset, str(run.record.get("seed", "")),
        "finished" if run.finished else "damaged" if run.damaged else f"not finished{_reached(run)}",
        _time(run), _memory(run),
        str(run.record.get("started", "")).partition("+")[0].replace("T", " "), differs,
    )  # fmt: skip


def _settings(run: RunRecord) -> dict[str, str]:
    """The recipe as dotted keys, without settings that are left open."""
    return {
        f"{section}.{key}": str(value)
        for section, values in run.recipe.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is not None and value != []
    }


def _shared(runs: Sequence[RunRecord]) -> dict[str, str]:
    """The settings that all of these runs have alike."""
    every = [values for run in runs if (values := _settings(run))]
    return (
        {key: value for key, value in every[0].items() if all(one.get(key) == value for one in every)} if every else {}
    )


def _versions(runs: Sequence[RunRecord]) -> tuple[str, bool]:
    """(the versions of the first run, whether those of all others are the same)."""
    records = [run.record["versions"] for run in runs if run.record.get("versions")]
    if not records:
        return "not known", True
    words = ", ".join(f"{name} {version}" for name, version in records[0].items())
    return words, all(versions == records[0] for versions in records)


def _time(run: RunRecord) -> str:
    parts = _parts(run, "seconds")
    return UNKNOWN if None in parts else _duration(sum(parts))


def _parts(run: RunRecord, key: str) -> list[float | None]:
    """What each part of a run wrote down under `key`: measuring dimensions, training or losses, evaluation.

    None where an earlier session of a resumed run did not say.
    """
    profile = run.dense or run.profile
    # a run of prune may have been given its dimensions
    measured = run.kind == "estimate-id" or (run.kind == "prune" and (run.folder / "profile").is_dir())
    parts = [profile.provenance if profile and measured else {}, run.report.get("made"), run.results]
    parts.append(run.sensitivity.get("provenance"))
    return [part[key] for part in parts if part and isinstance(part.get(key, ""), int | float | None)]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _memory(run: RunRecord) -> str:
    """The largest peak that any part of the run wrote down."""
    parts = _parts(run, "peak_memory")
    peak = 0 if None in parts else max(parts, default=0)
    return UNKNOWN if None in parts else f"{peak / 2**30:.2f} GiB" if peak else ""
