"""The examples of docs/huggingface.md, run one after the other on a small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from families import COUNTED, make_model
from words import make_tokenizer

from radixattn.hf import COVERED

PAGE = Path(__file__).parents[3] / "docs" / "huggingface.md"


def test_examples_run(monkeypatch, capsys):
    model, tokenizer = make_model("llama"), make_tokenizer()
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda _path: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda _path: tokenizer)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    cached = re.findall(r"^(\d+) of \d+ cached:", capsys.readouterr().out, re.MULTILINE)
    assert [int(n) for n in cached] == [0, 48, 48]


@pytest.mark.parametrize("family", COVERED)
def test_every_covered_family_is_in_the_table_and_tested(family):
    table = PAGE.read_text(encoding="utf-8").split("| family (model_type)")[1].split("\n\n")[0]
    assert re.search(rf"\b{family}\b", table)
    assert family in COUNTED
