from exporters.otel_sending import *
