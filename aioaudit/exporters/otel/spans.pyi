from exporters.otel.spans import *
