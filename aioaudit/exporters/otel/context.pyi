from exporters.otel.context import *
