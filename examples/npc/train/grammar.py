"""The grammar behind the talking characters: worlds, character cards, questions, vocabulary.

Promises
  1. Everything is drawn from a caller's `random.Random`, so a seed names a world for ever.
  2. Who keeps, lives, costs, hides, ... is drawn anew for every world. A question names only its
     key ("who keeps the silver key ?"); the value ("mara") stands in the prompt and nowhere else,
     so a right answer means that attention read the prompt.
  3. The vocabulary is closed: every word that this file can utter is in `vocabulary()`.
  4. Text is lower case, and one space separates any two tokens, punctuation included.

A conversation is one line of tokens:

    <bos> <world> LORE <card> CARD <user> QUESTION <npc> ANSWER <eos> <user> QUESTION <npc> ...
    |--- shared by everyone ---|-- one character --|------------- one conversation ----------->

This file is pure Python and imports nothing outside the standard library.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

UNK, BOS, EOS, WORLD, CARD, USER, NPC = (
    "<unk>", "<bos>", "<eos>", "<world>", "<card>", "<user>", "<npc>")
SPECIAL_TOKENS = (UNK, BOS, EOS, WORLD, CARD, USER, NPC)

POOLS: dict[str, list[str]] = {name: words.split() for name, words in {
    "person": """mara tomas elin orin bram sela joren wilma hakon isolde perrin greta aldo ysolt
        doran fenna kasper linnea matteo nadia oswin petra quill rosamund silas thea ulric vera
        wendel yara zeno agnes boris celia dario edda falk gisela henrik ingrid jasper katrin lorenz
        mirela niels odette pavel rhea stellan tilda urban viola wystan xenia yorick zelda ansel
        brida corin dagny emeric freya gunnar hedda ivo jutta kelda leif""",
    "place": """mill tower inn chapel forge harbour market bakery library stable brewery orchard
        lighthouse bridge barn smokehouse gatehouse tannery granary vineyard quarry shipyard
        cloister garden watermill workshop ferry cottage fort theatre bathhouse cellar""",
    "item": """key horn crown sword map bell book mirror harp compass lantern goblet banner
        hourglass seal drum""",
    "treasure": """chest ring coffin anchor statue cup dagger necklace scroll shield mask pearl""",
    "look": "silver golden iron copper wooden crystal amber ivory bronze marble jade velvet",
    "good": """loaf candle blanket rope barrel cheese fish hammer kettle pillow saddle basket
        bucket shovel ladder pipe""",
    "number": """two three four five six seven nine ten twelve fifteen sixteen eighteen twenty
        thirty forty fifty sixty seventy ninety""",
    "colour": "red blue green yellow white black purple orange pink grey brown crimson",
    "beast": """wolf bear ghost dragon serpent giant troll witch raven lion spider goblin boar
        phantom""",
    "trade": """smith baker weaver hunter miller potter carpenter sailor tailor brewer healer
        mason fisher shepherd merchant scribe cooper glazier painter farmer""",
    "feast": "lanterns harvest snow bells ships apples masks stars flowers bonfires",
    "month": """january february march april may june july august september october november
        december""",
    "relative": "cousin neighbour teacher rival",
    "pet": "dog cat horse goat parrot goose",
    "pet_name": """pepper biscuit shadow thunder button clover rusty nettle pickle bramble smoky
        whisker""",
    "food": """soup porridge honey cherries stew dumplings pancakes walnuts salmon mushrooms
        plums sausages""",
    "garment": "cloak hat scarf coat",
    "trait": """brave quiet merry stubborn gentle proud curious patient clever gloomy honest
        restless""",
    "opener": "aye well ah hm friend listen indeed truly",
    "village": """ashford brindle larkwood stonebrook mistvale redmoor thornby willowmere
        oakhaven ravensholm""",
    "weather": "rain snow mist frost wind sunshine",
    "mood": "old cold narrow steep lonely peaceful ancient crooked",
}.items()}

SENTENCE_STARTS = (
    "", "", "", "everyone knows that", "the elders say that", "it is written that",
    "as the old songs tell ,", "travellers report that", "to this day")

INTRODUCTION = (
    "this is the tale of {village} , a {mood} village between the hills and the sea .")

FILLERS = (
    "in the evening the {weather} rolls over the {mood} roofs .",
    "the children sing {mood} songs and run along the shore .",
    "strangers are welcome here , if they carry no quarrel with them .",
    "the {mood} road to the mountains is closed when the {weather} comes .",
    "nobody remembers who built the {mood} walls around the village .",
    "at night the fires burn low and the dogs grow silent .",
    "the council meets under the {mood} tree and argues until morning .",
    "after the long war the fields were empty for many years .",
    "the river brings {weather} from the north and trade from the south .",
    "old people sit on the {mood} benches and speak of better days .",
    "the soil is poor , but the people are {trait} and work hard .",
    "most families here are {trait} , and few ever leave .",
    "the {weather} was so heavy last year that the boats stayed home .",
    "the {mood} path leads through the forest to the standing stones .",
    "whoever breaks an oath must leave before the sun goes down .",
    "there is music in the {mood} streets whenever a ship returns .",
)


@dataclass(frozen=True)
class Relation:
    """One sort of fact. `key` and `value` name pools; `statement` ends in the value."""

    name: str
    statement: str
    questions: tuple[str, ...]
    count: int = 1


# The key stands before the value in every statement, and the question repeats the key's words.
LORE_RELATIONS = (
    Relation("keeper", "the {look} {item} is kept by {person}", (
        "who keeps the {look} {item} ?", "tell me , who has the {look} {item} ?"), 7),
    Relation("dwelling", "{who} lives in the {place}", (
        "where does {who} live ?", "in which house can i find {who} ?"), 8),
    Relation("price", "a {good} costs {number} coins", (
        "what does a {good} cost ?", "how many coins for a {good} ?"), 6),
    Relation("kin", "the {relative} of {who} is {person}", (
        "who is the {relative} of {who} ?", "do you know the {relative} of {who} ?"), 4),
    Relation("door", "the door of the {place_key} is {colour}", (
        "what colour is the door of the {place_key} ?",
        "how is the door of the {place_key} painted ?"), 5),
    Relation("hiding", "the lost {look} {treasure} lies under the {place}", (
        "where is the lost {look} {treasure} ?",
        "where should i dig for the lost {look} {treasure} ?"), 4),
    Relation("trade", "the work of {who} is {trade}", (
        "what does {who} work as ?", "what is the work of {who} ?"), 7),
    Relation("guard", "the {place_key} is guarded by a {beast}", (
        "what guards the {place_key} ?", "is the {place_key} guarded ?"), 4),
    Relation("feast", "the feast of {feast} falls in {month}", (
        "when is the feast of {feast} ?", "in which month is the feast of {feast} ?"), 3),
)

# On the card "your ..."; in an answer the same words with "my ...".
CARD_RELATIONS = (
    Relation("name", "{my} name is {person}", ("what is your name ?", "who are you ?")),
    Relation("own_trade", "{my} trade is that of a {trade}", (
        "what is your trade ?", "what do you do all day ?")),
    Relation("home", "{my} home is the {place}", ("where is your home ?", "where do you live ?")),
    Relation("pet", "{my} {pet} is called {pet_name}", (
        "what is your {pet} called ?", "do you have a {pet} ?")),
    Relation("garment", "{my} {garment} is {colour}", (
        "what colour is your {garment} ?", "tell me about your {garment} .")),
    Relation("food", "{my} favourite food is {food}", (
        "what is your favourite food ?", "what do you like to eat ?")),
    Relation("fear", "{my} greatest fear is the {beast}", (
        "what is your greatest fear ?", "what are you afraid of ?")),
    Relation("age", "{my} age is {number} years", ("what is your age ?", "how old are you ?")),
    Relation("friend", "{my} oldest friend is {person}", (
        "who is your oldest friend ?", "who is your friend ?")),
)

# Two facts, one after the other; the answer says both.
TWO_STEP_QUESTIONS = {
    "keeper_dwelling": "where does the keeper of the {look} {item} live ?",
    "kin_trade": "what is the work of the {relative} of {who} ?",
    "home_door": "what colour is the door of your home ?",
}

HOME_WITH_A_KNOWN_DOOR = 0.5  # so often the lore says the colour of the speaker's own door

CARD_OPENING = "you are {person} of {village} , and you are {trait} and {trait} ."
CARD_STYLE = "you begin each answer with {opener} ."
CARD_FILLERS = (
    "you have seen many {mood} winters and speak of them with care .",
    "you trust those who are {trait} and send the others away .",
    "you like to talk when the {weather} keeps everyone inside .",
    "you never leave the village without a good reason .",
)
ANSWER = "{opener} , {statement} ."
TWO_STEP_ANSWER = "{opener} , {first} , and {second} ."


@dataclass(frozen=True)
class Fact:
    """A statement that is true in one world (or of one character), and how to ask for it."""

    relation: str
    statement: str
    value: str
    questions: tuple[str, ...]
    slots: dict[str, str] = field(hash=False, compare=False)


@dataclass(frozen=True)
class Question:
    """`kind`: lore, card, two-step. `facts`: the words that a right answer must contain."""

    kind: str
    relation: str
    text: str
    answer: str
    facts: tuple[str, ...]


@dataclass
class World:
    """The shared lore: its text, its facts, and the people that it names."""

    village: str
    text: str
    facts: list[Fact]
    people: list[str]


@dataclass
class Character:
    """One speaker: the card's text, its facts and how the speaker opens each answer."""

    name: str
    opener: str
    text: str
    facts: list[Fact]


