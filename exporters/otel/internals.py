"""Names of OpenTelemetry that are read here and that it promises nobody.

Where one is missing the exporter does without, as each row says; ``aioaudit doctor`` looks for
them where ``AIOAUDIT`` names otel, and the tests in the oldest and the newest SDK that is allowed.
"""

from __future__ import annotations

from aioaudit.cpython.internals import Internal

INTERNALS = (
    Internal(
        "_span_limits",
        "opentelemetry.sdk.trace:Tracer",
        "how many attributes and links a span of the application's provider may have",
        "limits that were given in code; those of the OTEL_* variables hold",
    ),
    Internal(
        "_shutdown",
        "opentelemetry.sdk.metrics._internal:MeterProvider",
        "whether the application has ended its meter provider",
        "nothing; the SDK warns where metrics come after its end",
    ),
    Internal(
        "_ProxyMeterProvider",
        "opentelemetry.metrics._internal",
        "that the application has set no meter provider",
        "metrics, where the application has no meter provider of its own",
    ),
    Internal(
        "_RUNTIME_CONTEXT",
        "opentelemetry.context",
        "the application's current span, by a short way, and that of a task",
        "trace_id and span_id in lines; the current span is asked for by the long way",
    ),
    Internal(
        "_current_context",
        "opentelemetry.context.contextvars_context:ContextVarsRuntimeContext",
        "the application's current span, by a short way, and that of a task",
        "trace_id and span_id in lines; the current span is asked for by the long way",
    ),
    Internal(
        "_SUPPRESS_INSTRUMENTATION_KEY",
        "opentelemetry.context",
        "to leave our own requests to a collector out of the application's traces",
        "requests to the collector may appear as spans of the application",
    ),
)
