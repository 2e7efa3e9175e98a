from exporters.recorder import *