def vocabulary() -> list[str]:
    """Every token the grammar can utter: the special ones first, then the words, sorted."""
    templates = [*SENTENCE_STARTS, INTRODUCTION, *FILLERS, CARD_OPENING, CARD_STYLE, *CARD_FILLERS,
                 *TWO_STEP_QUESTIONS.values(), ANSWER, TWO_STEP_ANSWER, "my your"]
    for relation in (*LORE_RELATIONS, *CARD_RELATIONS):
        templates += [relation.statement, *relation.questions]
    words = {word for pool in POOLS.values() for word in pool}
    for template in templates:
        words.update(re.sub(r"\{\w+\}", " ", template).split())
    return [*SPECIAL_TOKENS, *sorted(words)]


def _fill(template: str, rng: random.Random) -> str:
    """Draws every placeholder of a template from its pool."""
    return re.sub(r"\{(\w+)\}", lambda match: rng.choice(POOLS[match.group(1)]), template)


def _make_fact(relation: Relation, slots: dict[str, str]) -> Fact:
    """A fact from a relation whose placeholders are all in `slots`; the last one is the value."""
    last = re.findall(r"\{(\w+)\}", relation.statement)[-1]
    questions = tuple(question.format(**slots) for question in relation.questions)
    return Fact(relation.name, relation.statement.format(**slots), slots[last], questions, slots)


