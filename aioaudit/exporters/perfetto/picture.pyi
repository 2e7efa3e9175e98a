from exporters.perfetto.picture import *
