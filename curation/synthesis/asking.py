"""Asking: every seed of a task gets its answer, or the reason why there is none, in the journal."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from catalog.jobs import JobOutput
from curation.synthesis.endpoint import (
    Answer,
    Client,
    Endpoint,
    EndpointError,
    RequestError,
    connect,
    in_parallel,
)
from curation.synthesis.journal import Finished, Journal
from curation.synthesis.kinds import AnswerError, normal_texts
from curation.synthesis.seeds import Seed

STAGE: Final = "ask"  # of every job that asks a model
# So many requests in a row without an answer: the server is gone, not the requests wrong.
MIN_STREAK: Final = 20
PROGRESS_S: Final = 0.3


class Questions(Protocol):
    """What is asked about a seed, and how often where no answer can be used."""

    @property
    def max_answers(self) -> int:
        """Answers that are asked for at most."""

    @property
    def max_tokens(self) -> int:
        """Tokens at which the server cuts an answer."""

    def body(self, seed: Seed, nth: int) -> dict[str, Any]:
        """Write a request for the nth answer (from 1)."""

    def check(self, seed: Seed, content: str) -> None:
        """Raise AnswerError where nothing of an answer can be used."""


@dataclass
class Asking:
    """Asks about seeds, numbered from ``first``; what fails waits until the server answers again.

    A request without an answer goes into the journal when a later one is answered: were the server
    gone, all that failed meanwhile would have to be asked again.
    """

    questions: Questions
    endpoint: Endpoint
    journal: Journal
    progress: Callable[[int], None]
    unconfirmed: list[Finished] = field(default_factory=list)
    _shown_at: float = 0.0

    def ask_all(self, seeds: Sequence[Seed], first: int) -> None:
        """Ask about every seed that the journal does not hold; EndpointError where none can be."""
        # Compiled code is loaded now: while that takes seconds, requests would run out of time.
        normal_texts(["warm"])
        asyncio.run(self._ask_all(seeds, first))
        is_answered = any(done.content is not None for done in self.journal.finished.values())
        if self.unconfirmed and not is_answered:
            raise self._gone()
        self._confirm()
        self.progress(len(self.journal.finished))

    async def _ask_all(self, seeds: Sequence[Seed], first: int) -> None:
        missing = (
            (number, seed)
            for number, seed in enumerate(seeds, first)
            if number not in self.journal.finished
        )
        async with connect(self.endpoint) as client:

            async def work(job: tuple[int, Seed]) -> None:
                self._note(await self._ask(client, *job))

            await in_parallel(self.endpoint.concurrency, missing, work)

    async def _ask(self, client: Client, number: int, seed: Seed) -> Finished:
        requests = 0
        newest: Answer | None = None
        reason: str | None = None
        for nth in range(1, self.questions.max_answers + 1):
            try:
                answer = await client.ask(self.questions.body(seed, nth))
            except RequestError as error:
                requests += error.requests
                reason = str(error) if newest is None else f"{reason}; then {error}"
                return _finished(number, newest, reason, requests, nth - 1)
            newest, requests = answer, requests + answer.requests
            reason = fault(self.questions, seed, answer)
            if reason is None:
                break
        return _finished(number, newest, reason, requests, nth)

    def _note(self, done: Finished) -> None:
        if done.content is None:
            self.unconfirmed.append(done)
            if len(self.unconfirmed) >= max(MIN_STREAK, 2 * self.endpoint.concurrency):
                raise self._gone()
            return
        self._confirm()
        self.journal.add(done)
        if time.monotonic() - self._shown_at > PROGRESS_S:
            self._shown_at = time.monotonic()
            self.progress(len(self.journal.finished))

    def _confirm(self) -> None:
        for done in self.unconfirmed:
            self.journal.add(done)
        self.unconfirmed.clear()

    def _gone(self) -> EndpointError:
        return EndpointError(
            f"{self.endpoint.url} gave no answer to {len(self.unconfirmed):,} requests in a row "
            f"(the last: {self.unconfirmed[-1].reason}); {len(self.journal.finished):,} that are "
            "finished are kept: run the same command again when the server answers"
        )


def ask_task(
    questions: Questions,
    endpoint: Endpoint,
    output: JobOutput,
    rank: int,
    seeds: Sequence[Seed],
    first: int,
) -> dict[int, Finished]:
    """Ask about the seeds of a task of a job, numbered from ``first``; return all that is finished.

    What its journal holds, beside the seeds in the job's scratch folder, is not asked again.
    """

    def report(done: int) -> None:
        output.report_progress(STAGE, rank, done)

    with Journal(output.folder / "scratch" / f"journal-{rank:05d}.jsonl") as journal:
        Asking(questions, endpoint, journal, report).ask_all(seeds, first)
        return journal.finished


def fault(questions: Questions, seed: Seed, answer: Answer) -> str | None:
    """Say why nothing of an answer can be used, or None."""
    if not answer.is_whole:
        return f"the answer was cut at max_tokens, {questions.max_tokens:,}"
    try:
        questions.check(seed, answer.content)
    except AnswerError as error:
        return str(error)
    return None


def _finished(
    number: int, answer: Answer | None, reason: str | None, requests: int, answers: int
) -> Finished:
    if answer is None:
        return Finished(number, None, reason, requests, answers)
    return Finished(
        number, answer.content, reason, requests, answers,
        answer.prompt_tokens, answer.completion_tokens,
    )  # fmt: skip
