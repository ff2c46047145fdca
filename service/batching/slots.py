"""The slots of a step graph: which sequences live, their states, and one run a step for all of them.

This is the synchronous half of continuous batching; `stepper` gives it a thread. Sequences join and leave between
steps. How they go on is a strategy's business: the slots move states and contexts to where it wants them. A prompt
rides in a slot like everything else, one token a step: however long it is, it never holds others up by more than its
row, and there is no second way of computing that could give other bits. Once it is read, its state is copied to a slot
for each sequence of its group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.arrays import misfit
from service.batching.carried import Contexts, States
from service.batching.groups import Group, Runs
from service.batching.strategy import Row, Strategy
from service.errors import RuntimeFailure
from service.manifest import Graph
from service.tensors import Arrays


class Slots:
    """The live sequences of one graph.

    Args:
        run: the graph: arrays in, arrays out.
        graph: its tensors, and what they mean.
        strategy: how sequences go on; nobody else uses it.
        capacity: how many slots there are.
        clock: for measurements.

    Raises:
        ValueError: the graph is no step.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        graph: Graph,
        strategy: Strategy,
        *,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if graph.step is None:
            raise ValueError(f"{graph.file} is no graph that is run once a token")
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        self.capacity = capacity
        self.runs = Runs()
        self._run = run
        self._step = graph.step
        self._answers = graph.step.answers
        self._strategy = strategy
        self._clock = clock
        self._states = States({pair.input: inputs[pair.input] for pair in graph.step.states})
        self._contexts = Contexts(graph)
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._tokens = np.zeros(0, np.int64)
        self._seat([], np.zeros(0, np.intp))
        self._count()

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
        first = np.array([group.prompt[0] for group in groups], np.int64)
        self._tokens = np.concatenate([self._tokens, first])
        rows = [*self._rows, *(Row(group, None) for group in groups)]
        self._seat(rows, np.concatenate([np.arange(len(self._rows)), np.full(len(groups), -1)]))
        self._held += sum(max(1, group.left) for group in groups)
        self._reading += len(groups)

    def step(self) -> list[Group]:
        """Run the graph once for all live sequences; return the groups whose first tokens came with it, or their end.

        A group for which the graph had no finite answer ends with an error, and the others go on.

        Raises:
            RuntimeFailure: the run failed, and nothing has changed.
        """
        started = self._clock()
        outputs = self._run({self._step.token: self._tokens, **self._states.arrays(), **self._contexts.arrays()})
        rows = len(self._rows)
        if wrong := misfit(outputs, rows):
            raise RuntimeFailure(f"the model is at fault: output {wrong}")
        answers: Arrays = {name: outputs[name] for name in self._answers}
        seconds = self._clock() - started
        self._states.replace({pair.input: outputs[pair.output] for pair in self._step.states})
        news: list[Group] = []
        if not np.isfinite(answers[self._strategy.scores]).all():
            answers = self._drop_diverged(answers, news)
        if self._reading:
            answers = self._begin(answers, news)
        runs = self.runs
        tokens = len(self._rows) - self._reading
        self.runs = Runs(runs.count + 1, runs.rows + rows, runs.tokens + tokens, runs.seconds + seconds)
        for group in news:
            self._finish(group)
        if self._rows:
            self._grow(answers, news)
        return news

    def drop(self, groups: Collection[Group]) -> None:
        """Take `groups` out, wherever they stand."""
        self._keep([place for place, row in enumerate(self._rows) if row.group not in groups])

    def _drop_diverged(self, answers: Arrays, news: list[Group]) -> Arrays:
        """Fail the groups that have scores which are no numbers; return the answers of the others."""
        finite = np.isfinite(answers[self._strategy.scores]).all(axis=1)
        diverged = {self._rows[place].group: None for place in np.flatnonzero(~finite).tolist()}
        for group in diverged:
            group.error = RuntimeFailure("the model answered with numbers that are not finite")
        kept = [place for place, row in enumerate(self._rows) if row.group not in diverged]
        self._keep(kept)
        news.extend(diverged)
        return {name: answer[kept] for name, answer in answers.items()}

    def _begin(self, answers: Arrays, news: list[Group]) -> Arrays:
        """Give each sequence of a group whose prompt is read a slot; return the answers, each for its new row."""
        first = next(place for place, row in enumerate(self._rows) if row.member is None)
        rows = list(self._rows[:first])
        places = list(range(first))
        for place, row in enumerate(self._rows[first:], first):
            group = row.group
            if row.member is None:
                self._strategy.read(group, answers, place)
            if row.member is not None or group.fed < len(group.prompt):
                rows.append(row)
                places.append(place)
                continue
            begun = [Row(group, member) for member in self._strategy.begin(group)]
            if not begun:
                news.append(group)
            rows.extend(begun)
            places.extend([place] * len(begun))
        if len(rows) == len(self._rows) and all(one is other for one, other in zip(rows, self._rows, strict=True)):
            return answers
        taken = np.array(places, np.intp)
        self._seat(rows, taken)
        self._tokens = self._tokens[taken]
        self._count()
        return {name: answer[taken] for name, answer in answers.items()}

    def _grow(self, answers: Arrays, news: list[Group]) -> None:
        """Choose each sequence's next token, and each prompt's; let those go that end."""
        growth = self._strategy.grow(answers, self._finish, self._clock)
        news.extend(growth.news)
        if growth.rows is not None:
            self._held -= len(self._rows) - len(growth.rows)
            self._seat(growth.rows, np.arange(len(self._rows)) if growth.places is None else growth.places)
        elif growth.places is not None:
            self._states.move(growth.places)
        self._tokens = growth.tokens
        if self._reading:
            for place, (group, member) in enumerate(self._rows):
                if member is None:
                    self._tokens[place] = group.prompt[group.fed]
                    group.fed += 1

    def _finish(self, group: Group) -> None:
        group.runs = self.runs.since(group.runs)
        group.ended_at = self._clock()

    def _keep(self, places: list[int]) -> None:
        """Leave only the rows at `places`, which rise."""
        taken = np.array(places, np.intp)
        self._seat([self._rows[place] for place in places], taken)
        self._tokens = self._tokens[taken]
        self._count()

    def _seat(self, rows: Sequence[Row], places: NDArray[np.intp]) -> None:
        """Give `rows` the slots: each goes on from what lies at its place, or, at -1, from its group's beginning."""
        self._rows = rows
        groups = [row.group for row in rows]
        self._states.seat(groups, places)
        self._contexts.seat(groups)
        self._strategy.seat(rows)

    def _count(self) -> None:
        """Count the slots that are held, those included that a group will need once its prompt is read."""
        prompts = [row.group for row in self._rows if row.member is None]
        self._reading = len(prompts)
        self._held = len(self._rows) - len(prompts) + sum(max(1, group.left) for group in prompts)
