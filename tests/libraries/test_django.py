"""Django cancels: views whose client leaves, behind uvicorn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from tests.recognising import accepted, ask, links, name_task
from tests.serving import Record, ask_and_leave, ask_and_read, begun, ended, records

pytest.importorskip("uvicorn")
django = pytest.importorskip("django")
conf = pytest.importorskip("django.conf")
asgi = pytest.importorskip("django.core.asgi")
http = pytest.importorskip("django.http")
urls = pytest.importorskip("django.urls")

record = records()
IN_A_GROUP = django.VERSION >= (6, 1)
"""A view and what waits for its client to leave run in a task group."""


async def chunks(*, forever: bool) -> AsyncIterator[bytes]:
    name_task("streaming")
    yield b"begin"
    if forever:
        await asyncio.sleep(60)
    yield b"end"


async def hang(_request: Any) -> Any:
    name_task("view")
    await asyncio.sleep(60)


async def short(_request: Any) -> Any:
    return http.HttpResponse("the end")


async def stream(_request: Any) -> Any:
    return http.StreamingHttpResponse(chunks(forever=True))


async def stream_all(_request: Any) -> Any:
    return http.StreamingHttpResponse(chunks(forever=False))


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    conf.settings.configure(
        ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF="urls_of_a_test", SECRET_KEY="none"
    )
    django.setup()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an application whose only view is the one that is given."""

    def make(view: Any) -> Any:
        module = ModuleType("urls_of_a_test")
        vars(module)["urlpatterns"] = [urls.path("", view)]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        urls.clear_url_caches()
        return asgi.get_asgi_application()

    return make


async def leave_while_it_hangs(port: int) -> None:
    before = asyncio.all_tasks()
    _, writer = await ask(port)
    await begun("view")
    writer.close()
    await ended(before)


def is_told(answer: Any) -> None:
    """That a client went away, in the words of the version that is installed."""
    root = links(answer)[-1]
    assert root["at"] == "django/core/handlers/asgi.py"
    if IN_A_GROUP:
        assert (root["what"], root["error"]) == ("failed", "RequestAborted")
    else:
        assert (root["what"], root["reason"]) == ("called", "disconnect")
        assert root["detail"] == "before the whole response was sent"


def test_a_client_that_leaves_a_view_is_a_disconnect(record: Record, site: Any) -> None:
    is_told(record(site(hang), leave_while_it_hangs).why("view"))


def test_a_client_that_leaves_a_stream_of_django_is_a_disconnect(record: Record, site: Any) -> None:
    is_told(record(site(stream), ask_and_leave).why("streaming"))


@pytest.mark.parametrize("view", [short, stream_all])
def test_a_response_of_django_that_was_sent_is_no_disconnect(
    record: Record, site: Any, view: Any
) -> None:
    requests = accepted(record(site(view), ask_and_read))
    if IN_A_GROUP:
        assert {each.reason for each in requests} == {"task_group"}
        assert {each.coro for each in requests} == {
            "django.core.handlers.asgi:ASGIHandler.listen_for_disconnect"
        }
    else:
        assert {each.reason for each in requests} <= {"django.done"}
