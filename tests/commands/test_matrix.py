"""idvl prune --matrix at its surface: flags, the plan, and exit codes."""

import json

import pytest

from idvl.commands import main
from idvl.commands.matrix import parse_time
from idvl.errors import UsageError

TEXT = """
base: {model: {name: builtin/vit}, data: {dataset: digits}}
matrix: {prune.id_weight: [none, divide], prune.allocation: [global, uniform]}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400)]
)
def test_a_budget_is_a_time(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["2", "", "h", "2 hours", "-1h", "2h3"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="--budget takes a time such as 2h"):
        parse_time(text)


def test_a_plan_lists_every_cell_and_writes_nothing(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--matrix", path, "--plan", "--json", "-q"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in lines] == [
        "id_weight-none-global",
        "id_weight-none-uniform",
        "divide-global",
        "divide-uniform",
    ]
    assert [line["state"] for line in lines] == ["waiting", "waiting", "waiting", "left out"]
    assert not (tmp_path / "runs").exists()
    assert main(["prune", "--matrix", path, "--plan", "--set", "prune.sparsity=0.5"]) == 0
    assert "divide-global" in capsys.readouterr().out


def test_a_packaged_matrix_is_found_by_name(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--matrix", "small/rates", "--plan", "--json", "-q"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 54
    assert main(["prune", "--matrix", "small/rate", "--plan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("idvl: there is no matrix 'small/rate'; did you mean 'small/rates'")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--recipe", "demo"], "--matrix and --recipe exclude each other"),
        (["--push-to-hub", "me/mine"], "--matrix and --push-to-hub exclude each other"),
        (["--budget", "soon"], "--budget takes a time"),
        (["--id-weight", "none"], "prune.id_weight varies in the matrix"),
        (["--resume"], "--resume needs the folder"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(path, more, told, capsys):
    assert main(["prune", "--matrix", path, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_budget_needs_a_matrix(capsys):
    assert main(["prune", "builtin/vit", "--budget", "2h"]) == 2
    assert "add --matrix FILE" in capsys.readouterr().err
