from exporters.otel.internals import *
