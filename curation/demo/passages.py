"""Clean rows of the demo corpus: a query and the passage that answers it, out of one scene."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from curation.demo.choices import Choices
from curation.demo.grammar import ORDINAL, Phrase, Scene
from curation.demo.topics import MATERIAL, Aspect, Topic, all_topics, words

MIN_CHARS: Final = 60
MAX_CHARS: Final = 600
# New subjects are looked for this often: with half of them taken, one search in 2^100 fails.
MAX_ATTEMPTS: Final = 100
# Most passages are short: this power of a uniform share gives a mean near 200 characters.
LENGTH_POWER: Final = 2.2
NUMERALS: Final = "一二三四五六七八九十"
PARAGRAPH_SENTENCES: Final = 3
LABELS: Final = (1.0, 0.5, 0.0)  # same meaning, same thing but another question, another thing


@dataclass(frozen=True)
class Source:
    """A file of the corpus: its share of the rows, and which topics speak in which form."""

    name: str
    share: float
    form: str
    task: str
    topics: tuple[str, ...]  # sources of the topics it draws on
    titles: bool  # queries are titles, not questions


SOURCES: Final = (
    Source("news", 0.30, "title-content", "retrieval", ("news",), titles=True),
    Source("qa", 0.25, "question-answer", "retrieval", ("qa",), titles=False),
    Source("web", 0.15, "input-output", "retrieval", ("web",), titles=True),
    Source("instruction", 0.15, "prompt-response", "retrieval", ("instruction",), titles=False),
    Source("sts", 0.10, "text-text", "sts", ("sts",), titles=False),
    Source("retrieval", 0.05, "question-answer", "retrieval", ("retrieval", "news"), titles=False),
)


@dataclass(frozen=True)
class Pair:
    """A query with its passage; negatives are passages on the same subject that do not answer."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    label: float | None = None


@dataclass
class Author:
    """Writes the pairs of one source; no two of its subjects in one topic are the same."""

    source: Source
    seed: int
    _subjects: dict[str, tuple[str, int]] = field(default_factory=dict)
    _scenes: dict[tuple[str, int], int] = field(default_factory=dict)

    def write(self, row: int) -> Pair:
        """Write the pair of a row."""
        topics = [topic for topic in all_topics() if topic.source in self.source.topics]
        topic, turn = topics[row % len(topics)], row // len(topics)
        if topic.intents:
            return self._write_sentences(topic, turn)
        if topic.shares_subject:
            return self._write_one_of_several(topic, *divmod(turn, len(topic.aspects)))
        scene = self._scene(topic, turn)
        aspect = scene.choices.pick(topic.aspects, "aspect")
        return Pair(self._query(aspect, scene), passage(topic, aspect, scene))

    def _write_one_of_several(self, topic: Topic, subject: int, turn: int) -> Pair:
        scene, neighbor = self._scene(topic, subject), self._scene(topic, subject + 1)
        aspect = topic.aspects[turn]
        other = topic.aspects[(turn + 1) % len(topic.aspects)]
        negatives = (passage(topic, other, scene), passage(topic, aspect, neighbor))
        return Pair(self._query(aspect, scene), passage(topic, aspect, scene), negatives)

    def _write_sentences(self, topic: Topic, turn: int) -> Pair:
        scene, other_scene = self._scene(topic, turn), self._scene(topic, turn, "other")
        choices = scene.choices
        label = choices.pick(LABELS, "label")
        order = choices.order(len(topic.intents), "intent")
        intent, other_intent = (topic.intents[i] for i in order[:2])
        first, second = (intent[i] for i in choices.order(len(intent), "wording")[:2])
        if label == LABELS[0]:
            return Pair(first.write(scene), second.write(scene), label=label)
        other = choices.pick(other_intent, "other")
        told_in = scene if label == LABELS[1] else other_scene
        return Pair(first.write(scene), other.write(told_in), label=label)

    def _query(self, aspect: Aspect, scene: Scene) -> str:
        queries = aspect.titles if self.source.titles else aspect.asks
        return scene.choices.pick(queries, "query").write(scene)

    def _scene(self, topic: Topic, number: int, purpose: str = "scene") -> Scene:
        """Open the scene of a topic's subject, whose name no other subject of the topic has."""
        first = self._scenes.get((topic.name, number), 0)
        for attempt in range(first, first + MAX_ATTEMPTS):
            ids = (self.source.name, topic.name, number, attempt)
            scene = Scene(words(), topic.slots, Choices.of(self.seed, purpose, *ids))
            subject = f"{topic.name}/{topic.subject.write(scene)}"
            owner = self._subjects.setdefault(subject, (purpose, number))
            if owner == (purpose, number) or topic.intents:
                self._scenes[topic.name, number] = attempt
                return scene
        raise ValueError(
            f"topic {topic.name!r} has no new subject after {number}; ask for fewer rows, or give "
            f"the slots of its subject more words in {MATERIAL / topic.name}.toml"
        )


def passage(topic: Topic, aspect: Aspect, scene: Scene) -> str:
    """Write a passage of 60 to 600 characters that answers one aspect of the scene's subject."""
    choices = scene.choices
    name = f"passage.{topic.aspects.index(aspect)}"
    goal = MIN_CHARS + int((MAX_CHARS - MIN_CHARS) * choices.share(f"{name}.chars") ** LENGTH_POWER)
    answer = choices.pick(aspect.answers, f"{name}.answer").write(scene)
    lead = [choices.pick(topic.leads, f"{name}.lead").write(scene)] if topic.leads else []
    body = _body(aspect.body or topic.body, scene, goal - len(answer) - sum(map(len, lead)), name)
    place = choices.below(min(2, len(body)) + 1, f"{name}.place") if topic.leads else 0
    return layout([*lead, *body[:place], answer, *body[place:]], choices, name)


def _body(phrases: Sequence[Phrase], scene: Scene, chars: int, name: str) -> list[str]:
    """Write as many sentences as fill the characters, in the order of the grammar."""
    chosen: dict[int, str] = {}
    for index in scene.choices.order(len(phrases), f"{name}.body"):
        text = phrases[index].write(scene)
        if sum(map(len, chosen.values())) + len(text) / 2 > chars and chosen:
            break
        chosen[index] = text
    return [chosen[index] for index in sorted(chosen)]


def layout(sentences: Sequence[str], choices: Choices, name: str) -> str:
    """Join sentences to one paragraph, several, or one line each; number what asks for a number."""
    style = choices.pick(("one", "several", "lines"), f"{name}.layout")
    per_line = {"one": len(sentences), "several": PARAGRAPH_SENTENCES, "lines": 1}[style]
    lines = ["".join(sentences[i : i + per_line]) for i in range(0, len(sentences), per_line)]
    return number("\n".join(line.removesuffix("\n") for line in lines))


def number(text: str) -> str:
    """Replace each ordinal mark by the next numeral."""
    numerals = iter(NUMERALS)
    return re.sub(re.escape(ORDINAL), lambda _: next(numerals), text)