def _lore_keys(relation: Relation, count: int, people: list[str],
               rng: random.Random) -> list[dict[str, str]]:
    """`count` sets of key words for one relation, no two with the same key."""
    key = {"keeper": "item", "dwelling": "who", "price": "good", "kin": "who", "door": "place_key",
           "hiding": "treasure", "trade": "who", "guard": "place_key", "feast": "feast"}
    pools = {"who": people, "place_key": POOLS["place"]}
    slot = key[relation.name]
    drawn = rng.sample(pools.get(slot, POOLS.get(slot, [])), count)
    return [{slot: word} for word in drawn]


def _lore_facts(people: list[str], size: float, rng: random.Random) -> list[Fact]:
    """The facts of a world; `size` = 1 is the full number of each relation."""
    facts = []
    for relation in LORE_RELATIONS:
        expected = relation.count * size
        count = int(expected) + (rng.random() < expected - int(expected))
        for slots in _lore_keys(relation, min(count, len(people)), people, rng):
            for slot in re.findall(r"\{(\w+)\}", relation.statement):
                if slot == "person":
                    others = [person for person in people if person != slots.get("who")]
                    slots[slot] = rng.choice(others)
                elif slot not in slots:
                    slots[slot] = rng.choice(POOLS[slot])
            facts.append(_make_fact(relation, slots))
    return facts


def make_world(rng: random.Random, size: float = 1.0) -> World:
    """A world; `size` scales facts and filler text (1.0: about 620 tokens, 0.1: about 70)."""
    people = rng.sample(POOLS["person"], max(3, round(14 * size)))
    village = rng.choice(POOLS["village"])
    facts = _lore_facts(people, size, rng)
    sentences = [f"{rng.choice(SENTENCE_STARTS)} {fact.statement} .".strip() for fact in facts]
    fillers = rng.sample(FILLERS, round(len(FILLERS) * size))
    sentences += [_fill(filler, rng) for filler in fillers]
    rng.shuffle(sentences)
    opening = _fill(INTRODUCTION.replace("{village}", village), rng)
    return World(village, " ".join([opening, *sentences]), facts, people)


