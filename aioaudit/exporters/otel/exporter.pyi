from exporters.otel.exporter import *
