from exporters.otel_answers import *
