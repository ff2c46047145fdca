from __future__ import annotations

import asyncio

from service.connections.polling import BusyPolling


class Machine:
    """A machine, its clock, and how often it was looked whether anything else is to be done on it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looked = 0
        self.is_busy = False
        self.polling = BusyPolling(self._is_alone, clock=lambda: self.now)

    def _is_alone(self) -> bool:
        self.looked += 1
        return not self.is_busy

    async def looks(self, passes: int = 5) -> int:
        """How often it is looked in so many passes of the event loop."""
        before = self.looked
        for _ in range(passes):
            await asyncio.sleep(0)
        return self.looked - before

    async def answer_in_vain(self) -> bool:
        """Answer, and nobody comes; whether it was looked."""
        self.polling.answered()
        looks = await self.looks()
        self.now += 0.001
        assert await self.looks() == 0
        return looks > 0


def test_the_event_loop_looks_in_each_pass_until_the_moment_is_over() -> None:
    async def main() -> None:
        machine = Machine()
        machine.polling.answered()
        assert await machine.looks(20) == 20
        machine.polling.answered()  # the same pass has answered somebody else too
        assert await machine.looks(20) == 20
        machine.now += 0.001
        assert await machine.looks() == 0

    asyncio.run(main())


def test_who_asks_again_at_once_is_looked_for_after_each_answer() -> None:
    async def main() -> None:
        machine = Machine()
        for _ in range(50):
            machine.polling.answered()
            assert await machine.looks() == 5
            machine.polling.came()
            machine.now += 0.001
            assert await machine.looks() == 0

    asyncio.run(main())


def test_looking_in_vain_gets_ever_more_seldom_until_somebody_comes() -> None:
    async def main() -> None:
        machine = Machine()
        looked = [await machine.answer_in_vain() for _ in range(8000)]
        assert [place for place, one in enumerate(looked) if one][:6] == [0, 2, 6, 14, 30, 62]
        assert sum(looked[4000:]) == 4  # of 4,000
        while not await machine.answer_in_vain():
            pass
        for _ in range(1023):
            assert not await machine.answer_in_vain()
        for _ in range(10):  # somebody comes after all
            machine.polling.answered()
            assert await machine.looks() == 5
            machine.polling.came()

    asyncio.run(main())


def test_whoever_wants_the_core_gets_it() -> None:
    async def main() -> None:
        machine = Machine()
        machine.is_busy = True
        machine.polling.answered()
        assert await machine.looks() == 0
        machine.is_busy = False
        machine.polling.answered()
        assert await machine.looks() == 5
        machine.is_busy = True
        assert await machine.looks() == 1
        machine.is_busy = False
        assert await machine.looks() == 0

    asyncio.run(main())
