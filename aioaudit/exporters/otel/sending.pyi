from exporters.otel.sending import *
