from exporters.otel.answers import *
