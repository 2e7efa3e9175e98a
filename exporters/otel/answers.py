"""What a collector answers to the requests of one of OpenTelemetry's exporters.

Those say only whether a request succeeded.  How much of it the collector refused
stands in the answer, which they do not read; and why a request failed they tell the
log, one line for each try.  Here both are heard, for one exporter, and nobody else's
are touched: not the log lines of other threads, not another exporter's answers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from aioaudit.threads import get_ident

MOST_WORDS = 100
"""At most this many lines of the log are kept between two looks at them."""

_CREDENTIALS = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_"


class Answers:
    """Listens to the answers that one exporter gets.

    Attributes:
        refused: Spans, or points of metrics, that the collector refused since `begin`.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._why: list[str] = []

    def begin(self) -> None:
        """Forget what was answered so far."""
        self.refused = 0
        self._why.clear()

    def add(self, words: str) -> None:
        """Keep *words* that say what went wrong."""
        if len(self._why) < MOST_WORDS:
            self._why.append(words)
        else:
            self._why[-1] = words

    @property
    def why(self) -> str:
        """What went wrong since `begin`, nothing where nothing did."""
        # The last words may say no more than that it was tried often enough.
        return " ... ".join(dict.fromkeys([*self._why[:1], *self._why[-1:]]))

    def exporter(self, make: Callable[[], Any]) -> Any:
        """The exporter that *make* makes, listened to where it is one that speaks OTLP."""
        module = getattr(make, "__module__", "")
        with self.listening():
            if ".otlp.proto.grpc" in module and isinstance(make, type):
                return self._listening(make)()
            if ".otlp.proto.http" in module and not _has_credentials():
                return self._over_http(make)
            return make()

    @contextmanager
    def listening(self, under: str = "opentelemetry") -> Generator[None]:
        """Keep what OpenTelemetry logs in this thread, instead of having it printed.

        *under* names the loggers: itself and those below it.
        """
        here = get_ident()

        def kept(record: logging.LogRecord) -> bool:
            if get_ident() != here:
                return True
            with suppress(Exception):  # the text and its arguments are foreign
                self.add(record.getMessage())
            return False

        # A filter of a logger does not hold for those below it.
        known = list(logging.root.manager.loggerDict.items())
        loggers = [
            each
            for name, each in known
            if isinstance(each, logging.Logger) and f"{name}.".startswith(f"{under}.")
        ]
        for each in loggers:
            each.addFilter(kept)
        try:
            yield
        finally:
            for each in loggers:
                each.removeFilter(kept)

    def _over_http(self, make: Callable[..., Any]) -> Any:
        try:
            import requests
        except ImportError:  # a version that sends with something else
            return make()
        session = requests.Session()
        session.hooks["response"].append(self._look_at_http)
        return make(session=session)

    def _look_at_http(self, response: Any, *_: object, **__: object) -> None:
        kind = "Metrics" if "/metrics" in str(response.url) else "Trace"
        message = _response(kind)
        with suppress(Exception):  # what answers with something else, or nothing, took it all
            message.ParseFromString(response.content)
            self._look_at(message)

    def _listening(self, base: Any) -> Any:
        """*base*, whose calls are listened to.

        The exporter keeps what it calls in ``_client``, and makes it anew where it
        connects again.  Where that is called something else one day, nothing is heard.
        """
        answers = self

        class Listening(base):  # type: ignore[misc]  # which class it is, the variables say
            @property
            def _client(self) -> Any:
                return self.__dict__.get("_client")

            @_client.setter
            def _client(self, stub: Any) -> None:
                self.__dict__["_client"] = stub
                call = getattr(stub, "Export", None)
                if call is None:
                    return

                def export(*args: Any, **kwargs: Any) -> Any:
                    answer = call(*args, **kwargs)
                    answers._look_at(answer)
                    return answer

                stub.Export = export

        return Listening

    def _look_at(self, answer: Any) -> None:
        partial = answer.partial_success
        self.refused = getattr(partial, "rejected_spans", 0) or getattr(
            partial, "rejected_data_points", 0
        )
        if self.refused:
            self._why[:] = [partial.error_message or "the collector did not say why"]


def _response(kind: str) -> Any:
    if kind == "Metrics":
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

        return metrics_service_pb2.ExportMetricsServiceResponse()
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    return trace_service_pb2.ExportTraceServiceResponse()


def _has_credentials() -> bool:
    """Whether a package gives the session to send with: a session of ours would replace it."""
    return any(
        key.startswith(_CREDENTIALS) and key.endswith("CREDENTIAL_PROVIDER") for key in os.environ
    )
