"""The flags made from the recipe: their names, what help says of them, and that the recipe checks their values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from idvl.commands import app, main
from idvl.recipe import described

DATASET = """--dataset --data-dir --dataset-id --image-column --text-column --label-column --answers-column
    --second-image-column --allow-outside"""
MODEL = "--device --chat-template/--no-chat-template --trust-remote-code --cache-dir --local-files-only"
RUN = "--recipe --set --output --resume --overwrite --quiet/-q --debug"
FLAGS = {
    "estimate-id": f"""{DATASET} --split --samples --seed --batch-size --force --tokens --capture --estimator --layers
        --modality --knn --memory --spill --offload --revision --dtype {MODEL} {RUN} --plan --compare --json""",
    "prune": f"""--sparsity --sparsity-ratio --criterion --calibration --calibration-samples --tokens-from
        --compare-within --repair --repair-epochs
        --id-weight --id-exponent --profile --missing-id --refresh-profile --scope
        --allocation --allocate-by --spread --ecoflap-order
        --structure --floor --ceiling --min-keep --schedule --initial --final --mask-every --monotone
        --compat --epochs --max-steps --batch-size --accumulate --learning-rate --weight-decay --clip
        --mixed-precision --gradient-checkpointing --distill --checkpoint-every --report-to --new-head --recover --rank
        --task --eval-every --eval-limit --eval/--no-eval {DATASET} --split --samples --seed --force --memory --offload
        --revision {MODEL} {RUN} --plan --matrix --budget --push-to-hub --public --json""",
    "eval": f"""--task --split --limit --batch-size --prompt --beams --min-length --max-length --template --rerank
        --metric {DATASET} --seed --revision --dtype {MODEL} {RUN} --compare --score --list --json""",
    "analyze": f"""--table --json --expect --sensitivity --ratio --scope --profile --samples --limit --batch-size
        --dataset --data-dir --allow-outside --seed --device {RUN} --plan""",
    "recover": f"""--method --rank --alpha --layers --biases --masks --teacher --temperature --compat --structure
        --epochs --max-steps --batch-size --accumulate --learning-rate --weight-decay --clip --mixed-precision
        --gradient-checkpointing --distill --checkpoint-every --report-to --task --eval-every --eval-limit
        --eval/--no-eval {DATASET} --split --seed --revision {MODEL} {RUN} --plan --push-to-hub --public --json""",
    "convert": "--tokenizer --local-files-only --json --quiet/-q --debug",
    "verify": """--masks --sparsity --structure --base --scope --revision --trust-remote-code --json --quiet/-q
        --debug""",
}


def test_no_flag_is_lost_added_or_named_twice() -> None:
    for name, command in get_command(app()).commands.items():
        options = [option for option in command.params if option.param_type_name == "option"]
        made = ["/".join(option.opts + option.secondary_opts) for option in options]
        assert sorted(made) == sorted(FLAGS[name].split()), name


def test_help_tells_of_every_setting_its_choices_and_its_default() -> None:
    texts = [option.help for command in get_command(app()).commands.values() for option in command.params]
    for key, schema in described().items():
        told = [text for text in texts if schema["description"] in text]
        assert bool(told) == (schema["flag"] != "" or key == "model.name"), key
        notes = [f"one of: {', '.join(schema['enum'])}"] if "enum" in schema else []
        notes += [f"default: {schema['default']}"] if schema.get("default") and schema["type"] == "integer" else []
        assert all(note in text for note in notes for text in told), key


def test_help_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["prune", "--help"]) == 0
    shown = capsys.readouterr().out
    for line in (
        r"--sparsity +0\.\.1 .*\[default: 0\.8, 0\.5 with calibration",
        r"--criterion +CHOICE +Importance score of a weight\. magnitude: its size; gradient",
        r"--mixed-precision +CHOICE .*\[one of: no, bf16, fp16\]",
        r"--eval +--no-eval .*\[default: eval\]",
        r"--monotone +Never let",
        r"--weight-decay +NUMBER .*\[default: 0\]",
        r"--seed +N .*\[default: 0\]",
    ):
        assert re.search(line, shown), line


@pytest.mark.parametrize(
    ("key", "flag", "value"),
    [
        ("prune.criterion", "--criterion", "platno"),
        ("eval.limit", "--eval-limit", "many"),
        ("data.split", "--split", ""),
    ],
)
def test_a_wrong_value_has_the_same_message_wherever_it_is_from(
    key: str, flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, name = key.split(".")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{section}:\n  {name}: '{value}'\n")
    told = set()
    for more in ([flag, value], ["--set", f"{key}={value}"], ["--recipe", str(recipe)]):
        assert main(["prune", "m", *more]) == 2
        told.add(capsys.readouterr().err.replace(f" (recipe '{recipe}')", ""))
    (line,) = told
    assert line.startswith(f"idvl: {key}")


def test_the_shell_completes_flags_and_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_IDVL_COMPLETE", "complete_bash")
    for words, completed in {
        "idvl an": ["analyze"],
        "idvl prune --max": ["--max-steps"],
        "idvl prune --criterion ": ["platon", "gradient", "magnitude", "multiflow", "sparsegpt", "wanda"],
        "idvl estimate-id --recipe de": ["demo", "demo-prune"],
        "idvl prune --recipe demo-": ["demo-prune"],
        "idvl eval --recipe vit-c": ["vit-cifar100-platon-id-40"],
        "idvl prune --matrix small/s": ["small/scopes", "small/settings", "small/sparsities"],
    }.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        assert capsys.readouterr().out.split() == completed
    monkeypatch.delenv("_IDVL_COMPLETE")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit):
        main(["--show-completion", "bash"])
    assert "_IDVL_COMPLETE=complete_bash" in capsys.readouterr().out


def test_settings_without_a_flag_are_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    hidden = {key for key, schema in described().items() if schema["flag"] == ""} - {"model.name"}
    assert {key for key in described() if f"`{key}`" in page} >= hidden
