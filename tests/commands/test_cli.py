"""The command line around a workflow: what it imports, asks for, prints, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

import idvl
from idvl.commands import app, main
from idvl.commands.console import TerminalReporter, speak
from idvl.errors import RunError, UsageError
from idvl.profile import published

ROOT = Path(__file__).parents[2]


class Workflow(ModuleType):
    """Stands in for the workflow: remembers what it was asked, answers with the published profile or an error."""

    def __init__(self) -> None:
        super().__init__("idvl.workflows.estimate_id")
        self.asked: dict[str, Any] = {}
        self.recipe: Any = None
        self.error: BaseException | None = None

    def run(self, recipe: Any, **asked: Any) -> SimpleNamespace:
        self.recipe, self.asked = recipe, asked
        print("a library talks")
        asked["reporter"].note("a note")
        asked["reporter"].warn("a warning")
        logging.getLogger("idvl.models").warning("a logged warning")
        with asked["reporter"].progress("estimating") as progress:
            progress(1, 2)
        if self.error:
            raise self.error
        plan = SimpleNamespace(lines=lambda: ["layers  168"])
        if asked["plan_only"]:
            model = {"parameters": 100, "not_covered": {"embeddings": {"weights": 20, "names": ["words"]}}}
            return SimpleNamespace(plan=plan, model=model, profile=None, folder=None, downloads=())
        return SimpleNamespace(plan=plan, profile=published("blip-coco"), folder=Path("runs/x"))


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Workflow:
    import idvl.workflows

    made = Workflow()
    monkeypatch.setitem(sys.modules, "idvl.workflows.estimate_id", made)
    monkeypatch.setattr(idvl.workflows, "estimate_id", made, raising=False)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, "1" if "BARS" in name else "error"))
    log = logging.getLogger("idvl")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "level", log.level)
    monkeypatch.delenv("RANK", raising=False)
    return made


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


HEAVY = {"torch", "transformers", "datasets", "numpy", "matplotlib", "PIL"}


# typer itself imports pydantic for a command's options
@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (["--help"], HEAVY | {"pydantic"}),
        (["--version"], HEAVY | {"pydantic"}),
        (["estimate-id", "--help"], HEAVY),
        (["estimate-id", "--no-such"], HEAVY),
    ],
)
def test_nothing_heavy_is_imported_before_a_command_runs(args: list[str], heavy: set[str]) -> None:
    done = run_python(
        f"import sys; from idvl.commands import main; main({args!r})\n"
        f"print('LOADED', sorted({heavy!r} & set(sys.modules)))"
    )
    assert "LOADED []" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"idvl {idvl.__version__}\n"


def test_help_shows_no_types_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["prune", "--help"], ["analyze", "--help"]):
        assert main(args) == 0
        assert not re.search(r"<[a-zA-Z\[\]]+>", capsys.readouterr().out)


def test_without_arguments_help_is_shown_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "estimate-id" in capsys.readouterr().out


def test_every_setting_of_estimate_id_but_one_has_a_flag_that_sets_it(workflow: Workflow) -> None:
    from idvl.recipe import ESTIMATING, keys

    given = {
        "revision": "v1", "dtype": "float16", "device": "cpu", "trust_remote_code": True, "cache_dir": "/c",
        "local_files_only": True, "chat_template": True, "offload": True,
        "dataset": "coco", "data_dir": "/d", "dataset_id": "a/b", "image_column": "i",
        "text_column": "t", "label_column": "l", "answers_column": "a", "second_image_column": "s",
        "allow_outside": True, "split": "test", "samples": 7, "seed": 0, "batch_size": 3, "force": True,
        "tokens": "mean", "capture": "input", "estimator": "gride", "layers": "x", "modality": ["vision"],
        "knn": "torch", "memory": "1GiB", "spill": "/s",
    }  # fmt: skip
    args = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        args += [flag] if value is True else [flag, str(value[0] if isinstance(value, list) else value)]
    assert main(["estimate-id", "some/model", *args]) == 0
    found = workflow.recipe.to_dict(*ESTIMATING)
    known = {key for key in keys() if key.startswith(tuple(f"{section}." for section in ESTIMATING))}
    assert {f"{section}.{name}" for section in found for name in found[section]} == known
    flat = {name: value for section in found.values() for name, value in section.items()}
    assert flat == {"name": "some/model", **given, "clean_texts": True}


def test_flags_go_before_set_and_set_before_the_file(workflow: Workflow, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {name: a}\ndata: {samples: 1, seed: 1, batch_size: 1}\n")
    args = ["--recipe", str(path), "--set", "data.samples=2", "--set", "data.seed=2", "--seed", "0"]
    assert main(["estimate-id", *args]) == 0
    data = workflow.recipe.data
    assert (workflow.recipe.model.name, data.samples, data.seed, data.batch_size) == ("a", 2, 0, 1)


def test_a_recipe_for_another_command_is_noted(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "--recipe", "demo-prune"]) == 0
    assert "idvl estimate-id does not read these sections of demo-prune: prune, train" in capsys.readouterr().err
    assert main(["estimate-id", "--recipe", "demo"]) == 0
    assert "sections" not in capsys.readouterr().err
    for recipe, noted in (("demo", True), ("demo-prune", False)):
        # refused after the recipe is read
        assert main(["prune", "--recipe", recipe, "--profile", "x", "--set", "prune.id_weight=none"]) == 2
        assert (f"{recipe} has no section prune or train: the defaults hold" in capsys.readouterr().err) is noted


def test_the_run_is_passed_on(workflow: Workflow, tmp_path: Path) -> None:
    assert main(["estimate-id", "m", "--output", str(tmp_path), "--resume", "--compare", "blip-coco"]) == 0
    reporter = workflow.asked.pop("reporter")
    assert isinstance(reporter, TerminalReporter)
    assert workflow.asked == {
        "folder": tmp_path, "resume": True, "overwrite": False, "plan_only": False, "compare": Path("blip-coco"),
    }  # fmt: skip


def test_json_alone_is_on_stdout_and_is_the_same_again(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "m", "--json"]) == 0
    first = capsys.readouterr()
    assert json.loads(first.out) == published("blip-coco").to_json()
    assert "a library talks" in first.err
    assert main(["estimate-id", "m", "--json", "--quiet"]) == 0
    assert capsys.readouterr().out == first.out


def test_the_table_is_on_stdout_and_the_rest_on_stderr(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "m"]) == 0
    shown = capsys.readouterr()
    assert "crossattention.output.dense" in shown.out and "168" not in shown.out
    for text in ("a note", "warning: a warning", "warning: a logged warning", "runs/x"):
        assert text in shown.err and text not in shown.out
    assert "\x1b" not in shown.out + shown.err


def test_quiet_keeps_the_result_and_the_warnings(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "m", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "self_attn.qkv" in shown.out
    assert "a warning" in shown.err and "a note" not in shown.err and "runs/x" not in shown.err


def test_plan_shows_the_plan_alone(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "m", "--plan"]) == 0
    assert capsys.readouterr().out == "layers  168\nnot covered: 20 of all 100 weights (20.0 %): embeddings 20\n"


def test_compare_shows_the_differences(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate-id", "m", "--compare", "blip-coco"]) == 0
    assert "+0.0" in capsys.readouterr().out


def test_compare_notes_what_the_other_profile_does_not_state(
    workflow: Workflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = published("blip-coco").to_json()
    for protocol, noted in (({}, "estimator, tokens, capture"), ({"estimator": "icml24", "tokens": "x"}, "capture")):
        (tmp_path / "other.json").write_text(json.dumps(other | {"protocol": protocol}))
        assert main(["estimate-id", "m", "--compare", str(tmp_path / "other.json")]) == 0
        shown = " ".join(capsys.readouterr().err.split())
        assert f"other.json does not state its {noted}: it may be measured otherwise" in shown


def test_beside_the_main_process_all_is_silent(
    workflow: Workflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["estimate-id", "m"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "warning" not in shown.err
    workflow.error = RunError("it broke")
    assert main(["estimate-id", "m"]) == 1
    assert "idvl [process 1]: it broke\n" in capsys.readouterr().err
    monkeypatch.setattr("idvl.commands.PATIENCE", 0)
    for error, code in ((UsageError("not a model"), 2), (KeyboardInterrupt(), 130)):
        workflow.error = error
        assert main(["estimate-id", "m"]) == code
        assert "idvl" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["estimate-id"], "no model: name one"),
        (["estimat-id"], "No such command 'estimat-id'.* Did you mean 'estimate-id'"),
        (["estimate-id", "m", "--tokens", "mena"], "estimate.tokens: 'mena' is not one of.*did you mean 'mean'"),
        (["estimate-id", "m", "--samples", "0"], "data.samples: .*greater than or equal to 1"),
        (["estimate-id", "m", "--no-such"], "No such option"),
        (["estimate-id", "m", "--set", "estimate.estimater=x"], "did you mean 'estimate.estimator'"),
        (["estimate-id", "m", "--modality", "visoin"], "did you mean 'vision'"),
        (["estimate-id", "m", "--layers", "*fc1", "--layers=*fc2"], "--layers takes one value, not '.fc1' and '.fc2'"),
        (["prune", "m", "--scope", "vision", "--scope", "cross"], "--scope takes one value, not 'vision' and 'cross'"),
        (["estimate-id", "m", "--set", "eval.limit=5"], "eval.limit has no effect on idvl estimate-id: leave it out"),
        (["eval", "m", "--set", "data.samples=50"], "data.samples has no effect on idvl eval: set eval.limit instead"),
        (["eval", "m", "--set", "data.batch_size=5"], "no effect on idvl eval: set eval.batch_size instead"),
        (["eval", "--score", "x", "--set", "eval.limit=5"], "reads predictions alone: leave out --set eval.limit"),
        (["eval", "--score", "x", "--beams", "5"], "--score reads predictions alone: leave out --beams"),
        (["eval", "--score", "x", "--seed", "5", "--output", "y"], "predictions alone: leave out --output"),
        (
            ["analyze", "--sensitivity", "m", "--set", "prune.repair=obs"],
            "prune.repair has no effect on idvl analyze: ",
        ),
        (["analyze", "--sensitivity", "m", "--set", "train.epochs=3"], "train.epochs has no effect on idvl analyze: "),
        (["eval", "m", "--set", "train.epochs=5"], "train.epochs has no effect on idvl eval: leave it out"),
        (["recover", "m", "--set", "data.samples=50"], "no effect on idvl recover: set train.samples instead"),
        (
            ["prune", "m", "--id-weight", "none", "--samples", "500"],
            "samples 500 and id_weight none: no dim.*train.sam",
        ),
        (["prune", "m", "--profile", "x", "--samples", "500"], "samples 500 and profile x: no dimension is estimated"),
        (["estimate-id", "m", "--memory", "lots"], "a size such as 8GiB"),
        (["estimate-id", "m", "--resume"], "--resume needs the folder of the run: --output DIR"),
        (["estimate-id", "m", "--recipe", "none.yaml"], "there is no recipe 'none.yaml'"),
        (["estimate-id", "m", "--compare", "none.json"], "there is no profile 'none.json'"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    workflow: Workflow, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    assert main(args) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and workflow.recipe is None
    assert shown.err.startswith("idvl: ") and shown.err.count("\n") == 1
    assert re.search(line, shown.err)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("not a model"), 2, "idvl: not a model"),
        (RunError("layer x: NaN"), 1, "idvl: layer x: NaN"),
        (OSError(5, "Input/output error"), 1, "idvl: OSError: [Errno 5] Input/output error (--debug shows where)"),
        (KeyError("two\nlines"), 1, "idvl: KeyError: 'two\\nlines' (--debug shows where)"),
        (MemoryError(), 1, "idvl: out of memory: give a smaller --memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "idvl: out of memory"),
        (RuntimeError("[gloo/pair.cc] Connection closed by peer"), 1, "idvl: another process ended without a word"),
        (KeyboardInterrupt(), 130, "idvl: interrupted"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_a_code(
    workflow: Workflow, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    workflow.error = error
    assert main(["estimate-id", "m", "--quiet"]) == code
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(line)
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["estimate-id", "prune", "eval", "analyze"])
def test_a_lack_of_memory_names_only_flags_that_the_command_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("typer.core.TyperCommand.invoke", full)
    assert main([command, "m"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("idvl: out of memory: ") and line.count("\n") == 1
    flags = {flag for each in get_command(app()).commands[command].params for flag in each.opts}
    named = set(re.findall(r"--[a-z-]+", line))
    assert named and named <= flags


@pytest.mark.parametrize("args", [["--debug", "estimate-id", "m"], ["estimate-id", "m", "--debug"]])
def test_debug_shows_the_traceback(workflow: Workflow, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    workflow.error = RunError("it broke")
    assert main(args) == 1
    assert "Traceback" in capsys.readouterr().err


SIGNALLED = """
import os, signal, sys

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Importing())
sys.argv = ["idvl", "estimate-id", "builtin/blip"]
from idvl.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["idvl.commands", "typer", "idvl.workflows", "torch"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_it_in_one_line_at_any_time(module: str, name: str, code: int) -> None:
    done = run_python(SIGNALLED.format(module=module, signal=name))
    assert (done.returncode, done.stderr, done.stdout) == (code, "idvl: interrupted\n", "")


def test_a_second_signal_ends_it_at_once() -> None:
    done = run_python(
        "import os, signal, sys\nfrom idvl import __main__ as entry\n"
        "def hang():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "entry._run = hang\nsys.exit(entry.main())"
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_a_bare_clone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "idvl").symlink_to(ROOT / "idvl")
    command = [sys.executable, "-S", "-m", "idvl", "estimate-id", "builtin/blip"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "make install" in done.stderr and done.stderr.count("\n") == 1


def test_the_same_name_in_every_form_of_entry() -> None:
    shown = [
        subprocess.run([*form, "--help"], capture_output=True, text=True, check=True).stdout
        for form in ([sys.executable, "-m", "idvl"], [str(Path(sys.executable).with_name("idvl"))])
    ]
    assert shown[0] == shown[1]
    assert "Usage: idvl [OPTIONS]" in shown[0]


def test_what_a_terminal_would_obey_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from idvl.commands.console import output, write

    name = "m\x1b]0;title\x07\x9b31m"
    table = Table("a")
    table.add_row(Text(name))
    output().print(table)
    output().print(name, markup=False)
    write(f"{name}\n")
    reporter = TerminalReporter()
    reporter.note(name)
    reporter.warn(name)
    assert main(["eval", "m", f"--{name}"]) == 2
    shown = capsys.readouterr()
    assert shown.out.count("m␛]0;title") == 3 and shown.err.count("m␛]0;title") == 2
    assert not {"\x1b", "\x07", "\x9b"} & set(shown.out + shown.err)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["estimate-id", "builtin/vit", "--output", "x" * 300], "File name too long: 'xxx"),
        (["estimate-id", "builtin/vit", "--output", "loop"], "'loop' leads nowhere"),
        (["estimate-id", "m", "--output", "a\udcffb"], r"'a\\udcffb' is not valid UTF-8"),
        (["estimate-id", "x" * 5000], "at most 4096 characters, not 'xxx"),
        (["estimate-id", "m", "--tokens", "x" * 5000], r"'xxx.* \.\.\. "),
        (["analyze", ".", "--output", "x" * 300], "cannot write to .xxx.*: File name too long"),
        (["analyze", "."], "no run to analyze"),
        (["analyze", "run", "--output", "a\udcffb"], "is not valid UTF-8"),
        (["prune", "builtin/vit", "--push-to-hub", ""], "--push-to-hub takes a value, not ''"),
        (["analyze", "run", "--sensitivity", ""], "--sensitivity takes a value, not ''"),
    ],
)
def test_a_name_that_no_file_can_have_is_a_mistake(
    args: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    if "loop" in args:
        (tmp_path / "loop").symlink_to("loop")
    assert main(args) == 2
    told = capsys.readouterr().err
    assert re.search(line, told) and told.count("\n") == 1 and len(told) <= 2100


# the program's own streams: a subprocess
@pytest.mark.parametrize(
    ("shell", "code", "told"),
    [
        (">/dev/full", 1, "stdout cannot be written (No space left on device)"),
        ("2>/dev/full", 0, None),
        (">&-", 0, None),
        ("| head -c 1", 0, None),
    ],
)
def test_streams_that_cannot_be_written(shell: str, code: int, told: str | None) -> None:
    command = f"set -o pipefail; {sys.executable} -m idvl eval --list {shell}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode if "head" not in shell else 0) == code
    assert done.stderr == "" if told is None else done.stderr.startswith(f"idvl: {told}")
    assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize("args", [["--help"], ["prune", "--help"], ["--version"], []])
def test_help_on_a_stdout_that_cannot_be_written(args, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115 - main makes it writable
    assert main(args) == 1
    told = capsys.readouterr().err
    assert told.startswith("idvl: stdout cannot be written (No space left on device)") and told.count("\n") == 1


def test_a_terminal_without_unicode_gets_replacements() -> None:
    code = (
        "from idvl.commands import main\nfrom idvl.commands.console import output\nmain(['--version'])\n"
        "output().print('1 ± 2 ␛')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, ["1 ? 2 ?"], "")


def test_a_warning_that_comes_again_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a model that is opened again once it is saved."""
    speak(TerminalReporter())
    for text in ("guessed", "other", "guessed"):
        logging.getLogger("idvl").warning("%s from names", text)
    assert capsys.readouterr().err == "warning: guessed from names\nwarning: other from names\n"
