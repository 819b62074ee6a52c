"""Turns: first come, first served; who is gone is not waited for, and ends what is done for them."""

import http.client
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving.conftest import BOUNDARY, Served, form

from kinembed.config import SearchConfig
from kinembed.inference.named_people import NamedPerson
from kinembed.inference.searching import Check
from kinembed.serving.answers import Answers
from kinembed.serving.desk import Desk
from kinembed.serving.turns import Turns
from kinembed.serving.web import make_application

File = tuple[str, bytes]


def test_who_came_first_is_let_in_first_and_who_is_gone_leaves_the_line() -> None:
    turns, went, gone = Turns(), list[int](), threading.Event()

    def wait(number: int) -> None:
        def check() -> None:
            if number == 2 and gone.is_set():
                raise ConnectionError

        try:
            with turns.mine(check):
                went.append(number)
        except ConnectionError:
            went.append(-number)

    with turns.mine(lambda: None):
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(6)]
        for count, thread in enumerate(threads, 2):
            thread.start()
            while len(turns._line) < count:
                time.sleep(0.001)
        gone.set()
        threads[2].join(10)
        assert went == [-2]
    for thread in threads:
        thread.join(10)
    assert went == [-2, 0, 1, 3, 4, 5]


class Endless(Answers):
    """Answers whose searches of 7 people end when nobody waits for them any more."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers.answerer, answers.searched)
        self.began, self.ended = threading.Event(), threading.Event()

    def search(
        self, person: NamedPerson, config: SearchConfig, check: Check = lambda: None
    ) -> dict[str, Any]:
        if config.top != 7:
            return super().search(person, config, check)
        with self._searches.mine(check):
            self.began.set()
            try:
                for _ in range(2000):
                    check()
                    time.sleep(0.01)
            finally:
                self.ended.set()
        raise AssertionError("nobody ended it")


@pytest.mark.parametrize("seconds", [1.0, 30.0])
def test_a_search_ends_when_its_client_is_gone_or_its_time_is_up(
    answers: Answers, serving: Callable[..., Served], photo: File, seconds: float
) -> None:
    endless = Endless(answers)
    desk = Desk(3, 300_000, seconds)
    there = serving(make_application(endless, desk, is_described=False), desk)
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    client = http.client.HTTPConnection("127.0.0.1", there.port, timeout=30)
    client.request("POST", "/search?crops=true&top=7", form([("photo", *photo)]), kind)
    assert endless.began.wait(20)
    if seconds == 30.0:
        client.close()
    assert endless.ended.wait(10)
    client.close()
    desk.seconds = 30.0
    assert there.post("/search?crops=true&top=3", ("photo", *photo)).status == 200
    assert desk.inside == 0
