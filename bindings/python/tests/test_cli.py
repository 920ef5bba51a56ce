"""python -m radixattn without torch; what needs it is tested in ../tests_hf."""

import sys

import radixattn as rx
from radixattn.__main__ import main


def test_info_describes_the_library(capsys):
    assert main(["info"]) == 0
    assert capsys.readouterr().out.strip() == rx.build_info()


def test_generate_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("radixattn.hf")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["generate", "--model", "m", "--prompts", "p"]) == 2
    assert "pip install torch transformers" in capsys.readouterr().err
