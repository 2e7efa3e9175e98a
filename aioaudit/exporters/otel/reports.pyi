from exporters.otel.reports import *
