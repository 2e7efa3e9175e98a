from exporters.structlog import *
