from exporters.otel.facts import *
