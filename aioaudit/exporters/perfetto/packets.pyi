from exporters.perfetto.packets import *
