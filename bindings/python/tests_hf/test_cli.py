"""python -m radixattn generate, on a model saved to a folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from families import baseline, make_model
from words import make_tokenizer

from radixattn.__main__ import main
from radixattn.cli import read_prompts

PROMPTS = ["the same first words, then one", "the same first words, then two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_model("llama").save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


def run(folder, prompts, *options):
    return main(["generate", "--model", str(folder), "--prompts", str(prompts), *options])


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_answers_are_the_baselines(folder, prompts, capsys):
    assert run(folder, prompts, "--max-new-tokens", "6", "--block-size", "4") == 0
    first, second = lines(capsys)
    tokenizer = make_tokenizer()
    for line, prompt in zip((first, second), PROMPTS, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert line["text"] == tokenizer.decode(baseline(make_model("llama"), ids, 6))
        assert (line["prompt_tokens"], line["tokens"]) == (len(ids), 6)
    assert (first["cached_tokens"], second["cached_tokens"]) == (0, 24)


def test_a_program_of_its_own(folder, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": PROMPTS[0]}) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "radixattn", "generate", "--model", str(folder)]
    command += ["--prompts", str(path), "--max-new-tokens", "3", "--progress", "--text-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ids = make_tokenizer()(PROMPTS[0])["input_ids"]
    text = make_tokenizer().decode(baseline(make_model("llama"), ids, 3))
    assert done.stdout == text + "\n"
    assert "1/1" in done.stderr


def test_a_request_that_fails_is_told(folder, prompts, capsys):
    assert run(folder, prompts, "--max-new-tokens", "600") == 1
    assert [line["finish_reason"] for line in lines(capsys)] == ["error", "error"]


def test_options_reach_the_engine(folder, prompts, capsys):
    assert run(folder, prompts, "--max-new-tokens", "6", "--no-prefix-cache") == 0
    without = lines(capsys)
    assert [line["cached_tokens"] for line in without] == [0, 0]
    stop = without[0]["text"][2:4]
    assert run(folder, prompts, "--max-new-tokens", "6", "--stop", stop) == 0
    assert lines(capsys)[0]["text"] == without[0]["text"].split(stop)[0]


@pytest.mark.parametrize(
    ("name", "text"), [("none.txt", "none.txt"), ("bad.jsonl", "object 1 has no text 'prompt'")]
)
def test_bad_files_say_so(folder, tmp_path, capsys, name, text):
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\n')
    assert run(folder, tmp_path / name) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_ends_end_a_prompt(tmp_path, end):
    others = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    asked = [f"one{others}prompt", "another", f"two {others}more"]
    text, objects = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_bytes(end.join([*asked[:1], "", *asked[1:], ""]).encode())
    objects.write_bytes(
        end.join(
            json.dumps({"prompt": p.replace("\u2028", "\n")}, ensure_ascii=False) for p in asked
        ).encode()
    )
    assert read_prompts(str(text)) == asked
    assert read_prompts(str(objects)) == [p.replace("\u2028", "\n") for p in asked]


def test_block_size_0_is_the_default(folder, prompts, capsys):
    assert run(folder, prompts, "--max-new-tokens", "2", "--block-size", "0") == 0
    assert [line["cached_tokens"] for line in lines(capsys)] == [0, 16]


def test_bad_parameters_say_so(folder, prompts, capsys):
    assert run(folder, prompts, "--temperature", "-1") == 2
    assert "temperature is -1.0: expected" in capsys.readouterr().err
