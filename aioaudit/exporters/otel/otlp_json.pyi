from exporters.otel.otlp_json import *
