"""What a request asks the champion, and passes that requests share: without a server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flywheel.serving.batches import Batches, QueueFullError
from flywheel.serving.student import PromptForm, RefusedError
from flywheel.workloads.short_prompts import ShortPrompt
from tests.unit.champion_endpoint import WORKLOAD, of_user


class TestForm:
    def test_what_an_applications_prompts_shared_is_left_out_as_in_training(self) -> None:
        left_out = ShortPrompt(
            messages=({"role": "system", "content": "sort"},), before="News: ", after="\nClass:"
        )
        form = PromptForm(WORKLOAD, True, left_out)
        asked = [{"role": "system", "content": "sort"}, *of_user("News: Acme cuts jobs\nClass:")]
        assert form.of(asked) == of_user("Acme cuts jobs")

    def test_a_student_of_whole_prompts_is_asked_the_whole_prompt(self) -> None:
        form = PromptForm(WORKLOAD, False, None)
        assert form.of(of_user("Acme cuts jobs")) == WORKLOAD.messages("Acme cuts jobs")
        assert form.of(WORKLOAD.messages("Acme cuts jobs")) == WORKLOAD.messages("Acme cuts jobs")

    @pytest.mark.parametrize("messages", [[{"role": "assistant", "content": "x"}], of_user("  ")])
    def test_a_request_without_a_text_is_refused(self, messages: Any) -> None:
        with pytest.raises(RefusedError, match="role user"):
            PromptForm(WORKLOAD, True, None).of(messages)


class TestBatches:
    @staticmethod
    def batches(answer: Any, **changes: Any) -> Batches[int, int]:
        settings = {"batch_size": 4, "wait_ms": 20, "most_waiting": 8, **changes}
        return Batches(answer, thread=ThreadPoolExecutor(1), **settings)

    def test_requests_that_come_together_share_passes_of_at_most_the_batch_size(self) -> None:
        sizes: list[int] = []

        def answer(items: list[int]) -> list[int]:
            sizes.append(len(items))
            return [item * 2 for item in items]

        async def all_at_once() -> list[int]:
            batches = self.batches(answer)
            return await asyncio.gather(*(batches.ask(item) for item in range(8)))

        assert asyncio.run(all_at_once()) == [item * 2 for item in range(8)]
        assert sizes == [4, 4]

    def test_beyond_the_bound_requests_are_told_to_come_again(self) -> None:
        async def too_many() -> list[Any]:
            batches = self.batches(lambda items: list(items))
            return await asyncio.gather(*(batches.ask(item) for item in range(12)), return_exceptions=True)

        found = asyncio.run(too_many())
        assert found[:8] == list(range(8)) and all(isinstance(one, QueueFullError) for one in found[8:])

    def test_one_that_cannot_be_answered_does_not_stop_the_others_nor_does_a_pass_that_fails(self) -> None:
        def answer(items: list[int]) -> list[Any]:
            if 99 in items:
                raise OSError("broken")
            return [ValueError("no") if item == 1 else item for item in items]

        async def some() -> tuple[list[Any], Any, int]:
            batches = self.batches(answer)
            first = await asyncio.gather(*(batches.ask(item) for item in range(3)), return_exceptions=True)
            second = (await asyncio.gather(batches.ask(99), return_exceptions=True))[0]
            return first, second, await batches.ask(5)

        first, second, third = asyncio.run(some())
        assert (first[0], first[2], third) == (0, 2, 5)
        assert isinstance(first[1], ValueError) and isinstance(second, OSError)

    def test_those_that_came_while_a_pass_ran_make_the_next_one_without_waiting_for_more(self) -> None:
        passes: list[list[int]] = []
        running, go_on = threading.Event(), threading.Event()

        def answer(items: list[int]) -> list[int]:
            passes.append(items)
            if len(passes) == 1:
                running.set()
                assert go_on.wait(60)
            return items

        async def while_it_runs() -> list[int]:
            batches = self.batches(answer, wait_ms=60_000)
            loop, ahead = asyncio.get_running_loop(), 0.0
            clock = loop.time
            loop.time = lambda: clock() + ahead  # type: ignore[method-assign]
            asked = [asyncio.create_task(batches.ask(number)) for number in range(4)]
            await asyncio.to_thread(running.wait, 60)
            asked += [asyncio.create_task(batches.ask(number)) for number in (4, 5)]
            await asyncio.sleep(0)
            ahead = 60.0  # they have waited as long as they would for others
            go_on.set()
            await asyncio.wait(asked[:4])
            # Those that come now are too late for their pass, which has begun.
            return await asyncio.gather(*asked, *(batches.ask(number) for number in range(6, 10)))

        assert asyncio.run(while_it_runs()) == list(range(10))
        assert passes == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
