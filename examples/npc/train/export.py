"""Writes what the demo and the tests read: tokenizer.json, demo.json, heldout.json, references.

    python export.py data        tokenizer.json, demo.json, heldout.json (needs no PyTorch)
    python export.py reference   reference_logits.json, from the stored weights
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import grammar

HERE = Path(__file__).resolve().parent
MODEL, DATA = HERE.parent / "model", HERE.parent / "data"
DEMO_SEED, HELD_OUT_SEED = 2_000_000_000, 3_000_000_000  # training stays below 1_000_000_000
HELD_OUT_WORLDS = 40


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")


def tokenizer_json() -> dict:
    """A Hugging Face `tokenizers` file: lower case, split at white space, look the word up."""
    words = grammar.vocabulary()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": index, "content": word, **flags}
                             for index, word in enumerate(grammar.SPECIAL_TOKENS)],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "unk_token": grammar.UNK,
                      "vocab": {word: index for index, word in enumerate(words)}}}


def question_json(question: grammar.Question) -> dict:
    return {"kind": question.kind, "relation": question.relation, "text": question.text,
            "accepted": [question.facts[-1]], "answer": question.answer}


def character_json(world: grammar.World, rng: random.Random, taken: frozenset[str],
                   counts: tuple[int, int, int]) -> dict:
    """A character with so many questions about lore, about the card, and of two steps."""
    character = grammar.make_character(world, rng, taken)
    questions = grammar.all_questions(world, character, rng)
    picked = grammar.pick_questions(questions, *counts)
    return {"name": character.name, "card": character.text,
            "questions": [question_json(question) for question in picked]}


def world_json(seed: int, characters: int, counts: tuple[int, int, int]) -> dict:
    """One world with its characters; the names differ."""
    rng = random.Random(seed)
    world = grammar.make_world(rng)
    cast: list[dict] = []
    for _ in range(characters):
        taken = frozenset(character["name"] for character in cast)
        cast.append(character_json(world, rng, taken, counts))
    return {"seed": seed, "village": world.village, "lore": world.text, "characters": cast}


def export_data() -> None:
    """tokenizer.json, demo.json, heldout.json."""
    write_json(MODEL / "tokenizer.json", tokenizer_json())
    write_json(DATA / "demo.json", world_json(DEMO_SEED, 10, (4, 2, 1)))
    worlds = [world_json(HELD_OUT_SEED + index, 2, (4, 2, 1)) for index in range(HELD_OUT_WORLDS)]
    write_json(DATA / "heldout.json", {"worlds": worlds})


def reference_prompts() -> dict[str, str]:
    """A short prompt, and the demo's first character up to its first answer."""
    rng = random.Random(DEMO_SEED + 1)
    world = grammar.make_world(rng, 0.03)
    character = grammar.make_character(world, rng)
    question = grammar.all_questions(world, character, rng)[0]
    short = f"{grammar.prefix_text('', character.text)} {grammar.turn_text(question.text)}"
    demo = json.loads((DATA / "demo.json").read_text())
    first = demo["characters"][0]
    full = (f"{grammar.prefix_text(demo['lore'], first['card'])} "
            f"{grammar.turn_text(first['questions'][0]['text'])}")
    return {"short": " ".join(short.split()[-64:]), "demo": full}


def export_reference() -> None:
    """reference_logits.json: float32 PyTorch on the stored weights."""
    from evaluate import continue_greedily, last_logits
    from model import load

    model = load(MODEL)
    ids = {word: index for index, word in enumerate(grammar.vocabulary())}
    references = {}
    for name, text in reference_prompts().items():
        prompt = [ids[word] for word in text.split()]
        logits = [round(value, 6) for value in last_logits(model, prompt).tolist()]
        references[name] = {"token_ids": prompt, "logits": logits,
                            "continuation": continue_greedily(model, prompt, 16)}
    write_json(DATA / "reference_logits.json", references, indent=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("data", "reference"))
    {"data": export_data, "reference": export_reference}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
