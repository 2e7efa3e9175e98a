from exporters.instrumentor import *
