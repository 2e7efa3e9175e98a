from exporters.otel.lives import *