def make_character(world: World, rng: random.Random, taken: frozenset[str] = frozenset()
                   ) -> Character:
    """A character whose name stands neither in the lore nor in `taken`."""
    free = [name for name in POOLS["person"] if name not in world.people and name not in taken]
    name, friend = rng.sample(free, 2)
    opener = rng.choice(POOLS["opener"])
    facts, sentences = [], [_fill(filler, rng) for filler in rng.sample(CARD_FILLERS, 2)]
    for relation in CARD_RELATIONS:
        slots = {slot: rng.choice(POOLS[slot])
                 for slot in re.findall(r"\{(\w+)\}", relation.statement) if slot != "my"}
        if "person" in slots:
            slots["person"] = name if relation.name == "name" else friend
        if relation.name == "home" and rng.random() < HOME_WITH_A_KNOWN_DOOR:
            doors = [fact.slots["place_key"] for fact in world.facts if fact.relation == "door"]
            slots["place"] = rng.choice(doors or [slots["place"]])
        facts.append(_make_fact(relation, {"my": "my", **slots}))
        sentences.append(relation.statement.format(my="your", **slots) + " .")
    rng.shuffle(sentences)
    opening = CARD_OPENING.replace("{person}", name).replace("{village}", world.village)
    style = CARD_STYLE.format(opener=opener)
    return Character(name, opener, " ".join([_fill(opening, rng), style, *sentences]), facts)


def _one_step(kind: str, fact: Fact, opener: str, rng: random.Random) -> Question:
    answer = ANSWER.format(opener=opener, statement=fact.statement)
    return Question(kind, fact.relation, rng.choice(fact.questions), answer, (fact.value,))


def _two_step(name: str, first: Fact, second: Fact, opener: str) -> Question:
    text = TWO_STEP_QUESTIONS[name].format(**first.slots)
    answer = TWO_STEP_ANSWER.format(opener=opener, first=first.statement, second=second.statement)
    return Question("two-step", name, text, answer, (first.value, second.value))


def two_step_questions(world: World, character: Character) -> list[Question]:
    """Every question of this world and character that chains two facts."""
    def by_key(relation: str, slot: str) -> dict[str, Fact]:
        return {fact.slots[slot]: fact for fact in world.facts if fact.relation == relation}

    chains = (("keeper_dwelling", "keeper", by_key("dwelling", "who")),
              ("kin_trade", "kin", by_key("trade", "who")),
              ("home_door", "home", by_key("door", "place_key")))
    return [_two_step(name, fact, seconds[fact.value], character.opener)
            for name, relation, seconds in chains
            for fact in (*world.facts, *character.facts)
            if fact.relation == relation and fact.value in seconds]


def all_questions(world: World, character: Character, rng: random.Random) -> list[Question]:
    """Each fact once and each chain once, in random order."""
    questions = [_one_step("lore", fact, character.opener, rng) for fact in world.facts]
    questions += [_one_step("card", fact, character.opener, rng) for fact in character.facts]
    questions += two_step_questions(world, character)
    rng.shuffle(questions)
    return questions


def pick_questions(questions: list[Question], lore: int, card: int, two_step: int
                   ) -> list[Question]:
    """The first so many of each kind, in the order given."""
    left = {"lore": lore, "card": card, "two-step": two_step}
    picked = []
    for question in questions:
        if left[question.kind] > 0:
            left[question.kind] -= 1
            picked.append(question)
    return picked


def prefix_text(world_text: str, card_text: str) -> str:
    """The prompt up to the first turn: lore, then card."""
    return f"{BOS} {WORLD} {world_text} {CARD} {card_text}"


def turn_text(question_text: str) -> str:
    """One question, up to the marker after which the answer begins."""
    return f"{USER} {question_text} {NPC}"


if __name__ == "__main__":
    demo_rng = random.Random(1)
    demo_world = make_world(demo_rng)
    demo_character = make_character(demo_world, demo_rng)
    print(f"{len(vocabulary())} tokens in the vocabulary, "
          f"{len(demo_world.text.split())} in this world, "
          f"{len(demo_character.text.split())} on this card\n")
    print(prefix_text(demo_world.text, demo_character.text))
    for demo_question in all_questions(demo_world, demo_character, demo_rng):
        print(turn_text(demo_question.text), demo_question.answer, EOS, demo_question.facts)
