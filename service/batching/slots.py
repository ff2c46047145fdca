"""The slots of a step graph: which sequences live, their states, and one run a step for all of them.

This is the synchronous half of continuous batching; `stepper` gives it a thread. Sequences join and leave between
steps. A prompt rides in a slot like everything else, one token a step: however long it is, it never holds others up by
more than its row, and there is no second way of computing that could give other bits. Once it is read, its state is
copied to a slot for each sequence of its group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.batching.arrays import misfit
from service.batching.sampling import Sampler, log_softmax
from service.batching.sequences import Continuation, Group, Runs, TokenScores, likeliest
from service.errors import RuntimeFailure
from service.manifest import Graph, Tensor
from service.tensors import DTYPES, Arrays


class _Row(NamedTuple):
    """Who has a slot: a sequence, or a group whose prompt is still read."""

    group: Group
    sequence: Continuation | None


class Slots:
    """The live sequences of one graph.

    Args:
        run: the graph: arrays in, arrays out.
        graph: its tensors, and what they mean.
        capacity: how many slots there are.
        clock: for measurements.

    Raises:
        ValueError: the graph is no step.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        graph: Graph,
        *,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if graph.step is None or graph.step.logits is None:
            raise ValueError(f"{graph.file} is no graph that is run once a token")
        self._logits = graph.step.logits
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        self.capacity = capacity
        self.runs = Runs()
        self._run = run
        self._names = graph.step
        self._clock = clock
        self._empty: Arrays = {pair.input: _no_rows(inputs[pair.input]) for pair in graph.step.states}
        self._sampler = Sampler()
        self._held = 0
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._rows: list[_Row] = []
        self._held = 0  # slots, those included that a group will need once its prompt is read
        self._reading = 0  # prompts
        self._states: Arrays = self._empty
        self._tokens = np.zeros(0, np.int64)
        self._sampler.arrange(())

    @property
    def live(self) -> int:
        """How many slots are in use."""
        return len(self._rows)

    @property
    def free(self) -> int:
        """How many slots nobody has or will need."""
        return self.capacity - self._held

    def join(self, groups: Sequence[Group]) -> None:
        """Give `groups`, whose prompts were not begun, their slots; there must be room."""
        for group in groups:
            group.runs = self.runs
            group.fed = 1
            self._held += max(1, group.left)
        self._reading += len(groups)
        rows = [*self._rows, *(_Row(group, None) for group in groups)]
        first = np.array([group.prompt[0] for group in groups], np.int64)
        self._states = {
            name: np.concatenate([state, np.zeros((len(groups), *state.shape[1:]), state.dtype)])
            for name, state in self._states.items()
        }
        self._tokens = np.concatenate([self._tokens, first])
        self._seat(rows)

    def step(self) -> list[Group]:
        """Run the graph once for all live sequences; return the groups whose first tokens came with it, or their end.

        A group for which the graph had no finite answer ends with an error, and the others go on.

        Raises:
            RuntimeFailure: the run failed, and nothing has changed.
        """
        started = self._clock()
        outputs = self._run({self._names.token: self._tokens, **self._states})
        rows = len(self._rows)
        if wrong := misfit(outputs, rows):
            raise RuntimeFailure(f"the model is at fault: output {wrong}")
        scores = outputs[self._logits]
        seconds = self._clock() - started
        self._states = {pair.input: outputs[pair.output] for pair in self._names.states}
        news: list[Group] = []
        if not np.isfinite(scores).all():
            scores = self._drop_diverged(scores, news)
        if self._reading:
            scores = self._begin(scores, news)
        runs = self.runs
        tokens = len(self._rows) - self._reading
        self.runs = Runs(runs.count + 1, runs.rows + rows, runs.tokens + tokens, runs.seconds + seconds)
        for group in news:
            self._finish(group)
        if self._rows:
            self._grow(scores, news)
        return news

    def drop(self, groups: Collection[Group]) -> None:
        """Take `groups` out, wherever they stand."""
        self._keep([place for place, row in enumerate(self._rows) if row.group not in groups])

    def _drop_diverged(self, scores: NDArray[np.float32], news: list[Group]) -> NDArray[np.float32]:
        """Fail the groups that have scores which are no numbers; return those of the others."""
        diverged = {self._rows[place].group: None for place in np.flatnonzero(~np.isfinite(scores).all(axis=1))}
        for group in diverged:
            group.error = RuntimeFailure("the model answered with numbers that are not finite")
        kept = [place for place, row in enumerate(self._rows) if row.group not in diverged]
        self._keep(kept)
        news.extend(diverged)
        return scores[kept]

    def _begin(self, scores: NDArray[np.float32], news: list[Group]) -> NDArray[np.float32]:
        """Score the prompts' next tokens; where a prompt is read, give each of its sequences a slot."""
        rows: list[_Row] = []
        places: list[int] = []
        for place, row in enumerate(self._rows):
            group = row.group
            if row.sequence is not None:
                rows.append(row)
                places.append(place)
                continue
            if group.scores_prompt and group.fed < len(group.prompt):
                logprobs = log_softmax(scores[place : place + 1])[0]
                logprob = float(logprobs[group.prompt[group.fed]])
                group.prompt_scores.append(TokenScores(logprob, likeliest(logprobs, group.top_scores or 0)))
            if group.fed < len(group.prompt):
                rows.append(row)
                places.append(place)
                continue
            self._reading -= 1
            begun = [_Row(group, one) for one in group.sequences if one.finish is None]
            if not begun:
                self._held -= 1
                news.append(group)
            rows.extend(begun)
            places.extend([place] * len(begun))
        if len(rows) != len(self._rows) or any(one is not other for one, other in zip(rows, self._rows, strict=True)):
            scores = self._rearrange(rows, places, scores)
        return scores

    def _grow(self, scores: NDArray[np.float32], news: list[Group]) -> None:
        """Choose a token for each sequence; let those go that end with it."""
        tokens = self._sampler.choose(scores)
        scored = self._score(scores, tokens) if self._scored else None
        ended = False
        for place, (row, token) in enumerate(zip(self._rows, tokens.tolist(), strict=True)):
            group, sequence = row
            if sequence is None:
                tokens[place] = group.prompt[group.fed]
                group.fed += 1
                continue
            if scored is not None and group.top_scores is not None:
                sequence.scores.append(scored[place])
            if group.first_token_at is None:
                group.first_token_at = self._clock()
                news.append(group)
            if sequence.ends_with(token):
                ended = True
                group.left -= 1
                if not group.left:
                    self._finish(group)
                    if news[-1:] != [group]:
                        news.append(group)
            sequence.tokens.append(token)
        self._tokens = tokens
        if ended:
            self._keep(
                [place for place, row in enumerate(self._rows) if row.sequence is None or row.sequence.finish is None]
            )

    def _score(self, scores: NDArray[np.float32], tokens: NDArray[np.int64]) -> list[TokenScores]:
        """How likely each row's token was, with the likeliest others where somebody wants to know."""
        logprobs = log_softmax(scores)
        return [
            TokenScores(logprob, likeliest(logprobs[place], row.group.top_scores) if row.group.top_scores else ())
            for place, (row, logprob) in enumerate(
                zip(self._rows, logprobs[np.arange(len(tokens)), tokens].tolist(), strict=True)
            )
        ]

    def _finish(self, group: Group) -> None:
        group.runs = self.runs.since(group.runs)
        group.ended_at = self._clock()

    def _keep(self, places: list[int]) -> None:
        """Leave only the rows at `places`, which rise."""
        kept = [self._rows[place] for place in places]
        stay = set(places)
        for place, (group, sequence) in enumerate(self._rows):
            if place not in stay:
                self._held -= max(1, group.left) if sequence is None else 1
                self._reading -= sequence is None
        self._rearrange(kept, places)

    def _rearrange(
        self, rows: list[_Row], places: list[int], scores: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        """Seat `rows`, each with what stands at its place now; return their scores."""
        taken = np.array(places, np.intp)
        self._states = {name: state[taken] for name, state in self._states.items()}
        self._tokens = self._tokens[taken]
        self._seat(rows)
        return scores[taken] if scores is not None else np.empty(0)

    def _seat(self, rows: list[_Row]) -> None:
        self._rows = rows
        self._scored = any(row.group.top_scores is not None for row in rows)
        self._sampler.arrange([row.group.past(row.sequence) if row.sequence else None for row in rows])


def _no_rows(state: Tensor) -> NDArray[Any]:
    sizes = [size for size in (state.shape or ())[1:] if isinstance(size, int)]
    return np.zeros((0, *sizes), DTYPES[state.datatype])
