from exporters.otel_json import *
